"""Ridge regression on the flattened context."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from nextvec.data.windows import FloatArray, IntArray, VectorSource, Windows
from nextvec.evaluation.baselines.base import Baseline, training_blocks
from nextvec.evaluation.baselines.linear import Wide, aligned, least_squares

LAMBDAS = (1.0, 10.0, 100.0, 1e3, 1e4, 1e5, 1e6)
MAX_FEATURES = 6144
HELD_OUT = 10


@dataclass
class _Sums:
    """Normal equations of `windows`, in float64: X'X [F, F], X'Y [F, D], |Y|^2 and the number of targets."""

    xx: Wide
    xy: Wide
    yy: float
    count: int

    @classmethod
    def over(cls, vectors: VectorSource, windows: Windows, width: int) -> _Sums:
        D = vectors.shape[1]
        sums = cls(np.zeros((width * D, width * D)), np.zeros((width * D, D)), 0.0, 0)
        for contexts, lengths, targets in training_blocks(vectors, windows, width):
            x = aligned(contexts, lengths, width).reshape(len(lengths), -1).astype(np.float64)
            y = targets.astype(np.float64)
            sums.xx += x.T @ x
            sums.xy += x.T @ y
            sums.yy += float(np.einsum("nd,nd->", y, y))
            sums.count += len(y)
        return sums

    def __add__(self, other: _Sums) -> _Sums:
        return _Sums(self.xx + other.xx, self.xy + other.xy, self.yy + other.yy, self.count + other.count)

    def anchor(self, width: int) -> Wide:
        """[F, D] the position weights as a matrix: the traces of the blocks are their normal equations."""
        D = self.xy.shape[1]
        gram = np.einsum("adbd->ab", self.xx.reshape(width, D, width, D))
        moment = np.einsum("add->a", self.xy.reshape(width, D, D))
        return np.asarray(np.kron(least_squares(gram, moment)[:, None], np.eye(D)), dtype=np.float64)

    def solve(self, anchor: Wide, penalty: float) -> Wide:
        """[F, D] minimum of |Y - X W|^2 + penalty |W - anchor|^2."""
        left = torch.from_numpy(self.xx + penalty * np.eye(len(self.xx)))
        right = torch.from_numpy(self.xy - self.xx @ anchor)
        solved: Wide = torch.cholesky_solve(right, torch.linalg.cholesky(left)).numpy()
        return anchor + solved

    def squared_error(self, weights: Wide) -> float:
        """Mean squared error of `weights` on these windows."""
        crossed = float(np.vdot(weights, self.xy))
        fitted = float(np.vdot(weights, self.xx @ weights))
        return (self.yy - 2 * crossed + fitted) / (int(self.xy.shape[1]) * self.count)


class Ridge(Baseline):
    """A full linear map from the context, shrunk towards the position weights instead of towards zero.

    The strength of the shrinking is chosen by validation mse from powers of ten (times the mean squared
    length of a vector, so that the encoder's scale does not matter); without validation windows every tenth
    training document is held out for the choice. The normal equations have (context x D)^2 numbers: with more
    than 6144 inputs only the last positions that fit are used, and its row says how many.
    """

    name = "ridge"
    needs_training = True

    def __init__(self, context: int, seed: int = 0) -> None:
        super().__init__(context, seed)
        self.weights: FloatArray

    def fit(self, vectors: VectorSource, train: Windows, validation: Windows | None) -> None:
        width = self.context = max(1, min(self.context, MAX_FEATURES // vectors.shape[1]))
        if validation is None or len(validation) == 0:
            held = np.isin(train.document, np.unique(train.document)[::HELD_OUT])
            if held.all():
                held = np.arange(len(train)) % HELD_OUT == 0
            judged = _Sums.over(vectors, train.select(held), width)
            fitted = _Sums.over(vectors, train.select(~held), width)
            total = fitted + judged
        else:
            judged = _Sums.over(vectors, validation, width)
            total = fitted = _Sums.over(vectors, train, width)
        scale = total.yy / total.count
        anchor = fitted.anchor(width)
        tried = ((fitted.solve(anchor, penalty * scale), penalty) for penalty in LAMBDAS)
        weights, penalty = min(tried, key=lambda one: judged.squared_error(one[0]))
        if total is not fitted:
            weights = total.solve(total.anchor(width), penalty * scale)
        self.weights = weights.astype(np.float32)
        self.facts = {"parameters": int(self.weights.size), "lambda": penalty, "positions": width}

    def guess(self, contexts: FloatArray, lengths: IntArray) -> FloatArray:
        flat = aligned(contexts, lengths, self.context).reshape(len(lengths), -1)
        return np.asarray(flat @ self.weights, dtype=np.float32)
