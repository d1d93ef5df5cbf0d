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
from nextvec.retrieval.registry import Scene, reranker
from nextvec.vectors import unit


@reranker("document")
def document(scene: Scene, reading: Reading, found: Found) -> Found:
    """Prefer chunks of the document that is being read."""
    return found.scored(found.scores + scene.options.document * _same_document(scene, reading, found.rows))


@reranker("recency")
def recency(scene: Scene, reading: Reading, found: Found) -> Found:
    """Prefer chunks of the document that is being read, the nearer to where the reader is the more."""
    distance = np.abs(found.rows - reading.place[:, None]) - 1
    near = np.exp(-distance / scene.options.reach) * _same_document(scene, reading, found.rows)
    return found.scored(found.scores + scene.options.recency * near)


@reranker("mmr")
def diverse(scene: Scene, reading: Reading, found: Found) -> Found:
    """Prefer chunks that are unlike those already picked (maximal marginal relevance)."""
    candidates = unit(gather_rows(scene.store.vectors, found.rows))
    return found.ordered(mmr(found.scores, candidates, found.rows.shape[1], scene.options.trade_off))


@reranker("passage")
def passage(scene: Scene, reading: Reading, found: Found) -> Found:
    """Prefer candidates whose own next chunk is near the last one read, too."""
    return _with_successors(scene, found, lambda i, _: unit(reading.last[i : i + 1]))


@reranker("refined", control="passage")
def refined(scene: Scene, reading: Reading, found: Found) -> Found:
    """Let the model read each candidate too: prefer those after which it expects what does follow."""
    contexts, lengths = reading.recent(min(scene.options.recent, scene.predictor.context - 1))

    def expected(i: int, rows: IntArray) -> FloatArray:
        before = np.repeat(contexts[i : i + 1, : lengths[i]], len(rows), axis=0)
        read = np.concatenate([before, gather_rows(scene.store.vectors, rows)[:, None]], axis=1)
        return scene.predictor.predict(read, np.full(len(rows), read.shape[1], dtype=np.int64))[1]

    return _with_successors(scene, found, expected)


def _with_successors(scene: Scene, found: Found, expected: Callable[[int, IntArray], FloatArray]) -> Found:
    """The candidates by their own scores and by how near their successors are to what is expected of these.

    Only the best of them are looked at; others, and those at a document's end, get the mean of these.

    Args:
        expected: unit vectors [V, D] (or [1, D] for all) that should follow the rows [V] found for text i.
    """
    share = scene.options.refine
    met = np.zeros_like(found.scores)
    for i, rows in enumerate(found.rows):
        after = np.minimum(rows + 1, len(scene.store) - 1)
        inside = (after > rows) & (scene.document_of(after) == scene.document_of(rows))
        asked = np.flatnonzero(inside[: scene.options.refined])
        if len(asked):
            successors = unit(gather_rows(scene.store.vectors, after[asked]))
            cosines = (expected(i, rows[asked]) * successors).sum(axis=1)
            met[i] = cosines.mean()
            met[i, asked] = cosines
    return found.scored((1 - share) * found.scores + share * met)


def _same_document(scene: Scene, reading: Reading, rows: IntArray) -> NDArray[np.bool_]:
    """[B, V] whether each row is of the document that the reader is in."""
    return np.asarray(scene.document_of(rows) == scene.document_of(reading.place)[:, None])
