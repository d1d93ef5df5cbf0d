"""Training the cells of a matrix, one after the other or several at a time; what fails is reported, what is
done is not done again."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import torch

from nextvec.corpus.store import Store
from nextvec.disk import write_text
from nextvec.errors import NextvecError, RunError
from nextvec.experiments.plan import Cell
from nextvec.interrupt import StopSignals, TrainingInterrupted
from nextvec.training.config import TrainConfig
from nextvec.training.loop import METRICS, train
from nextvec.training.session import CONFIG

log = logging.getLogger("nextvec.experiments")

ERROR = "error.txt"


def train_cells(
    store: Store, configs: Mapping[Cell, TrainConfig], out: Path, *, jobs: int = 1, quiet: bool = False
) -> dict[str, str]:
    """Train every cell that is not finished yet, into out/runs.

    Args:
        jobs: how many at the same time. One trains in this process; more train in processes of their own,
            each with its share of the cores and no progress bar of its own.
    Returns: run name -> what went wrong, of those that failed.
    Raises:
        TrainingInterrupted: everything is saved; call again to go on.
    """
    failed: dict[str, str] = {}
    work = _in_turn if jobs == 1 else _side_by_side
    for number, (cell, error) in enumerate(work(store, configs, out, jobs, quiet), 1):
        if not quiet and jobs > 1:
            sys.stderr.write(
                f"[{number}/{len(configs)}] {cell.name} {'done' if error is None else 'failed'}\n"
            )
        if error is not None:
            failed[cell.name] = error
            log.warning("%s failed: %s", cell.name, error)
    return failed


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


def _in_turn(
    store: Store, configs: Mapping[Cell, TrainConfig], out: Path, jobs: int, quiet: bool
) -> Iterator[tuple[Cell, str | None]]:
    for number, (cell, config) in enumerate(configs.items(), 1):
        if not quiet:
            sys.stderr.write(f"[{number}/{len(configs)}] {cell.name}\n")
        yield cell, train_cell(store, config, out / "runs" / cell.name, quiet=quiet)


def _side_by_side(
    store: Store, configs: Mapping[Cell, TrainConfig], out: Path, jobs: int, quiet: bool
) -> Iterator[tuple[Cell, str | None]]:
    threads = max((os.cpu_count() or 1) // jobs, 1)
    # A forked child of a process that has computed with threads may hang in them.
    context = multiprocessing.get_context("spawn")
    with StopSignals() as signals, ProcessPoolExecutor(jobs, context, _be_a_worker, (threads,)) as pool:
        waiting: dict[Future[str | None], Cell] = {
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
            raise RunError(
                "a training process was killed", where=out, remedy="give it more memory or fewer --jobs"
            ) from None


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
    stop.remedy = "give the same command again and it goes on"
    return stop
