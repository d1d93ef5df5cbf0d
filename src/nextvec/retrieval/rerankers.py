"""Re-rankers: the same candidates in another order, by what a single query vector does not know."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from nextvec.corpus.vectors import FloatArray, IntArray
from nextvec.data.windows import gather_rows
from nextvec.retrieval.index import Found
from nextvec.retrieval.mmr import mmr
from nextvec.retrieval.readings import Reading
from nextvec.retrieval.registry import RetrievalContext, reranker
from nextvec.vectors import unit


@reranker("document")
def document(context: RetrievalContext, reading: Reading, found: Found) -> Found:
    """Prefer chunks of the document that is being read."""
    return found.scored(
        found.scores + context.options.document * _same_document(context, reading, found.rows)
    )


@reranker("recency")
def recency(context: RetrievalContext, reading: Reading, found: Found) -> Found:
    """Prefer chunks of the document that is being read, the nearer to where the reader is the more."""
    distance = np.abs(found.rows - reading.place[:, None]) - 1
    near = np.exp(-distance / context.options.reach) * _same_document(context, reading, found.rows)
    return found.scored(found.scores + context.options.recency * near)


@reranker("mmr")
def diverse(context: RetrievalContext, reading: Reading, found: Found) -> Found:
    """Prefer chunks that are unlike those already picked (maximal marginal relevance)."""
    candidates = unit(gather_rows(context.store.vectors, found.rows))
    return found.ordered(mmr(found.scores, candidates, found.rows.shape[1], context.options.trade_off))


@reranker("passage")
def passage(context: RetrievalContext, reading: Reading, found: Found) -> Found:
    """Prefer candidates whose own next chunk is near the last one read, too."""
    return _with_successors(context, found, lambda i, _: unit(reading.last[i : i + 1]))


@reranker("refined", control="passage")
def refined(context: RetrievalContext, reading: Reading, found: Found) -> Found:
    """Let the model read each candidate too: prefer those after which it expects what does follow."""
    contexts, lengths = reading.recent(min(context.options.recent, context.predictor.context - 1))

    def expected(i: int, rows: IntArray) -> FloatArray:
        before = np.repeat(contexts[i : i + 1, : lengths[i]], len(rows), axis=0)
        read = np.concatenate([before, gather_rows(context.store.vectors, rows)[:, None]], axis=1)
        return context.predictor.predict(read, np.full(len(rows), read.shape[1], dtype=np.int64))[1]

    return _with_successors(context, found, expected)


def _with_successors(
    context: RetrievalContext, found: Found, expected: Callable[[int, IntArray], FloatArray]
) -> Found:
    """The candidates by their own scores and by how near their successors are to what is expected of these.

    Only the best of them are looked at; others, and those at a document's end, get the mean of these.

    Args:
        expected: unit vectors [V, D] (or [1, D] for all) that should follow the rows [V] found for text i.
    """
    share = context.options.refine
    met = np.zeros_like(found.scores)
    for i, rows in enumerate(found.rows):
        after = np.minimum(rows + 1, len(context.store) - 1)
        inside = (after > rows) & (context.document_of(after) == context.document_of(rows))
        asked = np.flatnonzero(inside[: context.options.refined])
        if len(asked):
            successors = unit(gather_rows(context.store.vectors, after[asked]))
            cosines = (expected(i, rows[asked]) * successors).sum(axis=1)
            met[i] = cosines.mean()
            met[i, asked] = cosines
    return found.scored((1 - share) * found.scores + share * met)


def _same_document(context: RetrievalContext, reading: Reading, rows: IntArray) -> NDArray[np.bool_]:
    """[B, V] whether each row is of the document that the reader is in."""
    return np.asarray(context.document_of(rows) == context.document_of(reading.place)[:, None])
