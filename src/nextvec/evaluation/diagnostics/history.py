"""A run's history as the diagnosis reads it: every line checked, so that a damaged one is named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nextvec.errors import RunError

NEEDED = {"train": ("loss", "cosine"), "validation": ("loss", "cosine")}


@dataclass(frozen=True)
class Epoch:
    """One line of history.jsonl.

    Attributes:
        update: optimiser steps done by the end of the epoch.
        train, validation: figure -> value; "loss", "cosine" and, one a term, "loss.<term>" at least.
        lr: of the epoch's last update.
        gradient_norm: mean over the epoch's updates, before clipping.
        term_gradients: term -> norm of its weighted gradient at the epoch's first batch.
        seconds: of the run so far; train_seconds: of this epoch's updates alone.
        positions: targets trained on in this epoch.
    """

    epoch: int
    update: int
    train: dict[str, float]
    validation: dict[str, float]
    lr: float
    gradient_norm: float
    term_gradients: dict[str, float]
    seconds: float
    train_seconds: float
    positions: int

    @classmethod
    def from_json(cls, line: Mapping[str, Any], where: str) -> Epoch:
        """Check one line. Raises RunError naming `where` (file:line) and the key."""
        figures = {name: _numbers(line, name, where) for name in NEEDED}
        for name, keys in NEEDED.items():
            for key in keys:
                _number(figures[name], key, where, f"{name}.{key}")
        return cls(
            epoch=_whole(line, "epoch", where),
            update=_whole(line, "update", where),
            train=figures["train"],
            validation=figures["validation"],
            lr=_number(line, "lr", where),
            gradient_norm=_number(line, "gradient_norm", where),
            term_gradients=_numbers(line, "term_gradient_norms", where),
            seconds=_number(line, "seconds", where),
            train_seconds=_number(line, "train_seconds", where),
            positions=_whole(line, "positions", where),
        )

    @property
    def terms(self) -> tuple[str, ...]:
        """The loss terms, without the prefix."""
        return tuple(k.removeprefix("loss.") for k in self.train if k.startswith("loss."))

    @property
    def speed(self) -> float:
        """Targets a second while training."""
        return self.positions / max(self.train_seconds, 1e-9)


@dataclass(frozen=True)
class RunRecord:
    """What a run folder says of its training.

    Attributes:
        rates: the learning rate planned for the last update of each epoch; None where the run does not say
            how long it was meant to be.
        planned_epochs, clip, schedule: from its configuration.
        targets: training targets of one epoch; None where the run does not say.
        stopped: why it ended; None while it is unfinished.
        best_epoch, best_cosine: what its result claims; None while it is unfinished.
        device, precision: what it computed on, and in.
    """

    run: str
    model: str
    epochs: tuple[Epoch, ...]
    rates: tuple[float, ...] | None
    planned_epochs: int
    schedule: str
    clip: float
    targets: int | None
    stopped: str | None
    best_epoch: int | None
    best_cosine: float | None
    device: str
    precision: str

    @property
    def best(self) -> Epoch:
        """The epoch of the highest validation cosine, the first of equals."""
        return max(self.epochs, key=lambda e: e.validation["cosine"])


def _number(table: Mapping[str, Any], key: str, where: str, name: str | None = None) -> float:
    value = table.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise RunError(
            f"key '{name or key}' is missing or not a number", where=where, remedy="restore the file"
        )
    return value


def _whole(table: Mapping[str, Any], key: str, where: str) -> int:
    value = _number(table, key, where)
    if not isinstance(value, int) or value < 0:
        raise RunError(f"key '{key}' is not a count", where=where, remedy="restore the file")
    return value


def _numbers(table: Mapping[str, Any], key: str, where: str) -> dict[str, float]:
    found = table.get(key)
    if not isinstance(found, Mapping):
        raise RunError(f"key '{key}' is missing or not a table", where=where, remedy="restore the file")
    return {str(k): _number(found, k, where, f"{key}.{k}") for k in found}
