"""Curves over the places between chunks, and boundaries read off them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nextvec.evaluation.baselines import CopyLast, LinearAverage
from nextvec.evaluation.boundaries import (
    CURVES,
    THRESHOLDS,
    ReadDocument,
    Rule,
    blocks,
    boundaries,
    depth,
    fit_rule,
    half_length,
    high_peaks,
    pk_errors,
    surprise,
)
from nextvec.vectors import unit

curves = st.integers(1, 30).flatmap(lambda n: arrays(np.float64, n, elements=st.integers(-9, 9)))


def topics(seed: int, lengths: tuple[int, ...], noise: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    """Vectors [T, 32] around one direction a topic, and where topics end."""
    rng = np.random.default_rng(seed)
    centres = unit(rng.standard_normal((len(lengths), 32)))
    clean = np.repeat(centres, lengths, axis=0)
    vectors = clean + noise * rng.standard_normal(clean.shape) / np.sqrt(32)
    cuts = np.zeros(sum(lengths) - 1, dtype=np.bool_)
    cuts[np.cumsum(lengths)[:-1] - 1] = True
    return vectors.astype(np.float32), cuts


def test_a_curve_has_a_value_a_place_and_says_what_it_is() -> None:
    vectors, _ = topics(0, (6, 6))
    for kind in CURVES.values():
        assert kind.about.endswith(".")
        assert kind.usual.width in kind.widths
        for width in kind.widths:
            values = kind.make(ReadDocument.of(LinearAverage(5), vectors), width)
            assert values.shape == (11,)
            assert np.isfinite(values).all()


def test_surprise_is_the_surprise_of_the_chunk_after_the_place() -> None:
    vectors, _ = topics(1, (4, 5))
    document = type("Document", (), {"first": 0, "count": 9})
    curve = CURVES["surprise"].make(ReadDocument.of(LinearAverage(3), vectors), 1)
    assert curve == pytest.approx(surprise(LinearAverage(3), vectors, document)[1:])


def test_looking_one_chunk_ahead_is_surprise_and_copying_it_is_the_cosine() -> None:
    read = ReadDocument.of(CopyLast(5), topics(2, (7, 4))[0])
    plain = CURVES["surprise"].make(read, 1)
    assert CURVES["surprise-ahead"].make(read, 1) == pytest.approx(plain, abs=1e-6)
    assert CURVES["cosine-gap"].make(read, 1) == pytest.approx(plain, abs=1e-6)
    assert CURVES["cosine-drop"].make(read, 1) == pytest.approx(depth(plain), abs=1e-5)


def test_blocks_are_the_means_of_what_is_there() -> None:
    units = unit(np.random.default_rng(0).standard_normal((7, 5)))
    before, after = blocks(units, 3)
    for place in range(6):
        assert before[place] == pytest.approx(unit(units[max(0, place - 2) : place + 1].mean(0)), abs=1e-6)
        assert after[place] == pytest.approx(unit(units[place + 1 : place + 4].mean(0)), abs=1e-6)


def test_depth_by_hand() -> None:
    assert depth(np.array([1.0, 3, 2, 2, 5, 4, 6])).tolist() == [0, 3, 0, 0, 4, 0, 2]
    assert depth(np.array([2.0, 2, 2])).tolist() == [0, 0, 0]
    assert depth(np.zeros(0)).tolist() == []


@given(curves)
def test_depth_is_the_same_from_either_end(values: np.ndarray) -> None:
    assert depth(values) == pytest.approx(depth(values[::-1])[::-1])
    assert (depth(values) >= 0).all()


@given(curves, st.integers(1, 6))
def test_peaks_are_peaks_apart_and_in_order(values: np.ndarray, apart: int) -> None:
    place, height = high_peaks(values, apart)
    assert (np.diff(height) <= 0).all()
    assert (np.diff(np.sort(place)) >= apart).all()
    for at in place:
        assert values[at] >= values[max(0, at - 1) : at + 2].max()
    if values.std() > 0:
        assert place[0] in np.flatnonzero(values == values.max())
    else:
        assert len(place) == 0


@given(curves, st.floats(-1, 2), st.integers(1, 5))
def test_scale_and_level_of_a_curve_do_not_matter(values: np.ndarray, threshold: float, apart: int) -> None:
    rule = Rule(threshold + 0.00123, apart)
    assert boundaries(4 * values - 7, rule).tolist() == boundaries(values, rule).tolist()
    higher = boundaries(values, Rule(rule.threshold + 0.5, apart))
    assert not (higher & ~boundaries(values, rule)).any()


@pytest.mark.parametrize("name", CURVES)
def test_a_fitted_rule_finds_the_topics_of_other_documents(name: str) -> None:
    def made(seeds: range) -> tuple[list[ReadDocument], list[np.ndarray]]:
        both = [topics(seed, (7, 9, 6, 12)) for seed in seeds]
        return [ReadDocument.of(LinearAverage(5), vectors) for vectors, _ in both], [cuts for _, cuts in both]

    reads, truths = made(range(8))
    rule, score = fit_rule(CURVES[name], reads, truths)
    assert score < 0.05
    kind = CURVES[name]
    for read, true in zip(*made(range(100, 104)), strict=True):
        assert boundaries(kind.make(read, rule.width), rule).tolist() == true.tolist()


def test_the_fitted_rule_is_the_best_of_all_tried() -> None:
    both = [topics(seed, (5, 8, 6), noise=2.5) for seed in range(6)]
    reads, truths = [ReadDocument.of(CopyLast(5), v) for v, _ in both], [c for _, c in both]
    kind = CURVES["cosine-gap"]
    rule, score = fit_rule(kind, reads, truths)
    k = half_length(truths)

    def evaluated(other: Rule) -> float:
        output = [boundaries(kind.make(read, other.width), other) for read in reads]
        errors = [pk_errors(true, cuts, k) for true, cuts in zip(truths, output, strict=True)]
        return float(np.concatenate(errors).mean())

    assert evaluated(rule) == pytest.approx(score)
    tried = [
        Rule(round(float(t), 2), apart, w) for t in THRESHOLDS for apart in (1, 3, 5) for w in kind.widths
    ]
    assert score == pytest.approx(min(map(evaluated, tried)))
