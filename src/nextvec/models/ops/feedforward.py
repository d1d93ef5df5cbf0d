"""The feed-forward half of a pre-norm layer."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from nextvec.models.ops.dropout import dropout


class FeedForward(nn.Module):
    """x + Linear(GELU(Linear(LayerNorm(x)))), with dropout inside and on the result. x [..., H].

    Paper: Vaswani et al., 2017, section 3.3, with the norm moved before it and GELU for ReLU.
    """

    def __init__(self, hidden: int, ffn: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden)
        self.inner = nn.Linear(hidden, ffn)
        self.outer = nn.Linear(ffn, hidden)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """[..., H] -> [..., H]."""
        inner = dropout(F.gelu(self.inner(self.norm(x))), self.dropout, self.training)
        return x + dropout(self.outer(inner), self.dropout, self.training)
