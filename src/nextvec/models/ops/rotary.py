"""Rotary positions of any length: queries and keys are turned by an angle that grows with their position.

Paper: Su et al., RoFormer: Enhanced Transformer with Rotary Position Embedding, 2021, section 3.2.
The product of a turned query and a turned key depends on the distance between them alone, and their lengths
stay as they are. Pairs are (i, i + d/2), not neighbours; for learned projections that is the same thing.
Shapes: T time, d per head (even).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

BASE = 10_000.0


def rotary_angles(
    start: int, count: int, width: int, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Cosine and sine, [count, width/2] each, of positions start..start+count-1; angles are taken in float64.

    Computed where they are used: nothing is stored, so there is no longest context.
    """
    wide = torch.float32 if device.type == "mps" else torch.float64
    position = torch.arange(start, start + count, device=device, dtype=wide)
    rate = torch.exp(torch.arange(0, width, 2, device=device, dtype=wide) * (-math.log(BASE) / width))
    angle = position[:, None] * rate
    return angle.cos().to(dtype), angle.sin().to(dtype)


def rotate(x: Tensor, angles: tuple[Tensor, ...]) -> Tensor:
    """Turn x [..., T, d] by `rotary_angles` of its T positions. Same shape and dtype."""
    cos, sin = angles
    first, second = x.chunk(2, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1).to(x.dtype)
