"""Linformer: exact attention inside a block of chunks, the blocks before it projected to a few slots each.

Paper: Wang et al., Linformer: Self-Attention with Linear Complexity, 2020. Source: its learned projections
of keys and values along the sequence, one pair a layer, shared by the heads ("headwise sharing").
Deviations: the paper's projection spans the whole sequence and cannot be causal. Here every completed block
of `block` positions is projected to `slots` slots, and a query sees the slots of earlier blocks and the exact
positions of its own, in one softmax. Up to `block` vectors that is full attention. The cost is
O(T^2 slots / block), not O(T): each query has one slot for every block / slots positions behind it. Positions
are rotary; a slot's score is then a learned sum of scores that depend on distances alone. A slot starts as
the mean of its share of the block. The body is the Performer's: pre-norm, GELU.
Parity: a plain float64 loop over queries (tests/parity/test_linformer.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nextvec.models.base import ModelConfig, NextVectorModel
from nextvec.models.ops.attention import cache_append, causal_attention
from nextvec.models.ops.block_lowrank import block_lowrank_attention, project_blocks
from nextvec.models.ops.dropout import dropout
from nextvec.models.ops.feedforward import FeedForward
from nextvec.models.ops.rotary import rotary_angles, rotate
from nextvec.models.registry import architecture
from nextvec.models.residual import State


@dataclass(frozen=True, kw_only=True)
class LinformerConfig(ModelConfig):
    """hidden: H; layers; heads of H / heads each; ffn: inner width; block: c positions that are projected to
    `slots`; dropout: on attention weights and on what each half adds.
    """

    hidden: int
    layers: int
    heads: int
    ffn: int
    block: int
    slots: int
    dropout: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden % (2 * self.heads):
            raise ValueError(f"hidden = {self.hidden} does not divide into {self.heads} heads of even size")
        if self.block % self.slots:
            raise ValueError(f"block = {self.block} does not divide into {self.slots} slots")


class LinformerAttention(nn.Module):
    """LayerNorm, then multi-head attention to the own block and the slots of those before it."""

    def __init__(self, config: LinformerConfig) -> None:
        super().__init__()
        self.heads, self.dropout = config.heads, config.dropout
        self.norm = nn.LayerNorm(config.hidden)
        self.qkv = nn.Linear(config.hidden, 3 * config.hidden, bias=False)
        self.out = nn.Linear(config.hidden, config.hidden)
        share = config.block // config.slots
        means = torch.eye(config.slots).repeat_interleave(share, 1) / share  # [r, c]
        self.project_k, self.project_v = nn.Parameter(means), nn.Parameter(means.clone())

    def forward(self, x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
        """x [B, T, H] from the first position on -> x and what is read from the past [B, T, H]."""
        q, k, v = self._qkv(x, angles)
        rate = self.dropout if self.training else 0.0
        return self._add(x, block_lowrank_attention(q, k, v, self.project_k, self.project_v, rate))

    def extend(
        self, x: Tensor, angles: tuple[Tensor, Tensor], own: Tensor, slots: Tensor, length: int
    ) -> tuple[Tensor, Tensor]:
        """The same for x [B, n, H] that follow `length` positions and do not reach past their block's end.

        Args:
            own: keys and values of the block at work [2, B, h, c, d]; written in place.
            slots: those of the slots of all blocks before it, a cache [2, B, h, capacity, d].
        Returns: the output [B, n, H] and the cache of slots.
        """
        q, k, v = self._qkv(x, angles)
        rank, size = self.project_k.shape
        done, filled = divmod(length, size)
        end = filled + x.shape[1]
        own[..., filled:end, :] = torch.stack((k, v))
        keys, values = torch.cat((slots[..., : done * rank, :], own[..., :end, :]), -2)
        mixed = causal_attention(q, keys, values, self.dropout if self.training else 0.0)
        if end == size:
            projected = (
                project_blocks(y, p) for y, p in zip(own, (self.project_k, self.project_v), strict=True)
            )
            slots = cache_append(slots, torch.stack(tuple(projected)), done * rank)
        return self._add(x, mixed), slots

    def _qkv(self, x: Tensor, angles: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return rotate(q, angles), rotate(k, angles), v

    def _add(self, x: Tensor, mixed: Tensor) -> Tensor:
        return x + dropout(self.out(mixed.transpose(1, 2).flatten(2)), self.dropout, self.training)


@architecture("linformer")
class Linformer(NextVectorModel):
    """The state is each layer's keys and values of the block at work and of all slots before it."""

    Config = LinformerConfig
    streaming = "cache"
    caches = ("slots",)
    paper = "Wang et al., Linformer: Self-Attention with Linear Complexity, 2020"
    complexity = "O(T^2 r/c)"
    best_for = "long documents whose near past matters exactly and the rest in outline"

    def __init__(self, config: LinformerConfig) -> None:
        super().__init__(config, width=config.hidden)
        self.embed = nn.Linear(config.d_embed, config.hidden)
        self.attentions = nn.ModuleList(LinformerAttention(config) for _ in range(config.layers))
        self.feed_forwards = nn.ModuleList(
            FeedForward(config.hidden, config.ffn, config.dropout) for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.hidden)
        self.block, self.heads, self.dropout = config.block, config.heads, config.dropout
        self.head_dim = config.hidden // config.heads

    def encode(self, x: Tensor) -> Tensor:
        angles = rotary_angles(0, x.shape[1], self.head_dim, x.device, x.dtype)
        hidden = dropout(self.embed(x), self.dropout, self.training)
        for attention, feed_forward in zip(self.attentions, self.feed_forwards, strict=True):
            hidden = feed_forward(attention(hidden, angles))
        return self._normed(hidden)

    def encoder_state(self, batch: int, device: torch.device, dtype: torch.dtype) -> State:
        state: State = {"position": torch.zeros((), dtype=torch.int64)}
        for i in range(len(self.attentions)):
            shape = (2, batch, self.heads, self.block, self.head_dim)
            state[f"own.{i}"] = torch.zeros(shape, device=device, dtype=dtype)
            state[f"slots.{i}"] = torch.empty((*shape[:3], 0, shape[-1]), device=device, dtype=dtype)
        return state

    def encode_chunk(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """In pieces that end where a block ends, so that the next piece finds its slots."""
        out: list[Tensor] = []
        while x.shape[1]:
            length = int(state["position"])
            piece, x = x.tensor_split([self.block - length % self.block], 1)
            angles = rotary_angles(length, piece.shape[1], self.head_dim, x.device, x.dtype)
            hidden = dropout(self.embed(piece), self.dropout, self.training)
            state = {**state, "position": state["position"] + piece.shape[1]}
            for i, (attention, feed_forward) in enumerate(
                zip(self.attentions, self.feed_forwards, strict=True)
            ):
                assert isinstance(attention, LinformerAttention)
                hidden, state[f"slots.{i}"] = attention.extend(
                    hidden, angles, state[f"own.{i}"], state[f"slots.{i}"], length
                )
                hidden = feed_forward(hidden)
            out.append(self._normed(hidden))
        return torch.cat(out, 1), state

    def encode_step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        hidden, state = self.encode_chunk(x_t[:, None], state)
        return hidden[:, 0], state

    def _normed(self, hidden: Tensor) -> Tensor:
        normed: Tensor = self.norm(hidden)
        return normed
