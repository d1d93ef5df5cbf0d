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

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextvec.config import number
from nextvec.models.base import ModelConfig
from nextvec.models.ops.attention import cache_append, causal_attention
from nextvec.models.ops.layers import FeedForward, dropout
from nextvec.models.ops.layers import dropout as drop
from nextvec.models.ops.positions import rotary_angles, rotate
from nextvec.models.registry import architecture
from nextvec.models.residual import State
from nextvec.models.stack import Block, Place, Stack

# The operator (section 4 of the paper): keys and values are multiplied along the sequence by learned
# matrices. Doing that to the whole sequence mixes the future into every slot, and no mask over slots takes it
# out again. So each *completed* block of c positions is projected to r slots; a query attends to the slots of
# all blocks before its own and to the positions of its own block up to itself, in one softmax: O(T^2 r/c + T
# c). Shapes: B batch, h heads, T time, c block, r slots, n blocks, d per head.


def project_blocks(x: Tensor, projection: Tensor) -> Tensor:
    """x [..., n c, d] in n blocks, projection [r, c] -> slots [..., n r, d]."""
    blocks = torch.unflatten(x, -2, (-1, projection.shape[-1]))
    return (projection @ blocks).flatten(-3, -2)


def block_lowrank_attention(
    q: Tensor, k: Tensor, v: Tensor, project_k: Tensor, project_v: Tensor, dropout: float = 0.0
) -> Tensor:
    """q, k, v [B, h, T, d], projections [r, c] -> [B, h, T, d]; causal.

    `dropout` is applied to the weights; give 0 outside training.
    """
    length, (rank, size) = q.shape[2], project_k.shape
    if length <= size:
        return causal_attention(q, k, v, dropout)
    done = (length - 1) // size  # blocks that some query has behind it
    slots_k = project_blocks(k[:, :, : done * size], project_k)
    slots_v = project_blocks(v[:, :, : done * size], project_v)
    short = (done + 1) * size - length
    q, k, v = (F.pad(x, (0, 0, 0, short)) for x in (q, k, v))
    q = q * q.shape[-1] ** -0.5

    block = torch.arange(q.shape[2], device=q.device) // size
    behind = block.new_tensor(range(done)).repeat_interleave(rank) < block[:, None]
    far = (q @ slots_k.transpose(-1, -2)).masked_fill(~behind, -math.inf)  # [B, h, T, done r]
    own_q, own_k, own_v = (torch.unflatten(x, 2, (-1, size)) for x in (q, k, v))  # [B, h, n, c, d]
    causal = torch.ones(size, size, dtype=torch.bool, device=q.device).tril()
    near = (own_q @ own_k.transpose(-1, -2)).masked_fill(~causal, -math.inf).flatten(2, 3)  # [B, h, T, c]

    weights = drop(torch.softmax(torch.cat((far, near), -1), -1), dropout, dropout > 0)
    far, near = torch.split(weights.to(v.dtype), [done * rank, size], -1)
    mixed: Tensor = far @ slots_v + (torch.unflatten(near, 2, (-1, size)) @ own_v).flatten(2, 3)
    return mixed[:, :, :length]


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
    dropout: float = number(least=0, below=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden % (2 * self.heads):
            raise ValueError(f"hidden = {self.hidden} does not divide into {self.heads} heads of even size")
        if self.block % self.slots:
            raise ValueError(f"block = {self.block} does not divide into {self.slots} slots")


class LinformerBlock(Block):
    """x + attention(norm(x)) to the own block of positions and the slots of those before it; then the
    feed-forward half. With a state, x does not reach past the end of its block of positions."""

    entries = ("own", "slots")

    def __init__(self, config: LinformerConfig) -> None:
        super().__init__()
        self.heads, self.head_dim = config.heads, config.hidden // config.heads
        self.dropout = config.dropout
        self.norm = nn.LayerNorm(config.hidden)
        self.qkv = nn.Linear(config.hidden, 3 * config.hidden, bias=False)
        self.out = nn.Linear(config.hidden, config.hidden)
        share = config.block // config.slots
        means = torch.eye(config.slots).repeat_interleave(share, 1) / share  # [r, c]
        self.project_k, self.project_v = nn.Parameter(means), nn.Parameter(means.clone())
        self.feed_forward = FeedForward(config.hidden, config.ffn, config.dropout)

    def forward(self, x: Tensor, place: Place, state: State | None) -> tuple[Tensor, State]:
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = rotate(q, place.rotary), rotate(k, place.rotary)
        rate, after = self.dropout if self.training else 0.0, State()
        if state is None:
            mixed = block_lowrank_attention(q, k, v, self.project_k, self.project_v, rate)
        else:
            if torch.compiler.is_exporting():
                keys, values, after, seen = self._remember_anywhere(k, v, place.start, state)
                mixed = F.scaled_dot_product_attention(q, keys, values, attn_mask=seen[None])
            else:
                keys, values, after = self._remember(k, v, place.start, state)
                mixed = causal_attention(q, keys, values, rate)
        added = self.out(mixed.transpose(1, 2).flatten(2))
        return self.feed_forward(x + dropout(added, self.dropout, self.training)), after

    def initial(self, batch: int, device: torch.device, dtype: torch.dtype) -> State:
        """own: keys and values of the block of positions at work [2, B, h, c, d], written in place. slots:
        those of the slots of all blocks before it, a cache [2, B, h, capacity, d]."""
        shape = (2, batch, self.heads, self.project_k.shape[1], self.head_dim)
        return {
            "own": torch.zeros(shape, device=device, dtype=dtype),
            "slots": torch.empty((*shape[:3], 0, shape[-1]), device=device, dtype=dtype),
        }

    def _remember(self, k: Tensor, v: Tensor, start: int, state: State) -> tuple[Tensor, Tensor, State]:
        """k, v [B, h, n, d] at `start`, ... -> the keys and the values to look at, and the new state."""
        own, slots = state["own"], state["slots"]
        rank, size = self.project_k.shape
        done, filled = divmod(start, size)
        end = filled + k.shape[2]
        own[..., filled:end, :] = torch.stack((k, v))
        keys, values = torch.cat((slots[..., : done * rank, :], own[..., :end, :]), -2)
        if end == size:
            projected = project_blocks(own[0], self.project_k), project_blocks(own[1], self.project_v)
            slots = cache_append(slots, torch.stack(projected), done * rank)
        return keys, values, {"own": own, "slots": slots}

    def _remember_anywhere(
        self, k: Tensor, v: Tensor, start: int, state: State
    ) -> tuple[Tensor, Tensor, State, Tensor]:
        """`_remember` of one position with nothing cut at `start`, for a graph in which that is a tensor; and
        which of the keys are there."""
        size = self.project_k.shape[1]
        place, filled = torch.arange(size, device=k.device), start % size
        own = torch.where((place == filled)[:, None], torch.stack((k, v)), state["own"])
        slots = state["slots"]
        keys, values = torch.cat((slots, own), -2)
        seen = torch.cat(
            (torch.ones_like(keys[0, 0, : slots.shape[-2], 0], dtype=torch.bool), place <= filled)
        )
        projected = project_blocks(own[0], self.project_k), project_blocks(own[1], self.project_v)
        full = (place[:1] + filled == size - 1).nonzero()[:, 0]  # [0] at the end of a block, else empty
        ended = torch.stack(projected)[None].index_select(0, full).movedim(0, -3).flatten(-3, -2)
        return keys, values, {"own": own, "slots": torch.cat((slots, ended), -2)}, seen


@architecture("linformer")
class Linformer(Stack):
    """The state is each layer's keys and values of the block at work and of all slots before it."""

    Config = LinformerConfig
    streaming = "cache"
    caches = ("slots",)
    paper = "Wang et al., Linformer: Self-Attention with Linear Complexity, 2020"
    complexity = "O(T^2 r/c)"
    best_for = "long documents whose near past matters exactly and the rest in outline"

    def __init__(self, config: LinformerConfig) -> None:
        blocks = (LinformerBlock(config) for _ in range(config.layers))
        super().__init__(config, config.hidden, blocks, nn.LayerNorm(config.hidden), config.dropout)
        self.size, self.head_dim = config.block, config.hidden // config.heads

    def rotary(self, x: Tensor, start: int) -> tuple[Tensor, ...]:
        return rotary_angles(start, x.shape[1], self.head_dim, x.device, x.dtype)

    def encode_chunk(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """In pieces that end where a block of positions ends, so that the next piece finds its slots."""
        if torch.compiler.is_exporting():  # of one vector
            return super().encode_chunk(x, state)
        pieces: list[Tensor] = []
        while x.shape[1]:
            piece, x = x.tensor_split([self.size - int(state["position"]) % self.size], 1)
            hidden, state = super().encode_chunk(piece, state)
            pieces.append(hidden)
        return torch.cat(pieces, 1), state
