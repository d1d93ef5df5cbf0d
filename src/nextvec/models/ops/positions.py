"""Sinusoidal positions of any length. Paper: Vaswani et al., Attention Is All You Need, 2017, section 3.5."""

from __future__ import annotations

import math

import torch
from torch import Tensor

BASE = 10_000.0


def sinusoidal(start: int, count: int, width: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Positions start..start+count-1 as [count, width]: sine at even indices, cosine at odd ones.

    Computed where it is used: nothing is stored, so there is no longest context. Angles are float64 (float32
    on devices without it would lose them only past 10^6 positions).
    """
    wide = torch.float32 if device.type == "mps" else torch.float64
    position = torch.arange(start, start + count, device=device, dtype=wide)
    rate = torch.exp(torch.arange(0, width, 2, device=device, dtype=wide) * (-math.log(BASE) / width))
    angle = position[:, None] * rate
    return torch.stack((angle.sin(), angle.cos()), -1).flatten(1)[:, :width].to(dtype)
