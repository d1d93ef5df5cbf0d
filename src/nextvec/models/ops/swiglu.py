"""The gated feed-forward. Paper: Shazeer, GLU Variants Improve Transformer, 2020, equation 6."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class SwiGLU(nn.Module):
    """Linear(SiLU(Linear(x)) * Linear(x)), without biases: [..., H] -> [..., out], H by default."""

    def __init__(self, hidden: int, ffn: int, out: int | None = None) -> None:
        super().__init__()
        self.inner = nn.Linear(hidden, 2 * ffn, bias=False)  # the gate's rows first
        self.outer = nn.Linear(ffn, hidden if out is None else out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., H] -> [..., out]."""
        gate, value = self.inner(x).chunk(2, -1)
        out: Tensor = self.outer(F.silu(gate) * value)
        return out
