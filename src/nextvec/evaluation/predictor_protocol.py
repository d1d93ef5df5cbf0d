"""What is evaluated: anything that turns the vectors read so far into a guess at the next one."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any, Literal, Protocol, TypeGuard, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from nextvec.data.windows import FloatArray, IntArray
from nextvec.errors import EvaluationError
from nextvec.vectors import unit as unit

Kind = Literal["model", "baseline"]
UNIT_TOLERANCE = 1e-3
SAME = 1e-3  # of the largest component: the parallel form and the answer to one window


class NextVectorPredictor(Protocol):
    """A next-vector predictor.

    `context` is how many of the most recent vectors it uses; the harness never gives it more. Six further
    attributes are read when a predictor has them: `encoder`, the fingerprint of the encoder whose vectors it
    was made for (another store is refused); `metadata`, a dictionary that goes into its row of the table
    (parameters, bytes, seconds, ...); `dimension`, the D it takes; `generative`, whether it can be asked for
    samples (see `nextvec.evaluation.trajectory`); `conditional`, whether it can be told what to write
    towards: then `predict` (and `sample`) takes `queries` [B, D] too, where a row of zeros tells nothing;
    `ranking`, whether it has a query of its own to rank by (see `RankingPredictor`).
    """

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> Kind: ...

    @property
    def context(self) -> int: ...

    def predict(self, contexts: FloatArray, lengths: IntArray) -> tuple[FloatArray, FloatArray]:
        """Raw and unit prediction, both [B, D], from contexts [B, T, D] padded on the right, lengths [B]."""
        ...


def row_dots(a: FloatArray, b: FloatArray) -> NDArray[np.float64]:
    """Row by row dot products [N] of [N, D], summed in float64."""
    return np.asarray(np.einsum("nd,nd->n", a, b, dtype=np.float64))


@runtime_checkable
class RankingPredictor(NextVectorPredictor, Protocol):
    """A predictor that gives a direction to rank candidates by besides its prediction."""

    ranking: bool

    def predict_ranking(
        self, contexts: FloatArray, lengths: IntArray, queries: FloatArray | None = None
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """As `predict` of a conditional one, and the query [B, D] of unit length."""
        ...


@runtime_checkable
class OnePassPredictor(NextVectorPredictor, Protocol):
    """A predictor that reads a document once for what it expects after each of its vectors."""

    def predict_each(self, vectors: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Raw and unit prediction [T, D] after each of at most `context` vectors [T, D]."""
        ...


@runtime_checkable
class PositionPredictor(NextVectorPredictor, Protocol):
    """A predictor that answers after every position of a context at once, as a causal model can."""

    def predict_positions(self, contexts: FloatArray) -> tuple[FloatArray, FloatArray] | None:
        """Raw predictions [B, T, D] and what to rank by [B, T, D] after every vector of contexts [B, T, D];
        None where it has to be asked for each window."""
        ...


def ask_positions(
    predictor: NextVectorPredictor, contexts: FloatArray, at: IntArray
) -> tuple[FloatArray, FloatArray, FloatArray] | None:
    """As `ask_ranking`, after position `at[i, 1]` of context `at[i, 0]` of contexts [B, T, D], [n, D] each.

    None for a predictor that cannot, and for one whose answer changes with what comes later: a model that is
    not causal would be given the very chunks that it is to predict. One window of each context is asked alone
    to see that.
    """
    if not isinstance(predictor, PositionPredictor):
        return None
    found = predictor.predict_positions(contexts)
    if found is None:
        return None
    raw, query = (values[at[:, 0], at[:, 1]] for values in found)
    units = unit(raw)
    shape = (len(at), contexts.shape[2])
    checked(predictor, raw, units, shape)
    if ranks_by_query(predictor):
        checked(predictor, raw, query, shape)
    else:
        query = units
    _, tried = np.unique(at[:, 0], return_index=True)  # of each context the first window, the shortest
    lengths = at[tried, 1] + 1
    read = contexts[at[tried, 0], : int(lengths.max())]
    read = np.where((np.arange(read.shape[1]) < lengths[:, None])[..., None], read, np.float32(0))
    alone = ask_ranking(predictor, read, lengths, None)
    for predicted, expected in zip((raw, query), (alone[0], alone[2]), strict=True):
        if not np.allclose(predicted[tried], expected, rtol=0, atol=SAME * float(np.abs(expected).max())):
            return None
    return raw, units, query


def ranks_by_query(predictor: NextVectorPredictor) -> TypeGuard[RankingPredictor]:
    """Whether it ranks by a query of its own and not by its unit prediction."""
    return isinstance(predictor, RankingPredictor) and predictor.ranking


def ask_ranking(
    predictor: NextVectorPredictor, contexts: FloatArray, lengths: IntArray, queries: FloatArray | None = None
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """As `ask`, and the query [B, D] to rank by: the unit prediction of a predictor that has none."""
    if not ranks_by_query(predictor):
        raw, units = ask(predictor, contexts, lengths, queries)
        return raw, units, units
    given = queries if getattr(predictor, "conditional", False) else None
    raw, units, query = predictor.predict_ranking(contexts, lengths, given)
    shape = (len(lengths), contexts.shape[2])
    checked(predictor, raw, units, shape)
    checked(predictor, raw, query, shape)
    return raw, units, query


def ask(
    predictor: NextVectorPredictor, contexts: FloatArray, lengths: IntArray, queries: FloatArray | None = None
) -> tuple[FloatArray, FloatArray]:
    """Its raw and unit prediction, both [B, D], after `checked`; a conditional one is told the queries."""
    conditional = queries is not None and getattr(predictor, "conditional", False)
    given: Any = (contexts, lengths, queries) if conditional else (contexts, lengths)
    raw, units = predictor.predict(*given)
    checked(predictor, raw, units, (len(lengths), contexts.shape[2]))
    return raw, units


def checked(
    predictor: NextVectorPredictor, raw: FloatArray, unit_: FloatArray, shape: tuple[int, int]
) -> None:
    """Refuse predictions that no figure could be trusted on. Raises EvaluationError naming the predictor."""
    refuse_unsound(predictor, "raw predictions", raw, shape)
    refuse_unsound(predictor, "unit predictions", unit_, shape)
    norms = np.sqrt(np.einsum("bd,bd->b", unit_, unit_, dtype=np.float64))
    # A zero prediction has no direction; it stays zero and scores a cosine of 0.
    off = np.abs(norms - 1) > UNIT_TOLERANCE
    if (off & (norms > 0)).any():
        message = f"unit predictions have lengths from {norms.min():.3g} to {norms.max():.3g}"
        remedy = "normalise them; the raw output goes first, the unit output second"
        raise EvaluationError(message, where=predictor.name, remedy=remedy)


def refuse_unsound(
    predictor: NextVectorPredictor, what: str, values: FloatArray, shape: tuple[int, ...]
) -> None:
    """Raises EvaluationError: another shape, NaN or infinity."""
    if values.shape != shape:
        raise EvaluationError(f"{what} have shape {values.shape}, not {shape}", where=predictor.name)
    if not np.isfinite(values).all():
        message = f"{what} hold NaN or infinity"
        raise EvaluationError(message, where=predictor.name, remedy="see whether training diverged")


# Latency and throughput of a predictor, on vectors that mean nothing.

WARM_UP, SINGLE_CALLS = 5, 100
BATCH, BATCH_SECONDS, MIN_BATCHES = 256, 0.5, 3


def measure_speed(predictor: NextVectorPredictor, dimension: int, context: int) -> dict[str, float]:
    """Time `predict` on contexts of `context` vectors.

    Returns:
        "latency_p50_ms", "latency_p95_ms", "latency_p99_ms": one context at a time, on one thread;
        "throughput": contexts per second in batches of 256, on all threads.
    """
    vectors = np.random.default_rng(0).standard_normal((BATCH, context, dimension), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    lengths = np.full(BATCH, context, dtype=np.int64)
    with one_thread():
        for i in range(WARM_UP):
            predictor.predict(vectors[i : i + 1], lengths[:1])
        times = [_seconds(predictor, vectors[i : i + 1], lengths[:1]) for i in range(SINGLE_CALLS)]
    found = {f"latency_p{p}_ms": round(float(np.percentile(times, p)) * 1e3, 4) for p in (50, 95, 99)}
    predictor.predict(vectors, lengths)
    spent: list[float] = []
    while len(spent) < MIN_BATCHES or sum(spent) < BATCH_SECONDS:
        spent.append(_seconds(predictor, vectors, lengths))
    return {**found, "throughput": round(BATCH / float(np.median(spent)), 1)}


def _seconds(predictor: NextVectorPredictor, contexts: np.ndarray, lengths: np.ndarray) -> float:
    started = time.perf_counter()
    predictor.predict(contexts, lengths)
    return time.perf_counter() - started


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread: small work is not faster on more, and much slower on a machine that is busy."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
