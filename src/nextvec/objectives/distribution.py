"""The predictions of a batch as a whole against the encoder's own vectors: how much they vary, dimension by
dimension, and the maximum mean discrepancy of the two sets."""

from __future__ import annotations

import torch
from torch import Tensor

from nextvec.objectives.config import LossConfig
from nextvec.objectives.sample import Sample, Statistics
from nextvec.objectives.terms import Term, term

FLOOR = 1e-12
"""Under the root of a variance: a dimension that does not vary at all has a gradient of 0 and not NaN."""


def spread(rows: Tensor) -> Tensor:
    """Std of every dimension of rows [N, D] (N - 1 below the line) -> [D]."""
    return (rows.var(dim=0) + FLOOR).sqrt()


@term("variance")
class Variance(Term):
    """Variance regulariser (VICReg, Bardes et al. 2022, eq. 1, on unit vectors): a dimension in which the
    batch's predictions vary too little is pushed apart.

    Form "encoder": the shortfall relu(gamma e_d - std_d) against gamma times the encoder's own std e_d, mean
    over dimensions over the mean of e_d. So 0 says that they vary like the encoder's vectors, gamma that they
    are all the same, whatever D is. The best predictor of a noisy process varies less than its targets, and
    pays.

    Form "brief": mean over dimensions of relu(1 - std_d). Unit vectors have std_d near 1 / sqrt(D), so that
    it is always on, near 1, and asks for what no unit vectors can give.

    0 for a batch of fewer than two positions.
    """

    goal: Tensor

    @classmethod
    def needs_statistics(cls, config: LossConfig) -> str:
        return 'loss.variance_form "encoder"' if config.variance_form == "encoder" else ""

    def __init__(self, config: LossConfig, statistics: Statistics | None) -> None:
        """
        Raises:
            ConfigError: form "encoder" without statistics.
        """
        super().__init__(config, statistics)
        if self.needs_statistics(config):
            self.register_buffer("goal", self.known(statistics).unit_std.clone())

    def forward(self, sample: Sample) -> Tensor:
        if sample.count < 2:
            return sample.zero
        if self.config.variance_form == "brief":
            return torch.relu(1.0 - spread(sample.unit)).mean()
        goal = self.goal.to(sample.dtype)
        shortfall = torch.relu(self.config.variance_gamma * goal - spread(sample.unit))
        return shortfall.mean() / goal.mean()


@term("moment")
class Moment(Term):
    """Moment matching (the brief's): with m and s the mean and std of every dimension over the batch's raw
    predictions, and M and S those of the encoder's training vectors,

        mean of (m - M)^2 + mean of (s - S)^2   over dimensions.

    0 for a batch of fewer than two positions.
    """

    target_mean: Tensor
    target_std: Tensor

    @classmethod
    def needs_statistics(cls, config: LossConfig) -> str:
        return "moment matching"

    def __init__(self, config: LossConfig, statistics: Statistics | None) -> None:
        """
        Raises:
            ConfigError: no statistics.
        """
        super().__init__(config, statistics)
        known = self.known(statistics)
        self.register_buffer("target_mean", known.mean.clone())
        self.register_buffer("target_std", known.std.clone())

    def forward(self, sample: Sample) -> Tensor:
        if sample.count < 2:
            return sample.zero
        mean, std = (values.to(sample.dtype) for values in (self.target_mean, self.target_std))
        off = (sample.raw.mean(dim=0) - mean).square() + (spread(sample.raw) - std).square()
        return off.mean()


WIDEST, HALVINGS = 4.0, 4
"""The kernels' squared widths: 4, 2, 1, 1/2 and 1/4 times the mean squared distance of encoder vectors."""


def kernel(x: Tensor, y: Tensor, distance: Tensor) -> Tensor:
    """Mixture of RBF kernels, the mean over the widths w of exp(-|x - y|^2 / 2w): [N, D] x [R, D] -> [N, R].

    Args:
        distance: scalar, the mean squared distance that the widths are multiples of.
    """
    squared = x.square().sum(dim=1)[:, None] + y.square().sum(dim=1) - 2.0 * x @ y.T
    value = torch.exp(-squared.clamp(min=0.0) / (2.0 * WIDEST * distance))
    total = value
    for _ in range(HALVINGS):
        # Half the width is the square of the value: one exponential for all of them.
        value = value.square()
        total = total + value
    return total / (1 + HALVINGS)


def within_biased(gram: Tensor) -> Tensor:
    """Mean of a Gram matrix [N, N], every vector with itself included."""
    return gram.mean()


def within_unbiased(gram: Tensor) -> Tensor:
    """Mean of a Gram matrix [N, N] over pairs of two."""
    N = len(gram)
    return (gram.sum() - gram.diagonal().sum()) / (N * (N - 1))


WITHIN = {"biased": within_biased, "unbiased": within_unbiased}


def mmd_squared(x: Tensor, y: Tensor, distance: Tensor, estimator: str) -> Tensor:
    """MMD^2 of x [N, D] and y [R, D] (Gretton et al. 2012): eq. 5 "biased" or eq. 3 "unbiased" -> scalar."""
    within = WITHIN[estimator]
    return (
        within(kernel(x, x, distance)) + within(kernel(y, y, distance)) - 2.0 * kernel(x, y, distance).mean()
    )


def mean_distance(rows: Tensor) -> Tensor:
    """Mean squared distance between two different ones of rows [R, D] -> scalar."""
    return 2.0 * rows.var(dim=0).sum()


@term("mmd")
class Discrepancy(Term):
    """MMD^2 between the batch's raw predictions and encoder vectors, with a mixture of RBF kernels.

    The encoder's side is a fixed sample of the training vectors, or the batch's own targets (`mmd_against`).
    Both sides are cut to `mmd_rows`; of more predictions evenly spaced ones are taken. 0 for a batch of fewer
    than two positions.
    """

    rows: Tensor
    distance: Tensor
    within_rows: Tensor

    @classmethod
    def needs_statistics(cls, config: LossConfig) -> str:
        return 'loss.mmd_against "encoder"' if config.mmd_against == "encoder" else ""

    def __init__(self, config: LossConfig, statistics: Statistics | None) -> None:
        """
        Raises:
            ConfigError: against the encoder's vectors, and no statistics.
        """
        super().__init__(config, statistics)
        if self.needs_statistics(config):
            rows = self.known(statistics).some(config.mmd_rows)
            distance = mean_distance(rows)
            self.register_buffer("rows", rows)
            self.register_buffer("distance", distance)
            self.register_buffer("within_rows", WITHIN[config.mmd_estimator](kernel(rows, rows, distance)))

    def forward(self, sample: Sample) -> Tensor:
        if sample.count < 2:
            return sample.zero
        estimator, most = self.config.mmd_estimator, self.config.mmd_rows
        step = -(-sample.count // most)
        predicted, goal = sample.raw[::step], sample.goal[::step]
        if self.config.mmd_against == "batch":
            return mmd_squared(predicted, goal, mean_distance(goal).clamp(min=1e-12), estimator)
        rows, distance = self.rows.to(sample.dtype), self.distance.to(sample.dtype)
        across = kernel(predicted, rows, distance).mean()
        return WITHIN[estimator](kernel(predicted, predicted, distance)) + self.within_rows - 2.0 * across
