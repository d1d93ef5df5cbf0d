"""A query for ranking from ten numbers: weights on averages of what was read, fitted to put the true next
chunk before the other chunks that could come.

Shapes: N windows, K features, D embedding, V candidates.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nextvec.data.gather import VectorSource, gather_contexts, gather_rows
from nextvec.data.least_squares import Wide, exponential_averages
from nextvec.data.windows import FloatArray, IntArray, Windows
from nextvec.vectors import unit

DECAYS = (0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0)
BACK = 256  # chunks that are read at most
FITTED_WINDOWS = 4096  # of more, evenly spaced ones are fitted on
OTHERS = 64  # candidates from anywhere in training, besides the unread chunks of the same document
OWN = 192  # of these, the nearest that come
SHARPNESS = 10.0  # what a cosine is multiplied with, before it is fitted
BLOCK = 64


def ranking_features(contexts: FloatArray, lengths: IntArray, mean: FloatArray) -> FloatArray:
    """[B, 10, D]: eight exponential averages of the directions read, the earliest of them, and `mean` [D]."""
    directions = unit(contexts)
    averages = exponential_averages(directions, lengths, DECAYS)
    constant = np.broadcast_to(mean, (len(lengths), 1, len(mean)))
    return np.concatenate([averages, directions[:, :1], constant], axis=1, dtype=np.float32)


@dataclass(frozen=True)
class ListwiseFit:
    """Weights [10] on `ranking_features`, the direction `mean` [D] among them, and the fitted sharpness of
    the softmax."""

    weights: Wide
    mean: FloatArray
    sharpness: float


def fit_listwise(vectors: VectorSource, train: Windows, seed: int = 0) -> ListwiseFit:
    """Fit the weights w by the softmax over candidates of sharpness * cos(sum_k w_k f_k, candidate).

    Candidates of a window are the unread chunks of its document (the nearest 192 that come) and 64 chunks
    from anywhere in training; the true next chunk is one of them (ListNet with one relevant item, Cao et al.
    2007, equation 4). The scale of w does not matter; it is given with a sum of squares of 1.
    """
    import torch
    from scipy.optimize import minimize

    mean = unit(_mean_direction(vectors, train)[None])[0]
    some = train.select(np.unique(np.linspace(0, len(train) - 1, FITTED_WINDOWS).round().astype(np.int64)))
    rng = np.random.default_rng(seed)
    parts = [tuple(map(torch.from_numpy, part)) for part in _scored(vectors, train, some, mean, rng)]

    def loss(flat: Wide) -> tuple[float, Wide]:
        """The mean over the windows, and its gradient."""
        w, sharpness = torch.from_numpy(flat[:-1]).float(), float(np.exp(flat[-1]))
        total, slope = 0.0, torch.zeros(len(flat), dtype=torch.float64)
        for scores, barred, gram in parts:
            shadow = gram @ w  # [n, K]
            length = (shadow @ w).clamp_min(1e-12).sqrt()[:, None]
            along = torch.einsum("nkv,k->nv", scores, w)
            logits = sharpness * along / length
            chances = logits.masked_fill(barred, -torch.inf).log_softmax(1)
            total -= float(chances[:, 0].sum(dtype=torch.float64))
            error = chances.exp()
            error[:, 0] -= 1
            reach = (error * along).sum(1, keepdim=True)
            by_weight = torch.einsum("nkv,nv->nk", scores, error) - reach * shadow / length**2
            slope[:-1] += (sharpness * by_weight / length).sum(0, dtype=torch.float64)
            slope[-1] += (error * logits).sum(dtype=torch.float64)
        return total / len(some), slope.numpy() / len(some)

    start = np.array([0.2, 0.1, 0.4, 0.0, 0.3, 0.2, 0.0, -0.3, 0.0, -0.2, np.log(SHARPNESS)])
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 100}).x
    weights = found[:-1] / max(float(np.linalg.norm(found[:-1])), 1e-12)
    return ListwiseFit(weights, mean, float(np.exp(found[-1])))


def _mean_direction(vectors: VectorSource, windows: Windows) -> FloatArray:
    total = np.zeros(vectors.shape[1])
    for block in windows.blocks(8192):
        total += unit(gather_rows(vectors, block.target)).sum(axis=0, dtype=np.float64)
    return (total / len(windows)).astype(np.float32)


def _scored(
    vectors: VectorSource, train: Windows, some: Windows, mean: FloatArray, rng: np.random.Generator
) -> Iterator[tuple[FloatArray, NDArray[np.bool_], FloatArray]]:
    """Blocks of n windows: every feature times every candidate [n, K, V], the true one first; which of these
    are no candidates [n, V]; and the features' products with each other [n, K, K]."""
    # the last target of each document is its last chunk
    documents, inverse = np.unique(train.document, return_inverse=True)
    ends = np.zeros(len(documents), dtype=np.int64)
    np.maximum.at(ends, inverse, train.target)
    for block in some.blocks(BLOCK):
        contexts, lengths = gather_contexts(vectors, block, min(BACK, int(block.read.max())))
        features = ranking_features(contexts, lengths, mean)
        first, end = block.first[:, None], ends[np.searchsorted(documents, block.document)][:, None]
        own = block.target[:, None] + np.arange(1 + OWN)
        others = np.broadcast_to(rng.choice(train.target, size=OTHERS), (len(block), OTHERS))
        barred = np.concatenate([own > end, (others >= first) & (others <= end)], axis=1)
        candidates = unit(gather_rows(vectors, np.concatenate([np.minimum(own, end), others], axis=1)))
        yield (
            np.einsum("nkd,nvd->nkv", features, candidates, optimize=True),
            barred,
            np.einsum("nkd,nld->nkl", features, features, optimize=True),
        )
