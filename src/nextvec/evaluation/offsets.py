"""Which chunk a prediction is nearest to: the one it should be, one before, one after?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nextvec.data.windows import FloatArray, gather_rows
from nextvec.evaluation.exam import Exam
from nextvec.evaluation.predictor import row_dots, unit

OFFSETS = (-3, -2, -1, 0, 1, 2, 3)


def offset_cosines(
    units: FloatArray, exam: Exam, offsets: Sequence[int] = OFFSETS
) -> dict[int, NDArray[np.float64]]:
    """k -> [N] cosine of each prediction to the chunk k after the target (k = 0 is the target itself).

    Where that chunk would lie outside the target's document the value is nan.
    """
    pool, windows = exam.pool, exam.windows
    found = {}
    for k in offsets:
        inside = (pool.target + k >= pool.begin) & (pool.target + k < pool.end)
        cosines = np.full(len(exam), np.nan)
        chunks = unit(gather_rows(exam.vectors, windows.target[inside] + k))
        cosines[inside] = row_dots(units[inside], chunks)
        found[k] = cosines
    return found


def offset_profile(cosines: dict[int, NDArray[np.float64]]) -> dict[int, float]:
    """k -> mean of the cosines of `offset_cosines` over the windows that have such a chunk.

    An offset that no window has is left out.
    """
    return {k: float(np.nanmean(values)) for k, values in cosines.items() if not np.isnan(values).all()}
