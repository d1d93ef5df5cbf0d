"""How an export compares with the run it was made of, on the same windows."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nextvec.data.windows import FloatArray, IntArray, gather_contexts, gather_queries, make_windows
from nextvec.data.windows import with_queries as with_queries_of
from nextvec.errors import EncoderMismatchError
from nextvec.inference.engines import Engine
from nextvec.inference.graphs import seeded
from nextvec.inference.predictor import ModelPredictor, RunPredictor
from nextvec.vectors import unit

if TYPE_CHECKING:
    from nextvec.corpus.store import Store

WINDOWS, SEED, RANK = 256, 0, 5
TOLERANCES = {"fp32": 0.9999, "bf16": 0.999, "int8": 0.999}


@dataclass(frozen=True, eq=False)
class ParityInputs:
    """What both are asked.

    Attributes:
        contexts, lengths: [N, T, D], [N].
        targets: float32 [N, D] what followed; None for seeded vectors, which nothing follows.
        queries: [N, D] for a conditional model.
        source: where they are from, in words.
    """

    contexts: FloatArray
    lengths: IntArray
    targets: FloatArray | None
    queries: FloatArray | None
    source: str


@dataclass(frozen=True)
class Parity:
    """What was found.

    Attributes:
        source, windows: of the comparison.
        largest_difference: of any component, in the vectors' own scale.
        cosine_mean, cosine_min: of the export's predictions to the run's.
        recall_before, recall_after: share of the windows whose true next vector is among the five of all
            windows' that are nearest to the prediction, of the run and of the export; None on seeded vectors.
        tolerance: the least cosine that was accepted.
    """

    source: str
    windows: int
    largest_difference: float
    cosine_mean: float
    cosine_min: float
    recall_before: float | None
    recall_after: float | None
    tolerance: float

    def to_json(self) -> dict[str, Any]:
        """As it stands in export.json."""
        return asdict(self)


def material(predictor: ModelPredictor, store: Store | None) -> ParityInputs:
    """At most 256 windows of a store, evenly spread over it, or as many seeded contexts.

    Raises:
        EncoderMismatchError: a store of another encoder.
        WindowError: no document of the store is long enough.
    """
    if store is None:
        contexts, lengths = seeded(predictor.model, WINDOWS, predictor.context, SEED)
        queries = contexts[::-1, 0].copy() if predictor.conditional else None
        return ParityInputs(contexts, lengths, None, queries, "seeded random vectors, for want of a store")
    found = store.encoder["fingerprint"]
    if predictor.encoder not in (None, found) or store.dimension != predictor.dimension:
        raise EncoderMismatchError(
            f"holds vectors of the encoder {found}, and the run reads those of {predictor.encoder}",
            where=store.path,
            remedy="give a store of the run's encoder",
        )
    told = predictor.training if isinstance(predictor, RunPredictor) else {}
    task = told.get("task", "next")
    context = predictor.context if task == "middle" else int(told.get("min_context", 1))
    horizon = int((told.get("horizons") or [1])[0])
    windows = make_windows(store, range(len(store.documents)), context, horizon, task)
    if predictor.conditional:
        windows = with_queries_of(store, windows, SEED)
    windows = windows.select(np.unique(np.linspace(0, len(windows) - 1, WINDOWS).astype(np.int64)))
    contexts, lengths = gather_contexts(store.vectors, windows, predictor.context)
    targets = np.asarray(store.vectors[windows.target], dtype=np.float32)
    return ParityInputs(contexts, lengths, targets, gather_queries(store.vectors, windows), store.path.name)


def compare(before: Engine, after: Engine, asked: ParityInputs, tolerance: float) -> Parity:
    """Both on the same windows."""
    expected = before(asked.contexts, asked.lengths, asked.queries)
    found = after(asked.contexts, asked.lengths, asked.queries)
    cosines = (unit(expected).astype(np.float64) * unit(found)).sum(1)
    finite = bool(np.isfinite(found).all())
    return Parity(
        source=asked.source,
        windows=len(expected),
        largest_difference=float(np.abs(expected - found).max()) if finite else float(np.finfo(float).max),
        cosine_mean=float(cosines.mean()) if finite else -1.0,
        cosine_min=float(cosines.min()) if finite else -1.0,
        recall_before=_recall(expected, asked.targets),
        recall_after=_recall(found, asked.targets),
        tolerance=tolerance,
    )


def _recall(predicted: FloatArray, targets: FloatArray | None) -> float | None:
    if targets is None:
        return None
    scores = unit(predicted) @ unit(targets).T
    above = (scores > np.diagonal(scores)[:, None]).sum(1)
    return float((above < RANK).mean())
