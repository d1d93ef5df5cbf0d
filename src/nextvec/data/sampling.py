"""How documents are cut into stretches, and stretches grouped into batches.

A document is cut into stretches that are read from left to right. With `context` 32 and `min_context` 1 a
stretch is up to 32 chunks and the loss counts at every position; with both at 5 it is the classic window of 5
with one loss at its end. In between, each stretch reads min_context - 1 chunks again before its loss starts.
Whatever the shape, every target of a document that has at least `min_context` chunks before it (up to the
horizon) counts **exactly once** an epoch; the cut starts at a random phase, so that no target always comes
first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nextvec.corpus.views import originals
from nextvec.errors import WindowError

IntArray = NDArray[np.int64]
Task = Literal["next", "middle"]
SORT_GROUP = 32
"""Batches' worth of stretches that are sorted by length together: little padding, yet a random order."""
SLACK = 15 / 16
"""How near the limit a document is brought that has too many stretches for full batches."""


@dataclass(frozen=True)
class SequenceShape:
    """How documents are cut.

    Attributes:
        context: chunks read at most before a target.
        min_context: chunks read at least before the first loss.
        horizons: how many chunks ahead the targets stand, ascending; each position has a target for each.
        task: "next" reads what comes before the target; "middle" reads the context / 2 chunks on either side
            of it, the nearest last (`nextvec.data.tasks.reading_order`).
        whole: documents that fit in one stretch are never cut.
    """

    context: int
    min_context: int = 1
    horizons: tuple[int, ...] = (1,)
    task: Task = "next"
    whole: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.min_context <= self.context:
            raise WindowError(
                f"min_context {self.min_context} with context {self.context}",
                remedy="give 1 <= min_context <= context",
            )
        if not self.horizons or self.horizons[0] < 1 or list(self.horizons) != sorted(set(self.horizons)):
            raise WindowError(
                f"horizons {list(self.horizons)}", remedy="give horizons of at least 1, in ascending order"
            )
        if self.task == "middle" and (
            self.context % 2 or self.min_context != self.context or self.horizons != (1,)
        ):
            raise WindowError(
                f"task middle with context {self.context}, min_context {self.min_context} and horizons "
                f"{list(self.horizons)}",
                remedy="give an even context, min_context the same, and horizon 1",
            )

    @property
    def stride(self) -> int:
        """Targets of a full stretch."""
        return self.context - self.min_context + 1

    @property
    def horizon(self) -> int:
        """The nearest horizon: where its target would lie outside the document, nothing is scored."""
        return self.horizons[0]


@dataclass(frozen=True)
class Stretches:
    """N stretches as indices into a store: chunks first .. first + read - 1 are read, and the loss counts at
    the last `scored` of these positions, each against the chunk `horizon` rows further on. `end` is the row
    after the last of the stretch's document. Arrays of length N.

    Of task middle, the rows first .. first + read are the chunks read and the target amid them.
    """

    first: IntArray
    read: IntArray
    scored: IntArray
    document: IntArray
    end: IntArray

    def __len__(self) -> int:
        return len(self.first)

    def select(self, index: NDArray[Any]) -> Stretches:
        """Those at `index`, in its order."""
        return Stretches(*(getattr(self, f.name)[index] for f in fields(self)))

    @classmethod
    def joined(cls, several: Sequence[Stretches]) -> Stretches:
        """All of several, in their order."""
        return cls(*(np.concatenate([getattr(s, f.name) for s in several]) for f in fields(cls)))


@dataclass(frozen=True)
class Spans:
    """Documents as rows of a store: document `document[i]` is rows first[i] .. first[i] + count[i] - 1.

    A view has the number of its original: for everything that must tell whose a chunk is (stretches of one
    document in a batch, negatives, broken continuations) they are one document.

    `source` [n] names the source of each; without it they are all of one.
    """

    first: IntArray
    count: IntArray
    document: IntArray
    source: NDArray[np.str_] | None = None

    @classmethod
    def of(cls, documents: Sequence[Any], indices: Sequence[int]) -> Spans:
        """The spans of `documents[i]` (`nextvec.corpus.store.Document`) for i in `indices`."""
        chosen = np.asarray(indices, dtype=np.int64)
        first = np.array([documents[i].first for i in chosen], dtype=np.int64)
        count = np.array([documents[i].count for i in chosen], dtype=np.int64)
        source = np.array([documents[i].source for i in chosen], dtype=np.str_)
        return cls(first, count, originals(documents)[chosen], source)

    def __len__(self) -> int:
        return len(self.first)

    @property
    def sources(self) -> NDArray[np.str_]:
        """[n] the source of each document; empty names where none are known."""
        return np.zeros(len(self), dtype="<U1") if self.source is None else self.source

    def select(self, index: NDArray[Any]) -> Spans:
        """Those at `index`, in its order."""
        return Spans(self.first[index], self.count[index], self.document[index], self.sources[index])

    def targets(self, shape: SequenceShape) -> int:
        """Targets that count in an epoch: a document of n chunks has n - horizon - min_context + 1, if any,
        of each horizon.

        Raises:
            WindowError: of one horizon there is none at all.
        """
        total = 0
        for horizon in shape.horizons:
            found = int(np.maximum(self.count - horizon - shape.min_context + 1, 0).sum())
            if found == 0:
                raise self._too_short(shape, horizon)
            total += found
        return total

    def _too_short(self, shape: SequenceShape, horizon: int) -> WindowError:
        longest = int(self.count.max(initial=0))
        needs = (
            f"a gap amid {shape.context} chunks needs {shape.context + 1}"
            if shape.task == "middle"
            else f"a context of {shape.min_context} and a horizon of {horizon} need "
            f"{shape.min_context + horizon}"
        )
        return WindowError(
            f"no target in {len(self)} documents: {needs} chunks, the longest document has {longest}",
            remedy="lower min_context or the horizon, or ingest longer documents"
            if shape.task == "next"
            else "lower the context, or ingest longer documents",
        )

    def targets_each(self, shape: SequenceShape) -> IntArray:
        """[n] positions of each document at which the loss counts: those with a target of the nearest
        horizon."""
        return np.maximum(self.count - shape.horizon - shape.min_context + 1, 0)

    def cut(self, shape: SequenceShape, rng: np.random.Generator | None = None) -> Stretches:
        """Cut every document into stretches, at a random phase each, or from its start without `rng`."""
        stride = shape.stride
        drawn = (
            np.full(len(self.count), stride) if rng is None else rng.integers(1, stride + 1, len(self.count))
        )
        targets = self.targets_each(shape)
        if shape.whole:
            drawn = np.where(targets <= stride, stride, drawn)
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
            end=(self.first + self.count)[owner],
        )


def batch_stretches(
    stretches: Stretches,
    batch_size: int,
    stride: int,
    rng: np.random.Generator | None = None,
    max_per_document: int = 0,
) -> list[IntArray]:
    """Group stretches into batches of about batch_size x stride targets: indices into `stretches`.

    A batch of full stretches holds `batch_size` of them; a batch of shorter ones holds more, so that every
    target weighs nearly the same. Similar lengths stand together. With `rng` the order is random, without it
    fixed. With `max_per_document` no batch has more stretches of one document: where chance does not see to
    it, documents are spread evenly, and batches become smaller where that is not enough.
    """
    budget = batch_size * stride
    order = np.arange(len(stretches)) if rng is None else rng.permutation(len(stretches))
    ordered, bins = pack(stretches, order, budget, batch_size)
    if max_per_document and crowded(stretches.document[ordered], bins, max_per_document).any():
        batches = diverse(stretches, order, budget, batch_size, max_per_document)
    else:
        batches = np.split(ordered, np.flatnonzero(np.diff(bins)) + 1)
    if rng is not None:
        batches = [batches[i] for i in rng.permutation(len(batches))]
    return batches


def pack(
    stretches: Stretches, order: IntArray, budget: float, batch_size: int
) -> tuple[IntArray, NDArray[Any]]:
    """`order` with similar lengths together, and for each of it the number of its batch, ascending."""
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
    return ordered, (np.cumsum(scored) - scored) // budget


def diverse(
    stretches: Stretches, order: IntArray, budget: int, batch_size: int, limit: int
) -> list[IntArray]:
    """Batches of what `order` lists, none with more than `limit` stretches of one document.

    Each document is spread evenly over the epoch. One that makes up too much of it for batches of `budget`
    targets makes all of them smaller, rather than some of them all its own, and so that it comes a little
    below the limit on average, as spreading is not exact. What still comes too close together, a few per
    cent, is packed again, into batches of the rest.
    """
    batches: list[IntArray] = []
    while len(order):
        document = stretches.document[order]
        # Targets that come with one stretch of the document that has most of them
        beside = stretches.scored[order].sum() / np.bincount(document).max()
        room = budget if limit * beside >= budget else max(SLACK * limit * beside, 1)
        ordered, bins = pack(stretches, order[spread(document)], room, batch_size)
        late = crowded(stretches.document[ordered], bins, limit)
        kept = bins[~late]
        batches += np.split(ordered[~late], np.flatnonzero(np.diff(kept)) + 1)
        order = ordered[late]
    return batches


def crowded(document: IntArray, bins: NDArray[Any], limit: int) -> NDArray[np.bool_]:
    """[N] True for each stretch before which its batch already holds `limit` of its document."""
    crowd = np.zeros(len(document), dtype=bool)
    # Documents of a batch side by side: a group of equal keys.
    keys = bins.astype(np.int64) * (int(document.max()) + 1) + document
    keyed = np.sort(keys)
    if (keyed[limit:] == keyed[:-limit]).any():
        by = np.argsort(keys, kind="stable")
        crowd[by[limit:]] = keyed[limit:] == keyed[:-limit]
    return crowd


def spread(document: IntArray) -> IntArray:
    """An order in which the stretches of each document stand at even distances; `document` [N] is whose they
    are. A document's own keep their order among themselves."""
    by = np.argsort(document, kind="stable")
    _, starts, counts = np.unique(document[by], return_index=True, return_counts=True)
    nth = np.arange(len(by)) - np.repeat(starts, counts)
    # Multiples of the golden ratio: documents of equal length do not all come at the same places.
    phase = np.arange(len(starts)) * 0.6180339887498949 % 1
    place = np.empty(len(by))
    place[by] = (nth + np.repeat(phase, counts)) / np.repeat(counts, counts)
    return np.argsort(place, kind="stable")


def epoch_rng(seed: int, epoch: int) -> np.random.Generator:
    """The random stream of one epoch: depends on nothing else, so an epoch can be planned anew on resume."""
    return np.random.default_rng([seed, epoch])
