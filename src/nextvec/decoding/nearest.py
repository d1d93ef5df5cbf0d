"""The decoder that writes no gibberish, because it does not write: it finds the nearest chunks of a store."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import ClassVar

import numpy as np

from nextvec.corpus.layout import FloatArray, IntArray
from nextvec.corpus.reading import Space
from nextvec.corpus.store import Store
from nextvec.data.gather import gather_rows
from nextvec.decoding.base import Decoded, Decoder, How, Passage
from nextvec.errors import DecoderError
from nextvec.retrieval.engine import ExactIndex, IndexSource
from nextvec.retrieval.index import Found, Index
from nextvec.retrieval.strategies import mmr
from nextvec.vectors import UnitVectors, unit

POOL = 50
"""Among so many candidates diversity is looked for, or among all that are asked for."""


class Nearest(Decoder):
    """Retrieves: the texts of the nearest chunks, scored by cosine.

    Args:
        store: whose chunks are found.
        documents: indices into `store.documents`: only chunks of these; None is of all originals.
        trade_off: several texts are picked by maximal marginal relevance (1 relevant, 0 diverse); None takes
            the nearest ones.
    Attributes:
        index: of all chunks that have a text.
    Raises:
        DecoderError: a trade-off outside 0 .. 1. RetrievalError: no chunk with a text.
    """

    name = "nearest"
    how: ClassVar[How] = "retrieved"
    normalised = None

    def __init__(
        self, store: Store, documents: Sequence[int] | None = None, trade_off: float | None = None
    ) -> None:
        if trade_off is not None and not 0 <= trade_off <= 1:
            remedy = "give 0 (diverse) to 1 (relevant)"
            raise DecoderError(f"decoder '{self.name}': a trade-off of {trade_off:g}", remedy=remedy)
        self.store, self.trade_off = store, trade_off
        source = IndexSource.of(store, documents)
        self.index = ExactIndex(source.vectors, source.rows, source.encoder)
        self.encoder, self.dimension = self.index.encoder, self.index.dimension

    def texts_of(self, values: FloatArray, n: int) -> list[list[Decoded]]:
        """The n chunks for each of the values [N, D]; all there are where these are fewer."""
        found = self._found(UnitVectors(unit(values), self.encoder), min(n, self.index.size))
        texts = iter(self.store.texts(found.rows.ravel()))
        return [
            [Decoded(next(texts), score, self.how, row) for score, row in zip(scores, rows, strict=True)]
            for scores, rows in zip(found.scores.tolist(), found.rows.tolist(), strict=True)
        ]

    def _found(self, queries: UnitVectors, k: int) -> Found:
        if self.trade_off is None:
            return self.index.search(queries, k)
        pool = self.index.search(queries, min(max(k, POOL), self.index.size))
        candidates = unit(gather_rows(self.store.vectors, pool.rows))
        return pool.ordered(mmr(pool.scores, candidates, k, self.trade_off))


# Real passages near a vector: a store's chunks with their documents, found by an index.


class Library:
    """The chunks of a store, by nearness to a vector.

    Args:
        index: of that store; every row that it holds has a text. By default that of `Nearest`.
    """

    def __init__(self, store: Store, index: Index | None = None) -> None:
        self.store = store
        self.index: Index = index or Nearest(store).index

    @property
    def space(self) -> Space:
        return Space.of(self.store)

    @cached_property
    def _hashes(self) -> tuple[IntArray, IntArray]:
        """Of all texts, ascending, and the row of each: 16 bytes a chunk, so that the texts are read once."""
        texts = (text for _, table in self.store.chunk_tables() for text in table["text"].to_pylist())
        hashes = np.fromiter(map(hash, texts), np.int64, len(self.store))
        rows = np.argsort(hashes, kind="stable")
        return hashes[rows], rows

    def rows_of(self, texts: Sequence[str]) -> IntArray:
        """Every row whose text is one of these, ascending."""
        hashes, rows = self._hashes
        wanted = np.array([hash(text) for text in texts], np.int64)
        ends = zip(*(np.searchsorted(hashes, wanted, side) for side in ("left", "right")), strict=True)
        maybe = np.unique(np.concatenate([np.zeros(0, np.int64), *(rows[a:b] for a, b in ends)]))
        held = set(texts)
        return maybe[[text in held for text in self.store.texts(maybe)]]

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
        found = self.search(units, n, without)
        return [[self.passage(row, cosine) for row, cosine in some] for some in found]

    def passage(self, row: int, score: float) -> Passage:
        """The chunk of a row, with a score."""
        document = self.store.documents[int(self.store.document_of(row))]
        decoded = Decoded(self.store.texts([row])[0], score, "retrieved", row)
        return Passage(decoded, document.doc_id, document.title, row - document.first)

    def vectors(self, rows: Sequence[int], *, normalised: bool) -> FloatArray:
        """[n, D] of these rows as stored, or at unit length."""
        found = self.store.vectors[np.asarray(rows, dtype=np.int64)]
        return unit(found) if normalised else np.asarray(found, dtype=np.float32)
