"""The training loop. `train` is the whole of it; what it calls stands below it in the order of use."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nextvec.checkpoint import CONFIG, save_and_stop
from nextvec.corpus.store import Store
from nextvec.data.batches import Batch
from nextvec.disk import locked, write_json
from nextvec.errors import ConfigError, NextvecWarning, TrainingError
from nextvec.hardware import find_hardware
from nextvec.interrupt import StopSignals
from nextvec.models.heads import Prediction
from nextvec.objectives.combine import Loss
from nextvec.objectives.sample import Sample
from nextvec.objectives.terms import cosine_similarity
from nextvec.progress import Progress, sparkline
from nextvec.training.build import RANKING, Start
from nextvec.training.checks import refuse_processes
from nextvec.training.config import ProcessConfig, TrainConfig, learning_rate, read_config
from nextvec.training.distributed import clip_gradients, is_first, joined, launched, total_norm
from nextvec.training.history import ValidationMeter, loss_names, loss_values, write_history
from nextvec.training.launch import launch
from nextvec.training.saved import calibrate, keep_misses, saved_figures
from nextvec.training.session import AT_ONCE, CHECK_EVERY, TrainingSession, UncheckedUpdate, open_session

METRICS = "metrics.json"
COLLAPSE = 0.8
"""A validation cosine below this share of the best so far ends the run."""


@dataclass(frozen=True)
class RunResult:
    """What a finished run says of itself; also in its metrics.json.

    `epoch` is the best by validation, `cosine` and `loss` are its figures there; `stopped` says why the run
    ended: "epochs", "max_updates", "max_seconds", "patience" or "collapse". `positions` counts targets,
    `seconds` wall time.
    """

    run: str
    model: str
    epoch: int
    epochs: int
    cosine: float
    loss: float
    stopped: str
    seconds: float
    parameters: int
    updates: int
    positions: int


def train(
    store: Store,
    config: TrainConfig | None,
    out: str | Path,
    *,
    resume: bool = False,
    start: Start | None = None,
    quiet: bool = False,
    after_epoch: Callable[[dict[str, Any]], None] | None = None,
) -> RunResult:
    """Train one model on a store's training documents; the run folder `out` receives everything.

    The best model by validation cosine lies in `out` itself, the last in `out/final`, and what a resumed run
    needs in `out/last`. On resume, `config` may be None: the run's own is taken.

    Args:
        start: what a new run starts from in place of fresh weights.
        after_epoch: called with each epoch's line of the history once everything is saved; what it raises
            ends the run.
    Raises:
        RunError: `out` is not empty (or, on resume, holds no run of this configuration and store).
        BusyError: another process is writing `out`. DiskError: it cannot be written to.
        TrainingError: a loss or gradient that is not finite; the weights of the update before are kept.
        TrainingInterrupted: Ctrl-C or SIGTERM; everything is saved.
        ConfigError, SplitError, WindowError, ModelError: the configuration cannot be carried out.
    """
    out = Path(out)
    runtime = processes_of(config, out)
    device = find_hardware(runtime).device
    if runtime.processes > 1 and not launched():
        if config is not None:
            refuse_processes(config, device)
        arguments = (store.path, config, out, resume, start, quiet)
        result: RunResult = launch(train_here, arguments, runtime.devices, out, after_epoch)
        return result
    with ExitStack() as held:
        if is_first():
            held.enter_context(locked(out))
        processes = held.enter_context(joined(runtime, device, out))
        session = open_session(store, config, out, resume=resume, start=start, processes=processes)
        if processes.first and not session.state.stopped:  # of a finished run that goes on to a later end
            (out / METRICS).unlink(missing_ok=True)
        run_epochs(session, after_epoch if processes.first else None, quiet=quiet or not processes.first)
        return conclude(session)


def processes_of(config: TrainConfig | None, out: Path) -> ProcessConfig:
    """Where to train: what a configuration says, or, where a run goes on as it was, its own."""
    if config is None and (out / CONFIG).is_file():
        with suppress(ConfigError):  # a damaged one is told of, or made up for, when the run is opened
            config = read_config(out / CONFIG)
    return ProcessConfig() if config is None else config.runtime


def train_here(
    tell: Callable[[dict[str, Any]], None],
    store: Path,
    config: TrainConfig | None,
    out: Path,
    resume: bool,
    start: Start | None,
    quiet: bool,
) -> RunResult:
    """`train` as one of the processes that it launched."""
    return train(Store.open(store), config, out, resume=resume, start=start, quiet=quiet, after_epoch=tell)


def run_epochs(
    session: TrainingSession, after_epoch: Callable[[dict[str, Any]], None] | None, *, quiet: bool
) -> None:
    """All epochs that are still to be trained, saved one by one. Raises as `train`."""
    state = session.state
    task, total = f"train {session.config.model.name}", session.total_updates
    with (
        StopSignals() as signals,
        Progress(task, total, "updates", initial=state.update, quiet=quiet) as progress,
    ):
        while not state.stopped:
            train_epoch(session, signals, progress)
            finish_epoch(session, validate(session, signals))
            tell_epoch(session, progress)
            session.save()
            stop_if_requested(session, signals)
            if after_epoch is not None:
                after_epoch(session.history[-1])


def train_epoch(session: TrainingSession, signals: StopSignals, progress: Progress) -> None:
    """Make the updates of the running epoch that are still to be made."""
    state, config = session.state, session.config
    left = config.optim.max_updates - state.update if config.optim.max_updates else None
    session.network.train()
    session.objective.train()
    saved = time.monotonic()
    for batch in islice(session.training.epoch(state.epoch, skip=state.batch), left):
        update(session, batch.to(session.fabric.device))
        state.chunks += batch.inputs[:, :, 0].numel() if batch.full else int(batch.lengths.sum())
        progress.advance()
        if config.optim.max_seconds:
            session.tick(training=True)
        due = time.monotonic() - saved >= config.runtime.checkpoint_every_s
        signals.received, due, state.train_seconds = session.processes.agree(
            signals.received, due, state.train_seconds
        )
        stop_if_requested(session, signals, training=True)
        if config.optim.max_seconds and session.done >= session.total_updates:
            break
        if due:
            session.tick(training=True)
            session.save()
            saved = time.monotonic()
    session.check_finite()
    session.tick(training=True)


def update(session: TrainingSession, batch: Batch) -> None:
    state, optimiser = session.state, session.optimiser
    state.lr = learning_rate(session.config.optim, session.done, session.total_updates, state.plateau)
    for group in optimiser.param_groups:
        group["lr"] = min(state.lr, group["max_lr"])
    session.processes.seed(session.config.runtime.seed, state.update)
    answer = assess(session, batch)
    loss = answer.loss
    if state.batch == 0:
        state.term_gradients = session.objective.gradient_norms(
            loss, session.parameters, partial(session.backward, retain_graph=True), total_norm
        )
    session.backward(loss.total)
    norm = clip_gradients(session.parameters, session.config.optim.clip or math.inf)
    refuse_non_finite(session, batch, loss, norm)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    with torch.no_grad():
        cosines = cosine_similarity(answer.prediction, answer.target)[answer.mask].mean()
    session.means.add({**loss_values(loss), "cosine": cosines, "gradient_norm": norm}, batch.positions)
    state.batch += 1
    state.update += 1
    state.positions += batch.positions
    state.epoch_positions += batch.positions


@dataclass(frozen=True)
class StepResult:
    """What the model said of a batch and what that costs, in the model's scale; horizons stand one after the
    other in time: prediction and target [B, T * K, D], mask [B, T * K]."""

    loss: Loss
    prediction: Tensor
    target: Tensor
    mask: Tensor


def assess(session: TrainingSession, batch: Batch) -> StepResult:
    model, scale, processes = session.model, session.model.scale, session.processes
    mine, count = processes.share(batch), len(batch.lengths)
    lengths = None if batch.full else mine.lengths
    ahead, own, extras = session.network(mine.inputs, lengths, mine.targets, mine.mask, mine.query)
    prediction, target, mask = processes.gather(ahead.flatten(1, 2), count), batch.targets / scale, batch.mask
    if target.ndim == 4:
        target, mask = target.flatten(1, 2), mask.flatten(1, 2)
    drawn = None if batch.drawn is None else batch.drawn.view_as(target) / scale
    evaluated = (mine.mask[..., 0] if mine.mask.ndim == 3 else mine.mask).sum()
    own = {name: processes.mean(value, evaluated) for name, value in own.items()}
    query = extras.get(RANKING)

    def confidence(candidate: Tensor) -> Tensor:
        candidate = processes.share(replace(batch, targets=candidate)).targets
        logits = model.continuation(Prediction(ahead[:, :, 0], extras), candidate)
        return processes.gather(logits, count)

    sample = Sample(
        prediction=prediction,
        target=target,
        mask=mask,
        inputs=batch.inputs / scale,
        lengths=batch.lengths,
        documents=torch.from_numpy(batch.documents).to(prediction.device),
        broken=batch.broken,
        confidence=None if model.confidence is None else confidence,
        query=None if query is None else processes.gather(query, count),
        drawn=drawn,
        products=torch.bfloat16 if session.hardware.precision == "bfloat16" else None,
    )
    return StepResult(session.objective(sample, own=own), prediction, target, mask)


def refuse_non_finite(session: TrainingSession, batch: Batch, loss: Loss, norm: torch.Tensor) -> None:
    """Raise TrainingError before a step that would spoil the weights; on a device that would have to wait for
    it, after CHECK_EVERY updates at the latest, and before anything is saved."""
    figures = torch.stack([value.detach().float() for value in (*loss.terms.values(), loss.total, norm)])
    session.unchecked.append(
        UncheckedUpdate(session.state.update + 1, batch.documents, tuple(loss.terms), figures)
    )
    if session.fabric.device.type in AT_ONCE or len(session.unchecked) >= CHECK_EVERY:
        session.check_finite()


@torch.no_grad()
def validate(session: TrainingSession, signals: StopSignals) -> dict[str, float]:
    """Loss, cosine and spread over the validation documents, cut like the training ones."""
    session.network.eval()
    session.objective.eval()
    device, scale = session.fabric.device, session.model.scale
    meter = ValidationMeter(loss_names(session.objective), session.store.dimension, device)
    for batch in session.validation.fixed():
        answer = assess(session, batch.to(device))
        meter.add(loss_values(answer.loss), answer.prediction * scale, answer.target * scale, answer.mask)
        signals.received, _, _ = session.processes.agree(signals.received, False, 0.0)
        stop_if_requested(session, signals)
    result = session.processes.alike(meter.result())
    if not all(math.isfinite(value) for value in result.values()):
        raise TrainingError(
            f"epoch {session.state.epoch + 1} ends with validation figures that are not finite",
            where=session.out,
            remedy="lower optim.lr or optim.clip",
        )
    return result


def finish_epoch(session: TrainingSession, validation: dict[str, float]) -> None:
    """Keep the best model, decide whether to go on, and write the epoch's line of history."""
    state, config = session.state, session.config
    session.tick(training=False)
    state.epoch += 1
    state.plateau.update(validation["loss"], config.optim)
    state.peak_cosine = max(state.peak_cosine, validation["cosine"])
    score = validation["cosine"] if config.optim.select == "cosine" else -validation["loss"]
    if state.best_epoch == 0 or score > state.best_score:
        state.best_epoch, state.best_score, state.best_cosine = state.epoch, score, validation["cosine"]
        session.save_model(session.out, epoch=state.epoch, validation=validation)
    state.stopped = reason_to_stop(session, validation["cosine"])
    means = session.means.means()
    session.history.append(
        {
            "epoch": state.epoch,
            "update": state.update,
            "train": {name: value for name, value in means.items() if name != "gradient_norm"},
            "validation": validation,
            "lr": state.lr,
            "gradient_norm": means["gradient_norm"],
            "term_gradient_norms": state.term_gradients,
            "seconds": state.seconds,
            "train_seconds": state.epoch_seconds,
            "positions": state.epoch_positions,
            "positions_per_second": state.epoch_positions / max(state.epoch_seconds, 1e-9),
            "chunks_read": state.chunks,
        }
    )
    if session.processes.first:
        write_history(session.out, session.history)
    session.means.sums.zero_()
    state.batch, state.epoch_positions, state.epoch_seconds = 0, 0, 0.0


def tell_epoch(session: TrainingSession, progress: Progress) -> None:
    """Show the epoch's validation cosine; on a terminal with its curve, and the best so far."""
    state, cosines = session.state, [line["validation"]["cosine"] for line in session.history]
    best = f"best {state.best_cosine:.4f} (epoch {state.best_epoch})"
    progress.advance(
        0,
        f"epoch {state.epoch} validation cosine {cosines[-1]:.4f}",
        live=f"{sparkline(cosines)} {cosines[-1]:.4f}, {best}",
    )


def reason_to_stop(session: TrainingSession, cosine: float) -> str:
    """Why the run ends with this epoch, or an empty string."""
    state, config = session.state, session.config.optim
    if state.peak_cosine > 0 and cosine < COLLAPSE * state.peak_cosine:
        warnings.warn(
            f"{session.out}: the validation cosine fell from {state.peak_cosine:.4f} to {cosine:.4f}: the "
            f"model has collapsed; the run stops, the best (epoch {state.best_epoch}) is kept",
            NextvecWarning,
            stacklevel=2,
        )
        return "collapse"
    if config.max_updates and state.update >= config.max_updates:
        return "max_updates"
    if config.max_seconds and state.train_seconds >= config.max_seconds:
        return "max_seconds"
    if state.epoch >= config.epochs:
        return "epochs"
    return "patience" if config.patience and state.epoch - state.best_epoch >= config.patience else ""


def stop_if_requested(session: TrainingSession, signals: StopSignals, *, training: bool = False) -> None:
    """Save and raise TrainingInterrupted when a signal has come."""

    def save() -> None:
        session.tick(training=training)
        session.save()

    save_and_stop(signals, save, session.out, session.state.update)


def conclude(session: TrainingSession) -> RunResult:
    """Save the last model, and the run's result with the figures that `nextvec verify` measures again."""
    state = session.state
    session.save_model(session.out / "final", epoch=state.epoch)
    result = RunResult(
        run=str(session.out),
        model=session.config.model.name,
        epoch=state.best_epoch,
        epochs=state.epoch,
        cosine=state.best_cosine,
        loss=float(session.history[state.best_epoch - 1]["validation"]["loss"]),
        stopped=state.stopped,
        seconds=state.seconds,
        parameters=sum(p.numel() for p in session.parameters),
        updates=state.update,
        positions=state.positions,
    )
    if not session.processes.first:
        return result
    if session.model.confidence is not None:
        calibrate(session.out, session.validation)
    if session.model.misses is not None:
        for folder in (session.out, session.out / "final"):
            keep_misses(folder, session.validation)
    verified = saved_figures(session.out, session.validation)
    write_json(session.out / METRICS, {**asdict(result), "verified": verified}, sealed=True)
    return result
