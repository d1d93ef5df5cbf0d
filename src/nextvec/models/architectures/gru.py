"""GRU: residual blocks of gated recurrent units, the brief's second recurrent baseline.

Paper: Cho et al., Learning Phrase Representations using RNN Encoder-Decoder, 2014 (cuDNN's form, in which the
reset gate is applied after the recurrent product, as in torch.nn.GRU).
Deviations: none from the brief: Linear(D, H), then blocks of GRU - dropout - LayerNorm(x + y).
Parity: a plain float64 loop over the gate equations (tests/parity/test_recurrent.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nextvec.config import number
from nextvec.models.base import ModelConfig, NextVectorModel
from nextvec.models.ops.layers import dropout
from nextvec.models.ops.recurrence import gru
from nextvec.models.registry import architecture
from nextvec.models.residual import State


@dataclass(frozen=True, kw_only=True)
class GRUConfig(ModelConfig):
    """hidden: H; layers: number of blocks; dropout: on each block's output before it is added."""

    hidden: int
    layers: int
    dropout: float = number(least=0, below=1)


class GRUBlock(nn.Module):
    """x -> LayerNorm(x + dropout(GRU(x))), on [B, T, H]."""

    def __init__(self, hidden: int, dropout: float) -> None:
        super().__init__()
        self.gru = nn.GRU(hidden, hidden, batch_first=True)
        self.norm = nn.LayerNorm(hidden)
        self.dropout = dropout

    def forward(self, x: Tensor, h: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x [B, T, H] and the state h [B, H] before it -> output [B, T, H] and the state after it."""
        if x.device.type == "cpu" and torch.is_grad_enabled() and not torch.compiler.is_exporting():
            y = gru(x, h, *self.gru.all_weights[0])
            return self.join(x, y), y[:, -1]
        y, last = self.gru(x, None if h is None else h[None].contiguous())
        return self.join(x, y), last[0]

    def step(self, x_t: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """The same for one position x_t [B, H]."""
        h = torch.gru_cell(x_t, h, *self.gru.all_weights[0])
        return self.join(x_t, h), h

    def join(self, x: Tensor, y: Tensor) -> Tensor:
        """The residual connection, post-norm."""
        joined: Tensor = self.norm(x + dropout(y, self.dropout, self.training))
        return joined


@architecture("gru")
class GRU(NextVectorModel):
    """Residual GRU blocks; the state is each block's h.

    On a CPU training takes `ops.recurrence.gru`; torch's own kernel reads where no gradient is asked for.
    """

    Config = GRUConfig
    streaming = "constant"
    paper = "Cho et al., Learning Phrase Representations using RNN Encoder-Decoder, 2014"
    complexity = "O(T)"
    best_for = "streams of any length on a CPU, deeper than the LSTM with the smallest state"

    def __init__(self, config: GRUConfig) -> None:
        super().__init__(config, width=config.hidden)
        self.embed = nn.Linear(config.d_embed, config.hidden)
        self.blocks = nn.ModuleList(GRUBlock(config.hidden, config.dropout) for _ in range(config.layers))

    def encode(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.embed(x)
        for block in self.blocks:
            hidden, _ = block(hidden)
        return hidden

    def encoder_state(self, batch: int, device: torch.device, dtype: torch.dtype) -> State:
        return {
            "h": torch.zeros(len(self.blocks), batch, self.embed.out_features, device=device, dtype=dtype)
        }

    def encode_chunk(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        hidden, hs = self.embed(x), []
        for block, h in zip(self.blocks, state["h"], strict=True):
            hidden, h = block(hidden, h)
            hs.append(h)
        return hidden, {"h": torch.stack(hs)}

    def encode_step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        hidden, hs = self.embed(x_t), []
        for block, h in zip(self.blocks, state["h"], strict=True):
            assert isinstance(block, GRUBlock)
            hidden, h = block.step(hidden, h)
            hs.append(h)
        return hidden, {"h": torch.stack(hs)}
