"""What a matrix holds: models, and whatever else is varied, crossed with seeds."""

from __future__ import annotations

import logging
import multiprocessing
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

import torch

from nextvec.checkpoint import CONFIG
from nextvec.config import from_dict, merge, parse_assignments, read_toml
from nextvec.corpus.store import Store
from nextvec.data.splits import MOST_FOLDS
from nextvec.disk import refuse_taken, write_text
from nextvec.errors import BusyError, ConfigError, NextvecError, RunError
from nextvec.interrupt import StopSignals, TrainingInterrupted
from nextvec.training.config import TrainConfig, read_layer
from nextvec.training.loop import METRICS, train

MAX_CELLS = 10_000
_FREE = re.compile(r"[^A-Za-z0-9._=+,-]+")


@dataclass(frozen=True)
class MatrixCell:
    """One training run of a matrix.

    Attributes:
        row: the cell without its seed: the row of the table that its seeds share.
        model, seed: what is trained.
        fold: which part of the documents it is tested on, of a matrix with folds; else None.
        named: what its objective and its task set, as nested dictionaries of the configuration: below what
            the user sets key by key.
        layer: what the varied keys set: above everything else.
    """

    row: str
    model: str
    seed: int
    named: dict[str, Any] = field(default_factory=dict, hash=False, compare=False)
    layer: dict[str, Any] = field(default_factory=dict, hash=False, compare=False)
    fold: int | None = None

    @property
    def name(self) -> str:
        """Of the run and its folder."""
        return f"{self.row}-seed{self.seed}" + ("" if self.fold is None else f"-fold{self.fold}")

    @property
    def across(self) -> str:
        """Of all its folds: the row that they have in common."""
        return f"{self.row}-seed{self.seed}"


@dataclass(frozen=True)
class MatrixPlan:
    """A matrix; saved so that a second call goes on with the same thing.

    Attributes:
        store: where the vectors lie.
        models: architectures.
        seeds: runs of each combination, with seeds 0, 1, ...
        objectives, tasks: named layers (`nextvec.training.config.layer_names`); none is an axis of one.
        vary: any keys of the configuration, each written `KEY=VALUE,VALUE,...`.
        folds: of a cross-validation by document; 0 for the split of the configuration.
    """

    store: str
    models: tuple[str, ...]
    seeds: int
    objectives: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    vary: tuple[str, ...] = ()
    folds: int = 0

    def __post_init__(self) -> None:
        if not self.models or self.seeds < 1:
            message = f"a matrix needs a model and a seed: {len(self.models)} --models, --seeds {self.seeds}"
            raise ValueError(message)
        for what in ("models", "objectives", "tasks", "vary"):
            if len(set(getattr(self, what))) != len(getattr(self, what)):
                raise ValueError(f"--{what}: one is named twice")
        if self.folds and not 3 <= self.folds <= MOST_FOLDS:
            raise ValueError(f"--folds {self.folds}; give 3 to {MOST_FOLDS}")
        count = len(self.models) * self.seeds * max(self.folds, 1)
        for axis in self.axes():
            count *= len(axis)
        if count > MAX_CELLS:
            raise ValueError(f"a matrix of {count:,} runs; {MAX_CELLS:,} at most")

    def axes(self) -> list[list[tuple[str, dict[str, Any]]]]:
        """The axes beside models and seeds, each a list of (label, layer).

        Raises:
            ConfigError: an unknown objective or task, or a `vary` that cannot be read.
        """
        named = [
            [(name, read_layer("objectives", name)) for name in self.objectives],
            [(name, read_layer("tasks", name)) for name in self.tasks],
        ]
        return [axis for axis in named if axis] + [parse_axis(text) for text in self.vary]

    @property
    def cells(self) -> list[MatrixCell]:
        """Seed by seed, so that an interrupted matrix has everything once before anything twice."""
        folds: list[int | None] = [*range(self.folds)] or [None]
        return [
            MatrixCell(row, model, seed, named, merge(layer, self._split(fold)), fold)
            for seed in range(self.seeds)
            for row, model, named, layer in self._rows()
            for fold in folds
        ]

    def _split(self, fold: int | None) -> dict[str, Any]:
        return {} if fold is None else {"data": {"split": {"folds": self.folds, "fold": fold}}}

    @property
    def rows(self) -> list[str]:
        return [row for row, *_ in self._rows()]

    def _rows(self) -> Iterator[tuple[str, str, dict[str, Any], dict[str, Any]]]:
        names = bool(self.objectives) + bool(self.tasks)
        for model, *chosen in product(self.models, *self.axes()):
            row = "-".join([model, *(_FREE.sub("_", label) for label, _ in chosen)])
            layers = [layer for _, layer in chosen]
            yield row, model, merge(*layers[:names]), merge(*layers[names:])


Plan = TypeVar("Plan")


def held_plan(out: Path, name: str, kind: type[Plan], what: str) -> Plan | None:
    """The plan in the file `name` of a folder; None of a new one. Raises RunError: `out` holds no `what`."""
    path = out / name
    if path.is_file():
        return from_dict(kind, read_toml(path), where=path)
    refuse_taken(out, RunError, "give another folder with --out", why=f"is there already and holds no {what}")
    return None


def parse_axis(text: str) -> list[tuple[str, dict[str, Any]]]:
    """`data.context=5,10` -> a label and a layer for each value.

    Keys that change together are joined by a plus, and so are their values, as in
    `data.context+optim.batch_size=1+512,2+256`. Enough of them to tell the values apart give the label.

    Raises:
        ConfigError: no key, no value, or one named twice.
    """
    key, equals, values = text.partition("=")
    each = [value.strip() for value in values.split(",")]
    if not equals or not key.strip() or not all(each) or len(set(each)) != len(each):
        message = f"'{text}' is not an axis"
        raise ConfigError(message, where="--vary", remedy="write --vary data.context=5,10, each value once")
    keys = [one.strip() for one in key.split("+")]
    values_of = [value.split("+") if len(keys) > 1 else [value] for value in each]
    if not all(keys) or any(len(values) != len(keys) for values in values_of):
        message = f"'{text}' joins {len(keys)} keys"
        raise ConfigError(message, where="--vary", remedy="give as many values, joined by +")
    short = [key.rpartition(".")[2] for key in keys]
    shown = next(
        n for n in range(1, len(keys) + 1) if len({tuple(v[:n]) for v in values_of}) == len(values_of)
    )
    return [
        (
            "-".join(f"{k}={v}" for k, v in zip(short[:shown], values[:shown], strict=True)),
            parse_assignments(f"{k}={v}" for k, v in zip(keys, values, strict=True)),
        )
        for values in values_of
    ]


# Training the cells of a matrix, one after the other or several at a time; what fails is reported, what is
# done is not done again.

log = logging.getLogger("nextvec.experiments")

ERROR = "error.txt"
BUSY = "busy"
"""In place of an error: another process trains it."""
LOOK_S = 2.0
"""How often is looked whether it has ended, or died."""


def train_cells(
    store: Store,
    configs: Mapping[MatrixCell, TrainConfig],
    out: Path,
    *,
    jobs: int = 1,
    quiet: bool = False,
    join: bool = False,
) -> dict[str, str]:
    """Train every cell that is not finished yet, into out/runs.

    A cell that another process trains is waited for, and taken over where that process dies.

    Args:
        jobs: how many at the same time. One trains in this process; more train in processes of their own,
            each with its share of the cores and no progress bar of its own.
        join: help another process: leave its failed cells alone.
    Returns: run name -> what went wrong, of those that failed.
    Raises:
        TrainingInterrupted: everything is saved; call again to go on.
    """
    failed: dict[str, str] = {}
    work = _in_turn if jobs == 1 else _side_by_side
    left, ended, first = dict(configs), 0, True
    if not join:
        for cell in configs:  # what failed in an earlier call is tried again, by whoever comes first
            (out / "runs" / cell.name / ERROR).unlink(missing_ok=True)
    while left:
        busy = {}
        for cell, error in work(store, left, out, jobs, quiet or not first):
            if error == BUSY:
                busy[cell] = configs[cell]
                continue
            ended += 1
            if not quiet and jobs > 1:
                sys.stderr.write(
                    f"[{ended}/{len(configs)}] {cell.name} {'done' if error is None else 'failed'}\n"
                )
            if error is not None:
                failed[cell.name] = error
                log.warning("%s failed: %s", cell.name, error)
        if busy and first:
            log.info("waiting for %d runs that other processes train", len(busy))
        left, first = busy, False
        if left:
            time.sleep(LOOK_S)
    return failed


def train_cell(store: Store, config: TrainConfig, folder: Path, *, quiet: bool) -> str | None:
    """Train one cell, going on where it was left. Returns what went wrong, BUSY, or None."""
    try:
        if (folder / METRICS).is_file():
            return None
        if (folder / ERROR).is_file():  # of another process that shares the work
            return (folder / ERROR).read_text(encoding="utf-8").strip().splitlines()[-1]
        train(store, config, folder, resume=(folder / CONFIG).is_file(), quiet=quiet)
    except TrainingInterrupted as stop:
        stop.remedy = "give the same command again to continue"
        raise
    except BusyError:
        return BUSY
    except NextvecError as e:
        write_text(folder / ERROR, f"{e}\n")
        return str(e)
    except Exception as e:  # noqa: BLE001 - one model's fault must not cost the others; it is reported
        write_text(folder / ERROR, traceback.format_exc())
        return f"{type(e).__name__}: {e} (see {folder / ERROR})"
    return None


def _in_turn(
    store: Store, configs: Mapping[MatrixCell, TrainConfig], out: Path, jobs: int, quiet: bool
) -> Iterator[tuple[MatrixCell, str | None]]:
    for number, (cell, config) in enumerate(configs.items(), 1):
        if not quiet:
            sys.stderr.write(f"[{number}/{len(configs)}] {cell.name}\n")
        yield cell, train_cell(store, config, out / "runs" / cell.name, quiet=quiet)


def _side_by_side(
    store: Store, configs: Mapping[MatrixCell, TrainConfig], out: Path, jobs: int, quiet: bool
) -> Iterator[tuple[MatrixCell, str | None]]:
    threads = max((os.cpu_count() or 1) // jobs, 1)
    # A forked child of a process that has computed with threads may hang in them.
    context = multiprocessing.get_context("spawn")
    with StopSignals() as signals, ProcessPoolExecutor(jobs, context, _be_a_worker, (threads,)) as pool:
        waiting: dict[Future[str | None], MatrixCell] = {
            pool.submit(_train_apart, store.path, config, out / "runs" / cell.name): cell
            for cell, config in configs.items()
        }
        try:
            while waiting:
                for future in wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED).done:
                    yield waiting.pop(future), future.result()
                if signals.received is not None:
                    raise _interrupted(pool, signals.received, out)
        except BrokenProcessPool:
            message = "a training process was killed"
            raise RunError(message, where=out, remedy="give it more memory or fewer --jobs") from None


def _be_a_worker(threads: int) -> None:
    # Ctrl-C reaches the whole process group of the terminal: a worker leaves it and hears from its parent.
    os.setpgrp()
    torch.set_num_threads(threads)


def _train_apart(store: Path, config: TrainConfig, folder: Path) -> str | None:
    try:
        return train_cell(Store.open(store), config, folder, quiet=True)
    except TrainingInterrupted:
        return "interrupted"  # the parent knows, it sent the signal


def _interrupted(pool: ProcessPoolExecutor, signum: int, out: Path) -> TrainingInterrupted:
    """Have every worker save its run and end."""
    workers = multiprocessing.active_children()
    pool.shutdown(wait=False, cancel_futures=True)
    for worker in workers:
        worker.terminate()
    for worker in workers:
        worker.join()
    stop = TrainingInterrupted(signum, out, 0)
    stop.message = f"stopped by {signal.Signals(signum).name}, every run is saved"
    stop.remedy = "give the same command again to continue"
    return stop
