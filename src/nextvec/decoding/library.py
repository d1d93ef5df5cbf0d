"""Real passages near a vector: a store's chunks with their documents, found by an index."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nextvec.corpus.reading import Space
from nextvec.corpus.store import Store
from nextvec.corpus.vectors import FloatArray, IntArray
from nextvec.decoding.answers import Passage
from nextvec.decoding.base import Decoded
from nextvec.decoding.nearest import Nearest
from nextvec.retrieval.index import Index
from nextvec.vectors import UnitVectors, unit


class Library:
    """The chunks of a store, by nearness to a vector.

    Args:
        store: they stand in.
        index: of that store; every row that it holds has a text. By default that of `Nearest`.
    """

    def __init__(self, store: Store, index: Index | None = None) -> None:
        self.store = store
        self.index: Index = index or Nearest(store).index

    @property
    def space(self) -> Space:
        """Whose vectors these are."""
        return Space.of(self.store)

    @cached_property
    def _firsts(self) -> IntArray:
        return np.array([document.first for document in self.store.documents], dtype=np.int64)

    def rows_of(self, texts: Sequence[str]) -> IntArray:
        """Every row whose text is one of these, ascending."""
        column = self.store.chunks["text"]
        found = pc.is_in(column, value_set=pa.array(list(texts), column.type))
        return np.flatnonzero(found.to_numpy()).astype(np.int64)

    def search(
        self, units: UnitVectors, n: int, without: Sequence[IntArray]
    ) -> list[list[tuple[int, float]]]:
        """For each of the vectors [N, D] at most n (row, cosine), the best first, none of its rows `without`.

        Fewer where the index holds no more; none for n = 0.
        """
        most = min(n, self.index.size - max((len(rows) for rows in without), default=0))
        if most < 1:
            return [[] for _ in units.values]
        found = self.index.search(units, most, without)
        return [
            [(int(row), float(score)) for row, score in zip(rows, scores, strict=True)]
            for rows, scores in zip(found.rows, found.scores, strict=True)
        ]

    def nearest(self, units: UnitVectors, n: int, without: Sequence[IntArray]) -> list[list[Passage]]:
        """As `search`, with what stands there."""
        found = self.search(units, n, without)
        return [[self.passage(row, cosine) for row, cosine in some] for some in found]

    def passage(self, row: int, score: float) -> Passage:
        """The chunk of a row, with a score."""
        document = self.store.documents[int(np.searchsorted(self._firsts, row, side="right")) - 1]
        decoded = Decoded(self.store.texts([row])[0], score, "retrieved", row)
        return Passage(decoded, document.doc_id, document.title, row - document.first)

    def vectors(self, rows: Sequence[int], *, normalised: bool) -> FloatArray:
        """[n, D] of these rows as stored, or at unit length."""
        found = self.store.vectors[np.asarray(rows, dtype=np.int64)]
        return unit(found) if normalised else np.asarray(found, dtype=np.float32)
