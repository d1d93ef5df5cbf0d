"""Which stretch of which document stands in which batch: a pure function of (documents, shape, seed, epoch).

A document is cut into stretches that are read from left to right. With `context` 32 and `min_context` 1 a
stretch is up to 32 chunks and the loss counts at every position; with both at 5 it is the classic window of 5
with one loss at its end. In between, each stretch reads min_context - 1 chunks again before its loss starts.
Whatever the shape, every target of a document that has at least `min_context` chunks before it (up to the
horizon) counts **exactly once** an epoch; the cut starts at a random phase, so that no target always comes
first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nextvec.errors import WindowError

IntArray = NDArray[np.int64]
SORT_GROUP = 32
"""Batches' worth of stretches that are sorted by length together: little padding, yet a random order."""


@dataclass(frozen=True)
class SequenceShape:
    """How documents are cut: at most `context` chunks read, at least `min_context` of them before the first
    loss, the target `horizon` chunks ahead."""

    context: int
    min_context: int = 1
    horizon: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.min_context <= self.context:
            raise WindowError(
                f"min_context {self.min_context} with context {self.context}",
                remedy="give 1 <= min_context <= context",
            )
        if self.horizon < 1:
            raise WindowError(f"horizon {self.horizon}", remedy="give a horizon of at least 1")

    @property
    def stride(self) -> int:
        """Targets of a full stretch."""
        return self.context - self.min_context + 1


@dataclass(frozen=True)
class Stretches:
    """N stretches as indices into a store: chunks first .. first + read - 1 are read, and the loss counts at
    the last `scored` of these positions, each against the chunk `horizon` rows further on. Arrays of length
    N."""

    first: IntArray
    read: IntArray
    scored: IntArray
    document: IntArray

    def __len__(self) -> int:
        return len(self.first)

    def select(self, index: NDArray[Any]) -> Stretches:
        """Those at `index`, in its order."""
        return Stretches(self.first[index], self.read[index], self.scored[index], self.document[index])


@dataclass(frozen=True)
class Spans:
    """Documents as rows of a store: document `document[i]` is rows first[i] .. first[i] + count[i] - 1."""

    first: IntArray
    count: IntArray
    document: IntArray

    @classmethod
    def of(cls, documents: Sequence[Any], indices: Sequence[int]) -> Spans:
        """The spans of `documents[i]` (objects with `first` and `count`) for i in `indices`."""
        chosen = np.asarray(indices, dtype=np.int64)
        first = np.array([documents[i].first for i in chosen], dtype=np.int64)
        count = np.array([documents[i].count for i in chosen], dtype=np.int64)
        return cls(first, count, chosen)

    def targets(self, shape: SequenceShape) -> int:
        """Targets that count in an epoch: a document of n chunks has n - horizon - min_context + 1, if any.

        Raises:
            WindowError: none at all.
        """
        total = int(self._targets_each(shape).sum())
        if total == 0:
            longest = int(self.count.max(initial=0))
            raise WindowError(
                f"no target in {len(self.count)} documents: a context of {shape.min_context} and a horizon "
                f"of {shape.horizon} need {shape.min_context + shape.horizon} chunks, the longest document "
                f"has {longest}",
                remedy="lower min_context or the horizon, or ingest longer documents",
            )
        return total

    def _targets_each(self, shape: SequenceShape) -> IntArray:
        return np.maximum(self.count - shape.horizon - shape.min_context + 1, 0)

    def cut(self, shape: SequenceShape, rng: np.random.Generator | None = None) -> Stretches:
        """Cut every document into stretches, at a random phase each, or from its start without `rng`."""
        stride = shape.stride
        drawn = (
            np.full(len(self.count), stride) if rng is None else rng.integers(1, stride + 1, len(self.count))
        )
        targets = self._targets_each(shape)
        phase = np.minimum(drawn, targets)
        pieces = np.where(targets > 0, 1 + -(-(targets - phase) // stride), 0)
        owner = np.repeat(np.arange(len(self.count)), pieces)
        nth = np.arange(len(owner)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        start = np.where(nth == 0, 0, phase[owner] + (nth - 1) * stride)
        end = np.minimum(phase[owner] + nth * stride, targets[owner])
        return Stretches(
            first=self.first[owner] + start,
            read=end - start + shape.min_context - 1,
            scored=end - start,
            document=self.document[owner],
        )


def batch_stretches(
    stretches: Stretches, batch_size: int, stride: int, rng: np.random.Generator | None = None
) -> list[IntArray]:
    """Group stretches into batches of about batch_size x stride targets: indices into `stretches`.

    A batch of full stretches holds `batch_size` of them; a batch of shorter ones holds more, so that every
    target weighs nearly the same. Similar lengths stand together. With `rng` the order is random, without it
    fixed.
    """
    budget = batch_size * stride
    order = np.arange(len(stretches)) if rng is None else rng.permutation(len(stretches))
    group = batch_size * SORT_GROUP
    groups = [order[i : i + group] for i in range(0, len(order), group)]
    # Long to short, then short to long: a batch across two groups would else pad a hundred short ones to a
    # long.
    signs = [1 - 2 * (i % 2) for i in range(len(groups))]
    ordered = np.concatenate(
        [
            g[np.argsort(-sign * stretches.read[g], kind="stable")]
            for sign, g in zip(signs, groups, strict=True)
        ]
    )
    scored = stretches.scored[ordered]
    # A stretch joins the batch in which its first target falls.
    bins = (np.cumsum(scored) - scored) // budget
    batches = np.split(ordered, np.flatnonzero(np.diff(bins)) + 1)
    if rng is not None:
        batches = [batches[i] for i in rng.permutation(len(batches))]
    return batches


def epoch_rng(seed: int, epoch: int) -> np.random.Generator:
    """The random stream of one epoch: depends on nothing else, so an epoch can be planned anew on resume."""
    return np.random.default_rng([seed, epoch])
