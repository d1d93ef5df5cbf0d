"""Re-rankers: the same candidates in another order, by what a single query vector does not know."""

from __future__ import annotations

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


@reranker("refined")
def refined(scene: Scene, reading: Reading, found: Found) -> Found:
    """Let the model read each candidate too: prefer those after which it expects what does follow."""
    share = scene.options.refine
    contexts, lengths = reading.recent(min(scene.options.recent, scene.predictor.context - 1))
    met = np.stack(
        [
            _met(scene, context[:length], rows)
            for context, length, rows in zip(contexts, lengths, found.rows, strict=True)
        ]
    )
    return found.scored((1 - share) * found.scores + share * met)


def _met(scene: Scene, context: FloatArray, rows: IntArray) -> FloatArray:
    """[V] cosine of each candidate's successor to what the model expects after context [T, D] and candidate.

    Candidates that are not looked at, or have no successor, get the mean of the others.
    """
    met = np.full(len(rows), np.nan, dtype=np.float32)
    asked = np.arange(min(scene.options.refined, len(rows)))
    after = np.minimum(rows[asked] + 1, len(scene.store) - 1)
    asked = asked[(after > rows[asked]) & (scene.document_of(after) == scene.document_of(rows[asked]))]
    if len(asked) == 0:
        return np.zeros_like(met)
    candidates = gather_rows(scene.store.vectors, rows[asked])
    contexts = np.concatenate([np.repeat(context[None], len(asked), axis=0), candidates[:, None]], axis=1)
    lengths = np.full(len(asked), contexts.shape[1], dtype=np.int64)
    _, expected = scene.predictor.predict(contexts, lengths)
    successors = unit(gather_rows(scene.store.vectors, rows[asked] + 1))
    met[asked] = np.einsum("vd,vd->v", expected, successors)
    return np.where(np.isnan(met), np.nanmean(met), met)


def _same_document(scene: Scene, reading: Reading, rows: IntArray) -> NDArray[np.bool_]:
    """[B, V] whether each row is of the document that the reader is in."""
    return np.asarray(scene.document_of(rows) == scene.document_of(reading.place)[:, None])
