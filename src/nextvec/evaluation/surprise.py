"""Surprise: how far each chunk of a document is from what was expected after the chunks before it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nextvec.data.windows import Extent, FloatArray, VectorSource, Windows, gather_rows
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
    rows = document.first + np.arange(document.count, dtype=np.int64)
    found = 1.0 - row_dots(expected(predictor, vectors, document, least), unit(gather_rows(vectors, rows)))
    found[:least] = np.nan
    return found


def expected(predictor: Predictor, vectors: VectorSource, document: Extent, least: int = 1) -> FloatArray:
    """[T, D] the prediction of each chunk of a document, of unit length; zeros for the first `least` chunks.

    Arguments and errors are those of `surprise`.
    """
    units = np.zeros((document.count, vectors.shape[1]), dtype=np.float32)
    target = document.first + np.arange(least, document.count, dtype=np.int64)
    if len(target) == 0:
        return units
    first = np.full_like(target, document.first)
    windows = Windows(target, first, np.zeros_like(target), context=least, horizon=1)
    for piece, contexts, lengths in context_blocks(vectors, windows, predictor.context):
        units[least:][piece] = ask(predictor, contexts, lengths)[1]
    return units
