from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nextvec.errors import EvaluationError
from nextvec.evaluation import intervals as bootstrap
from nextvec.evaluation.intervals import DocumentBootstrap


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 30))
def test_the_interval_is_that_of_resampling_by_hand(seed: int, documents: int) -> None:
    rng = np.random.default_rng(seed)
    document = np.sort(rng.integers(0, documents, size=200)) * 7
    if len(np.unique(document)) < 2:
        return
    a, b = rng.random(200), rng.random(200)
    got = DocumentBootstrap(document, resamples=50, seed=3).interval(a, b)
    names = np.unique(document)
    drawn = np.random.default_rng(3).integers(0, len(names), size=(50, len(names)))
    means = [np.concatenate([(a - b)[document == names[d]] for d in row]).mean() for row in drawn]
    assert (got.low, got.high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=1e-12)
    assert got.value == pytest.approx((a - b).mean())
    assert got.low <= got.high


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    document = np.repeat(np.arange(40), 10)
    covered = 0
    for _ in range(200):
        # windows of a document share most of their difference: an interval over windows would be too short
        difference = np.repeat(rng.standard_normal(40), 10) + 0.1 * rng.standard_normal(400)
        interval = DocumentBootstrap(document, resamples=200).interval(difference, np.zeros(400))
        covered += interval.low <= 0 <= interval.high
    assert 0.88 <= covered / 200 <= 0.99


def test_same_seed_same_interval_and_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    document = np.repeat(np.arange(20), 5)
    values = np.random.default_rng(0).random(100)
    one = DocumentBootstrap(document).interval(values, 1 - values)
    monkeypatch.setattr(bootstrap, "_CHUNK", 64)
    assert DocumentBootstrap(document).interval(values, 1 - values) == one
    assert DocumentBootstrap(document, seed=1).interval(values, 1 - values) != one


def test_clear_means_without_zero() -> None:
    document = np.repeat(np.arange(20), 5)
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(100)
    interval = DocumentBootstrap(document)
    assert interval.interval(noise + 3, noise).clear
    assert interval.interval(noise, noise + 3).clear
    assert not interval.interval(noise, rng.standard_normal(100)).clear


def test_one_document_is_not_enough() -> None:
    with pytest.raises(EvaluationError, match="at least two"):
        DocumentBootstrap(np.zeros(9, dtype=np.int64))


def test_a_ratio_of_sums_resamples_both() -> None:
    rng = np.random.default_rng(1)
    document = np.repeat(np.arange(12), 6)
    parts, wholes = rng.random((2, 72)), 1 + rng.random((2, 72))
    found = DocumentBootstrap(document, resamples=40, seed=3).ratio(parts[0], wholes[0], parts[1], wholes[1])
    drawn = np.random.default_rng(3).integers(0, 12, size=(40, 12))
    rows = [np.concatenate([np.flatnonzero(document == d) for d in row]) for row in drawn]

    def difference(at: np.ndarray) -> float:
        first, second = (p[at].sum() / w[at].sum() for p, w in zip(parts, wholes, strict=True))
        return float(first - second)

    assert found.value == pytest.approx(difference(np.arange(72)))
    by_hand = np.quantile([difference(row) for row in rows], [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx(tuple(by_hand))


def test_a_ratio_to_ones_is_a_mean() -> None:
    values = np.random.default_rng(2).random((2, 60))
    interval, ones = DocumentBootstrap(np.repeat(np.arange(10), 6)), np.ones(60)
    ratio = interval.ratio(values[0], ones, values[1], ones)
    mean = interval.interval(values[0], values[1])
    assert (ratio.low, ratio.high) == pytest.approx((mean.low, mean.high))
