"""The exact index: every row is looked at, in blocks. The reference for every other one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from nextvec.corpus.store import Store
from nextvec.corpus.vectors import FloatArray, IntArray
from nextvec.data.windows import VectorSource, gather_rows
from nextvec.errors import RetrievalError
from nextvec.retrieval.index import Found, check_count, check_search
from nextvec.vectors import UnitVectors, rounding, unit

ROW_BLOCK, QUERY_BLOCK = 8192, 256
HELD_BYTES = 2**30
"""Up to so many bytes of unit vectors stay in memory; a larger store is read anew for every search."""
SPARE = 32
"""So many more rows than asked for are compared in float64."""
LEFT_OUT = -2.0

Wide = NDArray[np.float64]


class ExactIndex:
    """Finds by float32 products and settles by float64 ones, so that blocks and threads change nothing.

    Args:
        vectors: of the store, raw or unit.
        rows: which of them are searched, ascending.
        encoder: fingerprint of the encoder that they are of.
    Attributes:
        rows: [n] as given.
    Raises:
        RetrievalError: no rows.
    """

    name = "exact"
    exact = True

    def __init__(self, vectors: VectorSource, rows: IntArray, encoder: str) -> None:
        if len(rows) == 0:
            raise RetrievalError("no rows to search", remedy="give documents with chunks")
        self._vectors, self.rows, self.encoder = vectors, rows, encoder
        self._held: list[torch.Tensor] | None = None

    @classmethod
    def of(cls, store: Store, documents: Sequence[int] | None = None) -> Self:
        """The chunks of these documents (indices into `store.documents`), by default of all originals."""
        if documents is None:
            documents = [i for i, document in enumerate(store.documents) if document.view_of is None]
        held = [store.documents[i] for i in sorted(set(documents))]
        rows = [np.arange(d.first, d.first + d.count, dtype=np.int64) for d in held]
        flat = np.concatenate(rows) if rows else np.zeros(0, dtype=np.int64)
        return cls(store.vectors, flat, str(store.encoder["fingerprint"]))

    @property
    def dimension(self) -> int:
        """D."""
        return int(self._vectors.shape[1])

    @property
    def size(self) -> int:
        """How many rows are searched."""
        return len(self.rows)

    def search(self, queries: UnitVectors, k: int, without: Sequence[IntArray] | None = None) -> Found:
        """As `nextvec.retrieval.index.Index.search`."""
        values = check_search(self, queries, k, without)
        scores = np.empty((len(values), k), dtype=np.float32)
        rows = np.empty((len(values), k), dtype=np.int64)
        for start in range(0, len(values), QUERY_BLOCK):
            piece = slice(start, start + QUERY_BLOCK)
            out = _Without.of(self.rows, without[piece] if without is not None else ())
            check_count(self, k, out.most)
            scores[piece], rows[piece] = self._nearest(values[piece], k, out)
        return Found(scores, rows)

    def _nearest(self, queries: FloatArray, k: int, out: _Without) -> tuple[FloatArray, IntArray]:
        """Cosines and rows, both [Q, k]: the largest float32 products, in the order of the float64 ones."""
        most = min(k + SPARE, self.size)
        best = torch.full((len(queries), 0), LEFT_OUT)
        places = torch.zeros((len(queries), 0), dtype=torch.int64)
        given = torch.tensor(queries)
        for start, block in self._blocks():
            similar = given @ block.T
            out.strike(similar, start)
            width = min(most, similar.shape[1])
            value, place = similar.topk(width, dim=1, sorted=False)
            best, kept = torch.cat([best, value], dim=1).topk(min(most, best.shape[1] + width), dim=1)
            places = torch.cat([places, place + start], dim=1).gather(1, kept)
        at, rough = places.numpy(), best.numpy()
        scores, at = _settled(self._exact(queries, at, rough), at, k)
        if most < self.size:
            # a row that was not compared may be as near as the last one that is returned
            for i in np.flatnonzero(rough[:, -1] >= scores[:, -1] - rounding(self.dimension)):
                scores[i], at[i] = self._one(queries[i], k, out, int(i))
        return scores.astype(np.float32), self.rows[at]

    def _exact(self, queries: FloatArray, at: IntArray, rough: FloatArray) -> Wide:
        """float64 [Q, V] products of queries [Q, D] with the rows at these places [Q, V]."""
        units = unit(gather_rows(self._vectors, self.rows[at]))
        exact = np.stack([_products(query, rows) for query, rows in zip(queries, units, strict=True)])
        return np.where(rough == LEFT_OUT, LEFT_OUT, exact)

    def _one(self, query: FloatArray, k: int, out: _Without, number: int) -> tuple[Wide, IntArray]:
        """The same for one query with nothing rough about it: all rows in float64."""
        products = np.concatenate([_products(query, block.numpy()) for _, block in self._blocks()])
        products[out.of_query(number)] = LEFT_OUT
        scores, at = _settled(products[None], np.arange(self.size)[None], k)
        return scores[0], at[0]

    def _blocks(self) -> Iterator[tuple[int, torch.Tensor]]:
        """(place of the first row, unit vectors [<= ROW_BLOCK, D])."""
        if self._held is None and self.size * self.dimension * 4 <= HELD_BYTES:
            self._held = [self._block(start) for start in range(0, self.size, ROW_BLOCK)]
        for number, start in enumerate(range(0, self.size, ROW_BLOCK)):
            yield start, self._block(start) if self._held is None else self._held[number]

    def _block(self, start: int) -> torch.Tensor:
        rows = self.rows[start : start + ROW_BLOCK]
        return torch.from_numpy(unit(gather_rows(self._vectors, rows)))


class _Without:
    """What is left out of a block of queries: places, and whose they are, by ascending place."""

    def __init__(self, place: IntArray, query: IntArray) -> None:
        order = np.argsort(place, kind="stable")
        self._place, self._query = place[order], query[order]

    @classmethod
    def of(cls, held: IntArray, without: Sequence[IntArray]) -> _Without:
        """From rows of the store, of which only those that are held [n] matter."""
        rows = np.concatenate([np.zeros(0, dtype=np.int64), *without])
        query = np.repeat(np.arange(len(without)), [len(some) for some in without])
        place = np.minimum(np.searchsorted(held, rows), len(held) - 1)
        here = held[place] == rows
        return cls(place[here], query[here])

    def strike(self, similar: torch.Tensor, start: int) -> None:
        """Put them below every similarity [Q, V] of the places from `start` on."""
        a, b = np.searchsorted(self._place, (start, start + similar.shape[1]))
        if a < b:
            similar[torch.from_numpy(self._query[a:b]), torch.from_numpy(self._place[a:b] - start)] = LEFT_OUT

    @property
    def most(self) -> int:
        """How many places the query loses that loses most."""
        return int(np.bincount(self._query).max(initial=0))

    def of_query(self, number: int) -> IntArray:
        """The places of one query."""
        return np.asarray(self._place[self._query == number])


def _products(query: FloatArray, units: FloatArray) -> Wide:
    """float64 [n] products of a query [D] with unit vectors [n, D]; equal rows get equal ones."""
    return np.asarray(np.einsum("nd,d->n", units.astype(np.float64), query.astype(np.float64)))


def _settled(scores: Wide, at: IntArray, k: int) -> tuple[Wide, IntArray]:
    """The best k of scores [Q, V] with their places [Q, V]; of equal ones the lower place."""
    order = np.lexsort((at, -scores), axis=1)[:, :k]
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(at, order, axis=1)
