"""Rollout: what becomes of a predictor that reads its own predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nextvec.data.gather import gather_rows, read_on
from nextvec.data.windows import FloatArray, IntArray, Windows
from nextvec.errors import EvaluationError
from nextvec.evaluation.evaluation_set import EvaluationSet
from nextvec.evaluation.predictor import NextVectorPredictor, ask, row_dots, unit

# Which chunk a prediction is nearest to: the one it should be, one before, one after?

OFFSETS = (-3, -2, -1, 0, 1, 2, 3)


def offset_cosines(
    units: FloatArray, evaluation_set: EvaluationSet, offsets: Sequence[int] = OFFSETS
) -> dict[int, NDArray[np.float64]]:
    """k -> [N] cosine of each prediction to the chunk k after the target (k = 0 is the target itself).

    Where that chunk would lie outside the target's document the value is nan.
    """
    pool, windows = evaluation_set.pool, evaluation_set.windows
    found = {}
    for k in offsets:
        inside = (pool.target + k >= pool.begin) & (pool.target + k < pool.end)
        cosines = np.full(len(evaluation_set), np.nan)
        chunks = unit(gather_rows(evaluation_set.vectors, windows.target[inside] + k))
        cosines[inside] = row_dots(units[inside], chunks)
        found[k] = cosines
    return found


def offset_profile(cosines: dict[int, NDArray[np.float64]]) -> dict[int, float]:
    """k -> mean of the cosines of `offset_cosines` over the windows that have such a chunk.

    An offset that no window has is left out.
    """
    return {k: float(np.nanmean(values)) for k, values in cosines.items() if not np.isnan(values).all()}


STEPS = 5
MOST_WINDOWS = 500


@dataclass(frozen=True)
class Rollout:
    """So many predictions in a row from each of N windows, each reading those before it as if they were text.

    Attributes:
        windows: those rolled out; step 1 predicts their targets.
        cosine: [N, steps] to the true chunk of that step.
        drift: [N, steps] cosine to the last chunk that was really read: how far it has come.
        repetition: [N, steps - 1] cosine of each prediction to the one before it: 1 is standing still.
    """

    windows: Windows
    cosine: NDArray[np.float64]
    drift: NDArray[np.float64]
    repetition: NDArray[np.float64]


def rollable(evaluation_set: EvaluationSet, steps: int = STEPS) -> IntArray:
    """Windows whose document goes on for all steps, so that every step is a mean over the same windows.

    At a horizon above 1, or of task middle, there are none: the prediction does not follow what was read. Nor
    is a window one whose query is the truth of a later step.
    """
    windows, pool = evaluation_set.windows, evaluation_set.pool
    if windows.horizon > 1 or windows.task != "next":
        return np.zeros(0, dtype=np.int64)
    able = pool.target + steps - 1 < pool.end
    if windows.query is not None:
        able &= (windows.query < 0) | (windows.query > windows.target + steps - 1)
    return np.flatnonzero(able).astype(np.int64)


def rollout(
    predictor: NextVectorPredictor,
    evaluation_set: EvaluationSet,
    steps: int = STEPS,
    most: int = MOST_WINDOWS,
) -> Rollout:
    """Roll a predictor out from at most `most` windows, evenly spaced among those that can be.

    Raw predictions are fed back, since raw vectors are what it reads.

    Raises:
        EvaluationError: no document goes on for so many steps, or NaN predictions.
    """
    able = rollable(evaluation_set, steps)
    if len(able) == 0:
        said = f"no window of horizon 1 has {steps} chunks after what was read"
        raise EvaluationError(said, remedy="roll out fewer steps, or evaluate longer documents")
    chosen = able[np.unique(np.linspace(0, len(able) - 1, min(most, len(able))).round().astype(np.int64))]
    part = evaluation_set.select(chosen)
    cosine, drift = np.empty((2, len(part), steps))
    repetition = np.empty((len(part), steps - 1))
    for piece, contexts, lengths in part.blocks(predictor.context):
        last, target = (rows[piece] for rows in (part.windows.last, part.windows.target))
        start, before = unit(gather_rows(evaluation_set.vectors, last)), None
        queries = part.queries(piece)
        for step in range(steps):
            raw, units = ask(predictor, contexts, lengths, queries)
            cosine[piece, step] = row_dots(units, unit(gather_rows(evaluation_set.vectors, target + step)))
            drift[piece, step] = row_dots(units, start)
            if before is not None:
                repetition[piece, step - 1] = row_dots(units, before)
            before = units
            contexts, lengths = read_on(contexts, lengths, raw, predictor.context)
    return Rollout(part.windows, cosine, drift, repetition)
