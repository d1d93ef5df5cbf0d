"""Ridge regression on the flattened context."""

from __future__ import annotations

import numpy as np

from nextvec.data.linear import aligned, fit_ridge
from nextvec.data.windows import FloatArray, IntArray, VectorSource, Windows
from nextvec.evaluation.baselines.base import Baseline


class Ridge(Baseline):
    """A full linear map from the context, shrunk towards the position weights (`data.linear.fit_ridge`).

    Its row says how much it was shrunk, and how many positions it uses.
    """

    name = "ridge"
    needs_training = True
    kept = ("weights",)

    def __init__(self, context: int, seed: int = 0) -> None:
        super().__init__(context, seed)
        self.weights: FloatArray

    def fit(self, vectors: VectorSource, train: Windows, validation: Windows | None) -> None:
        found = fit_ridge(vectors, train, validation, self.context)
        self.context = found.width
        self.weights = found.matrix.astype(np.float32)
        self.facts = {
            "parameters": int(self.weights.size),
            "lambda": found.penalty,
            "positions": found.width,
        }

    def guess(self, contexts: FloatArray, lengths: IntArray) -> FloatArray:
        flat = aligned(contexts, lengths, self.context).reshape(len(lengths), -1)
        return np.asarray(flat @ self.weights, dtype=np.float32)
