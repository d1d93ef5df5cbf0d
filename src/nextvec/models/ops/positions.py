"""Positions of any length: sinusoidal ones, and rotary angles that queries and keys are turned by.

Papers: Vaswani et al., Attention Is All You Need, 2017, section 3.5; Su et al., RoFormer: Enhanced
Transformer with Rotary Position Embedding, 2021, section 3.2: the product of a turned query and a turned key
depends on the distance between them alone, and their lengths stay as they are. Pairs are (i, i + d/2), not
neighbours; for learned projections that is the same thing. Shapes: T time, d per head (even).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor

BASE = 10_000.0


def _angles(start: int, count: int, width: int, device: torch.device) -> Tensor:
    """[count, ceil(width/2)] angles of positions start..start+count-1, in float64 (float32 on devices without
    it would lose them only past 10^6 positions). Computed where they are used: there is no longest
    context."""
    wide = torch.float32 if device.type == "mps" else torch.float64
    position = start + torch.arange(count, device=device, dtype=wide)
    rate = torch.exp(torch.arange(0, width, 2, device=device, dtype=wide) * (-math.log(BASE) / width))
    return position[:, None] * rate


def sinusoidal(start: int, count: int, width: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Positions start..start+count-1 as [count, width]: sine at even indices, cosine at odd ones."""
    angle = _angles(start, count, width, device)
    return torch.stack((angle.sin(), angle.cos()), -1).flatten(1)[:, :width].to(dtype)


def rotary_angles(
    start: int, count: int, width: int, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Cosine and sine, [count, width/2] each, of positions start..start+count-1."""
    angle = _angles(start, count, width, device)
    return angle.cos().to(dtype), angle.sin().to(dtype)


def rotate(x: Tensor, angles: tuple[Tensor, ...]) -> Tensor:
    """Turn x [..., T, d] by `rotary_angles` of its T positions. Same shape and dtype."""
    cos, sin = angles
    first, second = x.chunk(2, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1).to(x.dtype)


def read_so_far(state: Mapping[str, Tensor]) -> int:
    """`state["position"]`, how many vectors were read, as a number.

    A graph of the step form (torch.export) is for any of them: there it is the tensor itself, which adds and
    compares as a number does but chooses no branch and cuts no tensor.
    """
    position = state["position"]
    return cast(int, position) if torch.compiler.is_exporting() else int(position)
