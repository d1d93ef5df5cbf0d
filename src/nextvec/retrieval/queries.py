"""Query vectors: what was read, or what is expected, as a direction [B, D] to search in."""

from __future__ import annotations

import numpy as np

from nextvec.corpus.vectors import FloatArray
from nextvec.retrieval.readings import Reading
from nextvec.retrieval.registry import Scene, query
from nextvec.vectors import RawVectors, unit


@query("last")
def last(scene: Scene, reading: Reading) -> FloatArray:
    """The last chunk read: retrieval as it is usually done."""
    return unit(reading.last)


@query("mean")
def mean(scene: Scene, reading: Reading) -> FloatArray:
    """The mean of the last few chunks."""
    contexts, lengths = reading.recent(scene.options.recent)
    return unit(contexts.sum(axis=1) / lengths[:, None])


@query("predicted", control="last")
def predicted(scene: Scene, reading: Reading) -> FloatArray:
    """What the model expects next."""
    return unit(_raw(scene, reading))


@query("blend", control="last-mean")
def blend(scene: Scene, reading: Reading) -> FloatArray:
    """Between the last chunk and what the model expects."""
    return _mixed(last(scene, reading), predicted(scene, reading), scene.options.blend)


@query("last-mean")
def last_with_mean(scene: Scene, reading: Reading) -> FloatArray:
    """Between the last chunk and the mean: what a blend is worth without a model."""
    return _mixed(last(scene, reading), mean(scene, reading), scene.options.blend)


@query("text", "decoder", control="last")
def text(scene: Scene, reading: Reading) -> FloatArray:
    """What the model expects, mixed with that same vector decoded to text and encoded again."""
    assert scene.reembed is not None
    raw = RawVectors(_raw(scene, reading), scene.index.encoder)
    back = scene.reembed(raw).of(scene.index.encoder)
    return _mixed(raw.unit().values, back.unit().values, scene.options.text)


@query("steered", "query", "conditional", control="last-query")
def steered(scene: Scene, reading: Reading) -> FloatArray:
    """What a conditional model expects, told of the query."""
    return unit(_raw(scene, reading, reading.queries))


@query("query", "query", control="last-query")
def mixed_with_query(scene: Scene, reading: Reading) -> FloatArray:
    """What the model expects (told of the query if it is conditional), mixed with the query's own vector."""
    expected = steered if scene.predictor.conditional else predicted
    return _towards_query(scene, reading, expected(scene, reading))


@query("last-query", "query")
def last_with_query(scene: Scene, reading: Reading) -> FloatArray:
    """The last chunk mixed with the query's vector: what a query is worth without a model."""
    return _towards_query(scene, reading, last(scene, reading))


def _raw(scene: Scene, reading: Reading, queries: FloatArray | None = None) -> FloatArray:
    """[B, D] the model's raw prediction."""
    contexts, lengths = reading.recent(scene.predictor.context)
    if queries is None:
        return scene.predictor.predict(contexts, lengths)[0]
    return scene.predictor.predict(contexts, lengths, queries)[0]


def _towards_query(scene: Scene, reading: Reading, units: FloatArray) -> FloatArray:
    """The directions mixed with the query's; unchanged where there is none."""
    assert reading.queries is not None
    towards = unit(reading.queries)
    told = towards.any(axis=1, keepdims=True)
    return np.where(told, _mixed(units, towards, scene.options.query), units)


def _mixed(one: FloatArray, other: FloatArray, share: float) -> FloatArray:
    """Directions [B, D] between two, `share` of the way to the other."""
    return unit((1 - share) * one + share * other)
