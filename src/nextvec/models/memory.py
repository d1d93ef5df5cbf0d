"""What training a model would take, found out without taking it: on the meta device nothing has a value."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from nextvec.models.base import NextVectorModel
from nextvec.models.registry import build

MOMENTS = 2  # of AdamW


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes.

    Attributes:
        weights: parameters and buffers.
        gradients: one of each parameter.
        moments: AdamW's two.
        activations: what autograd keeps of one batch's forward pass for the backward pass.
    """

    weights: int
    gradients: int
    moments: int
    activations: int

    @property
    def total(self) -> int:
        """All of it. Not in it: the batch itself, scratch space of single operations, the libraries."""
        return self.weights + self.gradients + self.moments + self.activations


def training_memory(model: NextVectorModel, batch: int, time: int) -> TrainingMemory:
    """Memory for training `model` in its own dtype on batches of `batch` documents of `time` chunks.

    Its `learn` is run once where the model is, and every tensor that autograd saves is counted once, at the
    size of the storage that it keeps alive. A model built under `with torch.device("meta")` computes and
    holds nothing.
    """
    parameters = sum(p.numel() * p.element_size() for p in model.parameters())
    buffers = sum(b.numel() * b.element_size() for b in model.buffers())
    own = {_key(t) for t in (*model.parameters(), *model.buffers())}
    saved: dict[int, Tensor] = {}  # the tensors themselves, so that no key is given twice

    def keep(tensor: Tensor) -> Tensor:
        if _key(tensor) not in own:
            saved[_key(tensor)] = tensor
        return tensor

    training = model.training
    x = torch.zeros(batch, time, model.d_embed, device=model.scale.device, dtype=model.scale.dtype)
    mask = torch.ones(batch, time, device=x.device, dtype=torch.bool)
    try:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            prediction, losses = model.train().learn(x, None, x, mask)
            # The graph, and with it what is saved, lives as long as these do.
            alive = prediction.raw.square().mean() + sum(losses.values())
    finally:
        model.train(training)
    activations = sum(tensor.untyped_storage().nbytes() for tensor in saved.values())
    del alive
    return TrainingMemory(parameters + buffers, parameters, MOMENTS * parameters, activations)


def estimated_memory(
    name: str, preset: str, d_embed: int, batch: int = 32, time: int = 128
) -> TrainingMemory | None:
    """The same of an architecture's preset, in float32, without building it: its tensors have shapes only.

    Returns: None where a training pass asks for a value (performer counts its passes).
    Raises:
        ModelError, ConfigError: as `registry.build`.
    """
    try:
        with FakeTensorMode():
            return training_memory(build(name, preset, d_embed), batch, time)
    except DataDependentOutputException:
        return None


def _key(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
