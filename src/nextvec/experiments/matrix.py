"""Many models under one protocol: same data, same exam, same baselines, several seeds.

A matrix is a folder: `matrix.toml` (the plan), `runs/<model>-seed<n>/` (a run each), `matrix.json` (the
table). It may be interrupted at any time and started again; a model that fails does not stop the others and
is reported.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from nextvec.config import from_dict, read_toml, to_dict, write_toml
from nextvec.corpus.store import Store
from nextvec.data.splits import split_documents
from nextvec.disk import read_json, write_json, write_text
from nextvec.errors import NextvecError, RunError
from nextvec.evaluation.harness import Judging
from nextvec.evaluation.report import Report
from nextvec.evaluation.seeds import merge_seeds
from nextvec.experiments.judging import Exam, judge_runs, judged_windows
from nextvec.inference.predictor import RunPredictor
from nextvec.models.registry import resolve
from nextvec.objectives.combine import Objective
from nextvec.training.config import TrainConfig
from nextvec.training.interrupt import TrainingInterrupted
from nextvec.training.loop import METRICS, train
from nextvec.training.session import CONFIG, flatten, refuse_changes, split_batches

log = logging.getLogger("nextvec.experiments")

PLAN, TABLE, ERROR = "matrix.toml", "matrix.json", "error.txt"
Configure = Callable[[str, int], TrainConfig]


@dataclass(frozen=True)
class Cell:
    """One model with one seed."""

    model: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.model}-seed{self.seed}"


@dataclass(frozen=True)
class Plan:
    """What a matrix holds; saved so that a second call goes on with the same thing."""

    store: str
    models: tuple[str, ...]
    seeds: int

    def __post_init__(self) -> None:
        if not self.models or self.seeds < 1:
            raise ValueError("a matrix needs a model and a seed at least")
        if len(set(self.models)) != len(self.models):
            raise ValueError("a model is named twice")

    @property
    def cells(self) -> list[Cell]:
        """Seed by seed, so that an interrupted matrix has every model once before any twice."""
        return [Cell(model, seed) for seed in range(self.seeds) for model in self.models]


def run_matrix(
    store: Store,
    plan: Plan,
    configure: Configure,
    out: Path,
    exam: Exam,
    how: Judging,
    *,
    quiet: bool = False,
) -> dict[str, Any]:
    """Train every cell, judge all that finished, and write `matrix.json`.

    Args:
        configure: the training configuration of a model and seed.
    Returns: the report's JSON with "failed" added: run name -> what went wrong.
    Raises:
        RunError: `out` holds another matrix or runs of another configuration, or no model could be trained.
        TrainingInterrupted: everything is saved; call again to go on.
        ConfigError, SplitError, WindowError: nothing could be trained or judged; nothing is written then.
        What `judge_runs` raises.
    """
    configs = {cell: configure(cell.model, cell.seed) for cell in plan.cells}
    _check(store, configs, out, exam, how)
    _claim(out, plan)
    failed: dict[str, str] = {}
    for number, (cell, config) in enumerate(configs.items(), 1):
        if not quiet:
            sys.stderr.write(f"[{number}/{len(configs)}] {cell.name}\n")
        error = train_cell(store, config, out / "runs" / cell.name, quiet=quiet)
        if error is not None:
            failed[cell.name] = error
            log.warning("%s failed: %s", cell.name, error)
    finished = [cell for cell in configs if cell.name not in failed]
    if not finished:
        first = next(iter(failed.values()))
        raise RunError(f"no model could be trained; the first: {first}", where=out)
    runs = [RunPredictor(out / "runs" / cell.name) for cell in finished]
    report = judge_runs(store, runs, exam, how)
    return write_table(out, report, plan, finished, failed)


def _check(store: Store, configs: dict[Cell, TrainConfig], out: Path, exam: Exam, how: Judging) -> None:
    """Raise, before anything is written, what would stop every cell, or the judging after all of them."""
    for cell, config in configs.items():
        _check_same(out / "runs" / cell.name, config)
    shared = next(iter(configs.values()))
    Objective(shared.loss.weights())
    split = split_documents(store, shared.data.split, shared.data.sources)
    for name in ("train", "validation"):
        split_batches(store, split, name, shared)
    judged = replace(exam, division=exam.division or shared.data.split)
    judged_windows(store, [], judged, how.context, how.horizon)
    wrong: list[NextvecError] = []
    for config in configs.values():
        try:
            resolve(config.model.name, config.model.preset, store.dimension, **config.model.options)
        except NextvecError as e:
            wrong.append(e)
    if len(wrong) == len(configs):
        raise wrong[0]


def train_cell(store: Store, config: TrainConfig, folder: Path, *, quiet: bool) -> str | None:
    """Train one cell, going on where it was left. Returns what went wrong, or None."""
    try:
        if (folder / METRICS).is_file():
            return None
        (folder / ERROR).unlink(missing_ok=True)
        train(store, config, folder, resume=(folder / CONFIG).is_file(), quiet=quiet)
    except TrainingInterrupted as stop:
        stop.remedy = "give the same command again and it goes on"
        raise
    except NextvecError as e:
        write_text(folder / ERROR, f"{e}\n")
        return str(e)
    except Exception as e:  # noqa: BLE001 - one model's fault must not cost the others; it is reported
        write_text(folder / ERROR, traceback.format_exc())
        return f"{type(e).__name__}: {e} (see {folder / ERROR})"
    return None


def write_table(
    out: Path, report: Report, plan: Plan, finished: Sequence[Cell], failed: dict[str, str]
) -> dict[str, Any]:
    """Put a model's seeds into one row and write `matrix.json`."""
    for cell in finished:
        report.row(cell.name).facts |= {
            "model_file": f"runs/{cell.name}/model.safetensors",
            "seed": cell.seed,
        }
    groups = {m: [c.name for c in finished if c.model == m] for m in plan.models}
    table = merge_seeds(report, {model: names for model, names in groups.items() if names})
    figures = {**table.to_json(), "failed": failed, "plan": asdict(plan)}
    write_json(out / TABLE, figures)
    return figures


def read_table(out: Path) -> dict[str, Any]:
    """The table of a matrix. Raises RunError naming the file."""
    remedy = "run `nextvec matrix` with this folder to its end"
    table = read_json(out / TABLE, RunError, remedy=remedy)
    if not isinstance(table, dict) or not isinstance(table.get("rows"), list) or "failed" not in table:
        raise RunError("is not the table of a matrix", where=out / TABLE, remedy=remedy)
    return table


def _claim(out: Path, plan: Plan) -> None:
    """Write the plan, or check that the one there is the same but for what may grow."""
    path = out / PLAN
    if path.is_file():
        held = from_dict(Plan, read_toml(path), where=path)
        if held.store != plan.store:
            raise RunError(
                f"holds a matrix of {held.store}", where=out, remedy="give another folder with --out"
            )
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(
            "is there already and holds no matrix", where=out, remedy="give another folder with --out"
        )
    write_toml(path, plan)


def _check_same(folder: Path, config: TrainConfig) -> None:
    """Raise RunError when the folder holds a run of another configuration."""
    path = folder / CONFIG
    if path.is_file():
        held = from_dict(TrainConfig, read_toml(path), where=path)
        refuse_changes(folder, flatten(to_dict(held)), flatten(to_dict(config)))
