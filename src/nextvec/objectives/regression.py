"""Regression onto the next vector: means over the positions that count."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from nextvec.objectives.sample import Sample
from nextvec.objectives.terms import Term, term


@term("mse")
class MeanSquaredError(Term):
    """Mean over positions **and dimensions** of (prediction - target)^2.

    This is the brief's loss ("0.0005" at D = 768 and unit norm): for unit vectors it is 2 (1 - cos) / D, so
    its size, and that of its gradient, fall with the dimension.
    """

    def forward(self, sample: Sample) -> Tensor:
        """Scalar."""
        return sample.mean((sample.raw - sample.goal).square().mean(dim=-1))


@term("mse_sum")
class SummedSquaredError(Term):
    """Mean over positions of the squared distance |prediction - target|^2: D times `mse`."""

    def forward(self, sample: Sample) -> Tensor:
        """Scalar."""
        return sample.mean((sample.raw - sample.goal).square().sum(dim=-1))


@term("cosine")
class Cosine(Term):
    """Mean over positions of 1 - cos(prediction, target); it leaves the prediction's norm free."""

    def forward(self, sample: Sample) -> Tensor:
        """Scalar."""
        return sample.mean(1.0 - sample.cosines)


@term("huber")
class Huber(Term):
    """Mean over positions and dimensions of r^2 / 2 where |r| <= delta, else delta (|r| - delta / 2)."""

    def forward(self, sample: Sample) -> Tensor:
        """Scalar."""
        errors = F.huber_loss(sample.raw, sample.goal, reduction="none", delta=self.config.huber_delta)
        return sample.mean(errors.mean(dim=-1))


def cosine_similarity(prediction: Tensor, target: Tensor) -> Tensor:
    """cos(prediction, target) of every position, in the target's precision: [..., D] x [..., D] -> [...]."""
    return F.cosine_similarity(prediction.to(target.dtype), target, dim=-1)
