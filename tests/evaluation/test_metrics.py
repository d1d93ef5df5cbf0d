"""Every metric on predictors whose truth is known, in worlds whose truth is known."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from nextvec.errors import EvaluationError
from nextvec.evaluation.baselines import CopyLast, LinearAverage, Random
from nextvec.evaluation.metrics import BEST_BASELINE, LINEAR_AVERAGE, METRICS, Judgement, moments
from nextvec.evaluation.predictor import unit

D = 48
EXACT = 2e-5


@pytest.fixture(scope="module")
def turning(worlds: SimpleNamespace):
    """The rotation world, its oracle, and the mean of its vectors."""
    vectors, turn = worlds.rotation(np.random.default_rng(0), 30, 16, D)
    mean = vectors.reshape(-1, D).mean(axis=0)
    oracle = worlds.Told(lambda c, n: c[np.arange(len(n)), n - 1] @ turn.T, context=1)
    return worlds.exam(vectors, train_mean=mean), oracle


def judged(exam, predictor):
    judgement = Judgement.of(predictor, exam)
    judgement.references = {LINEAR_AVERAGE: 0.2, BEST_BASELINE: 0.5}
    return judgement


# The oracle's figure in the rotation world, for every metric of the registry.
PERFECT = {
    "cosine": 1, "cosine_std": 0, "mse": 0, "share_above_0.5": 1,
    "recall@1": 1, "recall@5": 1, "recall@10": 1, "recall@20": 1, "recall@50": 1,
    "mrr": 1, "median_rank": 1, "contrastive_accuracy": 1, "par": 1,
    "skill": 1, "skill_vs_best_baseline": 1,
    "variance_ratio": 1, "cosine_without_mean": 1, "moments_raw": 0, "moments_unit": 0,
}  # fmt: skip
# Those whose value at the oracle is a property of the world.
NO_OPTIMUM = {"forward_margin", "pairwise_cosine"}


def test_every_metric_has_an_expectation() -> None:
    assert set(METRICS) == set(PERFECT) | NO_OPTIMUM


@pytest.mark.parametrize("name", PERFECT)
def test_the_oracle_is_perfect(turning, name: str) -> None:
    exam, oracle = turning
    assert METRICS[name].figure(judged(exam, oracle)) == pytest.approx(PERFECT[name], abs=EXACT)


# How far random is from that at least. Its variance is right by luck; the noisy world tells it apart.
FAR = {"cosine_std": 0.05, "mse": 0.03, "par": 0.2, "moments_raw": 0.005, "moments_unit": 0.005}


@pytest.mark.parametrize("name", sorted(set(PERFECT) - {"variance_ratio"}))
def test_random_is_far_from_the_oracle(turning, name: str) -> None:
    exam, _ = turning
    metric = METRICS[name]
    figure = metric.figure(judged(exam, Random(3)))
    assert abs(figure - PERFECT[name]) > FAR.get(name, 0.4)
    if metric.better == "higher":
        assert figure < PERFECT[name]
    elif metric.better == "lower":
        assert figure > PERFECT[name]


def test_random_is_at_chance(turning) -> None:
    exam, _ = turning
    judgement = judged(exam, Random(3))
    error = 3 / np.sqrt(len(exam)) + 2 / D
    assert abs(METRICS["cosine"].figure(judgement)) < 3 / np.sqrt(len(exam) * D) + 2 / D
    assert abs(METRICS["contrastive_accuracy"].figure(judgement) - 0.5) < error
    for k in (1, 5, 10, 20, 50):
        chance = exam.pool.chance_recall(k)
        three = 3 * np.sqrt(chance * (1 - chance) / len(exam))
        assert abs(METRICS[f"recall@{k}"].figure(judgement) - chance) < three + 1e-9
    assert METRICS["mse"].figure(judgement) == pytest.approx(2 / D, rel=0.1)


def test_copying_the_last_vector(turning) -> None:
    exam, _ = turning
    judgement = judged(exam, CopyLast(3))
    own = float(np.einsum("nd,nd->n", exam.target_units, exam.last_units).mean())
    assert METRICS["cosine"].figure(judgement) == pytest.approx(own, abs=EXACT)
    assert METRICS["forward_margin"].figure(judgement) == pytest.approx(own - 1, abs=EXACT)
    assert METRICS["par"].figure(judgement) > 1.5


def test_the_mean_vector_is_seen_through(turning, worlds: SimpleNamespace) -> None:
    exam, _ = turning
    constant = worlds.Told(lambda c, n: np.repeat(exam.train_mean[None], len(n), axis=0))
    judgement = judged(exam, constant)
    assert METRICS["pairwise_cosine"].figure(judgement) == pytest.approx(1, abs=EXACT)
    assert METRICS["variance_ratio"].figure(judgement) == pytest.approx(0, abs=EXACT)
    assert METRICS["cosine_without_mean"].figure(judgement) == 0
    assert METRICS["moments_raw"].figure(judgement) == pytest.approx(
        (moments(exam.targets)[1] ** 2).sum() + ((moments(exam.targets)[0] - exam.train_mean) ** 2).sum(),
        rel=1e-4,
    )


def test_in_the_noisy_world_the_kalman_filter_is_best(worlds: SimpleNamespace) -> None:
    exam = worlds.exam(worlds.noisy(np.random.default_rng(4), 60, 24, D), context=5)
    best, last, average = (
        judged(exam, p) for p in (worlds.Told(worlds.kalman), CopyLast(5), LinearAverage(5))
    )
    for name in ("cosine", "mse", "recall@1", "recall@5", "mrr", "contrastive_accuracy"):
        up = 1 if METRICS[name].better == "higher" else -1
        figures = [up * METRICS[name].figure(j) for j in (best, last, average)]
        assert figures[0] == max(figures), name
    # The best predictor of a noisy process comes closer to the last chunk than to the next.
    assert METRICS["forward_margin"].figure(best) < 0
    assert (
        METRICS["variance_ratio"].figure(best)
        < 0.8
        < METRICS["variance_ratio"].figure(judged(exam, Random(5)))
    )
    assert METRICS["par"].figure(best) > 1


def test_shuffling_the_context_costs_the_oracle_everything(turning, worlds: SimpleNamespace) -> None:
    exam, oracle = turning
    shuffled = worlds.Told(lambda c, n: oracle.guess(c[:, ::-1], n), context=3)
    assert METRICS["cosine"].figure(judged(exam, shuffled)) < 0.5


def test_metrics_by_hand(worlds: SimpleNamespace) -> None:
    vectors = np.array([[[2, 0], [0, 3], [4, 0], [3, 3]]], dtype=np.float32)
    exam = worlds.exam(vectors, context=2)
    judgement = Judgement(
        exam, raw=np.array([[2, 2], [0, 5]], np.float32), unit=unit(np.array([[2, 2], [0, 5]]))
    )
    half = np.sqrt(0.5)
    assert METRICS["cosine"].figure(judgement) == pytest.approx(half)
    assert METRICS["cosine_std"].figure(judgement) == pytest.approx(0, abs=1e-6)
    assert METRICS["mse"].figure(judgement) == pytest.approx(((4 + 4) / 2 + (9 + 4) / 2) / 2)
    # first window: (3, 3) lies exactly in the prediction's direction; second: nothing else is left
    assert judgement.ranks.tolist() == [2, 1]
    assert METRICS["mrr"].figure(judgement) == pytest.approx(0.75)
    assert METRICS["median_rank"].figure(judgement) == pytest.approx(1.5)
    # contexts (2,0),(0,3) and (0,3),(4,0): predictions reach .707 and 1, targets 1 and .707
    assert METRICS["par"].figure(judgement) == pytest.approx(1.0)
    assert METRICS["forward_margin"].figure(judgement) == pytest.approx((half - half + half - 0) / 2)
    assert METRICS["pairwise_cosine"].figure(judgement) == pytest.approx(half)
    assert METRICS["variance_ratio"].figure(judgement) == pytest.approx((1 + 2.25) / (0.25 + 2.25))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda c: (c[:, 0], c[:, 0] * 2), "unit predictions have lengths"),
        (lambda c: (c[:, 0] * np.nan, c[:, 0]), "raw predictions hold NaN"),
        (lambda c: (c[:, 0, :5], c[:, 0]), "raw predictions have shape"),
    ],
)
def test_predictions_that_cannot_be_judged_are_refused(
    turning, worlds: SimpleNamespace, answer, said: str
) -> None:
    broken = worlds.Told(lambda c, n: c, name="broken")
    broken.predict = lambda contexts, lengths: answer(contexts)
    with pytest.raises(EvaluationError, match=f"broken: {said}"):
        Judgement.of(broken, turning[0])


def test_a_predictor_is_given_no_more_than_it_asks_for(worlds: SimpleNamespace) -> None:
    exam = worlds.exam(np.random.default_rng(0).standard_normal((2, 9, 4)).astype(np.float32), context=3)
    widths, longest = [], []

    def look(contexts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        widths.append(contexts.shape[1])
        longest.append(int(lengths.max()))
        return contexts[:, 0]

    for context, expected in ((2, 2), (5, 5), (1000, 8)):
        Judgement.of(worlds.Told(look, context=context), exam)
        assert (widths[-1], longest[-1]) == (expected, expected)
