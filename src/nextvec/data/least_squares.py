"""Least squares from contexts to targets: what the linear baselines are, and where models start from.

Normal equations are accumulated in float64: float32 sums over tens of thousands of windows were off in the
third digit, and averages are nearly collinear (relative errors of 2e-7 in the sums became 1e-4 in weights).
Shapes: N windows, T chunks of a context, c of them used, D embedding, F = c * D.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nextvec.data.gather import VectorSource, gather_contexts, gather_rows, remembered
from nextvec.data.windows import FloatArray, IntArray, Windows
from nextvec.vectors import unit

Wide = NDArray[np.float64]
Features = Callable[[FloatArray, IntArray], FloatArray]  # contexts [N, T, D], lengths [N] -> [N, K, D]

BLOCK_BYTES = 64 * 2**20
DECAYS = (0.0, 0.5, 0.75, 0.9, 1.0)  # of the exponential averages: from the last vector to the mean of all
BACK = 64  # chunks that the averages read at most
LAMBDAS = (1.0, 10.0, 100.0, 1e3, 1e4, 1e5, 1e6)
MAX_FEATURES = 6144
HELD_OUT = 10
SUMMED_ROWS = 1024  # windows whose products are taken at once
AVERAGED_ROWS = 128  # windows whose averages are made at once


def training_blocks(
    vectors: VectorSource, windows: Windows, width: int
) -> Iterator[tuple[FloatArray, IntArray, FloatArray]]:
    """Pieces of the windows: contexts [B, T, D], lengths [B], targets [B, D], in bounded memory."""
    size = max(1, BLOCK_BYTES // (4 * width * vectors.shape[1]))
    for block in windows.blocks(size):
        width_here = min(width, int(block.read.max()))
        yield *gather_contexts(vectors, block, width_here), gather_rows(vectors, block.target)


def aligned(contexts: FloatArray, lengths: IntArray, width: int) -> FloatArray:
    """The last `width` vectors of each context, [B, width, D], padded with zeros on the left."""
    if contexts.shape[1] == width and (lengths == width).all():
        return contexts
    place = lengths[:, None] - width + np.arange(width)
    taken = np.take_along_axis(contexts, np.maximum(place, 0)[:, :, None], axis=1)
    return np.asarray(np.where((place >= 0)[:, :, None], taken, np.float32(0)), dtype=np.float32)


def exponential_averages(
    contexts: FloatArray, lengths: IntArray, decays: Sequence[float] = DECAYS
) -> FloatArray:
    """Normalised exponential averages of each context, [B, K, D]: one for each of `decays`."""
    age = lengths[:, None] - 1 - np.arange(contexts.shape[1])
    weights = np.stack([np.power(decay, np.maximum(age, 0), dtype=np.float32) for decay in decays], 1)
    weights *= (age >= 0)[:, None]
    weights /= weights.sum(axis=2, keepdims=True)
    return np.asarray(weights @ contexts, dtype=np.float32)


def averaged_blocks(
    vectors: VectorSource, windows: Windows, decays: Sequence[float], back: int
) -> Iterator[tuple[FloatArray, FloatArray]]:
    """Exponential averages [B, K, D] of what each window read, at most `back` chunks of it, and the targets
    [B, D].

    Windows that lie close together share what they read: one product of a banded matrix with the rows between
    their first and last chunk, in place of a context of `back` vectors each.
    """
    powers = np.power(np.asarray(decays)[:, None], np.arange(back))  # [K, ages]
    for block in windows.blocks(AVERAGED_ROWS):
        low = int(np.maximum(block.first, block.last - back + 1).min())
        high = int(block.last.max()) + 1
        if block.task != "next" or high - low > len(block) + 4 * back:
            contexts, lengths = gather_contexts(vectors, block, back)
            yield exponential_averages(contexts, lengths, decays), gather_rows(vectors, block.target)
            continue
        rows = np.arange(low, high)
        age = block.last[:, None] - rows  # [B, R]
        read = (age >= 0) & (age < back) & (rows >= block.first[:, None])
        shares = np.where(read, powers[:, age.clip(0, back - 1)], 0.0).transpose(1, 0, 2)  # [B, K, R]
        shares /= shares.sum(axis=2, keepdims=True)
        near = np.asarray(vectors[low:high], dtype=np.float32)
        yield shares.astype(np.float32) @ near, gather_rows(vectors, block.target)


def least_squares(gram: Wide, moment: Wide) -> Wide:
    """Weights w with gram w = moment; the smallest of them where the features do not determine one."""
    weights, *_ = np.linalg.lstsq(gram, moment, rcond=1e-10)
    return np.asarray(weights)


@dataclass(frozen=True)
class WeightSums:
    """Normal equations for scalar weights on K vectors: gram [K, K] and moment [K], summed over D too."""

    gram: Wide
    moment: Wide

    @classmethod
    def over(cls, vectors: VectorSource, windows: Windows, width: int, features: Features) -> WeightSums:
        """Of the K vectors that `features` makes of each context's last `width` vectors."""
        blocks = training_blocks(vectors, windows, width)
        return cls.summed((features(contexts, lengths), targets) for contexts, lengths, targets in blocks)

    @classmethod
    def summed(cls, pieces: Iterable[tuple[FloatArray, FloatArray]]) -> WeightSums:
        """Of pieces [B, K, D] of the vectors to be weighted, with their targets [B, D]."""
        gram: Wide | float = 0.0
        moment: Wide | float = 0.0
        for made, targets in pieces:
            flat = made.astype(np.float64).transpose(1, 0, 2).reshape(made.shape[1], -1)
            gram = gram + flat @ flat.T
            moment = moment + flat @ targets.ravel().astype(np.float64)
        return cls(np.atleast_2d(gram), np.atleast_1d(moment))

    @classmethod
    def of_positions(cls, vectors: VectorSource, windows: Windows, width: int) -> WeightSums:
        """Of the last `width` vectors themselves, earliest first."""
        return cls.over(vectors, windows, width, lambda contexts, lengths: aligned(contexts, lengths, width))

    def solve(self) -> Wide:
        """[K] weights."""
        return least_squares(self.gram, self.moment)

    def triangle(self) -> Wide:
        """[K, K] position weights for every length: row n - 1 is the solution for the last n vectors alone,
        its column a the weight of the one a steps back."""
        K = len(self.moment)
        table = np.zeros((K, K))
        for n in range(1, K + 1):
            table[n - 1, :n] = least_squares(self.gram[K - n :, K - n :], self.moment[K - n :])[::-1]
        return table


@dataclass
class MapSums:
    """Normal equations for a linear map: X'X [F, F], X'Y [F, D], |Y|^2 and the number of targets."""

    xx: Wide
    xy: Wide
    yy: float
    count: int

    @classmethod
    def over(cls, vectors: VectorSource, windows: Windows, width: int) -> MapSums:
        """Of the last `width` vectors side by side, earliest first."""
        blocks = training_blocks(vectors, windows, width)
        pieces = ((aligned(contexts, lengths, width), targets) for contexts, lengths, targets in blocks)
        return cls.summed(vectors.shape[1], width, pieces)

    @classmethod
    def summed(cls, D: int, K: int, pieces: Iterable[tuple[FloatArray, FloatArray]]) -> MapSums:
        """Of pieces [B, K, D] of the vectors side by side, with their targets [B, D]."""
        F = K * D
        sums = cls(np.zeros((F, F)), np.zeros((F, D)), 0.0, 0)
        # Adding to [F, F] costs as much as a product of a hundred rows: small pieces are put together, in
        # memory that is kept, since fresh pages for each of them took half of the time.
        x, y, products = np.empty((SUMMED_ROWS, F)), np.empty((SUMMED_ROWS, D)), np.empty((F, F))
        held = 0
        for made, targets in pieces:
            flat, done = made.reshape(len(made), F), 0
            while done < len(flat):
                taken = min(len(flat) - done, SUMMED_ROWS - held)
                x[held : held + taken] = flat[done : done + taken]
                y[held : held + taken] = targets[done : done + taken]
                held, done = held + taken, done + taken
                if held == SUMMED_ROWS:
                    sums._add(x, y, products)
                    held = 0
        if held:
            sums._add(x[:held], y[:held], products)
        return sums

    def _add(self, x: Wide, y: Wide, products: Wide) -> None:
        """Add rows [B, F] and targets [B, D]; `products` [F, F] is overwritten."""
        self.xx += np.matmul(x.T, x, out=products)
        self.xy += x.T @ y
        self.yy += float(np.einsum("nd,nd->", y, y))
        self.count += len(y)

    def __add__(self, other: MapSums) -> MapSums:
        return MapSums(self.xx + other.xx, self.xy + other.xy, self.yy + other.yy, self.count + other.count)

    def positions(self) -> WeightSums:
        """The normal equations of the position weights: the traces of the blocks."""
        F, D = self.xy.shape
        blocks = self.xx.reshape(F // D, D, F // D, D)
        return WeightSums(np.einsum("adbd->ab", blocks), np.einsum("add->a", self.xy.reshape(F // D, D, D)))

    def anchor(self) -> Wide:
        """[F, D] the position weights as a matrix."""
        weights = self.positions().solve()
        return np.asarray(np.kron(weights[:, None], np.eye(self.xy.shape[1])), dtype=np.float64)

    def solve(self, anchor: Wide, penalty: float) -> Wide:
        """[F, D] minimum of |Y - X W|^2 + penalty |W - anchor|^2."""
        import torch

        left = torch.from_numpy(self.xx + penalty * np.eye(len(self.xx)))
        right = torch.from_numpy(self.xy - self.xx @ anchor)
        solved: Wide = torch.cholesky_solve(right, torch.linalg.cholesky(left)).numpy()
        return anchor + solved

    def squared_error(self, weights: Wide) -> float:
        """Mean squared error of `weights` on these windows."""
        crossed = float(np.vdot(weights, self.xy))
        fitted = float(np.vdot(weights, self.xx @ weights))
        return (self.yy - 2 * crossed + fitted) / (int(self.xy.shape[1]) * self.count)


@dataclass(frozen=True)
class RidgeFit:
    """A linear map from the last `width` vectors, shrunk towards position weights.

    Attributes:
        matrix: [width * D, D], for the vectors side by side, earliest first, as a row.
        table: [width, width], `WeightSums.triangle` of the windows it was fitted on.
        penalty: the chosen strength, in mean squared lengths of a vector.
        width: how many vectors were used.
    """

    matrix: Wide
    table: Wide
    penalty: float
    width: int


def fit_ridge(vectors: VectorSource, train: Windows, validation: Windows | None, context: int) -> RidgeFit:
    """Ridge regression on the flattened context, shrunk towards the position weights instead of towards zero.

    The normal equations have (context * D)^2 numbers: with more than 6144 inputs only the last positions that
    fit are used. How the strength of the shrinking is chosen: `fit_anchored`.
    """
    width = max(1, min(context, MAX_FEATURES // vectors.shape[1]))
    matrix, penalty, total = fit_anchored(lambda some: MapSums.over(vectors, some, width), train, validation)
    return RidgeFit(matrix, total.positions().triangle(), penalty, width)


@remembered
def fit_ridge_on_averages(vectors: VectorSource, train: Windows, validation: Windows | None) -> AveragesFit:
    """Ridge regression on five exponential averages of what was read, shrunk towards their scalar weights.

    With more than 6144 inputs (5 D) as many averages are used as fit, evenly spread over DECAYS.
    """
    kept = min(len(DECAYS), max(1, MAX_FEATURES // vectors.shape[1]))
    chosen = np.unique(np.linspace(0, len(DECAYS) - 1, kept).round().astype(int)).tolist()
    decays = tuple(DECAYS[i] for i in chosen)

    def sums(some: Windows) -> MapSums:
        pieces = averaged_blocks(vectors, some, decays, BACK)
        return MapSums.summed(vectors.shape[1], len(decays), pieces)

    matrix, penalty, total = fit_anchored(sums, train, validation)
    return AveragesFit(matrix, total.positions().solve(), decays, penalty)


@dataclass(frozen=True)
class AveragesFit:
    """A linear map from K exponential averages, shrunk towards K scalars.

    Attributes:
        matrix: [K * D, D], for the averages side by side, as a row.
        weights: [K] the scalars.
        decays: [K] which averages.
        penalty: the chosen strength, in mean squared lengths of a vector.
    """

    matrix: Wide
    weights: Wide
    decays: tuple[float, ...]
    penalty: float


def fit_anchored(
    sums: Callable[[Windows], MapSums], train: Windows, validation: Windows | None
) -> tuple[Wide, float, MapSums]:
    """The map that minimises |Y - X W|^2 + penalty |W - anchor|^2, the anchor being scalar weights.

    The penalty is chosen by validation mse from powers of ten (times the mean squared length of a vector, so
    that the encoder's scale does not matter); without validation windows every tenth training document is
    held out for the choice.

    Returns: the map [F, D], the penalty, and the normal equations of all training windows.
    """
    if validation is None or len(validation) == 0:
        held = np.isin(train.document, np.unique(train.document)[::HELD_OUT])
        if held.all():
            held = np.arange(len(train)) % HELD_OUT == 0
        unseen, fitted = sums(train.select(held)), sums(train.select(~held))
        total = fitted + unseen
    else:
        unseen = sums(validation)
        total = fitted = sums(train)
    scale = total.yy / total.count
    anchor = fitted.anchor()
    tried = ((fitted.solve(anchor, penalty * scale), penalty) for penalty in LAMBDAS)
    matrix, penalty = min(tried, key=lambda one: unseen.squared_error(one[0]))
    if total is not fitted:
        matrix = total.solve(total.anchor(), penalty * scale)
    return matrix, penalty, total


# A query for ranking from ten numbers: weights on averages of what was read, fitted to put the true next
# chunk before the other chunks that could come.
#
# Shapes: N windows, K features, D embedding, V candidates.

RANKING_DECAYS = (0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0)
RANKING_BACK = 256  # chunks that are read at most
FITTED_WINDOWS = 4096  # of more, evenly spaced ones are fitted on
OTHERS = 64  # candidates from anywhere in training, besides the unread chunks of the same document
OWN = 192  # of these, the nearest that come
SHARPNESS = 10.0  # what a cosine is multiplied with, before it is fitted
MOST = 20.0  # of its logarithm: windows that are all ranked right pull it towards infinity
RANKED_ROWS = 64


def ranking_features(contexts: FloatArray, lengths: IntArray, mean: FloatArray) -> FloatArray:
    """[B, 10, D]: eight exponential averages of the directions read, the earliest of them, and `mean` [D]."""
    directions = unit(contexts)
    averages = exponential_averages(directions, lengths, RANKING_DECAYS)
    constant = np.broadcast_to(mean, (len(lengths), 1, len(mean)))
    return np.concatenate([averages, directions[:, :1], constant], axis=1, dtype=np.float32)


@dataclass(frozen=True)
class ListwiseFit:
    """Weights [10] on `ranking_features`, the direction `mean` [D] among them, and the fitted sharpness of
    the softmax."""

    weights: Wide
    mean: FloatArray
    sharpness: float


@remembered
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
        w, sharpness = torch.from_numpy(flat[:-1]).float(), float(np.exp(min(flat[-1], MOST)))
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
    return ListwiseFit(weights, mean, float(np.exp(min(found[-1], MOST))))


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
    for block in some.blocks(RANKED_ROWS):
        contexts, lengths = gather_contexts(vectors, block, min(RANKING_BACK, int(block.read.max())))
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
