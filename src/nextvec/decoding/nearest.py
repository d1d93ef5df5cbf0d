"""The decoder that writes no gibberish, because it does not write: it finds the nearest chunks of a store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from nextvec.corpus.store import Store
from nextvec.corpus.vectors import FloatArray
from nextvec.data.windows import gather_rows
from nextvec.decoding.base import Decoded, Decoder, How
from nextvec.errors import DecoderError
from nextvec.retrieval.engine import IndexSource
from nextvec.retrieval.exact import ExactIndex
from nextvec.retrieval.index import Found
from nextvec.retrieval.mmr import mmr
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
            raise DecoderError(
                f"decoder '{self.name}': a trade-off of {trade_off:g}",
                remedy="give 0 (diverse) to 1 (relevant)",
            )
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
