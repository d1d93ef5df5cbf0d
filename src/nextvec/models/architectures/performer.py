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

from nextvec.models.base import ModelConfig
from nextvec.models.ops.dropout import dropout
from nextvec.models.ops.feedforward import FeedForward
from nextvec.models.ops.linear_attention import (
    KernelState,
    kernel_attention,
    key_exponents,
    orthogonal_directions,
    query_exponents,
)
from nextvec.models.ops.precise import wide
from nextvec.models.ops.rotary import rotary_angles, rotate
from nextvec.models.registry import architecture
from nextvec.models.residual import State
from nextvec.models.stack import Block, Place, Stack


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


class PerformerBlock(Block):
    """x + attention(norm(x)) through random features, which all heads share; then the feed-forward half."""

    entries = KernelState._fields
    directions: Tensor

    def __init__(self, config: PerformerConfig) -> None:
        super().__init__()
        width = config.heads * config.head_dim
        self.heads, self.head_dim, self.dropout = config.heads, config.head_dim, config.dropout
        self.norm = nn.LayerNorm(config.hidden)
        self.qkv = nn.Linear(config.hidden, 3 * width, bias=False)
        self.out = nn.Linear(width, config.hidden)
        self.register_buffer("directions", orthogonal_directions(config.features, config.head_dim))
        self.feed_forward = FeedForward(config.hidden, config.ffn, config.dropout)

    def redraw(self) -> None:
        """Other random directions, from the CPU's generator whatever the device."""
        old = self.directions
        # A new tensor, because a backward pass may still need the old one.
        self.directions = orthogonal_directions(old.shape[0], old.shape[1], "cpu").to(old)

    def forward(self, x: Tensor, place: Place, state: State | None) -> tuple[Tensor, State]:
        """Exponents and state are kept in at least float32, outside of autocast: they stand in an
        exponential."""
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        kind = wide(x.dtype)
        with torch.autocast(x.device.type, enabled=False):
            directions = self.directions.to(kind)
            q = query_exponents(rotate(q.to(kind), place.rotary), directions)
            k = key_exponents(rotate(k.to(kind), place.rotary), directions)
        before = None if state is None else KernelState(**state)
        mixed, after = kernel_attention(q, k, v.to(kind), before)
        added = self.out(mixed.transpose(1, 2).flatten(2).to(x.dtype))
        return self.feed_forward(x + dropout(added, self.dropout, self.training)), after._asdict()

    def initial(self, batch: int, device: torch.device, dtype: torch.dtype) -> State:
        shape = (batch, self.heads, len(self.directions), self.head_dim + 1)
        sums = torch.zeros(shape, device=device, dtype=wide(dtype))
        return KernelState(sums, sums.new_full((batch, self.heads, 1), -torch.inf))._asdict()


@architecture("performer")
class Performer(Stack):
    """The state is each layer's sums over all keys and values, [m, head_dim + 1] a head, in float32."""

    Config = PerformerConfig
    streaming = "constant"
    paper = "Choromanski et al., Rethinking Attention with Performers, 2021"
    complexity = "O(T)"
    best_for = "long documents: attention-like mixing at a constant cost per chunk"
    updates: Tensor

    def __init__(self, config: PerformerConfig) -> None:
        blocks = (PerformerBlock(config) for _ in range(config.layers))
        super().__init__(config, config.hidden, blocks, nn.LayerNorm(config.hidden), config.dropout)
        self.every, self.head_dim = config.redraw, config.head_dim
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def rotary(self, x: Tensor, start: int) -> tuple[Tensor, ...]:
        return rotary_angles(start, x.shape[1], self.head_dim, x.device, wide(x.dtype))

    def encode(self, x: Tensor) -> Tensor:
        if self.training:
            self._count()
        return super().encode(x)

    def _count(self) -> None:
        """Count a training pass; every `redraw` of them, draw other features (section 4.2 of the paper)."""
        done = int(self.updates)
        if done and done % self.every == 0:
            for block in self.blocks:
                assert isinstance(block, PerformerBlock)
                block.redraw()
        self.updates += 1
