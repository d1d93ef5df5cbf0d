"""Maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998): near the query, unlike the picks."""

from __future__ import annotations

import numpy as np

from nextvec.corpus.vectors import FloatArray, IntArray
from nextvec.errors import RetrievalError


def mmr(scores: FloatArray, candidates: FloatArray, k: int, trade_off: float) -> IntArray:
    """Pick one after another: argmax of trade_off * score - (1 - trade_off) * largest cosine to a pick.

    Args:
        scores: [Q, V] of the candidates, the best first.
        candidates: [Q, V, D] their vectors, of unit length.
        trade_off: 1 is the order given, 0 looks at diversity alone (after the first pick).
    Returns:
        int64 [Q, k] places of the picks, in the order picked; of equal ones the earlier.
    Raises:
        RetrievalError: k above V, or a trade-off outside 0 .. 1.
    """
    Q, V = scores.shape
    if not 0 <= trade_off <= 1:
        raise RetrievalError(f"a trade-off of {trade_off:g}", remedy="give 0 (diverse) to 1 (relevant)")
    if not 1 <= k <= V:
        raise RetrievalError(f"{k} of {V} candidates wanted", remedy=f"ask for 1 to {V}")
    similar = candidates @ candidates.transpose(0, 2, 1)
    picked = np.empty((Q, k), dtype=np.int64)
    each = np.arange(Q)
    nearest = np.full((Q, V), -1.0, dtype=np.float32)
    worth = scores.astype(np.float32, copy=True)
    for step in range(k):
        picked[:, step] = worth.argmax(axis=1)
        nearest = np.maximum(nearest, similar[each, picked[:, step]])
        worth = trade_off * scores - (1 - trade_off) * nearest
        worth[each[:, None], picked[:, : step + 1]] = -np.inf
    return picked
