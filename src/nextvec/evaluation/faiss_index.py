"""Ranks by way of a faiss index, equal to those of `nextvec.evaluation.ranking.ranks`.

The index (flat inner product, exhaustive) gives the NEAREST candidates of each prediction. What was read, the
target and its equals are struck from the list. A target that is clearly nearer than the last of the list has
its rank decided by the list, since every candidate outside is farther still; a similarity too close to the
target's for float32 is compared again in float64. All other windows are ranked by the exact blocks. So every
figure is the same whichever index is chosen; what differs is time and memory.
"""

from __future__ import annotations

import numpy as np

from nextvec.data.gather import VectorSource, gather_rows
from nextvec.data.windows import FloatArray, IntArray
from nextvec.evaluation.predictor import unit
from nextvec.evaluation.ranking import CANDIDATE_BLOCK, Pool, exact_cosines, ranks
from nextvec.retrieval.engine import require_package
from nextvec.vectors import rounding

NEAREST = 256
QUERY_BLOCK = 1024


def require_faiss() -> None:
    """Raises MissingDependencyError where faiss is not installed."""
    require_package("index 'faiss'", "faiss", "faiss")


class FaissIndex:
    """All candidates of a pool in one index, V x D float32 in memory.

    Raises:
        MissingDependencyError: faiss is not installed.
    """

    def __init__(self, vectors: VectorSource, pool: Pool) -> None:
        require_faiss()
        import faiss

        self._vectors = vectors
        self._index = faiss.IndexFlatIP(vectors.shape[1])
        for start in range(0, len(pool), CANDIDATE_BLOCK):
            rows = pool.rows[start : start + CANDIDATE_BLOCK]
            self._index.add(unit(gather_rows(vectors, rows)))

    def ranks(self, units: FloatArray, pool: Pool) -> IntArray:
        """Rank of each target, 1 the best, from predictions [N, D] of unit length.

        Args:
            pool: of the candidates that were indexed, for these N windows.
        """
        found = np.empty(len(units), dtype=np.int64)
        for start in range(0, len(units), QUERY_BLOCK):
            piece = slice(start, start + QUERY_BLOCK)
            found[piece] = self._ranks(np.ascontiguousarray(units[piece]), pool.select(piece))
        return found

    def _ranks(self, units: FloatArray, pool: Pool) -> IntArray:
        similar, nearest = self._index.search(units, min(NEAREST, len(pool)))
        truth = exact_cosines(units, gather_rows(self._vectors, pool.rows[pool.target]))[:, None]
        margin = rounding(units.shape[1])
        counted = _may_come_before(nearest, pool)
        found = 1 + (counted & (similar > truth + margin)).sum(axis=1)
        i, j = np.nonzero(counted & (np.abs(similar - truth) <= margin))
        candidates = gather_rows(self._vectors, pool.rows[nearest[i, j]])
        np.add.at(found, i, exact_cosines(units[i], candidates) > truth[i, 0])
        if similar.shape[1] < len(pool):
            beyond = np.flatnonzero(similar[:, -1] >= truth[:, 0] - margin)
            if len(beyond):
                found[beyond] = ranks(units[beyond], self._vectors, pool.select(beyond))
        return np.asarray(found, dtype=np.int64)


def _may_come_before(nearest: IntArray, pool: Pool) -> np.ndarray:
    """[N, K] which of the positions found count against the target: not given, not it or its equal."""
    low, high, read_low, read_high, query, target = (
        values[:, None]
        for values in (pool.low, pool.high, pool.read_low, pool.read_high, pool.query, pool.target)
    )
    counted = (nearest >= low) & (nearest < high) & (nearest != target) & (nearest != query)
    counted &= (nearest < read_low) | (nearest >= read_high)
    for window, same in pool.tied.items():
        counted[window] &= ~np.isin(nearest[window], same)
    return np.asarray(counted)
