"""What a loss term is, the table of all of them, and regression onto the next vector."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from nextvec.errors import ConfigError
from nextvec.objectives.config import LossConfig
from nextvec.objectives.sample import Sample, Statistics


class Term(nn.Module):
    """One term of the loss: `forward(sample)` gives a scalar, before its weight.

    It looks at positions that count and at nothing else, computes in `sample.dtype`, and stays in the graph
    of the predictions even where it has nothing to say (`sample.zero`). What it learns is a parameter, what
    it remembers a saved buffer that changes in training mode only.
    """

    name: ClassVar[str]
    """As the configuration weighs it."""

    def __init__(self, config: LossConfig, statistics: Statistics | None) -> None:
        """
        Raises:
            ConfigError: the term needs to know the encoder's vectors, and `statistics` is None.
        """
        super().__init__()
        self.config = config

    @abstractmethod
    def forward(self, sample: Sample) -> Tensor:
        """Scalar."""

    @classmethod
    def needs_statistics(cls, config: LossConfig) -> str:
        """What of the configuration asks for the encoder's statistics, in words; empty where nothing does."""
        return ""

    def known(self, statistics: Statistics | None) -> Statistics:
        """The statistics, or ConfigError that says what they are needed for."""
        if statistics is None:
            message = (
                f"{self.needs_statistics(self.config)} needs the encoder's statistics, and none are given"
            )
            remedy = "give the objective those of the training vectors"
            raise ConfigError(message, where=f"loss.{self.name}", remedy=remedy)
        return statistics


TERMS: dict[str, type[Term]] = {}
"""Every term that a configuration can weigh, by name."""


def term(name: str) -> Callable[[type[Term]], type[Term]]:
    """Register a class as the term `name`; `LossConfig` has a weight of that name. The class may stand in any
    file of this package: `combine` imports them all."""

    def register(cls: type[Term]) -> type[Term]:
        if name not in LossConfig().weights():
            raise ValueError(f"term '{name}' has no weight: add `{name}: float = weight(0.0)` to LossConfig")
        if name in TERMS:
            raise ValueError(f"term '{name}' is {TERMS[name].__qualname__} already")
        cls.name = name
        TERMS[name] = cls
        return cls

    return register


@term("mse")
class MeanSquaredError(Term):
    """Mean over positions **and dimensions** of (prediction - target)^2.

    This is the brief's loss ("0.0005" at D = 768 and unit norm): for unit vectors it is 2 (1 - cos) / D, so
    its size, and that of its gradient, fall with the dimension.
    """

    def forward(self, sample: Sample) -> Tensor:
        return sample.mean((sample.raw - sample.goal).square().mean(dim=-1))


@term("mse_sum")
class SummedSquaredError(Term):
    """Mean over positions of the squared distance |prediction - target|^2: D times `mse`."""

    def forward(self, sample: Sample) -> Tensor:
        return sample.mean((sample.raw - sample.goal).square().sum(dim=-1))


@term("cosine")
class Cosine(Term):
    """Mean over positions of 1 - cos(prediction, target); it leaves the prediction's norm free."""

    def forward(self, sample: Sample) -> Tensor:
        return sample.mean(1.0 - sample.cosines)


@term("huber")
class Huber(Term):
    """Mean over positions and dimensions of r^2 / 2 where |r| <= delta, else delta (|r| - delta / 2)."""

    def forward(self, sample: Sample) -> Tensor:
        errors = F.huber_loss(sample.raw, sample.goal, reduction="none", delta=self.config.huber_delta)
        return sample.mean(errors.mean(dim=-1))


def cosine_similarity(prediction: Tensor, target: Tensor) -> Tensor:
    """cos(prediction, target) of every position, in the target's precision: [..., D] x [..., D] -> [...]."""
    return F.cosine_similarity(prediction.to(target.dtype), target, dim=-1)
