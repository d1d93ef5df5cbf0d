"""Baselines of a few learned scalars (the mathematics is `nextvec.data.linear`)."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np

from nextvec.data.linear import BACK, WeightSums, Wide, aligned, exponential_averages
from nextvec.data.windows import FloatArray, IntArray, VectorSource, Windows
from nextvec.evaluation.baselines.base import Baseline


class WeightedSum(Baseline):
    """A sum of K vectors made from the context, with K weights by least squares."""

    needs_training = True
    kept = ("weights",)

    def __init__(self, context: int, seed: int = 0) -> None:
        super().__init__(context, seed)
        self.weights: Wide

    @abstractmethod
    def features(self, contexts: FloatArray, lengths: IntArray) -> FloatArray:
        """The vectors to be weighted, [B, K, D]."""

    def fit(self, vectors: VectorSource, train: Windows, validation: Windows | None) -> None:
        self.weights = WeightSums.over(vectors, train, self.context, self.features).solve()
        self.facts = {
            "parameters": len(self.weights),
            "weights": [round(float(w), 4) for w in self.weights],
        }

    def guess(self, contexts: FloatArray, lengths: IntArray) -> FloatArray:
        weights = self.weights.astype(np.float32)
        return np.asarray(np.einsum("bkd,k->bd", self.features(contexts, lengths), weights))


class PositionWeights(WeightedSum):
    """One weight for each place in the context."""

    name = "position weights"

    def features(self, contexts: FloatArray, lengths: IntArray) -> FloatArray:
        return aligned(contexts, lengths, self.context)


class ExponentialAverages(WeightedSum):
    """Weights on five averages of what was read, up to 64 chunks back, from the last chunk to the plain mean.

    For long contexts the strongest simple predictor we know.
    """

    name = "exponential averages"

    def __init__(self, context: int, seed: int = 0) -> None:
        super().__init__(BACK, seed)

    def features(self, contexts: FloatArray, lengths: IntArray) -> FloatArray:
        return exponential_averages(contexts, lengths)
