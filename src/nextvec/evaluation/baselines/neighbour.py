"""Prediction by looking up what came next, somewhere else."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from nextvec.data.linear import training_blocks
from nextvec.data.windows import FloatArray, IntArray, VectorSource, Windows, gather_rows
from nextvec.evaluation.baselines.base import Baseline
from nextvec.evaluation.predictor import unit

MAX_KEY_BYTES = 2**30
QUERY_BLOCK, KEY_BLOCK = 256, 8192


class NeighbourSuccessor(Baseline):
    """What came after the most similar training context, by cosine of the contexts' means.

    Its samples are what came after the n most similar ones. The search is exact, in blocks. The keys are held
    in at most 1 GiB: of more training windows, evenly spaced ones are kept, and its row says how many.
    """

    name = "nearest neighbour's successor"
    needs_training = True
    generative = True
    kept = None

    def fit(self, vectors: VectorSource, train: Windows, validation: Windows | None) -> None:
        step = -(-4 * len(train) * vectors.shape[1] // MAX_KEY_BYTES)
        kept = train.select(slice(None, None, step))
        means = [mean_context(c, n) for c, n, _ in training_blocks(vectors, kept, self.context)]
        self._keys = torch.from_numpy(np.concatenate(means))
        self._vectors, self._next = vectors, kept.target
        self.facts = {"parameters": self._keys.numel(), "contexts_searched": len(kept)}

    def guess(self, contexts: FloatArray, lengths: IntArray) -> FloatArray:
        return np.asarray(self._successors(contexts, lengths, 1)[0])

    def sample(self, contexts: FloatArray, lengths: IntArray, n: int, seed: int) -> FloatArray:
        """[n, B, D] what came after the n most similar contexts (over again where there are fewer)."""
        found = self._successors(contexts, lengths, min(n, len(self._keys)))
        return found[np.arange(n) % len(found)]

    def _successors(self, contexts: FloatArray, lengths: IntArray, n: int) -> FloatArray:
        queries = torch.from_numpy(mean_context(contexts, lengths))
        nearest = np.concatenate([self._nearest(block, n) for block in _blocks(queries)])
        return gather_rows(self._vectors, self._next[nearest.T])

    def _nearest(self, queries: torch.Tensor, n: int) -> IntArray:
        """[B, n] the most similar keys, the best first; for n = 1 of equal ones the first."""
        best, which = (
            queries.new_full((len(queries), 0), -2.0),
            torch.zeros(len(queries), 0, dtype=torch.int64),
        )
        for start in range(0, len(self._keys), KEY_BLOCK):
            similar = queries @ self._keys[start : start + KEY_BLOCK].T
            value, key = similar.max(1, keepdim=True) if n == 1 else similar.topk(min(n, similar.shape[1]))
            best, which = torch.cat([best, value], 1), torch.cat([which, key + start], 1)
            best, order = best.sort(dim=1, descending=True, stable=True)
            best, which = best[:, :n], which.gather(1, order)[:, :n]
        return which.numpy()


def _blocks(queries: torch.Tensor) -> Iterator[torch.Tensor]:
    for start in range(0, len(queries), QUERY_BLOCK):
        yield queries[start : start + QUERY_BLOCK]


def mean_context(contexts: FloatArray, lengths: IntArray) -> FloatArray:
    """[B, D] direction of the mean of each context."""
    return unit(contexts.sum(axis=1) / lengths[:, None].astype(np.float32))
