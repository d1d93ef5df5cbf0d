"""What does not come next: continuations of another document, and other targets of the same one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nextvec.data.windows import IntArray, SequenceShape, Windows
from nextvec.errors import WindowError


@dataclass(frozen=True)
class Break:
    """Where N windows break off: from position `start` on (far beyond the end: never) their targets are
    those rows of another document, `first` .. `first + count - 1`, that follow its chunk `offset` (round and
    round)."""

    start: IntArray
    first: IntArray
    count: IntArray
    offset: IntArray

    def rows(self, window: IntArray, position: IntArray, ahead: int) -> IntArray:
        """Rows of the targets, `ahead` chunks after the nearest, at these positions of these windows."""
        step = self.offset[window] + position - self.start[window] + ahead
        return self.first[window] + step % self.count[window]


class Breaks:
    """Draws continuations that do not belong: of another document, of the same source where there is one.

    Args:
        documents: the documents to draw from.
        share: of the windows that are broken. One of each batch is always left whole.
    Raises:
        WindowError: there is only one document.
    """

    def __init__(self, documents: Windows, share: float) -> None:
        if len(np.unique(documents.document)) < 2:
            remedy = "set data.broken to 0, or train on two documents at least"
            raise WindowError("there is no other document to break a continuation with", remedy=remedy)
        self.share = share
        # Documents side by side by source; each one's place there, and where its source begins and ends
        by_source = np.lexsort((documents.document, documents.sources))
        sources = documents.sources[by_source]
        self._documents = documents.select(by_source)
        low = np.searchsorted(sources, sources, "left")
        high = np.searchsorted(sources, sources, "right")
        self._by_number = np.argsort(self._documents.document, kind="stable")
        self._numbers = self._documents.document[self._by_number]
        # A document's views have its number and its source, and so stand beside it
        numbers = self._documents.document
        ends = np.searchsorted(self._numbers, numbers, "right")
        self._spread = ends - np.searchsorted(self._numbers, numbers, "left")
        alone = high - low == self._spread
        self._low, self._high = np.where(alone, 0, low), np.where(alone, len(documents), high)

    def draw(self, windows: Windows, rng: np.random.Generator) -> Break:
        """Where the windows of a batch break off, and what with."""
        N = len(windows)
        drawn, place, which, offset = rng.random((4, N))
        drawn[np.argmax(drawn)] = 1.0
        start = windows.read - 1 - (place * windows.scored).astype(np.int64)
        own = self._by_number[np.searchsorted(self._numbers, windows.document)]
        low, high, spread = self._low[own], self._high[own], self._spread[own]
        other = low + (which * (high - low - spread)).astype(np.int64)
        other += np.where(other >= own, spread, 0)
        count = self._documents.count[other]
        return Break(
            start=np.where(drawn < self.share, start, np.iinfo(np.int64).max // 2),
            first=self._documents.first[other],
            count=count,
            offset=(offset * count).astype(np.int64),
        )


def broken_positions(breaks: Break, windows: Windows, T: int) -> NDArray[np.bool_]:
    """[B, T] where the targets are those of another document."""
    place = np.arange(T)
    read, scored = windows.read[:, None], windows.scored[:, None]
    return (place >= breaks.start[:, None]) & (place < read) & (place >= read - scored)


def other_targets(windows: Windows, shape: SequenceShape, rng: np.random.Generator) -> IntArray:
    """[B, T, K] for every target of a batch the row of another one of its document and horizon, each equally
    likely; -1 where there is none, or no target.

    The brief's "hard negative from the same document" (training-fix task list, 2.4). It falls back on the
    target itself where a document has only one; a truth that is its own negative teaches nothing.
    """
    middle = shape.task == "middle"
    T, ahead = int(windows.read.max()), np.array([0] if middle else shape.horizons)
    place = windows.target[:, None] if middle else windows.start[:, None] + np.arange(T)
    target = np.broadcast_to(place, (len(windows), T))[..., None] + ahead
    around = shape.context // 2 if middle else 0
    low = windows.first[:, None, None] + (around if middle else shape.min_context - 1) + ahead
    count = windows.end[:, None, None] - around - low  # targets of the document
    row = low + (rng.random(target.shape) * (count - 1)).astype(np.int64)
    row += row >= target
    return np.where((count > 1) & (target >= low) & (target < low + count), row, -1)
