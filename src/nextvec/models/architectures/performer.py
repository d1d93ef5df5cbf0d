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

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from nextvec.config import number
from nextvec.models.base import ModelConfig
from nextvec.models.ops.layers import FeedForward, dropout
from nextvec.models.ops.parameters import wide
from nextvec.models.ops.positions import rotary_angles, rotate
from nextvec.models.registry import architecture
from nextvec.models.residual import State
from nextvec.models.stack import Block, Place, Stack

# FAVOR+ (lemma 1, sections 2.4 to 2.6 and appendix B.1 of the paper): exp(q k) is the mean of
# exp(w q - |q|^2/2) exp(w k - |k|^2/2) over directions w ~ N(0, 1). A sum over keys of the second factor,
# times the value, serves every later query: the sums [m, d] are all the past there is.
# The exponents need a shift before exp, or they overflow; one common to a query's features, or to all keys,
# drops out of the quotient. A query is shifted by its own largest exponent and keys by the largest of any key
# *so far*, with the sums rescaled when it rises (as in online softmax).
# Shapes: B batch, h heads, T time, m features, d values per head.

CHUNK = 64
FLOOR = 1e-6  # added to every feature, as in the paper's code: no weight is 0, and no denominator below it


class KernelState(NamedTuple):
    """All keys and values so far. sums [B, h, m, d + 1]: features times values, and times 1 in the last
    column; peak [B, h, 1]: the largest exponent so far, by which the sums are shifted."""

    sums: Tensor
    peak: Tensor


def orthogonal_directions(features: int, width: int, device: torch.device | str | None = None) -> Tensor:
    """Random directions w [m, width]: rows of an N(0, 1) matrix, but orthogonal in blocks of `width`.

    Each block is a random rotation (QR of a normal matrix, signs as in the Haar measure), its rows as long
    as independent normal rows would be (chi distributed). Drawn from torch's global generator.
    """
    blocks: list[Tensor] = []
    for _ in range(math.ceil(features / width)):
        rotation, upper = torch.linalg.qr(torch.randn(width, width, device=device))
        blocks.append(rotation.T * upper.diagonal().sign()[:, None])
    lengths = torch.randn(features, width, device=device).norm(dim=1, keepdim=True)
    directions: Tensor = torch.cat(blocks)[:features] * lengths
    return directions


def query_exponents(q: Tensor, directions: Tensor) -> Tensor:
    """q [..., d], directions w [m, d] -> w q' [..., m], with q' = q d^-1/4 as softmax attention has it.

    What depends on |q| alone drops out of the quotient.
    """
    scaled: Tensor = directions * q.shape[-1] ** -0.25
    return q @ scaled.T


def key_exponents(k: Tensor, directions: Tensor) -> Tensor:
    """k [..., d], directions w [m, d] -> w k' - |k'|^2/2 [..., m], with k' = k d^-1/4."""
    half_square: Tensor = k.square().sum(-1, keepdim=True) * (0.5 * k.shape[-1] ** -0.5)
    return query_exponents(k, directions) - half_square


def kernel_attention(
    q: Tensor, k: Tensor, v: Tensor, state: KernelState | None = None
) -> tuple[Tensor, KernelState]:
    """Each position's mean of the values so far, weighted by the products of its features with the keys'.

    In chunks of 64: inside by a product with a [64, 64] matrix, the sums of what came before carried over.

    Args:
        q, k: exponents of queries and keys [B, h, T, m], in at least float32 (autocast off).
        v: values [B, h, T, d].
        state: what came before; None at the beginning.
    Returns: [B, h, T, d] and the state after the last position.
    """
    peaks = k.detach().amax(-1)  # [B, h, T]
    if k.shape[2] > 1:  # ONNX has no cummax, and one position needs none
        peaks = peaks.cummax(-1).values
    if state is not None:
        peaks = torch.maximum(peaks, state.peak)
    q = (q - q.detach().amax(-1, keepdim=True)).exp() + FLOOR
    k = (k - peaks[..., None]).exp() + FLOOR
    v = torch.cat((v, torch.ones_like(v[..., :1])), -1)
    out: list[Tensor] = []
    for q_c, k_c, v_c, peak in zip(*(torch.split(x, CHUNK, 2) for x in (q, k, v, peaks)), strict=True):
        mixed, state = _chunk(q_c, k_c, v_c, peak, state)
        out.append(mixed)
    assert state is not None
    mixed = torch.cat(out, 2)
    return mixed[..., :-1] / mixed[..., -1:], state


def _chunk(
    q: Tensor, k: Tensor, v: Tensor, peak: Tensor, state: KernelState | None
) -> tuple[Tensor, KernelState]:
    """One chunk of features q, k [B, h, L, m] and values [B, h, L, d + 1], keys shifted by peak [B, h, L]."""
    length = q.shape[2]
    causal = torch.ones(length, length, dtype=torch.bool, device=q.device).tril()
    rescale = peak[..., None, :] - peak[..., None]  # [B, h, queries, keys]: the peak only rises
    weights = (q @ k.transpose(-1, -2)) * rescale.masked_fill(~causal, -math.inf).exp()
    mixed = weights @ v
    last = peak[..., -1:]
    sums = (k * (peak - last).exp()[..., None]).transpose(-1, -2) @ v
    if state is not None:
        mixed = mixed + (q @ state.sums) * (state.peak - peak).exp()[..., None]
        sums = sums + state.sums * (state.peak - last).exp()[..., None]
    return mixed, KernelState(sums, last)


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
    dropout: float = number(least=0, below=1)

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
        """Other random directions, drawn on the CPU whatever the device, and from the last ones: processes
        that train one model then draw the same."""
        old = self.directions
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(int(old[0, 0].float().cpu().view(torch.int32)))
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
