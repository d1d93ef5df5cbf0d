"""The section `[loss]` of a configuration: the weight of every term, and what the terms can be told."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

from nextvec.errors import ConfigError

OWN = "generative"
"""The loss that a model computes itself and hands over; its weight counts only where the model has one."""
TEMPERATURES = (0.01, 1.0)
"""Bounds of the temperature: a learned one would otherwise run away to where the softmax saturates."""


def weight(default: float) -> Any:
    """A field that is the weight of the term of its name."""
    return dataclasses.field(default=default, metadata={"weight": True})


@dataclass(frozen=True)
class LossConfig:
    """Weights of the terms (`nextvec.objectives`; 0 switches a term off) and their options.

    Attributes:
        mse: squared error, mean over dimensions (the brief's loss).
        mse_sum: squared error, sum over dimensions: D times `mse`.
        cosine: 1 - cos.
        huber: squared up to `huber_delta`, linear beyond.
        infonce: symmetric InfoNCE, the sum of both directions.
        context: the answer told from the chunks that were read (CSLoss).
        variance: relu(gamma - std) of the unit predictions, per dimension.
        moment: mean and std of the predictions against the encoder's, per dimension.
        mmd: squared maximum mean discrepancy between predictions and encoder vectors.
        continuation: cross-entropy of the model's confidence that a continuation is the true one.
        generative: the model's own generative loss, where it has one.
        temperature: of `infonce` and `context`.
        learn_temperature: the temperature of `infonce` is learned, from `temperature` on, within [0.01, 1].
        hard_negatives: other targets of the same document are negatives of `infonce` too.
        bank: this many of the latest targets are further negatives of `infonce`; 0 keeps none.
        near_duplicate: what has at least this cosine to the true target is no negative, whatever else it is;
            1 spares only copies.
        huber_delta: in the network's scale, in which components are about 1 (scaling "component") or about
            1 / sqrt(D) (scaling "norm").
        variance_form: "encoder" compares with the std of the encoder's own unit vectors; "brief" is
            relu(1 - std), which is always on: unit vectors have a std near 1 / sqrt(D).
        variance_gamma: share of the encoder's std that a dimension has to reach (form "encoder").
        mmd_against: a fixed sample of the encoder's training vectors, or the batch's own targets.
        mmd_estimator: "biased" is never negative and 0 for equal samples; "unbiased" is right on average.
        mmd_rows: encoder vectors, and predictions of a batch, that `mmd` compares at most.
    """

    mse: float = weight(1.0)
    mse_sum: float = weight(0.0)
    cosine: float = weight(0.0)
    huber: float = weight(0.0)
    infonce: float = weight(0.0)
    context: float = weight(0.0)
    variance: float = weight(0.0)
    moment: float = weight(0.0)
    mmd: float = weight(0.0)
    continuation: float = weight(0.0)
    generative: float = weight(1.0)
    temperature: float = 0.07
    learn_temperature: bool = False
    hard_negatives: bool = False
    bank: int = 0
    near_duplicate: float = 0.98
    huber_delta: float = 1.0
    variance_form: Literal["encoder", "brief"] = "encoder"
    variance_gamma: float = 1.0
    mmd_against: Literal["encoder", "batch"] = "encoder"
    mmd_estimator: Literal["biased", "unbiased"] = "biased"
    mmd_rows: int = 1024

    def __post_init__(self) -> None:
        for name, value in self.weights().items():
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"the weight {name} is {value}; give a weight >= 0")
        low, high = TEMPERATURES
        if not low <= self.temperature <= high:
            raise ValueError(f"temperature is {self.temperature}; it must be within [{low}, {high}]")
        if not 0 < self.near_duplicate <= 1:
            raise ValueError(f"near_duplicate is {self.near_duplicate}; it is a cosine in (0, 1]")
        for name in ("huber_delta", "variance_gamma"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")
        for name, least, most in (("bank", 0, 2**20), ("mmd_rows", 2, 2**16)):
            if not least <= getattr(self, name) <= most:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be {least} to {most}")
        asked = [n for n in ("learn_temperature", "hard_negatives", "bank") if getattr(self, n)]
        if asked and not self.infonce:
            raise ValueError(f"{asked[0]} is set, but infonce has no weight; give it one, or leave it out")

    def weights(self) -> dict[str, float]:
        """Name of a term -> weight, zeros included."""
        weighed = (f.name for f in dataclasses.fields(self) if f.metadata.get("weight"))
        return {name: getattr(self, name) for name in weighed}

    def active(self, *, generative: bool = False) -> dict[str, float]:
        """Name -> weight of the terms that count, for a model with or without a loss of its own.

        Raises:
            ConfigError: none does, so that nothing would be learned.
        """
        known = {name: value for name, value in self.weights().items() if name != OWN or generative}
        found = {name: value for name, value in known.items() if value > 0}
        if not found:
            raise ConfigError(
                "every loss weight is zero: nothing would be learned",
                where="loss",
                remedy=f"give one of {', '.join(f'loss.{name}' for name in known)} a weight above 0",
            )
        return found
