"""Windows: which chunks are read and which are to be predicted from them, as row numbers of a store.

A window never crosses a document. Training cuts documents into windows that are read from left to right. With
`context` 32 and `min_context` 1 a window is up to 32 chunks and the loss counts at every position; with both
at 5 it is the classic window of 5 with one loss at its end. In between, each window reads min_context - 1
chunks again before its loss starts. Whatever the shape, every target of a document that has at least
`min_context` chunks before it (up to the horizon) counts **exactly once** an epoch; the cut starts at a
random phase, so that no target always comes first. Evaluation takes every target with all that stands before
it. Vectors are gathered only in blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from nextvec.corpus.chunking import Viewed, originals
from nextvec.errors import WindowError
from nextvec.text import counted

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float32]
Task = Literal["next", "middle"]
FURTHEST_QUERY = 8
"""A query is a chunk at most so far after all that is read and predicted."""


class Extent(Protocol):
    """Where a document's chunks stand: rows `first` .. `first + count - 1`."""

    @property
    def first(self) -> int: ...

    @property
    def count(self) -> int: ...


class Documented(Protocol):
    """What windows are cut from: `nextvec.corpus.store.Store`, or as much of one."""

    @property
    def path(self) -> Path: ...

    @property
    def documents(self) -> Sequence[Extent]: ...


@dataclass(frozen=True)
class SequenceShape:
    """How documents are cut.

    Attributes:
        context: chunks read at most before a target.
        min_context: chunks read at least before the first loss.
        horizons: how many chunks ahead the targets stand, ascending; each position has a target for each.
        task: "next" reads what comes before the target; "middle" reads the context / 2 chunks on either side
            of it, the nearest last (`reading_order`).
        whole: documents that fit in one window are never cut.
    """

    context: int
    min_context: int = 1
    horizons: tuple[int, ...] = (1,)
    task: Task = "next"
    whole: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.min_context <= self.context:
            remedy = "give 1 <= min_context <= context; nextvec train --context N lowers both"
            raise WindowError(f"min_context {self.min_context} with context {self.context}", remedy=remedy)
        horizons = list(self.horizons)
        if not horizons or horizons[0] < 1 or horizons != sorted(set(horizons)):
            remedy = "give horizons of at least 1, in ascending order"
            raise WindowError(f"horizons {horizons}", remedy=remedy)
        around = self.context % 2 == 0 and self.min_context == self.context and horizons == [1]
        if self.task == "middle" and not around:
            sizes = f"context {self.context}, min_context {self.min_context} and horizons {horizons}"
            remedy = "give an even context, min_context the same, and horizon 1"
            raise WindowError(f"task middle with {sizes}", remedy=remedy)

    @property
    def stride(self) -> int:
        """Targets of a full window."""
        return self.context - self.min_context + 1

    @property
    def horizon(self) -> int:
        """The nearest horizon: where its target would lie outside the document, nothing is scored."""
        return self.horizons[0]


@dataclass(frozen=True, kw_only=True)
class Windows:
    """N windows, each of one document, as row numbers of the store. Arrays have the length N.

    A window reads the rows start .. start + read - 1, and its loss counts at the last `scored` of these
    positions, each against the chunk `horizon` rows further on. Of task middle, the rows start .. start +
    read are the chunks read and the target amid them. Documents before they are cut are windows that read all
    of themselves and score nothing (`of_documents`).

    Attributes:
        document: index of the document in `store.documents`. In training a view has the number of its
            original: for everything that depends on whose a chunk is (windows of one document in a batch,
            negatives, broken continuations) they are one document.
        first, end: row of the document's first chunk, and the row after its last.
        start, read, scored: see above.
        context: every window reads at least so many chunks before its first target; of task middle exactly
            so many, half of them before the target and half after it.
        horizon: the target is so many chunks after the last one read; 1 is the next chunk (and of task middle
            it is always 1).
        task: "next" reads what comes before the target, "middle" what is around it, the nearest last
            (`reading_order`).
        source: names of the documents' sources; None where they are not known.
        query: row of the chunk that each window's predictor is asked to write towards, -1 for none; None
            where there are no queries.
    """

    document: IntArray
    first: IntArray
    end: IntArray
    start: IntArray
    read: IntArray
    scored: IntArray
    context: int = 1
    horizon: int = 1
    task: Task = "next"
    source: NDArray[np.str_] | None = None
    query: IntArray | None = None

    @classmethod
    def of_documents(cls, documents: Sequence[Any], indices: Sequence[int]) -> Self:
        """The whole of `documents[i]` (`nextvec.corpus.store.Document`) for i in `indices`."""
        chosen = np.asarray(indices, dtype=np.int64)
        first = np.array([documents[i].first for i in chosen], dtype=np.int64)
        count = np.array([documents[i].count for i in chosen], dtype=np.int64)
        source = np.array([documents[i].source for i in chosen], dtype=np.str_)
        return cls.whole(first, count, originals(documents)[chosen], source)

    @classmethod
    def whole(
        cls, first: IntArray, count: IntArray, document: IntArray, source: NDArray[np.str_] | None = None
    ) -> Self:
        """Documents of `count` [N] rows each from `first` [N] on."""
        return cls(
            document=document,
            first=first,
            end=first + count,
            start=first,
            read=count,
            scored=np.zeros_like(count),
            source=source,
        )

    @classmethod
    def of_targets(
        cls,
        target: IntArray,
        first: IntArray,
        document: IntArray,
        context: int,
        horizon: int = 1,
        task: Task = "next",
        end: IntArray | None = None,
    ) -> Self:
        """One window for each row `target` [N], with all that may be read before it (task middle: around it).

        Args:
            first: [N] row of the first chunk of the target's document.
            end: [N] the row after its last; by default the row after what is read and predicted.
        """
        middle = task == "middle"
        start = target - context // 2 if middle else first
        read = np.full_like(target, context) if middle else target - horizon - first + 1
        if end is None:
            end = np.maximum(target, start + read) + 1 if middle else target + 1
        return cls(
            document=document,
            first=first,
            end=end,
            start=start,
            read=read,
            scored=np.ones_like(target),
            context=context,
            horizon=horizon,
            task=task,
        )

    def __len__(self) -> int:
        return len(self.document)

    @property
    def count(self) -> IntArray:
        """Chunks of the document."""
        return self.end - self.first

    @property
    def target(self) -> IntArray:
        """Row of the (last) chunk to predict."""
        return self.start + (self.read // 2 if self.task == "middle" else self.read - 1 + self.horizon)

    @property
    def last(self) -> IntArray:
        """Row of the last chunk read."""
        return self.back(0)

    def back(self, steps: int) -> IntArray:
        """Row of the chunk read `steps` before the last one; meaningful below `read`."""
        if self.task == "middle":
            return self.target + int(reading_order(self.context)[-1 - steps])
        return self.start + self.read - 1 - steps

    @property
    def read_range(self) -> tuple[IntArray, IntArray]:
        """The first row and the last of what was read; of task middle the target lies amid it."""
        return self.start, self.start + self.read - (self.task != "middle")

    def given(self, rows: IntArray) -> NDArray[np.bool_]:
        """[N, n] which of `rows` [n] each window's predictor is given: what it reads, and its query."""
        first, last = (edge[:, None] for edge in self.read_range)
        given = (rows >= first) & (rows <= last) & (rows != self.target[:, None])
        if self.query is not None:
            given |= rows == self.query[:, None]
        return np.asarray(given)

    @property
    def sources(self) -> NDArray[np.str_]:
        """The source of each; empty names where none are known."""
        return np.zeros(len(self), dtype="<U1") if self.source is None else self.source

    def select(self, which: NDArray[Any] | slice) -> Self:
        """The windows of a boolean mask, an index array (in its order) or a slice."""
        held = ((f.name, getattr(self, f.name)) for f in fields(self))
        picked: dict[str, Any] = {n: v[which] for n, v in held if isinstance(v, np.ndarray)}
        return replace(self, **picked)

    @classmethod
    def joined(cls, several: Sequence[Self]) -> Self:
        """All of several of one context, horizon and task, in their order."""
        held = ((f.name, [getattr(w, f.name) for w in several]) for f in fields(cls))
        arrays: dict[str, Any] = {n: np.concatenate(v) for n, v in held if isinstance(v[0], np.ndarray)}
        return replace(several[0], **arrays)

    def blocks(self, size: int) -> Iterator[Self]:
        """Consecutive pieces of at most `size` windows."""
        for start in range(0, len(self), size):
            yield self.select(slice(start, start + size))

    def targets(self, shape: SequenceShape) -> int:
        """Targets that count in an epoch over these documents: one of n chunks has n - horizon - min_context
        + 1, if any, of each horizon.

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
        least, longest = shape.min_context, int(self.count.max(initial=0))
        needs = f"a context of {least} and a horizon of {horizon} need {least + horizon}"
        if shape.task == "middle":
            needs = f"a gap amid {shape.context} chunks needs {shape.context + 1}"
        message = f"no target in {counted(len(self), 'document')}: {needs} chunks, the longest document has"
        return WindowError(f"{message} {longest}", remedy=f"{_lower(shape, longest)}ingest longer documents")

    def targets_each(self, shape: SequenceShape) -> IntArray:
        """[n] positions of each document at which the loss counts: with a target of the nearest horizon."""
        return np.maximum(self.count - shape.horizon - shape.min_context + 1, 0)

    def cut(self, shape: SequenceShape, rng: np.random.Generator | None = None) -> Self:
        """Cut every document into windows, at a random phase each, or from its start without `rng`."""
        stride, n = shape.stride, len(self.count)
        drawn = np.full(n, stride) if rng is None else rng.integers(1, stride + 1, n)
        targets = self.targets_each(shape)
        if shape.whole:
            drawn = np.where(targets <= stride, stride, drawn)
        phase = np.minimum(drawn, targets)
        pieces = np.where(targets > 0, 1 + -(-(targets - phase) // stride), 0)
        owner = np.repeat(np.arange(len(self.count)), pieces)
        nth = np.arange(len(owner)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        start = np.where(nth == 0, 0, phase[owner] + (nth - 1) * stride)
        scored = np.minimum(phase[owner] + nth * stride, targets[owner]) - start
        return replace(
            self.select(owner),
            start=self.first[owner] + start,
            read=scored + shape.min_context - 1,
            scored=scored,
            context=shape.min_context,
            horizon=shape.horizon,
            task=shape.task,
        )


def _lower(shape: SequenceShape, longest: int) -> str:
    """What may be typed so that a document of `longest` chunks has a target, with an "or" after it; empty
    where nothing helps."""
    if shape.task == "middle":
        around = (longest - 1) // 2 * 2
        return f"lower the context: --task middle --context {around}, or " if around > 0 else ""
    least, furthest = longest - shape.horizons[-1], longest - shape.min_context
    if least >= 1:
        return f"lower what is read before a target: --set data.min_context={least}, or "
    if furthest >= 1:
        return f"lower the horizon: --horizon {furthest}, or "
    return f"lower both: --set data.min_context=1 --horizon {longest - 1}, or " if longest > 1 else ""


def reading_order(context: int) -> IntArray:
    """[context] where the chunks around a gap stand relative to it, in the order they are read.

    By decreasing distance, -c/2, c/2, ..., -1, 1: what is read last is nearest, as with any other context, so
    that every causal model, baseline and residual base can read it.
    """
    distance = np.arange(context // 2, 0, -1, dtype=np.int64)
    return np.stack([-distance, distance], axis=1).ravel()


def later_rows(used: IntArray, end: IntArray, seed: int, target: IntArray) -> IntArray:
    """[N] row of each evaluated window's query, or -1 for none: 1 to 8 after `used`, the last row read or
    predicted, and before `end`.

    Which one is a function of the seed and the row of the target alone: the same in every table, for every
    predictor, whatever else is evaluated beside it.
    """
    room = np.minimum(end - 1 - used, FURTHEST_QUERY)
    drawn = _mixed(target.astype(np.uint64) + np.uint64(seed * 0xD1342543DE82EF95 % 2**64))
    place = (drawn >> np.uint64(11)).astype(np.float64) / 2.0**53
    return np.where(room > 0, used + 1 + (place * room).astype(np.int64), -1)


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64 (Steele, Lea and Flood, Fast Splittable Pseudorandom Number Generators, 2014): every bit of
    the result depends on every bit of x."""
    x = (x + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def make_windows(
    store: Documented, documents: Sequence[int], context: int = 5, horizon: int = 1, task: Task = "next"
) -> Windows:
    """Every target of these documents that has at least `context` chunks read before it; of task middle,
    every one with context / 2 chunks on either side.

    Args:
        documents: indices into `store.documents`; their order does not matter.
    Raises:
        WindowError: no window, because there is no document or each is shorter than context + horizon; task
            middle with an odd context, or a horizon above 1.
    """
    if context < 1 or horizon < 1:
        raise WindowError(f"context {context} and horizon {horizon} must be at least 1")
    if task == "middle" and (context % 2 or horizon > 1):
        remedy = "give an even context (as many chunks before as after) and horizon 1"
        raise WindowError(f"task middle with context {context} and horizon {horizon}", remedy=remedy)
    index = np.unique(np.asarray(documents, dtype=np.int64))
    first = np.array([store.documents[i].first for i in index], dtype=np.int64)
    count = np.array([store.documents[i].count for i in index], dtype=np.int64)
    windows = np.maximum(count - context - horizon + 1, 0)
    total = int(windows.sum())
    if total == 0:
        longest = int(count.max(initial=0))
        most = longest - horizon
        most -= most % 2 if task == "middle" else 0
        what = "one amid them" if task == "middle" else f"one {horizon} later"
        held = f"the longest of {counted(len(index), 'document')} has {longest}"
        flags = f"nextvec evaluate, matrix: --judge-context {most}; nextvec export-npz: --context {most}"
        remedy = f"use a context of at most {most} ({flags})" if most > 0 else "add longer documents"
        message = f"no window of {context} chunks and {what}: {held if len(index) else 'no documents'}"
        raise WindowError(message, where=store.path, remedy=remedy)
    # number of each window within its document: 0 1 2 | 0 1 | 0 1 2 3 ...
    within = np.arange(total, dtype=np.int64) - np.repeat(np.cumsum(windows) - windows, windows)
    starts = np.repeat(first, windows)
    target = starts + (context // 2 if task == "middle" else context - 1 + horizon) + within
    end = np.repeat(first + count, windows)
    return Windows.of_targets(target, starts, np.repeat(index, windows), context, horizon, task, end)


def with_queries(windows: Windows, seed: int) -> Windows:
    """The same windows, each with a query drawn by `later_rows`: a chunk of its document 1 to 8 after all
    that is read and the target; none at a document's end."""
    used = np.maximum(windows.target, windows.read_range[1])
    return replace(windows, query=later_rows(used, windows.end, seed, windows.target))


def by_original(windows: Windows, documents: Sequence[Viewed]) -> Windows:
    """The same windows, those of a view counted as windows of its original (`documents` of the store): for
    fits that hold documents out."""
    return replace(windows, document=originals(documents)[windows.document])
