"""Hybrid: Mamba-2 layers with an attention layer after every few, which can look a vector up exactly.

Source: Bamba (IBM, Princeton, CMU and UIUC, 2024), after the hybrids in the Mamba-2 paper. Paper: Dao and Gu,
Transformers are SSMs, 2024, section 9.2.3.
Deviations: only the attention layers carry a SwiGLU, where Bamba's Mamba layers have one too; every query
head has its own keys and values. As in Bamba, rotary positions turn half of each attention head, there are no
biases, and RMSNorm stands before each part. Dropout on what each part adds, 0 in `brief`.
Parity: transformers.BambaModel with the same weights and the SwiGLU of its Mamba layers silenced
(tests/parity/test_hybrid.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nextvec.models.architectures.mamba2 import EPS, Mamba2Block, Mamba2Config, make_block
from nextvec.models.base import NextVectorModel
from nextvec.models.ops.attention import cache_append, causal_attention
from nextvec.models.ops.dropout import dropout
from nextvec.models.ops.norms import RMSNorm
from nextvec.models.ops.rotary import rotary_angles, rotate
from nextvec.models.ops.swiglu import SwiGLU
from nextvec.models.registry import architecture
from nextvec.models.residual import State

Angles = tuple[Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class HybridConfig(Mamba2Config):
    """As Mamba-2's; of its `layers`, every `attention_every`-th is attention, with `heads` heads and a SwiGLU
    of inner width ffn.
    """

    attention_every: int
    heads: int
    ffn: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden % (4 * self.heads):
            raise ValueError(
                f"hidden = {self.hidden} does not divide into {self.heads} heads of 4, 8, 12, ..."
            )
        if self.attention_every > self.layers:
            raise ValueError(
                f"attention_every = {self.attention_every} leaves no attention in {self.layers} layers"
            )


class AttentionBlock(nn.Module):
    """x + attention(norm(x)), then x + SwiGLU(norm(x)); the sums stay in x's dtype, also under autocast."""

    def __init__(self, config: HybridConfig) -> None:
        super().__init__()
        self.heads, self.dropout = config.heads, config.dropout
        self.norm = RMSNorm(config.hidden, EPS)
        self.qkv = nn.Linear(config.hidden, 3 * config.hidden, bias=False)
        self.out = nn.Linear(config.hidden, config.hidden, bias=False)
        self.ffn_norm = RMSNorm(config.hidden, EPS)
        self.ffn = SwiGLU(config.hidden, config.ffn)
        with torch.no_grad():
            for projection in (self.out, self.ffn.outer):
                projection.weight.div_(config.layers**0.5)  # as Mamba2Block

    def forward(
        self, x: Tensor, angles: Angles, cache: Tensor | None = None, length: int = 0
    ) -> tuple[Tensor, Tensor | None]:
        """x [B, T, H] that follows the `length` positions in `cache` -> [B, T, H] and the cache after it.

        Args:
            angles: of the T positions, for half of a head's width.
            cache: keys and values [2, B, heads, capacity, H/heads]; None: nothing was read before, and
                nobody goes on from here.
        """
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = _half_turned(q, angles), _half_turned(k, angles)
        if cache is not None:
            cache = cache_append(cache, torch.stack((k, v)), length)
            k, v = cache[..., : length + x.shape[1], :].unbind()
        mixed = self.out(causal_attention(q, k, v).transpose(1, 2).flatten(2))
        x = x + dropout(mixed, self.dropout, self.training)
        return x + dropout(self.ffn(self.ffn_norm(x)), self.dropout, self.training), cache


@architecture("hybrid")
class Hybrid(NextVectorModel):
    """The state is that of each Mamba-2 layer and the cached keys and values of each attention layer."""

    Config = HybridConfig
    streaming = "cache"
    caches = ("keys_values",)
    paper = "Dao and Gu, Transformers are SSMs, 2024; Bamba, 2024"
    complexity = "O(T^2)"
    best_for = "long documents that come back to single earlier chunks: few caches, most layers constant"

    def __init__(self, config: HybridConfig) -> None:
        super().__init__(config, width=config.hidden)
        self.embed = nn.Linear(config.d_embed, config.hidden)
        self.layers = nn.ModuleList(
            make_block(config) if (i + 1) % config.attention_every else AttentionBlock(config)
            for i in range(config.layers)
        )
        self.norm = RMSNorm(config.hidden, EPS)
        self.heads, self.head_dim = config.heads, config.hidden // config.heads

    def encode(self, x: Tensor) -> Tensor:
        angles = self._angles(x, 0)
        hidden: Tensor = self.embed(x).to(x.dtype)
        for layer in self.layers:
            hidden = layer(hidden) if isinstance(layer, Mamba2Block) else layer(hidden, angles)[0]
        normed: Tensor = self.norm(hidden)
        return normed

    def encoder_state(self, batch: int, device: torch.device, dtype: torch.dtype) -> State:
        state: State = {"position": torch.zeros((), dtype=torch.int64)}
        for i, layer in enumerate(self.layers):
            if isinstance(layer, Mamba2Block):
                state |= layer.initial(i, batch, device, dtype)
            else:
                shape = (2, batch, self.heads, 0, self.head_dim)
                state[f"keys_values.{i}"] = torch.empty(shape, device=device, dtype=dtype)
        return state

    def encode_chunk(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        length = int(state["position"])
        angles = self._angles(x, length)
        hidden: Tensor = self.embed(x).to(x.dtype)
        new: State = {"position": state["position"] + x.shape[1]}
        for i, layer in enumerate(self.layers):
            if isinstance(layer, Mamba2Block):
                hidden, after = layer.extend(hidden, i, state)
                new |= after
            else:
                hidden, cache = layer(hidden, angles, state[f"keys_values.{i}"], length)
                assert cache is not None
                new[f"keys_values.{i}"] = cache
        return self.norm(hidden), new

    def encode_step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        hidden, state = self.encode_chunk(x_t[:, None], state)
        return hidden[:, 0], state

    def _angles(self, x: Tensor, start: int) -> Angles:
        return rotary_angles(start, x.shape[1], self.head_dim // 2, x.device, x.dtype)


def _half_turned(x: Tensor, angles: Angles) -> Tensor:
    """Rotary positions on the first half of x [..., T, d]; the other half is the same at every position."""
    turned, still = x.chunk(2, -1)
    return torch.cat((rotate(turned, angles), still), -1)
