"""Everything one run holds while it trains, and how it is set up, new or from its checkpoint."""

from __future__ import annotations

import importlib.metadata
import logging
import math
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from nextvec.checkpoint import CONFIG, FILE, begin, restore, seed_everything, whole, write_checkpoint
from nextvec.config import flatten, refuse_changes, to_dict, write_toml
from nextvec.corpus.store import Store
from nextvec.data.batches import BatchSource
from nextvec.data.splits import split_documents
from nextvec.data.trained import TRAINED_ON, TrainedOn, store_identity
from nextvec.data.windows import IntArray
from nextvec.disk import write_json
from nextvec.errors import ConfigError, RunError, TrainingError
from nextvec.hardware import Hardware, find_hardware
from nextvec.models.base import NextVectorModel
from nextvec.models.saving import save_model
from nextvec.objectives.combine import Objective, needs_statistics
from nextvec.training.build import (
    Start,
    TrainingWrapper,
    build_model,
    fit_model,
    hold_zeros,
    make_optimiser,
    provenance,
    split_batches,
    statistics_of,
)
from nextvec.training.checks import refuse_data, refuse_memory, refuse_processes
from nextvec.training.config import Plateau, TrainConfig, TrainingState, read_config
from nextvec.training.distributed import Processes, shard
from nextvec.training.history import HISTORY, RunningMeans, loss_names, read_history
from nextvec.version import __version__

log = logging.getLogger("nextvec.training")

ENVIRONMENT = "run.json"
UNFINISHED = (FILE.parent.name, TRAINED_ON)
"""All that there is of a run that was stopped before its configuration was written: nothing to keep."""
PROCESSES = tuple(f"runtime.{name}" for name in ("devices", "nodes", "strategy"))
FREE_TO_CHANGE = ("data.workers", "runtime.checkpoint_every_s", *PROCESSES)
"""Keys that a resumed run may change: they decide how it works, not what it gives."""
ENDS = ("optim.max_updates", "optim.epochs", "optim.max_seconds")
"""Keys that say when a run is over: a resumed run may be given a later end."""


CHECK_EVERY = 20
AT_ONCE = ("cpu",)
"""Devices whose figures are there when they are asked for; others would have to finish their work first."""


@dataclass(frozen=True)
class UncheckedUpdate:
    """Figures of an update that may not be finite, on the device: the terms of its loss, their total and the
    norm of its gradient."""

    update: int
    documents: IntArray
    names: tuple[str, ...]
    figures: Tensor


@dataclass
class TrainingSession:
    """A run at work. `network` is the model behind Fabric (autocast) as `TrainingWrapper` has it, `model` the
    model itself, or this process's share of it; `fitted` is what its residual was found to be before the
    first update. `parameters` are what is learned: the model's, and what an objective learns of its own (a
    temperature).
    """

    store: Store
    config: TrainConfig
    out: Path
    fabric: Fabric
    model: NextVectorModel
    network: nn.Module
    optimiser: torch.optim.Optimizer
    objective: Objective
    training: BatchSource
    validation: BatchSource
    hardware: Hardware
    means: RunningMeans
    identity: dict[str, Any]
    extra: dict[str, Any]
    trained_on: TrainedOn
    fitted: dict[str, Any]
    processes: Processes
    state: TrainingState = field(default_factory=TrainingState)
    history: list[dict[str, Any]] = field(default_factory=list)
    unchecked: list[UncheckedUpdate] = field(default_factory=list)
    clock: float = field(default_factory=time.perf_counter)
    parameters: list[nn.Parameter] = field(init=False)

    def __post_init__(self) -> None:
        # Once: between its forward and its backward pass a sharded model shows other, gathered parameters.
        both = (*self.model.parameters(), *self.objective.parameters())
        self.parameters = [p for p in both if p.requires_grad]

    @property
    def total_updates(self) -> int:
        """Updates that schedules and progress are laid out for."""
        return self.training.total(self.config.optim.epochs, self.config.optim.max_updates)

    @property
    def learned(self) -> dict[str, nn.Module]:
        """Everything whose state a checkpoint keeps, by name."""
        return {"model": self.model, "objective": self.objective}

    @property
    def done(self) -> float:
        """Updates done or, where the clock is ahead of them, as many as it stands for."""
        limit = self.config.optim.max_seconds
        by_clock = self.total_updates * self.state.train_seconds / limit if limit else 0.0
        return max(self.state.update, by_clock)

    def tick(self, *, training: bool) -> None:
        """Book the wall time since the last tick."""
        now = time.perf_counter()
        self.state.seconds += now - self.clock
        self.state.epoch_seconds += now - self.clock if training else 0.0
        self.state.train_seconds += now - self.clock if training else 0.0
        self.clock = now

    def backward(self, loss: Tensor, **how: Any) -> None:
        """Differentiate a loss of the whole batch, whatever share of it this process has."""
        self.fabric.backward(loss, **how)
        self.processes.sum_gradients(self.model.parameters())

    def check_finite(self) -> None:
        """Look at the figures of all updates since the last look, in one copy from the device.

        Raises:
            TrainingError: the first update with a loss or a gradient that is not finite, and its documents.
        """
        held, self.unchecked = self.unchecked, []
        figures = torch.stack([update.figures for update in held]).tolist() if held else []
        for each, values in zip(held, figures, strict=True):
            if math.isfinite(sum(values)):
                continue
            *terms, _, norm = values
            message = ", ".join(f"{name} {value:.4g}" for name, value in zip(each.names, terms, strict=True))
            ids = [self.store.documents[i].doc_id for i in dict.fromkeys(each.documents.tolist())]
            raise TrainingError(
                f"update {each.update} has {message} and gradient norm {norm:.4g}; its documents: "
                f"{', '.join(ids[:5])}{f' and {len(ids) - 5} more' if len(ids) > 5 else ''}",
                where=self.out,
                remedy="lower optim.lr or optim.clip, or look at these documents' vectors",
            )

    def save(self) -> None:
        """Write the checkpoint, unless an update before it was not finite. Raises as `check_finite`.

        Of several processes all call this and what else saves, and the first writes: a gathered model into
        the one file that a single process would write, so that any number of processes can go on from it.
        """
        self.check_finite()
        metadata: dict[str, Any] = {"fitted": self.fitted, "origin": self.extra.get("origin")}
        metadata |= {"config": to_dict(self.config), "state": asdict(self.state), "identity": self.identity}
        first = self.processes.first
        write_checkpoint(self.out, self.learned, self.optimiser, self.means.sums, metadata, write=first)

    def save_model(self, folder: Path, **metadata: Any) -> None:
        """Save the model to `folder`, with `metadata` beside what is known of its training."""
        model, first = self.model, self.processes.first
        if self.processes.sharded:
            gathered = ((name, whole(held.detach())) for name, held in model.state_dict().items())
            weights = {name: held.cpu() for name, held in gathered if first}
            if first:
                with torch.device("meta"):
                    model = build_model(self.store, self.config)
                model.load_state_dict(weights, assign=True)
        if first:
            save_model(folder, model, {**self.extra, **metadata})


def open_session(
    store: Store,
    config: TrainConfig | None,
    out: Path,
    *,
    resume: bool,
    start: Start | None = None,
    processes: Processes | None = None,
) -> TrainingSession:
    """Set a run up; nothing is written before everything is known to fit.

    Args:
        config: may be None on resume: the run's own is taken.
        start: what a new run starts from in place of fresh weights.
        processes: those that train; this one alone, if nothing else is said.
    Raises:
        RunError: `out` holds something (without `resume`) or nothing (with it), or the run there was made
            with another configuration or store.
        ConfigError, SplitError, WindowError, ModelError: the configuration cannot be carried out.
    """
    free = (*FREE_TO_CHANGE, *ENDS)
    config, checkpoint = begin(
        out, config, read_config, resume=resume, free=free, what="run", unfinished=UNFINISHED
    )
    if config is None:
        raise RunError("a new run needs a configuration", where=out)
    if config.runtime.threads:
        torch.set_num_threads(config.runtime.threads)
    identity = checkpoint.metadata["identity"] if checkpoint else {}
    hardware = Hardware(**identity["hardware"]) if checkpoint else find_hardware(config.runtime)
    refuse_processes(config, hardware.device)
    fresh = checkpoint is None
    session = build_session(store, config, out, hardware, start, fresh=fresh, processes=processes)
    if checkpoint:
        refuse_changes(out, identity["store"], session.identity["store"])
        stored = checkpoint.metadata["state"]
        session.fitted = checkpoint.metadata.get("fitted", {})
        session.state = TrainingState(**{**stored, "plateau": Plateau(**stored["plateau"])})
        restore(checkpoint, session.learned, session.optimiser, session.means.sums, out)
        if (origin := checkpoint.metadata.get("origin")) is not None:
            remember(session, origin)
            session.trained_on = TrainedOn.union([session.trained_on, TrainedOn.load(out / TRAINED_ON)])
        go_on(session, flatten(checkpoint.metadata.get("config", {})))
        done = read_history(out) if session.state.epoch else []
        session.history = [line for line in done if line["epoch"] <= session.state.epoch]
    session.processes.wait()  # all have looked into the folder before the first writes there
    if start is not None:  # else one stopped before its first checkpoint would go on from fresh weights
        if session.processes.first:
            session.trained_on.save(out / TRAINED_ON)  # before the checkpoint that is read with it
        session.save()
    if session.processes.first:
        _write_environment(session)
    several = f", {config.runtime.processes} processes" if config.runtime.processes > 1 else ""
    log.info("training on %s in %s%s", hardware.device, hardware.precision, several)
    return session


def build_session(
    store: Store,
    config: TrainConfig,
    out: Path,
    hardware: Hardware,
    start: Start | None = None,
    *,
    fresh: bool = True,
    processes: Processes | None = None,
) -> TrainingSession:
    """A run before its first update (of which nothing is on disk), or, not `fresh`, before its checkpoint is
    read into it. Raises as `open_session`."""
    split = split_documents(store, config.data.split, config.data.sources)
    training, validation = (split_batches(store, split, name, config) for name in ("train", "validation"))
    seed_everything(config.runtime.seed)
    model = build_model(store, config)
    refuse_data(config, training, model)
    refuse_memory(model, config, hardware.device)
    fitted: dict[str, Any] = {}
    if start is not None:
        model.load_state_dict(dict(start.weights))
    elif fresh:  # otherwise the checkpoint has it all
        fitted = fit_model(model, store, config, split)
    needed = needs_statistics(config.loss)
    statistics = statistics_of(store, training.documents, float(model.scale)) if needed else None
    objective = Objective(config.loss, statistics, generative=model.generative)
    here = processes or Processes()
    fabric, network = _set_up(model, hardware, here, start)
    objective.to(fabric.device)
    products = torch.bfloat16 if hardware.precision == "bfloat16" else torch.float32
    fused = hardware.device != "mps"
    optimiser = make_optimiser(model, objective, config.optim, fused=fused, products=products)
    names = (*loss_names(objective), "cosine", "gradient_norm")
    session = TrainingSession(
        store=store,
        config=config,
        out=out,
        fabric=fabric,
        model=model,
        network=network,
        optimiser=optimiser,
        objective=objective,
        training=training,
        validation=validation,
        hardware=hardware,
        means=RunningMeans(names, fabric.device),
        identity={"hardware": asdict(hardware), "store": store_identity(store, split)},
        extra=provenance(store, config, split),
        trained_on=TrainedOn.of(store, split.train),
        fitted=fitted,
        processes=here,
    )
    if start is not None:
        remember(session, {**start.origin, "keep_zeros": start.keep_zeros})
        if start.trained_on is not None:
            session.trained_on = TrainedOn.union([session.trained_on, start.trained_on])
    return session


def _set_up(
    model: NextVectorModel, hardware: Hardware, here: Processes, start: Start | None
) -> tuple[Fabric, nn.Module]:
    """Fabric, and the model behind it: this process's share, where each has one. Raises ConfigError."""
    # We say ourselves which precision was taken.
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    # Each process is a Fabric of one device
    devices = [here.local_rank] if hardware.device == "cuda" else 1
    fabric = Fabric(accelerator=hardware.device, devices=devices, precision=hardware.fabric_precision)
    network = TrainingWrapper(model)
    if here.sharded:
        if start is not None and start.keep_zeros:
            raise ConfigError(
                "weights that stay 0 are looked up in whole matrices, and with fsdp no process has one",
                where="runtime.strategy",
                remedy="give --strategy ddp",
            )
        shard(network, hardware.device, here.size)
    return fabric, fabric.setup_module(network)


def remember(session: TrainingSession, origin: dict[str, Any]) -> None:
    """What a run that did not start from fresh weights says of that, and holds to."""
    session.extra["origin"] = origin
    if origin["keep_zeros"]:
        hold_zeros(session.model)


def go_on(session: TrainingSession, then: Mapping[str, Any]) -> None:
    """A resumed run that was given a later end than it had (`then`, a flat configuration) is not over.

    Schedules are laid out for the new end: the learning rate goes on from where they stand there. An epoch
    that the old end cut short is not made up for.

    Raises:
        RunError: the new end is no later than what was done, or the run ended for another reason.
    """
    state, optim, now = session.state, session.config.optim, flatten(to_dict(session.config))
    changed = bool(then) and any(then.get(key) != now.get(key) for key in ENDS)
    reached = {
        "max_updates": 0 < optim.max_updates <= state.update,
        "epochs": optim.epochs <= state.epoch,
        "max_seconds": 0 < optim.max_seconds <= state.train_seconds,
    }
    if state.stopped in reached and not any(reached.values()):
        state.stopped = ""
    if not changed:
        return
    if any(reached.values()):
        over = next(name for name, there in reached.items() if there)
        raise RunError(
            f"has made {state.update:,} updates in {state.epoch} epochs, so that {over} = "
            f"{now[f'optim.{over}']} is reached already",
            where=session.out,
            remedy="give a later end: --max-updates, --epochs or --set optim.max_seconds=SECONDS",
        )
    if state.stopped:
        raise RunError(
            f"ended by {state.stopped} in epoch {state.epoch}, and a later end changes nothing of that",
            where=session.out,
            remedy=f"train on in another folder: nextvec train --init-from {session.out}",
        )


def _write_environment(session: TrainingSession) -> None:
    write_toml(session.out / CONFIG, session.config)
    session.trained_on.save(session.out / TRAINED_ON)
    packages = ("torch", "numpy", "lightning-fabric", "safetensors")
    metadata = {
        "nextvec": __version__,
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in packages},
        "platform": platform.platform(),
        "device": session.hardware.device,
        "device_name": session.hardware.name,
        "precision": session.hardware.precision,
        "threads": torch.get_num_threads(),
        "processes": session.processes.size,
        "parameters": sum(p.numel() for p in session.parameters),
        "planned_updates": session.total_updates,
        "targets": session.training.targets,
        "validation_targets": session.validation.targets,
        "scale": float(session.model.scale),
        "fitted": session.fitted,
        "resumed_at_update": session.state.update,
        "store": session.extra["training"]["store"],
        "history": HISTORY,
        "identity": {
            **session.identity["store"],
            "store.documents": len(session.store.documents),
            "store.shards": len(session.store.info["shards"]),
        },
    }
    write_json(session.out / ENVIRONMENT, metadata, sealed=True)
