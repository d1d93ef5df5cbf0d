"""What a task adds to a stretch: the order in which a gap's neighbours are read, queries, broken ends."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nextvec.data.sampling import IntArray, SequenceShape, Spans, Stretches
from nextvec.errors import WindowError

FURTHEST_QUERY = 8
"""A query is a chunk at most so far after all that is read and predicted."""


def reading_order(context: int) -> IntArray:
    """[context] where the chunks around a gap stand relative to it, in the order they are read.

    By decreasing distance, -c/2, c/2, ..., -1, 1: what is read last is nearest, as with any other context, so
    that every causal model, baseline and residual base can read it.
    """
    distance = np.arange(context // 2, 0, -1, dtype=np.int64)
    return np.stack([-distance, distance], axis=1).ravel()


def query_rows(
    stretches: Stretches, shape: SequenceShape, share: float, rng: np.random.Generator
) -> IntArray:
    """[N] row of each stretch's query, or -1 for none.

    A share of the stretches is given one: a chunk of the same document, 1 to 8 after everything that the
    stretch reads or predicts. A stretch at the end of its document can have none.
    """
    used = stretches.first + stretches.read + shape.horizons[-1] - 1  # the last row read or predicted
    used = np.minimum(used, stretches.end - 1)
    room = np.minimum(stretches.end - 1 - used, FURTHEST_QUERY)
    asked, place = rng.random((2, len(stretches)))
    row = used + 1 + (place * room).astype(np.int64)
    return np.where((asked < share) & (room > 0), row, -1)


def later_rows(used: IntArray, end: IntArray, seed: int, target: IntArray) -> IntArray:
    """[N] row of each judged window's query, or -1 for none: 1 to 8 after `used`, the last row read or
    predicted, and before `end`.

    Which one is a function of the seed and the row of the target alone: the same in every table, for every
    predictor, whatever else is judged beside it.
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


@dataclass(frozen=True)
class Break:
    """Where N stretches break off: from position `start` on (far beyond the end: never) their targets are
    those rows of another document, `first` .. `first + count - 1`, that follow its chunk `offset` (round and
    round)."""

    start: IntArray
    first: IntArray
    count: IntArray
    offset: IntArray

    def rows(self, stretch: IntArray, position: IntArray, ahead: int) -> IntArray:
        """Rows of the targets, `ahead` chunks after the nearest, at these positions of these stretches."""
        step = self.offset[stretch] + position - self.start[stretch] + ahead
        return self.first[stretch] + step % self.count[stretch]


class Breaks:
    """Draws continuations that do not belong: of another document, of the same source where there is one.

    Args:
        spans: the documents to draw from.
        share: of the stretches that are broken. One of each batch is always left whole.
    Raises:
        WindowError: there is only one document.
    """

    def __init__(self, spans: Spans, share: float) -> None:
        if len(np.unique(spans.document)) < 2:
            raise WindowError(
                "there is no other document to break a continuation with",
                remedy="set data.broken to 0, or train on two documents at least",
            )
        self.share = share
        # Documents side by side by source; each one's place there, and where its source begins and ends
        by_source = np.lexsort((spans.document, spans.sources))
        sources = spans.sources[by_source]
        self._spans = spans.select(by_source)
        low = np.searchsorted(sources, sources, "left")
        high = np.searchsorted(sources, sources, "right")
        self._by_number = np.argsort(self._spans.document, kind="stable")
        self._numbers = self._spans.document[self._by_number]
        # A document's views have its number and its source, and so stand beside it
        numbers = self._spans.document
        ends = np.searchsorted(self._numbers, numbers, "right")
        self._spread = ends - np.searchsorted(self._numbers, numbers, "left")
        alone = high - low == self._spread
        self._low, self._high = np.where(alone, 0, low), np.where(alone, len(spans), high)

    def draw(self, stretches: Stretches, rng: np.random.Generator) -> Break:
        """Where the stretches of a batch break off, and what with."""
        N = len(stretches)
        asked, place, which, offset = rng.random((4, N))
        asked[np.argmax(asked)] = 1.0
        start = stretches.read - 1 - (place * stretches.scored).astype(np.int64)
        own = self._by_number[np.searchsorted(self._numbers, stretches.document)]
        low, high, spread = self._low[own], self._high[own], self._spread[own]
        other = low + (which * (high - low - spread)).astype(np.int64)
        other += np.where(other >= own, spread, 0)
        count = self._spans.count[other]
        return Break(
            start=np.where(asked < self.share, start, np.iinfo(np.int64).max // 2),
            first=self._spans.first[other],
            count=count,
            offset=(offset * count).astype(np.int64),
        )


def broken_positions(breaks: Break, stretches: Stretches, T: int) -> NDArray[np.bool_]:
    """[B, T] where the targets are those of another document."""
    place = np.arange(T)
    read, scored = stretches.read[:, None], stretches.scored[:, None]
    return (place >= breaks.start[:, None]) & (place < read) & (place >= read - scored)
