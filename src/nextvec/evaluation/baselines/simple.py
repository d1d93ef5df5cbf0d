"""What a baseline is, and those that compute nothing worth the name."""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from nextvec.data.gather import VectorSource, gather_rows
from nextvec.data.least_squares import training_blocks
from nextvec.data.windows import FloatArray, IntArray, Windows
from nextvec.errors import EvaluationError
from nextvec.evaluation.predictor_protocol import unit

if TYPE_CHECKING:
    import torch


class Baseline(ABC):
    """A predictor simple enough that a model has to be better.

    Args:
        context: the context length of the table.
        seed: for those that draw anything.
    Attributes:
        needs_training: without training windows it cannot be evaluated.
        conditional: it is told what to write towards, see `VectorPredictor`; evaluated
            only where there are queries.
        generative: it can be asked for samples, see `nextvec.evaluation.trajectory`.
        kept: names of the arrays that it was fitted to; None where these are the training data.
        context: how many of the most recent vectors it uses.
        metadata: what goes into its row of the table: at least "parameters", the count of fitted numbers.
    """

    kind: ClassVar[Literal["baseline"]] = "baseline"
    name: ClassVar[str]
    needs_training: ClassVar[bool] = False
    conditional: ClassVar[bool] = False
    generative: ClassVar[bool] = False
    kept: ClassVar[tuple[str, ...] | None] = ()

    def __init__(self, context: int, seed: int = 0) -> None:
        self.context = context
        self.seed = seed
        self.metadata: dict[str, Any] = {"parameters": 0}

    def fit(self, vectors: VectorSource, train: Windows, validation: Windows | None) -> None:
        """Learn from the training windows; the validation windows choose between variants.

        What needs no training keeps this one, which learns nothing.
        """
        self.metadata = {"parameters": 0}

    def state(self) -> dict[str, NDArray[Any]]:
        """What it was fitted to, by name. Raises EvaluationError for one that keeps its training data."""
        if self.kept is None:
            message = f"{self.name} cannot be kept: it looks its answers up"
            raise EvaluationError(message, remedy="choose another baseline")
        return {name: getattr(self, name) for name in self.kept}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Take back what `state` gave. Raises KeyError for what is missing."""
        for name in self.kept or ():
            setattr(self, name, state[name])

    @abstractmethod
    def guess(self, contexts: FloatArray, lengths: IntArray) -> FloatArray:
        """Raw prediction [B, D] from contexts [B, T, D] padded on the right and lengths [B]."""

    def predict(self, contexts: FloatArray, lengths: IntArray) -> tuple[FloatArray, FloatArray]:
        raw = self.guess(contexts, lengths)
        return raw, unit(raw)


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
        self.metadata = {"parameters": int(self.mean.size)}

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
    name = "linear average"

    def guess(self, contexts: FloatArray, lengths: IntArray) -> FloatArray:
        return np.asarray(contexts.sum(axis=1) / lengths[:, None], dtype=np.float32)


class LastAndMean(LinearAverage):
    """Half the last vector and half the mean of the context: better by rank than either."""

    name = "last and mean"

    def guess(self, contexts: FloatArray, lengths: IntArray) -> FloatArray:
        mean = super().guess(contexts, lengths)
        return np.asarray((last_vectors(contexts, lengths) + mean) / 2, dtype=np.float32)


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


# Prediction by looking up what came next, somewhere else.

MAX_KEY_BYTES = 640 * 2**20
QUERY_BLOCK, KEY_BLOCK = 256, 8192


class NeighbourSuccessor(Baseline):
    """What came after the most similar training context, by cosine of the contexts' means.

    Its samples are what came after the n most similar ones. The search is exact, in blocks. The keys are held
    in at most 640 MiB: of more training windows, evenly spaced ones are kept, and its row says how many.
    """

    name = "nearest neighbour's successor"
    needs_training = True
    generative = True
    kept = None

    def fit(self, vectors: VectorSource, train: Windows, validation: Windows | None) -> None:
        import torch

        step = -(-4 * len(train) * vectors.shape[1] // MAX_KEY_BYTES)
        kept = train.select(slice(None, None, step))
        # Filled in place: pieces that are joined at the end would take twice as much.
        keys, filled = np.empty((len(kept), vectors.shape[1]), np.float32), 0
        for contexts, lengths, _ in training_blocks(vectors, kept, self.context):
            keys[filled : filled + len(lengths)] = mean_context(contexts, lengths)
            filled += len(lengths)
        self._keys = torch.from_numpy(keys)
        self._vectors, self._next = vectors, kept.target
        self.metadata = {"parameters": self._keys.numel(), "contexts_searched": len(kept)}

    def guess(self, contexts: FloatArray, lengths: IntArray) -> FloatArray:
        return np.asarray(self._successors(contexts, lengths, 1)[0])

    def sample(self, contexts: FloatArray, lengths: IntArray, n: int, seed: int) -> FloatArray:
        """[n, B, D] what came after the n most similar contexts (over again where there are fewer)."""
        found = self._successors(contexts, lengths, min(n, len(self._keys)))
        return found[np.arange(n) % len(found)]

    def _successors(self, contexts: FloatArray, lengths: IntArray, n: int) -> FloatArray:
        import torch

        queries = torch.from_numpy(mean_context(contexts, lengths))
        nearest = np.concatenate([self._nearest(block, n) for block in torch.split(queries, QUERY_BLOCK)])
        return gather_rows(self._vectors, self._next[nearest.T])

    def _nearest(self, queries: torch.Tensor, n: int) -> IntArray:
        """[B, n] the most similar keys, the best first; for n = 1 of equal ones the first."""
        import torch

        best = queries.new_full((len(queries), 0), -2.0)
        which = torch.zeros(len(queries), 0, dtype=torch.int64)
        for start in range(0, len(self._keys), KEY_BLOCK):
            similar = queries @ self._keys[start : start + KEY_BLOCK].T
            value, key = similar.max(1, keepdim=True) if n == 1 else similar.topk(min(n, similar.shape[1]))
            best, which = torch.cat([best, value], 1), torch.cat([which, key + start], 1)
            best, order = best.sort(dim=1, descending=True, stable=True)
            best, which = best[:, :n], which.gather(1, order)[:, :n]
        return which.numpy()


def mean_context(contexts: FloatArray, lengths: IntArray) -> FloatArray:
    """[B, D] direction of the mean of each context."""
    return unit(contexts.sum(axis=1) / lengths[:, None].astype(np.float32))
