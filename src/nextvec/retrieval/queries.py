"""Query vectors: what was read, or what is expected, as a direction [B, D] to search in."""

from __future__ import annotations

import numpy as np

from nextvec.corpus.vectors import FloatArray
from nextvec.retrieval.readings import Reading
from nextvec.retrieval.registry import RetrievalContext, query
from nextvec.vectors import RawVectors, unit


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
    """What a conditional model expects, told of the query."""
    return unit(_raw(context, reading, reading.queries))


@query("query", "query", control="last-query")
def mixed_with_query(context: RetrievalContext, reading: Reading) -> FloatArray:
    """What the model expects (told of the query if it is conditional), mixed with the query's own vector."""
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
    told = towards.any(axis=1, keepdims=True)
    return np.where(told, _mixed(units, towards, context.options.query), units)


def _mixed(one: FloatArray, other: FloatArray, share: float) -> FloatArray:
    """Directions [B, D] between two, `share` of the way to the other."""
    return unit((1 - share) * one + share * other)
