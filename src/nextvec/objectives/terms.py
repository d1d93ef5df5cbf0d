"""What a loss term is, and the table of all of them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar

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
            raise ConfigError(
                f"{self.needs_statistics(self.config)} needs the encoder's statistics, and none are given",
                where=f"loss.{self.name}",
                remedy="give the objective those of the training vectors",
            )
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
