"""Ways of finding what comes next: a query vector made of what was read, then re-rankers of what it finds.

A strategy is written as the name of its query, `predicted`, with re-rankers behind it if any,
`predicted+document+mmr`. The functions with `@query` and `@reranker` here are what
there is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from nextvec.corpus.layout import FloatArray, IntArray
from nextvec.data.gather import gather_rows
from nextvec.errors import RetrievalError
from nextvec.retrieval.context import (
    QUERIES,
    RERANKERS,
    Need,
    Predicts,
    Query,
    Reading,
    Registered,
    Reranker,
    RetrievalContext,
    query,
    reranker,
)
from nextvec.retrieval.index import Found
from nextvec.vectors import RawVectors, UnitVectors, unit

# Query vectors: what was read, or what is expected, as a direction [B, D] to search in.


@query("last")
def last(context: RetrievalContext, reading: Reading) -> FloatArray:
    """The last chunk read: retrieval as it is usually done."""
    return unit(reading.last)


@query("mean")
def mean(context: RetrievalContext, reading: Reading) -> FloatArray:
    """The mean of the last few chunks."""
    contexts, lengths = reading.recent(context.options.recent)
    return unit(contexts.sum(axis=1) / lengths[:, None])


@query("predicted", control="last")
def predicted(context: RetrievalContext, reading: Reading) -> FloatArray:
    """What the model expects next."""
    return unit(_raw(context, reading))


@query("ranked", "ranking", control="last-mean")
def ranked(context: RetrievalContext, reading: Reading) -> FloatArray:
    """The direction that the model was trained to rank by (options.ranking)."""
    return context.predictor.predict_ranking(*reading.recent(context.predictor.context))[2]


@query("blend", control="last-mean")
def blend(context: RetrievalContext, reading: Reading) -> FloatArray:
    """Between the last chunk and what the model expects."""
    return _mixed(last(context, reading), predicted(context, reading), context.options.blend)


@query("last-mean")
def last_with_mean(context: RetrievalContext, reading: Reading) -> FloatArray:
    """Between the last chunk and the mean: what a blend is worth without a model."""
    return _mixed(last(context, reading), mean(context, reading), context.options.blend)


@query("text", "decoder", control="last")
def text(context: RetrievalContext, reading: Reading) -> FloatArray:
    """What the model expects, mixed with that same vector decoded to text and encoded again."""
    assert context.reembed is not None
    raw = RawVectors(_raw(context, reading), context.index.encoder)
    back = context.reembed(raw).of(context.index.encoder)
    return _mixed(raw.unit().values, back.unit().values, context.options.text)


@query("steered", "query", "conditional", control="last-query")
def steered(context: RetrievalContext, reading: Reading) -> FloatArray:
    """What a conditional model expects, given the query."""
    return unit(_raw(context, reading, reading.queries))


@query("query", "query", control="last-query")
def mixed_with_query(context: RetrievalContext, reading: Reading) -> FloatArray:
    """What the model expects (given the query if it is conditional), mixed with the query's own vector."""
    expected = steered if context.predictor.conditional else predicted
    return _towards_query(context, reading, expected(context, reading))


@query("last-query", "query")
def last_with_query(context: RetrievalContext, reading: Reading) -> FloatArray:
    """The last chunk mixed with the query's vector: what a query is worth without a model."""
    return _towards_query(context, reading, last(context, reading))


def _raw(context: RetrievalContext, reading: Reading, queries: FloatArray | None = None) -> FloatArray:
    """[B, D] the model's raw prediction."""
    contexts, lengths = reading.recent(context.predictor.context)
    if queries is None:
        return context.predictor.predict(contexts, lengths)[0]
    return context.predictor.predict(contexts, lengths, queries)[0]


def _towards_query(context: RetrievalContext, reading: Reading, units: FloatArray) -> FloatArray:
    """The directions mixed with the query's; unchanged where there is none."""
    assert reading.queries is not None
    towards = unit(reading.queries)
    steered = towards.any(axis=1, keepdims=True)
    return np.where(steered, _mixed(units, towards, context.options.query), units)


def _mixed(one: FloatArray, other: FloatArray, share: float) -> FloatArray:
    """Directions [B, D] between two, `share` of the way to the other."""
    return unit((1 - share) * one + share * other)


# Re-rankers: the same candidates in another order, by what a single query vector does not know.


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
        inside = (after > rows) & (context.store.document_of(after) == context.store.document_of(rows))
        inside_rows = np.flatnonzero(inside[: context.options.refined])
        if len(inside_rows):
            successors = unit(gather_rows(context.store.vectors, after[inside_rows]))
            cosines = (expected(i, rows[inside_rows]) * successors).sum(axis=1)
            met[i] = cosines.mean()
            met[i, inside_rows] = cosines
    return found.scored((1 - share) * found.scores + share * met)


def _same_document(context: RetrievalContext, reading: Reading, rows: IntArray) -> NDArray[np.bool_]:
    """[B, V] whether each row is of the document that the reader is in."""
    return np.asarray(context.store.document_of(rows) == context.store.document_of(reading.place)[:, None])


def mmr(scores: FloatArray, candidates: FloatArray, k: int, trade_off: float) -> IntArray:
    """Maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998): near the query, unlike the picks.

    One is picked after another: argmax of trade_off * score - (1 - trade_off) * largest cosine to a pick.

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
        raise RetrievalError(f"{k} of {V} candidates wanted", remedy=f"request 1 to {V}")
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


REMEDIES: dict[Need, str] = {
    "decoder": "give a decoder, and an encoder of its texts",
    "query": "give a query to steer towards",
    "conditional": "take a run trained with data.conditional above 0",
    "ranking": "take a run trained with model.options.ranking",
}
LACKS: dict[Need, str] = {
    "conditional": "the run was trained without queries",
    "ranking": "the run has no query for ranking",
}
COMPARED = ("last", "last-mean", "predicted", "ranked", "blend")
"""Queries that `usual` puts every re-ranker behind, where they can be asked."""


@dataclass(frozen=True)
class Strategy:
    """A query and the re-rankers behind it. Use `Strategy.named`."""

    name: str
    query: Registered[Query]
    rerankers: tuple[Registered[Reranker], ...] = ()

    @classmethod
    def named(cls, name: str) -> Self:
        """The strategy of that name. Raises RetrievalError for an unknown one."""
        first, *others = name.split("+")
        _check_known("query", first, QUERIES, name)
        for other in others:
            _check_known("re-ranker", other, RERANKERS, name)
        return cls(name, QUERIES[first], tuple(RERANKERS[other] for other in others))

    @classmethod
    def default(cls, predictor: Predicts, steered: bool) -> Self:
        """Towards a query where there is one; else what the model ranks by, or, of a model that has no such
        query, the best way that asks no model (docs/text.md has the figures)."""
        first = "ranked" if predictor.ranking else "last-mean"
        return cls.named("query" if steered else f"{first}+passage")

    @property
    def needs(self) -> frozenset[Need]:
        """What it cannot do without."""
        return self.query.needs.union(*(reranker.needs for reranker in self.rerankers))

    def check(self, there: frozenset[Need]) -> None:
        """Raises RetrievalError: something that it needs is not there."""
        for need in sorted(self.needs - there):
            message = LACKS.get(need, f"there is no {need}")
            raise RetrievalError(message, where=f"strategy '{self.name}'", remedy=REMEDIES[need])

    @property
    def base(self) -> str:
        return self.name.partition("+")[0]

    @property
    def control(self) -> str | None:
        """The name of the strategy that does as much without the model; None for one that asks no model."""
        parts = self.name.split("+")
        controls = [QUERIES[parts[0]].control, *(RERANKERS[part].control for part in parts[1:])]
        without = "+".join(control or part for control, part in zip(controls, parts, strict=True))
        return None if without == self.name else without

    def units(self, context: RetrievalContext, reading: Reading) -> UnitVectors:
        """The query vectors [B, D]. Raises RetrievalError: something that it needs is not there."""
        self.check(context.has(reading.queries is not None))
        return UnitVectors(self.query.function(context, reading), context.index.encoder)

    def rerank(self, context: RetrievalContext, reading: Reading, found: Found) -> Found:
        """The candidates in the order of the re-rankers, one after another."""
        for each in self.rerankers:
            found = each.function(context, reading, found)
        return found

    def candidates(self, context: RetrievalContext, reading: Reading, units: UnitVectors, k: int) -> Found:
        """What the query vectors find: k rows; for re-rankers `Options.pool`, if each text has so many."""
        if self.rerankers and k > 0:
            free = context.index.size - max(len(rows) for rows in reading.read)
            k = max(k, min(context.options.pool, free))
        return context.index.search(units, k, reading.read)

    def find(self, context: RetrievalContext, reading: Reading, k: int) -> Found:
        """The k best rows for each text, none of them read. Raises RetrievalError."""
        units = self.units(context, reading)
        found = self.candidates(context, reading, units, k)
        return self.rerank(context, reading, found).first(k)


def _check_known(what: str, part: str, known: Collection[str], strategy: str) -> None:
    if part not in known:
        remedy = f"choose one of: {', '.join(known)}"
        raise RetrievalError(f"no {what} '{part}'", where=f"strategy '{strategy}'", remedy=remedy)


def usual(context: RetrievalContext, *, steered: bool) -> tuple[str, ...]:
    """Every query that can be asked with what is there, and every re-ranker behind some of them.

    Args:
        steered: there are queries to steer towards.
    """
    there = context.has(steered)
    plain = [name for name, query in QUERIES.items() if query.needs <= there]
    able = [name for name, reranker in RERANKERS.items() if reranker.needs <= there]
    return (*plain, *(f"{base}+{name}" for name in able for base in COMPARED if base in plain))
