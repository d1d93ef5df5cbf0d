"""Curricula: easy things first, over the first epochs of a run, then everything.

"context" reads from one chunk at first (of task middle: one on either side) to all that a stretch may have.
"coherence" trains on the stretches whose neighbouring chunks are most alike first, then on more and more.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from nextvec.data.sampling import IntArray, SequenceShape, Spans, Stretches

Curriculum = Literal["none", "context", "coherence"]
BLOCK = 8192


class RowSource(Protocol):
    """Anything whose rows can be gathered: a store's `vectors`."""

    def gather(self, rows: IntArray) -> NDArray[np.float32]:
        """float32 [..., D] of rows [...]."""
        ...


def curriculum_epochs(epochs: int, share: float) -> int:
    """How many of a run's epochs the curriculum takes, at least 1: the epoch after them has everything."""
    return max(1, round(epochs * share))


def shape_at(shape: SequenceShape, epoch: int, epochs: int, share: float) -> SequenceShape:
    """How documents are cut in epoch number `epoch` of a curriculum over context: from 1 chunk (middle: 2)
    in equal steps to `shape`, never shorter than before."""
    least = 2 if shape.task == "middle" else 1
    done = min(epoch / curriculum_epochs(epochs, share), 1.0)
    context = least + int((shape.context - least) * done) // least * least
    return replace(shape, context=context, min_context=min(shape.min_context, context))


def share_at(epoch: int, epochs: int, share: float) -> float:
    """Which share of the stretches epoch number `epoch` of a curriculum over coherence trains on: rising in
    equal steps to 1."""
    return min((epoch + 1) / (curriculum_epochs(epochs, share) + 1), 1.0)


class Coherence:
    """How alike the neighbouring chunks of each stretch are: the mean of their cosines.

    Reads every vector of the documents once.
    """

    def __init__(self, vectors: RowSource, spans: Spans) -> None:
        self._low = int(spans.first.min())
        size = int((spans.first + spans.count).max()) - self._low
        # sums[r] = sum of the cosines of the pairs (q, q + 1), q < r, that lie within a document
        cosines = np.zeros(size)
        for rows in _pairs(spans):
            a, b = vectors.gather(rows), vectors.gather(rows + 1)
            norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
            cosines[rows - self._low] = np.einsum("nd,nd->n", a, b) / np.maximum(norms, 1e-12)
        self._sums = np.concatenate([[0.0], np.cumsum(cosines)])

    def of(self, stretches: Stretches, shape: SequenceShape) -> NDArray[np.float64]:
        """[N] mean cosine of neighbours among the chunks that each stretch reads and predicts (to the nearest
        horizon)."""
        first = stretches.first - self._low
        pairs = stretches.read + shape.horizon - 1
        found: NDArray[np.float64] = (self._sums[first + pairs] - self._sums[first]) / pairs
        return found

    def easiest(self, stretches: Stretches, shape: SequenceShape, share: float) -> IntArray:
        """Indices of the `share` of the stretches (at least one) that are most coherent, in store order."""
        wanted = math.ceil(share * len(stretches))
        order = np.argsort(-self.of(stretches, shape), kind="stable")
        return np.sort(order[:wanted])


def _pairs(spans: Spans) -> list[IntArray]:
    """Rows of the first chunk of every pair of neighbours within a document, in blocks."""
    each = np.maximum(spans.count - 1, 0)
    within = np.arange(each.sum()) - np.repeat(np.cumsum(each) - each, each)
    rows = np.repeat(spans.first, each) + within
    return [rows[i : i + BLOCK] for i in range(0, len(rows), BLOCK)]
