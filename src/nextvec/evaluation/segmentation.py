"""Figures of a segmentation: how well the places where a topic is said to change are those where it does.

A segmentation of T chunks is a boolean array [T - 1]: entry g is True where one segment ends with chunk g and
the next begins with chunk g + 1. Figures also come as one value a place, so that they can be summed over
whatever is resampled.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nextvec.errors import EvaluationError

Cuts = NDArray[np.bool_]


def pk(true: Cuts, said: Cuts, k: int | None = None) -> float:
    """Share of pairs of chunks k apart of which one segmentation says they are of one segment and the other
    that they are not (Beeferman, Berger, Lafferty, "Statistical Models for Text Segmentation", 1999).

    0 is perfect; saying nothing at all costs the share of pairs that truly lie in two segments.

    Args:
        true, said: [T - 1] each.
        k: half the mean length of the true segments when not given.
    Raises:
        EvaluationError: the two are not of one length, or k is not from 1 to T - 1.
    """
    return float(pk_errors(true, said, k or half_length([true])).mean())


def window_diff(true: Cuts, said: Cuts, k: int | None = None) -> float:
    """Share of pairs of chunks k apart between which the two segmentations count different numbers of
    boundaries (Pevzner and Hearst, "A Critique and Improvement of an Evaluation Metric for Text
    Segmentation", 2002). Never below `pk`; arguments and errors are the same."""
    return float(window_diff_errors(true, said, k or half_length([true])).mean())


def pk_errors(true: Cuts, said: Cuts, k: int) -> NDArray[np.bool_]:
    """[..., T - k] which pairs of chunks i and i + k `pk` holds against `said` [..., T - 1]."""
    between, claimed = _between(true, said, k)
    return np.asarray((between > 0) != (claimed > 0))


def window_diff_errors(true: Cuts, said: Cuts, k: int) -> NDArray[np.bool_]:
    """[..., T - k] which pairs of chunks i and i + k `window_diff` holds against `said` [..., T - 1]."""
    between, claimed = _between(true, said, k)
    return np.asarray(between != claimed)


def found(true: Cuts, said: Cuts, tolerance: int = 1) -> NDArray[np.bool_]:
    """[T - 1] which true boundaries have one of `said` for themselves, at most `tolerance` chunks away.

    The first free one in reach is taken, which on a line pairs as many as can be paired.
    """
    _check(true, said)
    paired = np.zeros_like(true)
    free = np.flatnonzero(said).tolist()
    for place in np.flatnonzero(true).tolist():
        while free and free[0] < place - tolerance:
            free.pop(0)
        if free and free[0] <= place + tolerance:
            free.pop(0)
            paired[place] = True
    return paired


def half_length(truths: Sequence[Cuts]) -> int:
    """k: half the mean length of the true segments of some documents, at least 1."""
    chunks = sum(len(true) + 1 for true in truths)
    segments = sum(int(true.sum()) + 1 for true in truths)
    return max(1, round(chunks / segments / 2))


def _between(true: Cuts, said: Cuts, k: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How many boundaries of each lie between chunks i and i + k."""
    _check(true, said)
    if not 1 <= k <= len(true):
        raise EvaluationError(
            f"pairs of chunks {k} apart among {len(true) + 1} chunks",
            remedy="judge longer documents, or give a k from 1 to less than their length",
        )
    counts = []
    for cuts in (true, said):
        total = np.zeros((*cuts.shape[:-1], cuts.shape[-1] + 1), dtype=np.int64)
        total[..., 1:] = np.cumsum(cuts, axis=-1)
        counts.append(total[..., k:] - total[..., :-k])
    return counts[0], counts[1]


def _check(true: Cuts, said: Cuts) -> None:
    if true.ndim != 1 or said.shape[-1:] != true.shape:
        raise EvaluationError(
            f"segmentations of shape {list(true.shape)} and {list(said.shape)}",
            remedy="give one entry for each place between two chunks of the document",
        )
