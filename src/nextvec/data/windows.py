"""Windows: which chunk is to be predicted from which, as row numbers. Vectors are gathered only in blocks.

A window never crosses a document: it is cut from one document's rows, and what may be read of it starts at
that document's first row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nextvec.corpus.views import Viewed, originals
from nextvec.data.sampling import Task
from nextvec.data.tasks import later_rows, reading_order
from nextvec.errors import WindowError

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float32]


class VectorSource(Protocol):
    """Rows of vectors: `Store.vectors`, or a plain [n, D] array of any float type."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any, /) -> Any: ...


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
class Windows:
    """N windows in store order, as row numbers of the store.

    Attributes:
        target: [N] row of the chunk to predict.
        first: [N] row of the first chunk of the target's document.
        document: [N] index of that document in `store.documents`.
        context: every window has at least so many chunks read before it; of task middle exactly so many,
            half of them before the target and half after it.
        horizon: the target is so many chunks after the last one read; 1 is the next chunk (and of task middle
            it is always 1).
        task: "next" reads everything before the target, "middle" what is around it, the nearest last
            (`nextvec.data.tasks.reading_order`).
        query: [N] row of the chunk that each window's predictor is told to write towards, -1 for none; None
            where nobody is told.
    """

    target: IntArray
    first: IntArray
    document: IntArray
    context: int
    horizon: int
    task: Task = "next"
    query: IntArray | None = None

    def __len__(self) -> int:
        return len(self.target)

    @property
    def last(self) -> IntArray:
        """[N] row of the last chunk read."""
        return self.back(0)

    def back(self, steps: int) -> IntArray:
        """[N] row of the chunk read `steps` before the last one; meaningful below `read`."""
        if self.task == "middle":
            return self.target + int(reading_order(self.context)[-1 - steps])
        return self.target - self.horizon - steps

    @property
    def read(self) -> IntArray:
        """[N] number of chunks read. Of task next that is everything of the document up to and including
        `last`."""
        if self.task == "middle":
            return np.full_like(self.target, self.context)
        return self.last - self.first + 1

    @property
    def read_range(self) -> tuple[IntArray, IntArray]:
        """([N], [N]) the first row and the last of what was read; of task middle the target lies amid it."""
        if self.task == "middle":
            half = self.context // 2
            return self.target - half, self.target + half
        return self.first, self.last

    def given(self, rows: IntArray) -> NDArray[np.bool_]:
        """[N, n] which of `rows` [n] each window's predictor is given: what it reads, and its query."""
        first, last = (edge[:, None] for edge in self.read_range)
        given = (rows >= first) & (rows <= last) & (rows != self.target[:, None])
        if self.query is not None:
            given |= rows == self.query[:, None]
        return np.asarray(given)

    def select(self, which: NDArray[np.bool_] | IntArray | slice) -> Windows:
        """The windows of a boolean mask, an index array or a slice."""
        picked = {name: getattr(self, name)[which] for name in ("target", "first", "document")}
        query = None if self.query is None else self.query[which]
        return replace(self, **picked, query=query)

    def blocks(self, size: int) -> Iterator[Windows]:
        """Consecutive pieces of at most `size` windows."""
        for start in range(0, len(self), size):
            yield self.select(slice(start, start + size))


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
        raise WindowError(
            f"task middle with context {context} and horizon {horizon}",
            remedy="give an even context (as many chunks before as after) and horizon 1",
        )
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
        raise WindowError(
            f"no window of {context} chunks and {what}: "
            + (f"the longest of {len(index)} documents has {longest}" if len(index) else "no documents"),
            where=store.path,
            remedy=f"use a context of at most {most}" if most > 0 else "add documents",
        )
    # number of each window within its document: 0 1 2 | 0 1 | 0 1 2 3 ...
    within = np.arange(total, dtype=np.int64) - np.repeat(np.cumsum(windows) - windows, windows)
    starts = np.repeat(first, windows)
    return Windows(
        target=starts + (context // 2 if task == "middle" else context - 1 + horizon) + within,
        first=starts,
        document=np.repeat(index, windows),
        context=context,
        horizon=horizon,
        task=task,
    )


def with_queries(store: Documented, windows: Windows, seed: int) -> Windows:
    """The same windows, each with a query drawn by `nextvec.data.tasks.later_rows`: a chunk of its document 1
    to 8 after all that is read and the target; none at a document's end."""
    count = np.array([store.documents[i].count for i in np.unique(windows.document)], dtype=np.int64)
    end = windows.first + count[np.unique(windows.document, return_inverse=True)[1]]
    used = np.maximum(windows.target, windows.read_range[1])
    return replace(windows, query=later_rows(used, end, seed, windows.target))


def gather_queries(vectors: VectorSource, windows: Windows) -> FloatArray | None:
    """float32 [N, D] what each window's predictor is told to write towards, zeros for nothing; None where
    nobody is told."""
    if windows.query is None:
        return None
    queries = gather_rows(vectors, np.maximum(windows.query, 0))
    queries[windows.query < 0] = 0.0
    return queries


def by_original(windows: Windows, documents: Sequence[Viewed]) -> Windows:
    """The same windows, those of a view counted as windows of its original (`documents` of the store): for
    fits that hold documents out."""
    return replace(windows, document=originals(documents)[windows.document])


def gather_rows(vectors: VectorSource, rows: IntArray) -> FloatArray:
    """Vectors of an array of rows: [...] -> float32 [..., D].

    Rows that lie close together (windows in store order do) are read as one slice of the memory map and
    picked from memory, which is several times faster than asking the map for each.
    """
    flat = rows.ravel()
    if flat.size == 0:
        return np.zeros((*rows.shape, vectors.shape[1]), dtype=np.float32)
    low, high = int(flat.min()), int(flat.max()) + 1
    if high - low <= flat.size:
        picked = np.asarray(vectors[low:high], dtype=np.float32)[flat - low]
    else:
        picked = np.asarray(vectors[flat], dtype=np.float32)
    return picked.reshape(*rows.shape, -1)


def gather_contexts(vectors: VectorSource, windows: Windows, width: int) -> tuple[FloatArray, IntArray]:
    """What was read of each window, at most the last `width` chunks of it.

    Returns:
        contexts: float32 [N, width, D], in the order it was read, padded with zeros on the right.
        lengths: int64 [N], how many of them are real; at least 1.
    """
    lengths = np.minimum(windows.read, width)
    place = np.arange(width, dtype=np.int64)
    if windows.task == "middle":
        order = reading_order(windows.context)[-width:]
        rows = windows.target[:, None] + order[np.minimum(place, len(order) - 1)]
    else:
        rows = np.minimum((windows.last - lengths + 1)[:, None] + place, windows.last[:, None])
    contexts = gather_rows(vectors, rows)
    contexts[place >= lengths[:, None]] = 0.0
    return contexts, lengths


def read_on(
    contexts: FloatArray, lengths: IntArray, following: FloatArray, width: int
) -> tuple[FloatArray, IntArray]:
    """Contexts [B, T, D] with one more vector each [B, D], of which the last `width` are kept."""
    if contexts.shape[1] < width:
        contexts = np.concatenate([contexts, np.zeros_like(contexts[:, :1])], axis=1)
    else:
        full = lengths == width
        contexts = contexts.copy()
        contexts[full, :-1] = contexts[full, 1:]
        lengths = np.where(full, width - 1, lengths)
    contexts[np.arange(len(lengths)), lengths] = following
    return contexts, lengths + 1
