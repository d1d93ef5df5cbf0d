"""What would keep a training from running, told before it starts."""

from __future__ import annotations

import os

import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from nextvec.corpus.store import Store
from nextvec.data.batches import BatchSource
from nextvec.data.splits import split_documents
from nextvec.errors import ConfigError, ModelError
from nextvec.hardware import find_hardware
from nextvec.models.base import NextVectorModel
from nextvec.models.registry import training_memory
from nextvec.objectives.config import check_data
from nextvec.training.build import build_model, split_batches
from nextvec.training.config import TrainConfig
from nextvec.training.distributed import launched

WIDE = 8
"""Vectors of a layer's width that the backward pass is taken to need of a layer, where it is only guessed."""
NEAR = 0.25
"""Of the memory: what is guessed to take less is not counted."""


def memory_of(device: str) -> int:
    """Bytes of a device, all that it has."""
    if device.startswith("cuda"):
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def refuse_memory(model: NextVectorModel, config: TrainConfig, device: str) -> None:
    """Raise ModelError where weights, gradients, moments and one batch's activations cannot fit `device`.

    Nothing of that size is allocated: a pass over tensors without contents says what autograd would keep, and
    only where a guess comes near to the memory there is. What it cannot say of an architecture (performer
    counts its passes, an LSTM keeps more inside one operation) is left out, so that nothing is refused that
    could have fitted.
    """
    run, time = config.runtime, config.data.context
    # Of one process: those on a CPU have one memory, and with fsdp each holds a share of the model
    memory = memory_of(device) // (run.devices if device == "cpu" else 1)
    batch = -(-config.optim.batch_size // run.processes)
    parameters = [p for p in model.parameters() if p.requires_grad]
    moments = 1 if config.optim.optimiser == "muon" else 2
    held = (2 + moments) * sum(p.numel() * p.element_size() for p in parameters)
    held //= run.processes if run.strategy == "fsdp" else 1
    guess = 4 * batch * time * (WIDE * sum(p.shape[0] for p in parameters if p.ndim) + time * len(parameters))
    if held + guess < NEAR * memory:
        return
    activations = 0
    try:
        with FakeTensorMode():
            twin = type(model)(model.config)  # type: ignore[call-arg]  # a subclass sets its own width
            activations = training_memory(twin, batch, time).activations
    except DataDependentOutputException:
        pass
    if held + activations > memory:
        who = "training" if run.processes == 1 else "each process"
        raise ModelError(
            f"{who} needs {held / 2**30:,.1f} GiB for weights, gradients and the optimiser and "
            f"{activations / 2**30:,.1f} GiB for a batch of {batch:,} x {time:,} chunks, and there are "
            f"{memory / 2**30:,.1f}",
            where=f"model {model.architecture}",
            remedy="lower optim.batch_size, data.context or the model's sizes",
        )


def refuse_processes(config: TrainConfig, device: str) -> None:
    """Raise ConfigError for processes, machines or a strategy that cannot be had.

    Args:
        device: what the run computes on: "cpu", "cuda" or "mps".
    """
    run, size = config.runtime, config.runtime.processes
    if launched():
        found = (int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"]))
        if found != (run.devices, size):
            raise ConfigError(
                f"torchrun has started {found[1]} processes, {found[0]} of them here, and --devices "
                f"{run.devices} --nodes {run.nodes} are {size}",
                where="runtime.devices",
                remedy=f"give --devices {found[0]} --nodes {max(found[1] // found[0], 1)}",
            )
    elif run.nodes > 1:
        raise ConfigError(
            f"is {run.nodes}, and a machine cannot start processes on others",
            where="runtime.nodes",
            remedy=f"start it on each with torchrun --nnodes {run.nodes} --nproc-per-node {run.devices} "
            "--rdzv-backend c10d --rdzv-endpoint HOST:PORT -m nextvec train ...",
        )
    if size == 1:
        if run.strategy == "fsdp":
            raise ConfigError(
                "one process has no one to share a model with",
                where="runtime.strategy",
                remedy="give --devices 2 or more, or leave --strategy out",
            )
        return
    there = {"cpu": run.devices, "cuda": torch.cuda.device_count()}.get(device, 1)
    if run.devices > there:
        raise ConfigError(
            f"is {run.devices}, and there {'is' if there == 1 else 'are'} {there} {device} here",
            where="runtime.devices",
            remedy=f"give --devices {there}, or --device cpu",
        )
    if config.optim.batch_size % size:
        raise ConfigError(
            f"a batch of {config.optim.batch_size} cannot be divided among {size} processes",
            where="optim.batch_size",
            remedy=f"give a multiple of {size}, or another number of --devices or --nodes",
        )
    if run.strategy == "fsdp" and config.optim.optimiser == "muon":
        raise ConfigError(
            "muon looks at whole matrices, and with fsdp no process has one",
            where="optim.optimiser",
            remedy="give --recipe residual, which has adamw, or --strategy ddp",
        )


def check_config(store: Store, config: TrainConfig) -> None:
    """Raise what would keep a run of this configuration from starting; nothing is built or written.

    Raises:
        ConfigError, SplitError, WindowError, ModelError: as `open_session`.
    """
    split = split_documents(store, config.data.split, config.data.sources)
    training, _ = (split_batches(store, split, name, config) for name in ("train", "validation"))
    with torch.device("meta"):
        model = build_model(store, config)
    refuse_data(config, training, model)
    device = find_hardware(config.runtime).device
    refuse_processes(config, device)
    refuse_memory(model, config, device)


def refuse_data(config: TrainConfig, training: BatchSource, model: NextVectorModel) -> None:
    """Raise ConfigError where an objective weighs nothing, or finds nothing to look at in these documents."""
    config.loss.active(generative=model.generative)
    check_data(
        config.loss,
        training.documents.targets_each(config.data.shape).tolist(),
        config.optim.batch_size,
        targets_per_window=config.data.shape.stride,
        windows_per_document=config.data.max_per_document,
        broken=config.data.broken,
    )
