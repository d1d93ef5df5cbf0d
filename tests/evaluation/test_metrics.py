"""Metrics by hand. What each says of known predictors in known worlds: tests/contract/test_metrics.py."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from nextvec.errors import EvaluationError
from nextvec.evaluation.baselines import CopyLast, LinearAverage
from nextvec.evaluation.evaluation_set import EvaluationSet
from nextvec.evaluation.metrics import BEST_BASELINE, LINEAR_AVERAGE, METRICS, Scores
from nextvec.evaluation.predictor_protocol import unit

D = 48


@pytest.fixture(scope="module")
def turning(worlds: SimpleNamespace):
    """An evaluation set in the rotation world."""
    return worlds.evaluation_set(worlds.rotation(np.random.default_rng(0), 30, 16, D)[0])


def evaluated(evaluation_set, predictor):
    scores = Scores.of(predictor, evaluation_set)
    scores.references = {LINEAR_AVERAGE: 0.2, BEST_BASELINE: 0.5}
    return scores


def test_in_the_noisy_world_the_kalman_filter_is_best(worlds: SimpleNamespace) -> None:
    evaluation_set = worlds.evaluation_set(worlds.noisy(np.random.default_rng(4), 60, 24, D), context=5)
    best, last, average = (
        evaluated(evaluation_set, p)
        for p in (worlds.FunctionPredictor(worlds.kalman), CopyLast(5), LinearAverage(5))
    )
    for name in ("cosine", "mse", "recall@1", "recall@5", "mrr", "contrastive_accuracy"):
        up = 1 if METRICS[name].better == "higher" else -1
        figures = [up * METRICS[name].figure(j) for j in (best, last, average)]
        assert figures[0] == max(figures), name
    # The best predictor of a noisy process comes closer to the last chunk than to the next.
    assert METRICS["forward_margin"].figure(best) < 0


def test_metrics_by_hand(worlds: SimpleNamespace) -> None:
    vectors = np.array([[[2, 0], [0, 3], [4, 0], [3, 3]]], dtype=np.float32)
    evaluation_set = worlds.evaluation_set(vectors, context=2)
    scores = Scores(
        evaluation_set, raw=np.array([[2, 2], [0, 5]], np.float32), unit=unit(np.array([[2, 2], [0, 5]]))
    )
    half = np.sqrt(0.5)
    assert METRICS["cosine"].figure(scores) == pytest.approx(half)
    assert METRICS["cosine_std"].figure(scores) == pytest.approx(0, abs=1e-6)
    assert METRICS["mse"].figure(scores) == pytest.approx(((4 + 4) / 2 + (9 + 4) / 2) / 2)
    # first window: (3, 3) lies exactly in the prediction's direction; second: nothing else is left
    assert scores.ranks.tolist() == [2, 1]
    assert METRICS["mrr"].figure(scores) == pytest.approx(0.75)
    assert METRICS["median_rank"].figure(scores) == pytest.approx(1.5)
    # contexts (2,0),(0,3) and (0,3),(4,0): predictions reach .707 and 1, targets 1 and .707
    assert METRICS["par"].figure(scores) == pytest.approx(1.0)
    assert METRICS["forward_margin"].figure(scores) == pytest.approx((half - half + half - 0) / 2)
    assert METRICS["pairwise_cosine"].figure(scores) == pytest.approx(half)
    assert METRICS["variance_ratio"].figure(scores) == pytest.approx((1 + 2.25) / (0.25 + 2.25))
    assert METRICS["surprise"].figure(scores) == pytest.approx(1 - half)
    # means of predictions (1, 3.5), of targets (3.5, 1.5); standard deviations (1, 1.5) and (.5, 1.5)
    assert METRICS["moments_mean_gap"].figure(scores) == pytest.approx(np.sqrt((6.25 + 4) / 2.5))
    assert METRICS["moments_std_ratio"].figure(scores) == pytest.approx((2 + 1) / 2)
    # at -2 .. 1 the first has .707, .707, .707, 1; at -3 .. 0 the second has 0, 1, 0, .707
    assert METRICS["offset_accuracy"].figure(scores) == 0
    assert METRICS["offset_margin"].figure(scores) == pytest.approx(half - 1)
    turned = Scores(evaluation_set, evaluation_set.targets, evaluation_set.target_units)
    assert METRICS["offset_accuracy"].figure(turned) == 1


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda c: (c[:, 0], c[:, 0] * 2), "unit predictions have lengths"),
        (lambda c: (c[:, 0] * np.nan, c[:, 0]), "raw predictions hold NaN"),
        (lambda c: (c[:, 0, :5], c[:, 0]), "raw predictions have shape"),
    ],
)
def test_predictions_that_cannot_be_evaluated_are_refused(
    turning, worlds: SimpleNamespace, answer, message: str
) -> None:
    broken = worlds.FunctionPredictor(lambda c, n: c, name="broken")
    broken.predict = lambda contexts, lengths: answer(contexts)
    with pytest.raises(EvaluationError, match=f"broken: {message}"):
        Scores.of(broken, turning)


def test_a_predictor_is_given_no_more_than_it_asks_for(worlds: SimpleNamespace) -> None:
    evaluation_set = worlds.evaluation_set(
        np.random.default_rng(0).standard_normal((2, 9, 4)).astype(np.float32), context=3
    )
    widths, longest = [], []

    def look(contexts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        widths.append(contexts.shape[1])
        longest.append(int(lengths.max()))
        return contexts[:, 0]

    for context, expected in ((2, 2), (5, 5), (1000, 8)):
        Scores.of(worlds.FunctionPredictor(look, context=context), evaluation_set)
        assert (widths[-1], longest[-1]) == (expected, expected)


def test_the_scores_of_a_part_are_part_of_the_scores(turning) -> None:
    whole = evaluated(turning, CopyLast(3))
    some = turning.windows.document % 3 == 0
    part, alone = whole.select(some), evaluated(turning.select(some), CopyLast(3))
    assert part.ranks.tolist() == whole.ranks[some].tolist() == alone.ranks.tolist()
    for metric in METRICS.values():
        assert metric.needs <= part.has or metric.needs == {"train_mean"}
        if metric.needs <= part.has:
            assert metric.figure(part) == metric.figure(alone), metric.name


def test_a_dimension_that_hardly_varies_does_not_decide(turning) -> None:
    """Real encoders have such dimensions."""
    scores = evaluated(turning, CopyLast(3))
    names = ("moments_mean_gap", "moments_std_ratio")
    before = [METRICS[name].figure(scores) for name in names]
    vectors = turning.vectors.copy()
    vectors[:, 7] = 1e-7 * vectors[:, 7]
    evaluation_set = EvaluationSet(vectors, turning.windows, turning.pool)
    raw = scores.raw.copy()
    raw[:, 7] = np.random.default_rng(0).standard_normal(len(raw))
    after = [METRICS[name].figure(Scores(evaluation_set, raw, unit(raw))) for name in names]
    assert after == pytest.approx(before, abs=0.02)
    still = Scores(evaluation_set.select([0]), raw[:1], unit(raw[:1]))
    assert all(np.isnan(METRICS[name].figure(still)) for name in names)
