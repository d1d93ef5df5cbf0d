"""What the contract tests of the architectures share: small models, vectors and the three forms."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from nextvec.models import registry
from nextvec.models.base import NextVectorModel
from nextvec.models.residual import State

D, CHUNK = 16, 16
NAMES = registry.names()
# Every architecture at its preset `small`, and name/preset for other presets whose name begins so: variants.
MODELS = (
    *NAMES,
    *(f"{n}/{p}" for n in NAMES for p in registry.presets(n) if p.startswith("small") and p != "small"),
)
# Whatever of these a configuration has is made small, so that the whole file runs in seconds.
SMALL = {"hidden": 32, "width": 16, "ffn": 48, "max_length": 4096}

every_architecture = pytest.mark.parametrize("name", MODELS)
every_file = pytest.mark.parametrize("name", NAMES)


def fresh(name: str, **overrides: object) -> NextVectorModel:
    """A small model as it is before training, in eval mode."""
    torch.manual_seed(0)
    architecture, _, preset = name.partition("/")
    fields = {f.name for f in dataclasses.fields(registry.get(architecture).Config)}
    sizes = {key: value for key, value in SMALL.items() if key in fields}
    return registry.build(architecture, preset or "small", D, **{**sizes, **overrides}).eval()


def make(name: str, dtype: torch.dtype = torch.float32, **overrides: object) -> NextVectorModel:
    """A small model whose every parameter is random (fresh ones have zero biases, which hide mistakes)."""
    model = fresh(name, **overrides)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        model.scale.fill_(1.7)
    return model.to(dtype).eval()


def vectors(batch: int, time: int, dtype: torch.dtype = torch.float32, seed: int = 1) -> Tensor:
    return torch.randn(batch, time, D, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def run_steps(model: NextVectorModel, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
    """The step form over x [B, T, D] -> raw [B, T, D] and the last state."""
    state = model.init_state(len(x)) if state is None else state
    raw: list[Tensor] = []
    for x_t in x.unbind(1):
        prediction, state = model.step(x_t, state)
        raw.append(prediction.raw)
    return torch.stack(raw, 1), state


def run_chunks(model: NextVectorModel, x: Tensor, size: int) -> Tensor:
    state, raw = model.init_state(len(x)), []
    for chunk in x.split(size, 1):
        prediction, state = model.extend(chunk, state)
        raw.append(prediction.raw)
    return torch.cat(raw, 1)
