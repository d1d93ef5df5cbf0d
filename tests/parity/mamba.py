"""What the parity tests of Mamba-2 and of the hybrid share."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from nextvec.models.architectures.mamba2 import RATES, Mamba2Mixer
from nextvec.models.stack import Stack
from parity.compare import Pairs, same_as_reference

TOLERANCE = 1e-4  # of the largest value; the references compute in float32 inside, whatever their weights are


def mixer_pairs(ours: Mamba2Mixer, theirs: nn.Module) -> Pairs:
    """Our parameters beside those of transformers."""
    return [
        (ours.project.weight, theirs.in_proj.weight),
        (ours.filters, theirs.conv1d.weight[:, 0]),
        (ours.filter_bias, theirs.conv1d.bias),
        (ours.dt_bias, theirs.dt_bias),
        (ours.log_rate, theirs.A_log),
        (ours.skip, theirs.D),
        (ours.norm_weight, theirs.norm.weight),
        (ours.out.weight, theirs.out_proj.weight),
    ]


def randomise(model: nn.Module) -> None:
    """Nothing keeps its initial value; the decays stay in the range that they have in training."""
    for name, parameter in model.named_parameters():
        if name.endswith("log_rate"):
            nn.init.uniform_(parameter, -1.0, math.log(RATES[1]))
        elif name.endswith("dt_bias"):
            nn.init.uniform_(parameter, -4.0, 1.0)
        else:
            nn.init.normal_(parameter, 0.1, 0.4)


def same_as_transformers(
    model: Stack, reference: nn.Module, pairs: Callable[[], Pairs], shape: tuple[int, int, int]
) -> None:
    """The model's blocks against a body of transformers, on random vectors of that shape [B, T, D]."""

    def run(x: Tensor) -> Tensor:
        hidden = reference(inputs_embeds=model.embed(x), use_cache=False).last_hidden_state
        raw: Tensor = model.head(hidden)
        return raw

    x = torch.randn(shape, dtype=torch.float64)
    same_as_reference(model, reference, pairs, run, x, TOLERANCE)
