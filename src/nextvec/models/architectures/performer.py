"""Performer: attention through positive orthogonal random features (FAVOR+), linear in the context.

Paper: Choromanski et al., Rethinking Attention with Performers, 2021. Source: the pre-norm body of the
Performer language model (LayerNorm, attention, LayerNorm, GELU feed-forward).
Deviations: the keys' stabiliser is the largest exponent so far, not of the whole sequence: that one, as in
the package performer-pytorch, lets later vectors change earlier outputs. Positions are rotary (RoFormer):
they keep the lengths of queries and keys, which the features depend on, and have no longest context. Features
are redrawn every `redraw` training passes, never outside of training; they and the count are saved.
Parity: a plain float64 loop over the same features (tests/parity/test_performer.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nextvec.models.base import ModelConfig, NextVectorModel
from nextvec.models.ops.dropout import dropout
from nextvec.models.ops.feedforward import FeedForward
from nextvec.models.ops.linear_attention import (
    KernelState,
    kernel_attention,
    key_exponents,
    orthogonal_directions,
    query_exponents,
)
from nextvec.models.ops.rotary import rotary_angles, rotate
from nextvec.models.registry import architecture
from nextvec.models.residual import State


@dataclass(frozen=True, kw_only=True)
class PerformerConfig(ModelConfig):
    """hidden: H; layers; heads of head_dim each (together they need not be H); ffn: inner width; features: m
    random features a head; redraw: training passes between two draws; dropout: on what each half adds.
    """

    hidden: int
    layers: int
    heads: int
    head_dim: int
    ffn: int
    features: int
    redraw: int
    dropout: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.head_dim % 2:
            raise ValueError(f"head_dim = {self.head_dim}: rotary positions need an even one")


class FavorAttention(nn.Module):
    """LayerNorm, then multi-head attention through random features, which all heads share."""

    directions: Tensor

    def __init__(self, config: PerformerConfig) -> None:
        super().__init__()
        width = config.heads * config.head_dim
        self.heads, self.head_dim, self.dropout = config.heads, config.head_dim, config.dropout
        self.norm = nn.LayerNorm(config.hidden)
        self.qkv = nn.Linear(config.hidden, 3 * width, bias=False)
        self.out = nn.Linear(width, config.hidden)
        self.register_buffer("directions", orthogonal_directions(config.features, config.head_dim))

    def redraw(self) -> None:
        """Other random directions, from the CPU's generator whatever the device."""
        old = self.directions
        # A new tensor, because a backward pass may still need the old one.
        self.directions = orthogonal_directions(old.shape[0], old.shape[1], "cpu").to(old)

    def forward(
        self, x: Tensor, angles: tuple[Tensor, Tensor], state: KernelState | None = None
    ) -> tuple[Tensor, KernelState]:
        """x [B, T, H] -> x and what is read from the past [B, T, H], and the state after it.

        Exponents and state are kept in at least float32, outside of autocast: they stand in an exponential.
        """
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        wide = torch.promote_types(x.dtype, torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            directions = self.directions.to(wide)
            q = query_exponents(rotate(q.to(wide), angles), directions)
            k = key_exponents(rotate(k.to(wide), angles), directions)
        mixed, state = kernel_attention(q, k, v.to(wide), state)
        added = self.out(mixed.transpose(1, 2).flatten(2).to(x.dtype))
        return x + dropout(added, self.dropout, self.training), state


@architecture("performer")
class Performer(NextVectorModel):
    """The state is each layer's sums over all keys and values, [m, head_dim + 1] a head, in float32."""

    Config = PerformerConfig
    streaming = "constant"
    paper = "Choromanski et al., Rethinking Attention with Performers, 2021"
    complexity = "O(T)"
    best_for = "long documents: attention-like mixing at a constant cost per chunk"
    updates: Tensor

    def __init__(self, config: PerformerConfig) -> None:
        super().__init__(config, width=config.hidden)
        self.embed = nn.Linear(config.d_embed, config.hidden)
        self.attentions = nn.ModuleList(FavorAttention(config) for _ in range(config.layers))
        self.feed_forwards = nn.ModuleList(
            FeedForward(config.hidden, config.ffn, config.dropout) for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.hidden)
        self.every, self.heads, self.head_dim = config.redraw, config.heads, config.head_dim
        self.features, self.dropout = config.features, config.dropout
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def encode(self, x: Tensor) -> Tensor:
        if self.training:
            self._count()
        return self._read(x, 0, None)[0]

    def encoder_state(self, batch: int, device: torch.device, dtype: torch.dtype) -> State:
        wide = torch.promote_types(dtype, torch.float32)
        state: State = {"position": torch.zeros((), dtype=torch.int64)}
        for i in range(len(self.attentions)):
            shape = (batch, self.heads, self.features, self.head_dim + 1)
            state[f"sums.{i}"] = torch.zeros(shape, device=device, dtype=wide)
            state[f"peak.{i}"] = torch.full((batch, self.heads, 1), -torch.inf, device=device, dtype=wide)
        return state

    def encode_chunk(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        hidden, new = self._read(x, int(state["position"]), state)
        return hidden, {**new, "position": state["position"] + x.shape[1]}

    def encode_step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        hidden, state = self.encode_chunk(x_t[:, None], state)
        return hidden[:, 0], state

    def _read(self, x: Tensor, start: int, state: State | None) -> tuple[Tensor, State]:
        wide = torch.promote_types(x.dtype, torch.float32)
        angles = rotary_angles(start, x.shape[1], self.head_dim, x.device, wide)
        hidden = dropout(self.embed(x), self.dropout, self.training)
        new: State = {}
        for i, (attention, feed_forward) in enumerate(zip(self.attentions, self.feed_forwards, strict=True)):
            before = KernelState(state[f"sums.{i}"], state[f"peak.{i}"]) if state else None
            hidden, after = attention(hidden, angles, before)
            new[f"sums.{i}"], new[f"peak.{i}"] = after
            hidden = feed_forward(hidden)
        return self.norm(hidden), new

    def _count(self) -> None:
        """Count a training pass; every `redraw` of them, draw other features (section 4.2 of the paper)."""
        done = int(self.updates)
        if done and done % self.every == 0:
            for attention in self.attentions:
                assert isinstance(attention, FavorAttention)
                attention.redraw()
        self.updates += 1
