"""The one reader of a run folder: whatever it holds, finished or not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from nextvec.checkpoint import CONFIG
from nextvec.config import read_toml
from nextvec.disk import read_object
from nextvec.errors import RunError
from nextvec.inference.predictor import RESULT
from nextvec.models.saving import CONFIG as SAVED
from nextvec.training.config import Plateau, TrainConfig, learning_rate, read_config
from nextvec.training.history import HISTORY, Epoch, RunRecord, read_history
from nextvec.training.loop import METRICS
from nextvec.training.session import ENVIRONMENT

DAMAGED = "restore the file, or train again"


@dataclass(frozen=True)
class RunFolder:
    """One training run, finished or not.

    Attributes:
        name, folder: of the run.
        row: the row of a table that it belongs to (its seeds share it); a lone run is a row of its own.
        config: its configuration, as nested dictionaries.
        history: a dictionary an epoch: "epoch", "update", "train" (loss, cosine), "validation" (loss, cosine,
            mse, variance_ratio), "lr", "gradient_norm", "seconds" since the start. Empty before the first.
        metadata: what it ran on ("device", "threads", "packages", "parameters"); empty if it never started.
        result: what it came to ("epoch", "cosine", "seconds", "verified"); None while it is not finished.
    """

    name: str
    folder: Path
    row: str
    config: dict[str, Any]
    history: tuple[dict[str, Any], ...]
    metadata: dict[str, Any]
    result: dict[str, Any] | None

    @classmethod
    def read(cls, folder: Path, *, row: str | None = None, history: bool = True) -> RunFolder:
        """Read a run folder, with its `history` or without.

        Raises:
            RunError, ConfigError: no run there, or the file that is damaged.
        """
        if not (folder / CONFIG).is_file():
            message = "is not a run (it has no config.toml)"
            raise RunError(message, where=folder, remedy="give the folder of a run")
        name = folder.resolve().name
        return cls(
            name=name,
            folder=folder,
            row=name if row is None else row,
            config=read_toml(folder / CONFIG),
            history=tuple(read_history(folder)) if history and (folder / HISTORY).is_file() else (),
            metadata=_table(folder / ENVIRONMENT, {}) or {},
            result=_table(folder / METRICS, RESULT),
        )

    @property
    def seed(self) -> int:
        """Of its random numbers."""
        return int(self.config.get("runtime", {}).get("seed", 0))

    @property
    def architecture(self) -> str:
        return str(self.config.get("model", {}).get("name", self.row))

    @cached_property
    def settings(self) -> TrainConfig:
        """The configuration. Raises ConfigError: one that this version cannot read."""
        return read_config(self.folder / CONFIG)

    @cached_property
    def saved(self) -> dict[str, Any]:
        """What the saved model says of itself; empty before the first epoch. Raises RunError."""
        return _table(self.folder / SAVED, {"config": dict}) or {}

    def record(self) -> RunRecord:
        """What it says of its training, every line of the history checked.

        Raises:
            RunError: a damaged history (file:line is named). ConfigError: as `settings`.
        """
        optim, result = self.settings.optim, self.result or {}
        where = self.folder / HISTORY
        epochs = tuple(Epoch.from_json(line, f"{where}:{i}") for i, line in enumerate(self.history, 1))
        updates, plateau = self.metadata.get("planned_updates"), Plateau()
        rates: list[float] = []
        if isinstance(updates, int):
            for epoch in epochs:  # by the schedule's own rule
                rates.append(learning_rate(optim, epoch.update - 1, updates, plateau))
                plateau.update(epoch.validation["loss"], optim)
        return RunRecord(
            run=str(self.folder),
            model=self.settings.model.name,
            epochs=epochs,
            rates=tuple(rates) if isinstance(updates, int) else None,
            planned_epochs=optim.epochs,
            schedule=optim.schedule,
            clip=optim.clip,
            targets=self.metadata.get("targets"),
            stopped=result.get("stopped"),
            best_epoch=result.get("epoch"),
            best_cosine=result.get("cosine"),
            device=str(self.metadata.get("device", "unknown")),
            precision=str(self.metadata.get("precision", "unknown precision")),
        )


def _table(path: Path, needs: Mapping[str, type]) -> dict[str, Any] | None:
    """A JSON file of the run; None where an unfinished run has none yet."""
    return read_object(path, RunError, needs=needs, remedy=DAMAGED) if path.is_file() else None
