"""Hybrid: Mamba-2 layers with an attention layer after every few, which can look a vector up exactly.

Source: Bamba (IBM, Princeton, CMU and UIUC, 2024), after the hybrids in the Mamba-2 paper. Paper: Dao and Gu,
Transformers are SSMs, 2024, section 9.2.3.
Deviations: only the attention layers carry a SwiGLU, where Bamba's Mamba layers have one too; every query
head has its own keys and values. As in Bamba, rotary positions turn half of each attention head, there are no
biases, and RMSNorm stands before each part. Dropout on what each part adds, 0 in `brief`.
Parity: transformers.BambaModel with the same weights and the SwiGLU of its Mamba layers set to zero
(tests/parity/test_hybrid.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nextvec.models.architectures.mamba2 import EPS, Mamba2Config, make_block
from nextvec.models.ops.attention import cache_append, cache_used, causal_attention
from nextvec.models.ops.layers import RMSNorm, SwiGLU, dropout
from nextvec.models.ops.positions import rotary_angles, rotate
from nextvec.models.registry import architecture
from nextvec.models.residual import State
from nextvec.models.stack import Block, Place, Stack


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


class AttentionBlock(Block):
    """x + attention(norm(x)), then x + SwiGLU(norm(x)); the sums stay in x's dtype, also under autocast."""

    entries = ("keys_values",)

    def __init__(self, config: HybridConfig) -> None:
        super().__init__()
        self.heads, self.head_dim = config.heads, config.hidden // config.heads
        self.dropout = config.dropout
        self.norm = RMSNorm(config.hidden, EPS)
        self.qkv = nn.Linear(config.hidden, 3 * config.hidden, bias=False)
        self.out = nn.Linear(config.hidden, config.hidden, bias=False)
        self.ffn_norm = RMSNorm(config.hidden, EPS)
        self.ffn = SwiGLU(config.hidden, config.ffn)
        with torch.no_grad():
            for projection in (self.out, self.ffn.outer):
                projection.weight.div_(config.layers**0.5)  # as Mamba2Block

    def forward(self, x: Tensor, place: Place, state: State | None) -> tuple[Tensor, State]:
        """Half of each head is turned. Keys and values are cached as [2, B, heads, capacity, H/heads]."""
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = _half_turned(q, place.rotary), _half_turned(k, place.rotary)
        after: State = {}
        if state is not None:
            cache = cache_append(state["keys_values"], torch.stack((k, v)), place.start)
            k, v = cache_used(cache, place.start + x.shape[1]).unbind()
            after["keys_values"] = cache
        mixed = self.out(causal_attention(q, k, v).transpose(1, 2).flatten(2))
        x = x + dropout(mixed, self.dropout, self.training)
        return x + dropout(self.ffn(self.ffn_norm(x)), self.dropout, self.training), after

    def initial(self, batch: int, device: torch.device, dtype: torch.dtype) -> State:
        shape = (2, batch, self.heads, 0, self.head_dim)
        return {"keys_values": torch.empty(shape, device=device, dtype=dtype)}


@architecture("hybrid")
class Hybrid(Stack):
    """The state is that of each Mamba-2 layer and the cached keys and values of each attention layer."""

    Config = HybridConfig
    streaming = "cache"
    caches = ("keys_values",)
    paper = "Dao and Gu, Transformers are SSMs, 2024; Bamba, 2024"
    complexity = "O(T^2)"
    best_for = "long documents that come back to single earlier chunks: few caches, most layers constant"

    def __init__(self, config: HybridConfig) -> None:
        blocks = (
            make_block(config) if (i + 1) % config.attention_every else AttentionBlock(config)
            for i in range(config.layers)
        )
        super().__init__(config, config.hidden, blocks, RMSNorm(config.hidden, EPS))
        self.turned = config.hidden // config.heads // 2

    def rotary(self, x: Tensor, start: int) -> tuple[Tensor, ...]:
        return rotary_angles(start, x.shape[1], self.turned, x.device, x.dtype)


def _half_turned(x: Tensor, angles: tuple[Tensor, ...]) -> Tensor:
    """Rotary positions on the first half of x [..., T, d]; the other half is the same at every position."""
    turned, still = x.chunk(2, -1)
    return torch.cat((rotate(turned, angles), still), -1)
