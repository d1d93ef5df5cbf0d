"""Whether the training documents hold what the loss is to be computed from, asked before training starts."""

from __future__ import annotations

from collections.abc import Iterable

from nextvec.errors import ConfigError
from nextvec.objectives.config import LossConfig


def check_material(
    config: LossConfig,
    targets_per_document: Iterable[int],
    batch_size: int,
    *,
    targets_per_window: int = 1,
    windows_per_document: int = 0,
    broken: float = 0.0,
) -> None:
    """Refuse a loss that this data can give nothing for.

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
    if config.hard_negatives and max(counts, default=0) < 2:
        raise ConfigError(
            "no training document has a second target that could be a hard negative",
            where="loss.hard_negatives",
            remedy="set it to false, lower data.min_context or data.horizons, or ingest longer documents",
        )
    if config.hard_negatives and windows_per_document * targets_per_window == 1:
        raise ConfigError(
            "a batch holds one target of a document, which has no hard negative then",
            where="loss.hard_negatives",
            remedy="set it to false, or raise data.max_per_document",
        )
    if config.infonce and not config.hard_negatives and len(counts) < 2:
        raise ConfigError(
            "only one training document has targets, and its own are no negatives",
            where="loss.infonce",
            remedy="train on more documents, or set loss.hard_negatives = true",
        )
    if config.infonce and not config.bank and (one or (batch_size == 1 and not config.hard_negatives)):
        raise ConfigError(
            "a batch of 1 holds no negatives",
            where="loss.infonce",
            remedy="raise optim.batch_size, or set loss.bank",
        )
    for name in ("variance", "moment", "mmd"):
        if getattr(config, name) and one:
            raise ConfigError(
                "a batch of 1 target has no spread", where=f"loss.{name}", remedy="raise optim.batch_size"
            )
    if config.continuation and not broken:
        raise ConfigError(
            "no continuation is broken, so that there is nothing to tell apart",
            where="loss.continuation",
            remedy="set data.broken above 0",
        )
