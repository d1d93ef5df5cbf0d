"""One pass over the vectors of a store: every sum that the diagnosis of data needs, in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nextvec.data.windows import FloatArray, IntArray, gather_rows
from nextvec.evaluation.predictor import unit
from nextvec.progress import Progress

if TYPE_CHECKING:
    from nextvec.corpus.store import Store

LAGS = 8
REPEATED = 0.999
"""Adjacent chunks with a larger cosine count as one chunk twice."""
BLOCK_ROWS = 8192
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """Mean [D] and standard deviation [D] of vectors."""

    mean: Values
    std: Values


@dataclass(frozen=True)
class Sweep:
    """What one pass over n documents gave; arrays are in their order, cosines are of raw vectors' directions.

    Attributes:
        source: [n] index of each document's source in `sources`.
        count: [n] chunks of each.
        similar: [n, 8] sum of the cosines of chunks k = 1..8 apart.
        within: [n] mean cosine of two different chunks of the document, in any order; 0 for one chunk.
        repeated: [n] pairs of adjacent chunks that are (nearly) the same vector.
        apart: mean cosine of two chunks of different documents of the same source, one a source; nan where a
            source has one document.
        apart_all: the same over all documents, whatever their sources.
        norms: [chunks] lengths of the vectors.
        raw, unit: moments of the vectors as stored and at unit length.
    """

    sources: tuple[str, ...]
    source: IntArray
    count: IntArray
    similar: Values
    within: Values
    repeated: IntArray
    apart: Values
    apart_all: float
    norms: Values
    raw: Moments
    unit: Moments

    @property
    def pairs(self) -> IntArray:
        """[n, 8] pairs of chunks k apart in each document."""
        return np.asarray(np.maximum(self.count[:, None] - np.arange(1, LAGS + 1), 0), dtype=np.int64)


def sweep(store: Store, documents: Sequence[int], *, quiet: bool = True) -> Sweep:
    """Read every vector of these documents (indices into `store.documents`) once, in blocks."""
    chosen = [store.documents[i] for i in documents]
    sources = tuple(sorted({d.source for d in chosen}))
    sums = _Sums(
        np.array([sources.index(d.source) for d in chosen], dtype=np.int64),
        np.array([d.count for d in chosen], dtype=np.int64),
        len(sources),
        store.dimension,
    )
    rows = np.concatenate([np.arange(d.first, d.first + d.count, dtype=np.int64) for d in chosen])
    owner = np.repeat(np.arange(len(chosen), dtype=np.int64), sums.count)
    with Progress("reading vectors", len(rows), "chunks", quiet=quiet) as progress:
        for start in range(0, len(rows), BLOCK_ROWS):
            piece = slice(start, start + BLOCK_ROWS)
            sums.add(gather_rows(store.vectors, rows[piece]), owner[piece])
            progress.advance(len(owner[piece]))
    return sums.result(sources)


class _Sums:
    """Collects blocks of consecutive rows; `owner` numbers the documents, ascending."""

    def __init__(self, source: IntArray, count: IntArray, sources: int, dimension: int) -> None:
        n = len(count)
        self.source, self.count = source, count
        self.similar = np.zeros((n, LAGS))
        self.repeated = np.zeros(n, dtype=np.int64)
        self.square = np.zeros(n)  # |sum of a document's unit vectors|^2
        self.total = np.zeros((sources, dimension))
        self.moments = np.zeros((2, 2, dimension))  # raw and unit; sums and sums of squares
        self.norms: list[Values] = []
        self.tail: tuple[FloatArray, IntArray] = (
            np.zeros((0, dimension), dtype=np.float32),
            np.zeros(0, dtype=np.int64),
        )
        self.open = (-1, np.zeros(dimension))  # the document that the next block may go on with

    def add(self, vectors: FloatArray, owner: IntArray) -> None:
        units = unit(vectors)
        wide = vectors.astype(np.float64)
        self.norms.append(np.sqrt(np.einsum("nd,nd->n", wide, wide)))
        wide_units = units.astype(np.float64)
        for moments, values in zip(self.moments, (wide, wide_units), strict=True):
            moments += (values.sum(axis=0), np.square(values).sum(axis=0))
        self._lags(units, owner)
        self._documents(wide_units, owner)

    def _lags(self, units: FloatArray, owner: IntArray) -> None:
        """Pairs whose later chunk lies in this block; the earlier one may lie at the end of the last."""
        old = len(self.tail[1])
        units, owner = np.concatenate([self.tail[0], units]), np.concatenate([self.tail[1], owner])
        for k in range(1, LAGS + 1):
            later = np.arange(max(old, k), len(owner))
            later = later[owner[later] == owner[later - k]]
            cosines = np.einsum("nd,nd->n", units[later], units[later - k], dtype=np.float64)
            np.add.at(self.similar[:, k - 1], owner[later], cosines)
            if k == 1:
                np.add.at(self.repeated, owner[later[cosines > REPEATED]], 1)
        self.tail = (units[-LAGS:], owner[-LAGS:])

    def _documents(self, units: Values, owner: IntArray) -> None:
        starts = np.concatenate([[0], np.flatnonzero(np.diff(owner)) + 1])
        for document, part in zip(owner[starts].tolist(), np.add.reduceat(units, starts), strict=True):
            if document != self.open[0]:
                self._close()
                self.open = (document, np.zeros_like(part))
            self.open[1][:] += part

    def _close(self) -> None:
        document, total = self.open
        if document >= 0:
            self.square[document] = total @ total
            self.total[self.source[document]] += total

    def result(self, sources: tuple[str, ...]) -> Sweep:
        self._close()
        self.open = (-1, self.open[1])
        n = self.count.astype(np.float64)
        within = np.divide(self.square - n, n * (n - 1), out=np.zeros_like(n), where=n > 1)
        apart = [self._apart(self.total[s], self.source == s) for s in range(len(sources))]
        raw, units = (_moments(sums, n.sum()) for sums in self.moments)
        return Sweep(
            sources=sources,
            source=self.source,
            count=self.count,
            similar=self.similar,
            within=within,
            repeated=self.repeated,
            apart=np.array(apart),
            apart_all=self._apart(self.total.sum(axis=0), np.ones(len(n), dtype=bool)),
            norms=np.concatenate(self.norms),
            raw=raw,
            unit=units,
        )

    def _apart(self, total: Values, which: NDArray[np.bool_]) -> float:
        """Mean cosine over all pairs of chunks of different documents: all pairs less those within one."""
        n = self.count[which].astype(np.float64)
        pairs = n.sum() ** 2 - np.square(n).sum()
        return float((total @ total - self.square[which].sum()) / pairs) if pairs else float("nan")


def _moments(sums: Values, count: float) -> Moments:
    mean = sums[0] / count
    return Moments(mean, np.sqrt(np.maximum(sums[1] / count - np.square(mean), 0)))
