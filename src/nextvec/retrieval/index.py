"""What every index owes: the rows of a store whose vectors are nearest to a query by cosine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from nextvec.corpus.layout import FloatArray, IntArray
from nextvec.data.gather import VectorSource, gather_rows
from nextvec.errors import RetrievalError
from nextvec.vectors import UnitVectors, require_unit, rounding, unit


@dataclass(frozen=True, eq=False)
class Found:
    """What was found for Q queries, the best first.

    Attributes:
        scores: float32 [Q, k]; an index's are cosines.
        rows: int64 [Q, k] rows of the store, distinct within a query.
    """

    scores: FloatArray
    rows: IntArray

    def first(self, k: int) -> Self:
        """The best k of each query."""
        return type(self)(self.scores[:, :k], self.rows[:, :k])

    def ordered(self, order: IntArray, scores: FloatArray | None = None) -> Self:
        """The same rows in another order [Q, V] of places; `scores` [Q, V] (by place) take the old ones'."""
        given = self.scores if scores is None else scores
        taken = np.take_along_axis(given, order, axis=1).astype(np.float32, copy=False)
        return type(self)(taken, np.take_along_axis(self.rows, order, axis=1))

    def scored(self, scores: FloatArray) -> Self:
        """The same rows by new scores [Q, V]; equal ones stay in their order."""
        return self.ordered(np.argsort(-scores, axis=1, kind="stable"), scores)


ROW_BLOCK, QUERY_BLOCK = 8192, 256
SPARE = 32
"""So many more rows than asked for are compared in float64."""
LEFT_OUT = -2.0
"""Below every cosine: the score of what is not to be found."""

Wide = NDArray[np.float64]


class Candidates(NamedTuple):
    """What may be among the nearest of Q queries.

    Attributes:
        scores: float32 [Q, V] rough products; LEFT_OUT where the place is not to be found.
        places: int64 [Q, V] in `Index.rows`, distinct within a query but for those LEFT_OUT.
        beyond: [Q] no other row has a rough product above this; -inf where there is none, or the index does
            not promise to find the nearest.
    """

    scores: FloatArray
    places: IntArray
    beyond: FloatArray


class Index(ABC):
    """Rows of one store, searched by cosine.

    Each index finds candidates in float32 in its way; their order is settled by float64 products with the
    store's vectors, so that threads, blocks and engines change nothing.

    Args:
        vectors: of the store, raw or unit.
        rows: which of them are searched, ascending.
        encoder: fingerprint of the encoder that they are of.
    Attributes:
        name: for people and tables.
        exact: whether the nearest rows are always found.
        rows: [n] as given.
    Raises:
        RetrievalError: no rows.
    """

    name: str
    exact: bool

    def __init__(self, vectors: VectorSource, rows: IntArray, encoder: str) -> None:
        if len(rows) == 0:
            raise RetrievalError("no rows to search", remedy="give documents with chunks")
        self._vectors, self.rows, self.encoder = vectors, rows, encoder

    @abstractmethod
    def _candidates(self, queries: FloatArray, k: int, out: ExcludedRows) -> Candidates:
        """At least k for each of the queries [Q, D], those that could not be found LEFT_OUT."""

    @property
    def dimension(self) -> int:
        """D."""
        return int(self._vectors.shape[1])

    @property
    def size(self) -> int:
        return len(self.rows)

    def search(self, queries: UnitVectors, k: int, without: Sequence[IntArray] | None = None) -> Found:
        """The k rows nearest to each of the queries [Q, D], the best first; of equal ones the lower row.

        Args:
            without: for each query rows that are not to be found; rows that are not held do not matter.
        Raises:
            VectorError: anything but UnitVectors. EncoderMismatchError: of another encoder.
            RetrievalError: another shape, or fewer than k rows are there.
        """
        values = require_unit(queries).of(self.encoder).values
        if values.ndim != 2 or values.shape[1] != self.dimension:
            message = f"index '{self.name}': queries of shape {list(values.shape)}"
            raise RetrievalError(message, remedy=f"give [Q, {self.dimension}]")
        if without is not None and len(without) != len(values):
            message = f"rows to leave out for {len(without)} queries, {len(values)} queries"
            raise RetrievalError(message, remedy="give one array a query")
        self._check_count(k, 0)
        scores = np.empty((len(values), k), dtype=np.float32)
        rows = np.empty((len(values), k), dtype=np.int64)
        for start in range(0, len(values), QUERY_BLOCK):
            piece = slice(start, start + QUERY_BLOCK)
            out = ExcludedRows.of(self.rows, without[piece] if without is not None else ())
            self._check_count(k, out.most)
            scores[piece], rows[piece] = self._nearest(values[piece], k, out)
        return Found(scores, rows)

    def _check_count(self, k: int, left_out: int) -> None:
        """Raises RetrievalError: fewer than k rows are left where a query may not find `left_out` of them."""
        left = self.size - left_out
        if not 1 <= k <= left:
            without = f", {left_out} of them left out" if left_out else ""
            message = f"{k} rows wanted of {self.size}{without}"
            remedy = f"request 1 to {left}" if left > 0 else "search a larger store"
            raise RetrievalError(message, where=f"index '{self.name}'", remedy=remedy)

    def _nearest(self, queries: FloatArray, k: int, out: ExcludedRows) -> tuple[FloatArray, IntArray]:
        """Cosines and rows, both [Q, k]."""
        found = self._candidates(queries, k, out)
        scores, at = _settled(self._exact(queries, found), found.places, k)
        last = scores[:, -1]
        # a row that was not compared may be as near as the last one, or there are too few
        again = (found.beyond >= last - rounding(self.dimension)) | (last == LEFT_OUT)
        for i in np.flatnonzero(again):
            scores[i], at[i] = self._one(queries[i], k, out.of_query(int(i)))
        return scores.astype(np.float32), self.rows[at]

    def _exact(self, queries: FloatArray, found: Candidates) -> Wide:
        """float64 [Q, V] products of the queries [Q, D] with their candidates."""
        units = unit(gather_rows(self._vectors, self.rows[found.places]))
        exact = np.stack([_products(query, rows) for query, rows in zip(queries, units, strict=True)])
        return np.where(found.scores == LEFT_OUT, LEFT_OUT, exact)

    def _one(self, query: FloatArray, k: int, out: IntArray) -> tuple[Wide, IntArray]:
        """The same for one query, all rows in float64, but for the places `out`."""
        products = np.concatenate([_products(query, block) for _, block in self._blocks()])
        products[out] = LEFT_OUT
        scores, at = _settled(products[None], np.arange(self.size)[None], k)
        return scores[0], at[0]

    def _blocks(self) -> Iterator[tuple[int, FloatArray]]:
        """(place of the first row, unit vectors [<= ROW_BLOCK, D])."""
        for start in range(0, self.size, ROW_BLOCK):
            yield start, unit(gather_rows(self._vectors, self.rows[start : start + ROW_BLOCK]))


class ExcludedRows:
    """What is left out for a block of queries: places, and whose they are, by ascending place."""

    def __init__(self, place: IntArray, query: IntArray) -> None:
        order = np.argsort(place, kind="stable")
        self.place, self.query = place[order], query[order]

    @classmethod
    def of(cls, held: IntArray, without: Sequence[IntArray]) -> ExcludedRows:
        """From rows of the store, of which only those that are held [n] matter, and each once a query."""
        each = [np.unique(rows) for rows in without]
        rows = np.concatenate([np.zeros(0, dtype=np.int64), *each])
        query = np.repeat(np.arange(len(each)), [len(some) for some in each])
        place = np.minimum(np.searchsorted(held, rows), len(held) - 1)
        here = held[place] == rows
        return cls(place[here], query[here])

    def between(self, low: int, high: int) -> tuple[IntArray, IntArray]:
        """Queries and places, those of `low` .. `high` - 1."""
        a, b = np.searchsorted(self.place, (low, high))
        return self.query[a:b], self.place[a:b]

    def among(self, places: IntArray) -> NDArray[np.bool_]:
        """[Q, V] which of the places [Q, V] their query leaves out."""
        if len(self.place) == 0:
            return np.zeros(places.shape, dtype=np.bool_)
        stride = int(max(self.place.max(), places.max())) + 1
        requested = places + stride * np.arange(len(places))[:, None]
        return np.asarray(np.isin(requested, self.place + stride * self.query))

    @property
    def most(self) -> int:
        """How many places the query loses that loses most."""
        return int(np.bincount(self.query).max(initial=0))

    def of_query(self, number: int) -> IntArray:
        return np.asarray(self.place[self.query == number])


def _products(query: FloatArray, units: FloatArray) -> Wide:
    """float64 [n] products of a query [D] with unit vectors [n, D]; equal rows get equal ones."""
    return np.asarray(np.einsum("nd,d->n", units.astype(np.float64), query.astype(np.float64)))


def _settled(scores: Wide, at: IntArray, k: int) -> tuple[Wide, IntArray]:
    """The best k of scores [Q, V] with their places [Q, V]; of equal ones the lower place."""
    order = np.lexsort((at, -scores), axis=1)[:, :k]
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(at, order, axis=1)
