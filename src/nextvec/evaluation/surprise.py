"""Surprise: how far each chunk of a document is from what was expected after the chunks before it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nextvec.data.windows import Extent, VectorSource, Windows, gather_rows
from nextvec.evaluation.exam import context_blocks
from nextvec.evaluation.predictor import Predictor, ask, row_dots, unit


def surprise(
    predictor: Predictor, vectors: VectorSource, document: Extent, least: int = 1
) -> NDArray[np.float64]:
    """[T] 1 - cos(prediction, actual) of each chunk of a document; 0 is as expected, 1 unrelated, 2 opposite.

    Args:
        vectors: of the store the document is in, raw.
        least: chunks that must have been read; the first `least` chunks of the document get nan.
    Raises:
        EvaluationError: predictions that cannot be judged (NaN, a wrong shape).
    """
    found = np.full(document.count, np.nan)
    target = document.first + np.arange(least, document.count, dtype=np.int64)
    if len(target) == 0:
        return found
    first = np.full_like(target, document.first)
    windows = Windows(target, first, np.zeros_like(target), context=least, horizon=1)
    for piece, contexts, lengths in context_blocks(vectors, windows, predictor.context):
        _, units = ask(predictor, contexts, lengths)
        cosines = row_dots(units, unit(gather_rows(vectors, target[piece])))
        found[least:][piece] = 1.0 - cosines
    return found
