"""Baselines that compute nothing worth the name."""

from __future__ import annotations

import zlib

import numpy as np

from nextvec.data.windows import FloatArray, IntArray, VectorSource, Windows, gather_rows
from nextvec.evaluation.baselines.base import Baseline
from nextvec.evaluation.predictor import unit


def last_vectors(contexts: FloatArray, lengths: IntArray) -> FloatArray:
    """[B, D] the last real vector of each context."""
    return contexts[np.arange(len(lengths)), lengths - 1]


class Random(Baseline):
    """A random direction, as long as the last vector: chance.

    The direction is a function of seed and last vector, so that batching changes nothing.
    """

    name = "random"
    generative = True

    def __init__(self, context: int, seed: int = 0) -> None:
        super().__init__(1, seed)

    def guess(self, contexts: FloatArray, lengths: IntArray) -> FloatArray:
        return np.asarray(self._directions(contexts, lengths, 1, self.seed)[0])

    def sample(self, contexts: FloatArray, lengths: IntArray, n: int, seed: int) -> FloatArray:
        """n directions [n, B, D] of each context."""
        return self._directions(contexts, lengths, n, (self.seed << 32) + seed + 1)

    def _directions(self, contexts: FloatArray, lengths: IntArray, n: int, seed: int) -> FloatArray:
        last = last_vectors(contexts, lengths)
        drawn = [np.random.Generator(np.random.Philox(key=[seed, zlib.crc32(row.tobytes())])) for row in last]
        directions = unit(
            np.stack([g.standard_normal((n, last.shape[1]), dtype=np.float32) for g in drawn], axis=1)
        )
        norms = np.linalg.norm(last, axis=1, keepdims=True)
        return np.asarray(directions * norms, dtype=np.float32)


class MeanVector(Baseline):
    """The mean of every chunk in the training windows, whatever was read."""

    name = "mean vector"
    needs_training = True
    kept = ("mean",)

    def __init__(self, context: int, seed: int = 0) -> None:
        super().__init__(1, seed)

    def fit(self, vectors: VectorSource, train: Windows, validation: Windows | None) -> None:
        self.mean = window_mean(vectors, train)
        self.facts = {"parameters": int(self.mean.size)}

    def guess(self, contexts: FloatArray, lengths: IntArray) -> FloatArray:
        return np.repeat(self.mean[None], len(lengths), axis=0)


class CopyLast(Baseline):
    """The last vector again ("persistence")."""

    name = "copy-last"

    def __init__(self, context: int, seed: int = 0) -> None:
        super().__init__(1, seed)

    def guess(self, contexts: FloatArray, lengths: IntArray) -> FloatArray:
        return last_vectors(contexts, lengths)


class LinearAverage(Baseline):
    """The mean of the context."""

    name = "linear average"

    def guess(self, contexts: FloatArray, lengths: IntArray) -> FloatArray:
        return np.asarray(contexts.sum(axis=1) / lengths[:, None], dtype=np.float32)


def window_mean(vectors: VectorSource, windows: Windows) -> FloatArray:
    """[D] mean over the chunks that stand in any of the windows, each counted once, summed in float64."""
    used = np.zeros(len(vectors), dtype=np.bool_)
    used[windows.target] = True
    for back in range(windows.context):
        used[windows.back(back)] = True
    total = np.zeros(vectors.shape[1], dtype=np.float64)
    rows = np.flatnonzero(used).astype(np.int64)
    for start in range(0, len(rows), 8192):
        total += gather_rows(vectors, rows[start : start + 8192]).sum(axis=0, dtype=np.float64)
    return np.asarray(total / len(rows), dtype=np.float32)
