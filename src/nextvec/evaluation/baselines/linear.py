"""Baselines of a few learned scalars. Normal equations are accumulated in float64: float32 sums over tens of
thousands of windows were off in the third digit."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
from numpy.typing import NDArray

from nextvec.data.windows import FloatArray, IntArray, VectorSource, Windows
from nextvec.evaluation.baselines.base import Baseline, training_blocks

Wide = NDArray[np.float64]
DECAYS = (0.0, 0.5, 0.75, 0.9, 1.0)
BACK = 64


class WeightedSum(Baseline):
    """A sum of K vectors made from the context, with K weights by least squares."""

    needs_training = True

    @abstractmethod
    def features(self, contexts: FloatArray, lengths: IntArray) -> FloatArray:
        """The vectors to be weighted, [B, K, D]."""

    def fit(self, vectors: VectorSource, train: Windows, validation: Windows | None) -> None:
        gram: Wide | float = 0.0
        moment: Wide | float = 0.0
        for contexts, lengths, targets in training_blocks(vectors, train, self.context):
            made = self.features(contexts, lengths).astype(np.float64)
            flat = made.transpose(1, 0, 2).reshape(made.shape[1], -1)
            gram = gram + flat @ flat.T
            moment = moment + flat @ targets.ravel().astype(np.float64)
        self.weights = least_squares(gram, moment)
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
        age = lengths[:, None] - 1 - np.arange(contexts.shape[1])
        weights = np.stack([np.power(decay, np.maximum(age, 0), dtype=np.float32) for decay in DECAYS], 1)
        weights *= (age >= 0)[:, None]
        weights /= weights.sum(axis=2, keepdims=True)
        return np.asarray(weights @ contexts, dtype=np.float32)


def least_squares(gram: Wide | float, moment: Wide | float) -> Wide:
    """Weights w with gram w = moment; the smallest of them where the features do not determine one."""
    weights, *_ = np.linalg.lstsq(np.atleast_2d(gram), np.atleast_1d(moment), rcond=1e-10)
    return np.asarray(weights)


def aligned(contexts: FloatArray, lengths: IntArray, width: int) -> FloatArray:
    """The last `width` vectors of each context, [B, width, D], padded with zeros on the left."""
    if contexts.shape[1] == width and (lengths == width).all():
        return contexts
    place = lengths[:, None] - width + np.arange(width)
    taken = np.take_along_axis(contexts, np.maximum(place, 0)[:, :, None], axis=1)
    return np.asarray(np.where((place >= 0)[:, :, None], taken, np.float32(0)), dtype=np.float32)
