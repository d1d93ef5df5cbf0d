"""Pk, WindowDiff and paired boundaries: by hand, by law, and beside plain implementations."""

from __future__ import annotations

from itertools import combinations, permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextvec.errors import EvaluationError
from nextvec.evaluation.boundaries import found, half_length, pk_errors, window_diff_errors


def pk(true: np.ndarray, hypothesis: np.ndarray, k: int | None = None) -> float:
    return float(pk_errors(true, hypothesis, k or half_length([true])).mean())


def window_diff(true: np.ndarray, hypothesis: np.ndarray, k: int | None = None) -> float:
    return float(window_diff_errors(true, hypothesis, k or half_length([true])).mean())


def cuts(places: str) -> np.ndarray:
    """`"..|..|."`, a character a place."""
    return np.array([place == "|" for place in places])


segmentations = st.integers(2, 24).flatmap(
    lambda n: st.tuples(*(st.lists(st.booleans(), min_size=n, max_size=n).map(np.array) for _ in range(2)))
)


def test_by_hand() -> None:
    true, near, far = cuts("...|...."), cuts("....|..."), cuts(".......|")
    assert half_length([true]) == 2
    # pairs (0, 2) ... (6, 8); the boundary lies between 3 and 4, the near one between 4 and 5
    assert pk_errors(true, near, 2).tolist() == [False, False, True, False, True, False, False]
    assert pk(true, near) == pytest.approx(2 / 7)
    assert pk(true, far) == pytest.approx(3 / 7)
    assert pk(true, cuts("........")) == pytest.approx(2 / 7)
    assert pk(true, cuts("||||||||")) == pytest.approx(5 / 7)


def test_window_diff_counts_what_pk_does_not_see() -> None:
    true, doubled = cuts("..|....."), cuts("..||....")
    assert pk_errors(true, doubled, 3).tolist() == [False, False, False, True, False, False]
    assert window_diff_errors(true, doubled, 3).tolist() == [False, True, True, True, False, False]
    assert window_diff(true, doubled, 3) > pk(true, doubled, 3) > 0


@given(segmentations, st.data())
def test_laws(pair: tuple[np.ndarray, np.ndarray], data: st.DataObject) -> None:
    true, hypothesis = pair
    k = data.draw(st.integers(1, len(true)))
    for figure in (pk, window_diff):
        assert figure(true, true, k) == 0
        assert 0 <= figure(true, hypothesis, k) <= 1
        assert figure(true, hypothesis, k) == figure(hypothesis, true, k)
        assert figure(true[::-1], hypothesis[::-1], k) == pytest.approx(figure(true, hypothesis, k))
    assert window_diff(true, hypothesis, k) >= pk(true, hypothesis, k)
    assert (
        pk(true, hypothesis, 1)
        == window_diff(true, hypothesis, 1)
        == pytest.approx((true != hypothesis).mean())
    )


@given(segmentations, st.data())
def test_as_counted_pair_by_pair(pair: tuple[np.ndarray, np.ndarray], data: st.DataObject) -> None:
    true, hypothesis = pair
    k = data.draw(st.integers(1, len(true)))
    pairs = [(true[i : i + k], hypothesis[i : i + k]) for i in range(len(true) + 1 - k)]
    assert pk_errors(true, hypothesis, k).tolist() == [a.any() != b.any() for a, b in pairs]
    assert window_diff_errors(true, hypothesis, k).tolist() == [a.sum() != b.sum() for a, b in pairs]


def test_several_at_once() -> None:
    true = cuts("..|...")
    several = np.stack([true, ~true])
    assert pk_errors(true, several, 2).mean(axis=1).tolist() == [0, pk(true, ~true, 2)]


@given(segmentations, st.integers(0, 2))
def test_as_many_are_paired_as_can_be(pair: tuple[np.ndarray, np.ndarray], tolerance: int) -> None:
    true, hypothesis = (np.where(np.cumsum(one) <= 4, one, False) for one in pair)
    paired = found(true, hypothesis, tolerance)
    assert not (paired & ~true).any()
    a, b = np.flatnonzero(true).tolist(), np.flatnonzero(hypothesis).tolist()
    most = max(
        size
        for size in range(min(len(a), len(b)) + 1)
        for chosen in combinations(a, size)
        for partners in permutations(b, size)
        if all(abs(x - y) <= tolerance for x, y in zip(chosen, partners, strict=True))
    )
    assert paired.sum() == most


def test_a_boundary_is_paired_once() -> None:
    assert found(cuts("|.|..."), cuts(".|....")).tolist() == [True, *[False] * 5]
    assert found(cuts("...|.."), cuts("|....|")).sum() == 0


def test_k_is_half_a_true_segment_and_fits() -> None:
    assert half_length([cuts("." * 9)]) == 5
    assert half_length([cuts("||||")]) == 1
    assert half_length([cuts("....|...."), cuts("....|....")]) == 2
    with pytest.raises(EvaluationError, match="9 apart among 9 chunks"):
        pk(cuts("...|...."), cuts("...|...."), 9)
    with pytest.raises(EvaluationError, match=r"shape \[8\] and \[7\]"):
        window_diff(cuts("...|...."), cuts("...|..."))
