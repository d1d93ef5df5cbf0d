"""What a fresh model takes from the training vectors before its first update: the solution of its residual,
and the normaliser's median and spread. Set `model.scale` before either."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from nextvec.data.gather import VectorSource, gather_rows
from nextvec.data.linear import BACK, WeightSums, Wide, exponential_averages, fit_ridge
from nextvec.data.windows import IntArray, Windows
from nextvec.models.base import NextVectorModel
from nextvec.models.residual import ExponentialResidual, RidgeResidual, WeightsResidual
from nextvec.models.standardise import MAX_ROWS


def fit_residual(
    model: NextVectorModel, vectors: VectorSource, train: Windows, validation: Windows | None
) -> dict[str, Any]:
    """Fit the residual `ema`, `weights` or `ridge` of a model in place; others need no fit.

    An untrained model is then the judge's baseline of that kind, wherever it has read `residual_context`
    vectors (for `ema`: at most 64). The residual serves the first horizon: cut the windows with that one.

    Args:
        validation: chooses how much `ridge` is shrunk; without it a tenth of the training documents does.
    Returns: what was found, for the run's record ("weights", and for ridge "lambda" and "positions"); empty
        where there was nothing to fit.
    """
    residual = model.residual
    if isinstance(residual, ExponentialResidual):
        weights = WeightSums.over(vectors, train, BACK, exponential_averages).solve()
        residual.fit(weights=torch.from_numpy(weights))
        return {"weights": _rounded(weights)}
    if isinstance(residual, RidgeResidual):
        found = fit_ridge(vectors, train, validation, residual.context)
        table = _widened(found.table, residual.context)
        deviation = _deviation(found.matrix, found.table[-1], residual.context)
        residual.fit(weights=torch.from_numpy(table), deviation=torch.from_numpy(deviation))
        return {"weights": _rounded(table[-1]), "lambda": found.penalty, "positions": found.width}
    if isinstance(residual, WeightsResidual):
        table = WeightSums.of_positions(vectors, train, residual.context).triangle()
        residual.fit(weights=torch.from_numpy(table))
        return {"weights": _rounded(table[-1])}
    return {}


def fit_standardiser(model: NextVectorModel, vectors: VectorSource, rows: IntArray) -> None:
    """Fit the normaliser of a model, if it has one, to rows [N] of the store (those trained on).

    Of more than 131,072 rows, evenly spaced ones are read."""
    if model.standardiser is not None:
        taken = gather_rows(vectors, rows[:: -(-len(rows) // MAX_ROWS)])
        model.standardiser.fit(torch.from_numpy(taken).to(model.scale) / model.scale)


def _widened(table: Wide, context: int) -> Wide:
    """[w, w] weights for 1..w vectors -> [context, context]: with more than w, those of the last w."""
    width = len(table)
    wide = np.zeros((context, context))
    wide[:width, :width] = table
    wide[width:, :width] = table[-1]
    return wide


def _deviation(matrix: Wide, weights: Wide, context: int) -> Wide:
    """[w * D, D], earliest first, less the weights [w] by age (as a matrix) -> [context, D, D] by age."""
    D = matrix.shape[1]
    deviation = np.zeros((context, D, D))
    by_age = matrix.reshape(-1, D, D)[::-1]
    deviation[: len(by_age)] = by_age - weights[:, None, None] * np.eye(D)
    return deviation


def _rounded(weights: Wide) -> list[float]:
    return [round(float(weight), 4) for weight in weights]
