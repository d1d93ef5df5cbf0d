"""Prediction heads: from a backbone's hidden state [..., H] to a vector [..., D]. Any backbone wears any.

`linear`      Linear(H, D)
`projection`  Linear(H, D) - GELU - LayerNorm(D) - Linear(D, D)   (the brief's task list)
`compact`     Linear(H, H) - GELU - LayerNorm(H) - Linear(H, D)   (the brief's transformer)
`unit`        Linear(H, D), divided by its length: as the brief first had it, raw and unit output in one
`energy`      a residual MLP from noise: samples, and their mean as the point (`nextvec.models.energy`)
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from nextvec.errors import ModelError
from nextvec.models.energy import EnergyHead

HeadName = Literal["linear", "projection", "compact", "unit", "energy"]
SOFT = 1e-6
"""Added to a squared length before dividing by it."""
HEADS: tuple[str, ...] = get_args(HeadName)


def make_head(name: str, width: int, d_embed: int) -> nn.Module:
    """A head from `width` = H to `d_embed` = D. Raises ModelError for an unknown name."""
    if name == "linear":
        return nn.Linear(width, d_embed)
    if name == "projection":
        return _mlp(width, d_embed, d_embed)
    if name == "compact":
        return _mlp(width, width, d_embed)
    if name == "unit":
        return UnitHead(width, d_embed)
    if name == "energy":
        return EnergyHead(width, d_embed)
    raise ModelError(f"unknown head '{name}'", remedy=f"choose one of: {', '.join(HEADS)}")


class UnitHead(nn.Linear):
    """Linear, then brought to length 1 in the network's scale (which is the encoder's own length where the
    scaling is "norm"). A decoder is misled by it, which is why it is here: to be compared with."""

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., H] -> [..., D] of length 1; 0 stays 0, with a gradient that is finite."""
        said = super().forward(hidden)
        return said * torch.rsqrt(said.square().sum(-1, keepdim=True) + SOFT)


def zero_init_head(head: nn.Module) -> None:
    """Set the last Linear of a head to zero: it then says nothing until it has learned something."""
    zero_init([module for module in head.modules() if isinstance(module, nn.Linear)][-1])


def zero_init(linear: nn.Linear) -> nn.Linear:
    """The same Linear, set to zero."""
    nn.init.zeros_(linear.weight)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)
    return linear


def _mlp(width: int, inner: int, d_embed: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.LayerNorm(inner), nn.Linear(inner, d_embed))
