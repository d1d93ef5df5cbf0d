"""Figures of samples by hand, and the law they rest on: no distribution scores lower than the true one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nextvec.data.splits import Split
from nextvec.errors import EvaluationError
from nextvec.evaluation.baselines import CopyLast, NeighbourSuccessor, Random
from nextvec.evaluation.evaluation_set import EvaluationSet
from nextvec.evaluation.harness import EvaluationConfig, evaluate
from nextvec.evaluation.metrics import Scores
from nextvec.evaluation.table import format_report
from nextvec.evaluation.trajectory import (
    Generated,
    diversity,
    energy_score,
    generate,
    score_samples,
    spread_ratio,
)
from nextvec.selfcheck.predictors import SamplingPredictor
from nextvec.selfcheck.worlds import kalman_error

D = 12


@pytest.fixture(scope="module")
def evaluation_set(worlds: SimpleNamespace) -> EvaluationSet:
    return worlds.evaluation_set(worlds.noisy(np.random.default_rng(2), 12, 10, D))


def test_by_hand() -> None:
    samples = np.array([[[0, 0]], [[3, 4]], [[0, 8]]], np.float32)
    target = np.array([[3, 0]], np.float32)
    near = (3 + 4 + np.hypot(3, 8)) / 3
    apart = (5 + 8 + 5) / 3
    assert energy_score(samples, target) == pytest.approx([near - apart / 2])
    assert diversity(samples) == pytest.approx([(1 + 1 + 0.2) / 3])  # a zero vector has no direction
    scored = score_samples(samples, target)
    assert scored.error == pytest.approx([2**2 + 4**2])
    assert scored.variance == pytest.approx([((1 + 16) + (4 + 0) + (1 + 16)) / 2])
    assert spread_ratio(scored) == pytest.approx(np.sqrt(19 / (20 * 3 / 4)))


def test_a_point_is_one_sample() -> None:
    point, target = np.array([[1, 2]], np.float32), np.array([[1, 5]], np.float32)
    scored = score_samples(point[None], target)
    assert scored.energy == pytest.approx([3])
    assert scored.diversity.tolist() == scored.variance.tolist() == [0]
    assert spread_ratio(scored) == 0
    sure = score_samples(np.stack([target, target]), target)
    assert sure.energy == pytest.approx([0])
    assert spread_ratio(sure) == 0


@settings(max_examples=40, deadline=None)
@given(
    wrong=st.lists(st.integers(0, 6), min_size=4, max_size=4).filter(lambda counts: sum(counts) > 1),
    true=st.lists(st.integers(0, 6), min_size=4, max_size=4).filter(lambda counts: sum(counts) > 1),
    seed=st.integers(0, 2**16),
)
def test_the_energy_score_is_proper(wrong: list[int], true: list[int], seed: int) -> None:
    """On four points with any probabilities: told everything, no forecast scores below the truth."""
    points = np.random.default_rng(seed).standard_normal((4, 3))
    apart = np.linalg.norm(points[:, None] - points, axis=-1)
    p, q = (np.array(counts) / sum(counts) for counts in (true, wrong))

    def expected(forecast: np.ndarray) -> float:
        return float(p @ apart @ forecast - forecast @ apart @ forecast / 2)

    assert expected(p) <= expected(q) + 1e-12
    if np.abs(p - q).max() > 0.05:
        assert expected(p) < expected(q)
    # and the function is an unbiased estimate of just that: over all pairs of samples in turn
    pairs = [(i, j) for i in range(4) for j in range(4)]
    samples = np.array([[points[i], points[j]] for i, j in pairs], np.float32).swapaxes(0, 1)
    found = sum(
        p[y]
        * (q[[i for i, _ in pairs]] * q[[j for _, j in pairs]])
        @ energy_score(samples, np.repeat(points[[y]].astype(np.float32), len(pairs), axis=0))
        for y in range(4)
    )
    assert found == pytest.approx(expected(q), abs=1e-5)


@pytest.mark.parametrize("n", [2, 5, 32])
def test_the_mean_does_not_depend_on_n(n: int) -> None:
    rng = np.random.default_rng(n)
    samples, targets = rng.standard_normal((n, 4000, 3)), rng.standard_normal((4000, 3))
    scored = score_samples(samples, targets)
    assert scored.energy.mean() == pytest.approx(np.sqrt(6) * 0.92132 / 2, rel=0.05)  # half of E|x - x'|
    assert scored.variance.mean() == pytest.approx(3, rel=0.05)
    assert spread_ratio(scored) == pytest.approx(1, rel=0.03)


def test_samples_are_the_same_whatever_the_blocks_of_memory(
    evaluation_set: EvaluationSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = Random(3)
    raw = Scores.of(random, evaluation_set).raw
    whole = generate(random, raw, evaluation_set)
    assert isinstance(whole, Generated)
    assert whole.n == 8
    assert whole.diversity.mean() == pytest.approx(1, abs=0.05)
    monkeypatch.setattr("nextvec.evaluation.trajectory.SAMPLE_BYTES", 4 * 8 * D * 7)  # 7 windows at a time
    pieces = generate(random, raw, evaluation_set)
    assert pieces.energy.shape == whole.energy.shape
    assert pieces.energy.mean() == pytest.approx(whole.energy.mean(), rel=0.05)


def test_a_selection_keeps_what_was_drawn(evaluation_set: EvaluationSet) -> None:
    scores = Scores.of(Random(3), evaluation_set)
    drawn = scores.generated
    part = scores.select(np.arange(5, 9))
    assert part.generated.energy.tolist() == drawn.energy[5:9].tolist()
    assert Scores.of(CopyLast(3), evaluation_set).select(slice(3)).generated.diversity.tolist() == [0, 0, 0]


def test_samples_that_mean_nothing_are_refused(evaluation_set: EvaluationSet) -> None:
    raw = Scores.of(CopyLast(3), evaluation_set).raw
    for noise, message in ((np.nan, "NaN"), (1.0, "shape")):
        bad = SamplingPredictor(
            lambda c, n: c[:, 0],
            noise=lambda c, n, noise=noise: np.full(len(n), noise),
            context=evaluation_set.windows.context,
        )
        if message == "shape":
            bad.sample = lambda c, n, k, seed: np.zeros((k - 1, *c[:, 0].shape), np.float32)
        with pytest.raises(EvaluationError, match=message):
            generate(bad, raw, evaluation_set)


def test_the_table_says_what_samples_are_worth(worlds: SimpleNamespace, tmp_path: Path) -> None:
    store = worlds.store(tmp_path / "store", worlds.noisy(np.random.default_rng(0), 16, 12, D))
    split = Split(tuple(range(8)), (8, 9), tuple(range(10, 16)))
    point = worlds.FunctionPredictor(worlds.kalman, name="point", context=12)
    drawing = SamplingPredictor(
        worlds.kalman,
        name="drawing",
        context=12,
        centre=worlds.kalman,
        noise=lambda contexts, lengths: kalman_error(lengths),
    )
    how = EvaluationConfig(resamples=50, quiet=True)
    report = evaluate(store, split, "test", [point, drawing], how)
    scored, drawn = report.row("point"), report.row("drawing")
    assert scored.figures["cosine"] == drawn.figures["cosine"]
    assert drawn.figures["energy_score"] == pytest.approx(
        scored.figures["energy_score"] / np.sqrt(2), rel=0.08
    )
    assert (scored.figures["diversity"], scored.figures["spread_ratio"]) == (0, 0)
    assert drawn.figures["spread_ratio"] == pytest.approx(1, abs=0.1)
    # What a distribution has to beat is a distribution: a point and its residuals.
    assert report.best["energy_score"] == "averages + residuals"
    assert drawn.figures["energy_score"] < report.row("exponential averages").figures["energy_score"]
    assert "energy" in format_report(report)
    none = evaluate(store, split, "test", [drawing], replace(how, samples=0))
    assert {row.figures["energy_score"] for row in none.rows} == {None}
    assert "energy_score" not in none.best


def test_the_neighbours_are_samples(evaluation_set: EvaluationSet, worlds: SimpleNamespace) -> None:
    train = worlds.evaluation_set(worlds.noisy(np.random.default_rng(3), 12, 10, D))
    baseline = NeighbourSuccessor(3)
    baseline.fit(train.vectors, train.windows, None)
    _, contexts, lengths = next(evaluation_set.blocks(3))
    few = baseline.sample(contexts, lengths, 4, 0)
    assert few[0].tolist() == baseline.guess(contexts, lengths).tolist()
    many = baseline.sample(contexts, lengths, len(train) + 3, 0)
    assert many[:4].tolist() == few.tolist()
    assert many[len(train) :].tolist() == many[:3].tolist()
    scored = generate(baseline, few[0], evaluation_set)
    assert scored.energy.mean() < score_samples(few[:1], evaluation_set.targets).energy.mean()
