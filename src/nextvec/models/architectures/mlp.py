"""MLP: the last c vectors side by side through two hidden layers, the brief's "simple MLP baseline".

Paper: Bengio et al., A Neural Probabilistic Language Model, 2003 (a fixed window of the past).
Deviations: absent vectors (before the document's start) are zero; a presence mask of c bits tells them apart.
Parity: the window written out position by position (tests/parity/test_mlp.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextvec.config import number
from nextvec.models.base import ModelConfig, NextVectorModel
from nextvec.models.ops.layers import dropout
from nextvec.models.ops.positions import read_so_far
from nextvec.models.registry import architecture
from nextvec.models.residual import State


@dataclass(frozen=True, kw_only=True)
class MLPConfig(ModelConfig):
    """context: c, how many of the last vectors are read; hidden: H of both layers; dropout after each."""

    context: int
    hidden: int
    dropout: float = number(least=0, below=1)


@architecture("mlp")
class MLP(NextVectorModel):
    """[x_{t-c+1} .. x_t, mask] -> Linear - GELU - Linear - GELU -> head; the state: c - 1 vectors."""

    Config = MLPConfig
    streaming = "buffer"
    paper = "Bengio et al., A Neural Probabilistic Language Model, 2003"
    complexity = "O(T)"
    best_for = "a fixed short context, and as the plainest network to compare with"
    caches = ("recent",)

    def __init__(self, config: MLPConfig) -> None:
        super().__init__(config, width=config.hidden)
        self.context = config.context
        self.first = nn.Linear(config.context * (config.d_embed + 1), config.hidden)
        self.second = nn.Linear(config.hidden, config.hidden)
        self.dropout = config.dropout

    def encode(self, x: Tensor) -> Tensor:
        return self._read_windows(F.pad(x, (0, 0, self.context - 1, 0)), 0)

    def encoder_state(self, batch: int, device: torch.device, dtype: torch.dtype) -> State:
        recent = torch.zeros(batch, self.context - 1, self.d_embed, device=device, dtype=dtype)
        return {"recent": recent, "position": torch.zeros((), dtype=torch.int64)}

    def encode_chunk(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        position = state["position"]
        past = torch.cat((state["recent"], x), 1)
        hidden = self._read_windows(past, int(position))
        recent = past[:, past.shape[1] - self.context + 1 :].clone()
        return hidden, {"recent": recent, "position": position + x.shape[1]}

    def encode_step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        position = state["position"]
        window = torch.cat((state["recent"], x_t[:, None]), 1)  # [B, c, D]
        present = torch.arange(self.context, device=x_t.device) >= self.context - 1 - read_so_far(state)
        mask = present.to(x_t.dtype).expand(len(x_t), -1)
        hidden = self._layers(torch.cat((window.flatten(1), mask), 1))
        return hidden, {"recent": window[:, 1:].clone(), "position": position + 1}

    def _read_windows(self, past: Tensor, first: int) -> Tensor:
        """past [B, c-1+T, D] -> hidden [B, T, H], where past[:, c-1] stands at position `first`."""
        windows = past.unfold(1, self.context, 1).transpose(2, 3).flatten(2)  # [B, T, c*D], earliest first
        time = torch.arange(first, first + windows.shape[1], device=past.device)
        slot = torch.arange(self.context, device=past.device)
        mask = (time[:, None] + slot >= self.context - 1).to(past.dtype)  # [T, c]
        return self._layers(torch.cat((windows, mask.expand(past.shape[0], -1, -1)), 2))

    def _layers(self, inputs: Tensor) -> Tensor:
        hidden = dropout(F.gelu(self.first(inputs)), self.dropout, self.training)
        return dropout(F.gelu(self.second(hidden)), self.dropout, self.training)
