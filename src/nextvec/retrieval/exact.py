"""The exact index: every row is looked at, in blocks. The reference for every other one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Self

import numpy as np
import torch

from nextvec.corpus.store import Store
from nextvec.corpus.vectors import FloatArray, IntArray
from nextvec.data.windows import VectorSource
from nextvec.retrieval.engine import IndexSource, backend, originals
from nextvec.retrieval.rescoring import LEFT_OUT, SPARE, Candidates, ExcludedRows, RescoringIndex

HELD_BYTES = 2**30
"""Up to so many bytes of unit vectors stay in memory; a larger store is read anew for every search."""


class ExactIndex(RescoringIndex):
    """Compares every query with every row. Arguments and errors are those of `RescoringIndex`."""

    name = "exact"
    exact = True

    def __init__(self, vectors: VectorSource, rows: IntArray, encoder: str) -> None:
        super().__init__(vectors, rows, encoder)
        self._held: list[tuple[int, FloatArray]] | None = None

    @classmethod
    def of(cls, store: Store, documents: Sequence[int] | None = None) -> Self:
        """The chunks of these documents (indices into `store.documents`), by default of all originals."""
        return cls(store.vectors, originals(store, documents), str(store.encoder["fingerprint"]))

    def _candidates(self, queries: FloatArray, k: int, out: ExcludedRows) -> Candidates:
        """The largest float32 products, block after block."""
        most = min(k + SPARE, self.size)
        best = torch.full((len(queries), 0), LEFT_OUT)
        places = torch.zeros((len(queries), 0), dtype=torch.int64)
        given = torch.tensor(queries)
        for start, block in self._blocks():
            similar = given @ torch.from_numpy(block).T
            query, place = out.between(start, start + len(block))
            similar[torch.from_numpy(query), torch.from_numpy(place - start)] = LEFT_OUT
            width = min(most, similar.shape[1])
            value, at = similar.topk(width, dim=1, sorted=False)
            best, kept = torch.cat([best, value], dim=1).topk(min(most, best.shape[1] + width), dim=1)
            places = torch.cat([places, at + start], dim=1).gather(1, kept)
        scores = best.numpy()
        beyond = scores[:, -1] if most < self.size else np.full(len(queries), -np.inf, dtype=np.float32)
        return Candidates(scores, places.numpy(), beyond)

    def _blocks(self) -> Iterator[tuple[int, FloatArray]]:
        if self._held is None and self.size * self.dimension * 4 <= HELD_BYTES:
            self._held = list(super()._blocks())
        yield from super()._blocks() if self._held is None else self._held


@backend("exact")
def _open(source: IndexSource, address: str | None) -> ExactIndex:
    """Every row is looked at, in memory."""
    return ExactIndex(source.vectors, source.rows, source.encoder)
