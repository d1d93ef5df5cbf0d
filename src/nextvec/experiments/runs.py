"""A run folder as the diagnosis of runs reads it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nextvec.diagnostics.run import Epoch, RunRecord
from nextvec.disk import read_json
from nextvec.errors import RunError
from nextvec.training.config import OptimConfig, Plateau, TrainConfig, learning_rate, read_config
from nextvec.training.history import HISTORY, read_history
from nextvec.training.loop import METRICS
from nextvec.training.session import CONFIG, ENVIRONMENT

DAMAGED = "restore the file, or train again"


def read_run_config(run: Path) -> TrainConfig:
    """The configuration that lies in a run folder.

    Raises:
        RunError: no run there, or a configuration that this version cannot read.
    """
    path = run / CONFIG
    if not path.is_file():
        raise RunError("is not a run (it has no config.toml)", where=run, remedy="give the folder of a run")
    return read_config(path)


def read_record(run: Path) -> RunRecord:
    """Everything a run folder says of its training, whether it is finished or not.

    Raises:
        RunError: no run there, or a damaged file; of the history, file:line is named.
    """
    config = read_run_config(run)
    lines = read_history(run) if (run / HISTORY).is_file() else []
    epochs = tuple(Epoch.from_json(line, f"{run / HISTORY}:{i}") for i, line in enumerate(lines, 1))
    facts, result = _table(run / ENVIRONMENT), _table(run / METRICS)
    updates = facts.get("planned_updates")
    return RunRecord(
        run=str(run),
        model=config.model.name,
        epochs=epochs,
        rates=planned_rates(config.optim, updates, epochs) if isinstance(updates, int) else None,
        planned_epochs=config.optim.epochs,
        schedule=config.optim.schedule,
        clip=config.optim.clip,
        targets=facts.get("targets"),
        stopped=result.get("stopped"),
        best_epoch=result.get("epoch"),
        best_cosine=result.get("cosine"),
        device=str(facts.get("device", "unknown")),
        precision=str(facts.get("precision", "unknown precision")),
    )


def planned_rates(config: OptimConfig, updates: int, epochs: Sequence[Epoch]) -> tuple[float, ...]:
    """The learning rate of the last update of each epoch, by the schedule's own rule.

    Args:
        updates: what the whole run was laid out for.
    """
    plateau = Plateau()
    rates = []
    for epoch in epochs:
        rates.append(learning_rate(config, epoch.update - 1, updates, plateau))
        plateau.update(epoch.validation["loss"], config)
    return tuple(rates)


def _table(path: Path) -> dict[str, Any]:
    """A JSON file of the run; empty where an unfinished run has none yet."""
    if not path.is_file():
        return {}
    found = read_json(path, RunError, remedy=DAMAGED)
    if not isinstance(found, dict):
        raise RunError("is not a JSON object", where=path, remedy=DAMAGED)
    return found
