"""The section `[loss]` of a configuration: the weight of every term, and what the terms can be told."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from nextvec.config import Checked, number
from nextvec.errors import ConfigError

OWN = "generative"
"""The loss that a model computes itself and hands over; its weight counts only where the model has one."""
TEMPERATURES = (0.01, 1.0)
"""Bounds of the temperature: a learned one would otherwise run away to where the softmax saturates."""


def weight(default: float) -> Any:
    """A field that is the weight of the term of its name."""
    return number(default, least=0, weight=True)


@dataclass(frozen=True)
class LossConfig(Checked):
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
        listwise: softmax of the query over what is unread and other documents' chunks; needs a model with
            `ranking`.
        continuation: cross-entropy of the model's confidence that a continuation is the true one.
        generative: the model's own generative loss, where it has one.
        temperature: of `infonce`, `context` and `listwise`.
        learn_temperature: the temperature of `infonce` is learned, from `temperature` on, within [0.01, 1].
        hard_negatives: other targets of the same document, as far as the batch has them, are negatives of
            `infonce` too.
        drawn_negative: one more target of the same document, drawn at random from all of it, is a negative of
            each position of `infonce`.
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
    listwise: float = weight(0.0)
    continuation: float = weight(0.0)
    generative: float = weight(1.0)
    temperature: float = number(0.07, least=TEMPERATURES[0], most=TEMPERATURES[1])
    learn_temperature: bool = False
    hard_negatives: bool = False
    drawn_negative: bool = False
    bank: int = number(0, least=0, most=2**20)
    near_duplicate: float = number(0.98, above=0, most=1)
    huber_delta: float = number(1.0, above=0)
    variance_form: Literal["encoder", "brief"] = "encoder"
    variance_gamma: float = number(1.0, above=0)
    mmd_against: Literal["encoder", "batch"] = "encoder"
    mmd_estimator: Literal["biased", "unbiased"] = "biased"
    mmd_rows: int = number(1024, least=2, most=2**16)

    def __post_init__(self) -> None:
        super().__post_init__()
        of_infonce = ("learn_temperature", "hard_negatives", "drawn_negative", "bank")
        options = [name for name in of_infonce if getattr(self, name)]
        if options and not self.infonce:
            raise ValueError(f"{options[0]} is set, but infonce has no weight; give it one, or leave it out")

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
            message = "every loss weight is zero: nothing would be learned"
            remedy = f"give one of {', '.join(f'loss.{name}' for name in known)} a weight above 0"
            raise ConfigError(message, where="loss", remedy=remedy)
        return found


def check_data(
    config: LossConfig,
    targets_per_document: Iterable[int],
    batch_size: int,
    *,
    targets_per_window: int = 1,
    windows_per_document: int = 0,
    broken: float = 0.0,
) -> None:
    """Refuse, before training starts, a loss that there is nothing in the documents to compute from.

    Args:
        targets_per_document: of every training document, zeros included.
        batch_size: full windows in a batch.
        targets_per_window: targets of a full window.
        windows_per_document: of one document in a batch at most; 0 sets no limit.
        broken: the share of windows whose continuation is broken.
    Raises:
        ConfigError: with the term or option at fault.
    """
    counts = [count for count in targets_per_document if count > 0]
    one = batch_size * targets_per_window == 1
    hard = [name for name in ("hard_negatives", "drawn_negative") if getattr(config, name)]
    if hard and max(counts, default=0) < 2:
        message = "no training document has a second target that could be a hard negative"
        remedy = "set it to false, lower data.min_context or data.horizons, or ingest longer documents"
        raise ConfigError(message, where=f"loss.{hard[0]}", remedy=remedy)
    if config.hard_negatives and windows_per_document * targets_per_window == 1:
        message = "a batch holds one target of a document, which has no hard negative then"
        remedy = "set it to false, or raise data.max_per_document"
        raise ConfigError(message, where="loss.hard_negatives", remedy=remedy)
    if config.infonce and not hard and len(counts) < 2:
        message = "only one training document has targets, and its own cannot be negatives"
        remedy = "train on more documents, or set loss.hard_negatives = true"
        raise ConfigError(message, where="loss.infonce", remedy=remedy)
    alone = one or (batch_size == 1 and not config.hard_negatives)
    if config.infonce and not config.bank and not config.drawn_negative and alone:
        message = "a batch of 1 holds no negatives"
        raise ConfigError(message, where="loss.infonce", remedy="raise optim.batch_size, or set loss.bank")
    for name in ("variance", "moment", "mmd"):
        if getattr(config, name) and one:
            message = "a batch of 1 target has no spread"
            raise ConfigError(message, where=f"loss.{name}", remedy="raise optim.batch_size")
    if config.continuation and not broken:
        message = "no continuation is broken, so that there is nothing to tell apart"
        raise ConfigError(message, where="loss.continuation", remedy="set data.broken above 0")
