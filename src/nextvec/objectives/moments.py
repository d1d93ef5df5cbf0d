"""How much the predictions vary, dimension by dimension, against the encoder's own vectors."""

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
        """Scalar."""
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
        """Scalar."""
        if sample.count < 2:
            return sample.zero
        mean, std = (values.to(sample.dtype) for values in (self.target_mean, self.target_std))
        off = (sample.raw.mean(dim=0) - mean).square() + (spread(sample.raw) - std).square()
        return off.mean()
