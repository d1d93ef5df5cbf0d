"""What probability theory says of linear predictors in the worlds.

Notation, per dimension: a vector is x_s = a m + b z_s with a^2 = COMMON, a^2 + b^2 = 1, m and z of mean
square 1, and E[z_s z_{s+k}] = c(k), the world's `correlation`. A prediction of the target x_t is

    p = centre a m + b sum_k weights[k] z_{t+k} + own e,      e independent of everything.

In D dimensions the cosine of p and a chunk is nearly (to 2/D) that of these moments. In the rotation world
it is exactly that where own = 0, since there each document's sums over the dimensions are the moments.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from nextvec.selfcheck.worlds import COMMON, World

Wide = NDArray[np.float64]
A2, B2 = COMMON, 1 - COMMON


@dataclass(frozen=True)
class LinearAnswer:
    """A prediction as above.

    Attributes:
        own: variance a dimension of the part that is independent of everything.
    """

    centre: float
    weights: Mapping[int, float] = field(default_factory=dict)
    own: float = 0.0


AnswerMixture = Sequence[tuple[float, LinearAnswer]]
"""A predictor that gives one answer or another: shares of the windows (sum 1) and answers."""


def chunk(k: int) -> LinearAnswer:
    return LinearAnswer(1.0, {k: 1.0})


def stranger() -> LinearAnswer:
    """A chunk of another document: the common part, and the rest independent."""
    return LinearAnswer(1.0, {}, B2)


class Theory:
    """Moments, cosines and the spread of cosines of answers in one world."""

    def __init__(self, world: World) -> None:
        self.world = world

    def moving(self, one: LinearAnswer, other: LinearAnswer | None = None) -> float:
        """b^2 E[(sum weights z)(sum weights' z)]; of an answer with itself where no other is given."""
        second = one if other is None else other
        return B2 * sum(
            v * w * self.world.correlation(k - i)
            for (k, v), (i, w) in itertools.product(one.weights.items(), second.weights.items())
        )

    def product(self, one: LinearAnswer, other: LinearAnswer) -> float:
        """E[p p'] a dimension, for two different answers."""
        return A2 * one.centre * other.centre + self.moving(one, other)

    def energy(self, one: LinearAnswer) -> float:
        """E[p^2] a dimension."""
        return self.product(one, one) + one.own

    def error(self, one: LinearAnswer) -> float:
        """E(p - x_t)^2 a dimension: E p^2 + E x^2 - 2 E p x, and E x^2 = 1."""
        return self.energy(one) + 1 - 2 * self.product(one, chunk(0))

    def variance(self, one: LinearAnswer) -> float:
        """Variance of p a dimension, over windows."""
        return self.moving(one) + one.own

    def cosine(self, one: LinearAnswer, other: LinearAnswer) -> float:
        below = self.energy(one) * self.energy(other)
        return self.product(one, other) / math.sqrt(below) if below > 0 else 0.0

    def spread(self, one: LinearAnswer, other: LinearAnswer) -> float:
        """Standard deviation over windows of that cosine.

        In the rotation world only parts that are independent make a cosine vary: their dot product over D
        has the variance P Q / D, P and Q their mean squares. Otherwise by the delta method, see `_spread`.
        """
        if self.world.deterministic:
            below = self.energy(one) * self.energy(other) * self.world.D
            free = one.own * self.energy(other) + other.own * self.moving(one)
            return math.sqrt(free / below) if below > 0 else 0.0
        moments, gaussian, means = self._joint([one, other])
        return self._spread(_gradient(moments, 0, 1), gaussian, means)

    def beats(self, answer: LinearAnswer, rival: LinearAnswer) -> float:
        """Probability that `rival` is nearer to the answer than the target is.

        Normal approximation to cos(p, rival) - cos(p, target).
        """
        target = chunk(0)
        gap = self.cosine(answer, rival) - self.cosine(answer, target)
        if self.world.deterministic:
            spread = self.spread(answer, rival)
        else:
            moments, gaussian, means = self._joint([answer, target, rival])
            slope = _gradient(moments, 0, 2) - _gradient(moments, 0, 1)
            spread = self._spread(slope, gaussian, means)
        return above(gap, spread)

    def _joint(self, answers: Sequence[LinearAnswer]) -> tuple[Wide, Wide, Wide]:
        """Second moments [n, n], covariance [n, n] and means (in units of m) [n], a dimension."""
        means = np.array([math.sqrt(A2) * x.centre for x in answers])
        gaussian = np.array([[self.moving(x, y) for y in answers] for x in answers])
        gaussian += np.diag([x.own for x in answers])
        return gaussian + np.outer(means, means), gaussian, means

    def _spread(self, slope: Wide, gaussian: Wide, means: Wide) -> float:
        """Standard deviation of a function of the second moments T = mean over D dimensions of v v'.

        To first order it varies as tr(slope T). v is Gaussian with covariance C and mean u, so that
        var(v' S v) = 2 tr(S C S C) + 4 u' S C S u (Searle, Linear Models, 1971, section 2.5).
        """
        turned = slope @ gaussian
        variance = 2 * float(np.trace(turned @ turned)) + 4 * float(means @ turned @ slope @ means)
        return math.sqrt(max(variance, 0.0) / self.world.D)


def _gradient(moments: Wide, i: int, j: int) -> Wide:
    """Derivative of cos = T_ij / sqrt(T_ii T_jj) with respect to the symmetric matrix T."""
    slope = np.zeros_like(moments)
    if moments[i, i] <= 0 or moments[j, j] <= 0:
        return slope
    cosine = moments[i, j] / math.sqrt(moments[i, i] * moments[j, j])
    slope[i, j] = slope[j, i] = 0.5 / math.sqrt(moments[i, i] * moments[j, j])
    slope[i, i] -= cosine / (2 * moments[i, i])
    slope[j, j] -= cosine / (2 * moments[j, j])
    return slope


def above(mean: float, spread: float) -> float:
    """Probability that a normal variable is above 0; a constant is or is not."""
    if spread < 1e-9:
        return float(mean > 1e-9)
    return 0.5 * math.erfc(-mean / (spread * math.sqrt(2)))


def best_weights(world: World, read: int, ahead: int = 1) -> dict[int, float]:
    """Weights of the best linear prediction of z_{t + ahead - 1} from the `read` chunks before the target.

    The normal equations (Wiener): E[z z'] w = E[z target]. For Gaussian processes no predictor is better, and
    the Kalman filter gives the same prediction by a recursion, so this checks that, too.
    """
    offsets = [-i for i in range(1, read + 1)]
    gram = [[world.correlation(i - j) for j in offsets] for i in offsets]
    cross = [world.correlation(ahead - 1 - i) for i in offsets]
    return dict(zip(offsets, np.linalg.solve(gram, cross).tolist(), strict=True))


def best_cosine(world: World, ahead: int = 1) -> float:
    """Cosine of the best prediction of the chunk `ahead` after the last one read, of a whole document."""
    if world.deterministic:
        return 1.0
    best = LinearAnswer(1.0, best_weights(world, world.evaluated.shape[1], ahead))
    return Theory(world).cosine(best, chunk(ahead - 1))


def mean_error(world: World) -> float:
    """Variance a dimension of the mean of n documents of T chunks about a m.

    Their z do not cancel quite: b^2 / (n T) sum_k c(k) (1 - |k| / T) is left.
    """
    n, T, _ = world.trained.shape
    total = sum((1 - abs(k) / T) * world.correlation(k) for k in range(1 - T, T))
    return float(B2 * total / (n * T))
