"""What a training would take of the memory, told before it starts."""

from __future__ import annotations

import os

import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from nextvec.errors import ModelError
from nextvec.models.base import NextVectorModel
from nextvec.models.registry import training_memory
from nextvec.training.config import TrainConfig

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
    memory, batch, time = memory_of(device), config.optim.batch_size, config.data.context
    parameters = [p for p in model.parameters() if p.requires_grad]
    moments = 1 if config.optim.optimiser == "muon" else 2
    held = (2 + moments) * sum(p.numel() * p.element_size() for p in parameters)
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
        raise ModelError(
            f"training needs {held / 2**30:,.1f} GiB for weights, gradients and the optimiser and "
            f"{activations / 2**30:,.1f} GiB for a batch of {batch:,} x {time:,} chunks, and there are "
            f"{memory / 2**30:,.1f}",
            where=f"model {model.architecture}",
            remedy="lower optim.batch_size, data.context or the model's sizes",
        )
