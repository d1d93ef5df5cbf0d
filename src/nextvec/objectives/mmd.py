"""Maximum mean discrepancy: two sets of vectors compared as wholes."""

from __future__ import annotations

import torch
from torch import Tensor

from nextvec.objectives.config import LossConfig
from nextvec.objectives.sample import Sample, Statistics
from nextvec.objectives.terms import Term, term

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
        """Scalar."""
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
