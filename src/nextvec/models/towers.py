"""The towers of a Large Concept Model: one that reads vectors, and two ways to take noise out of the next
one.

Paper: LCM team, Large Concept Models, arXiv 2412.08821, 2024, sections 2.3 and 2.4; Peebles and Xie, Scalable
Diffusion Models with Transformers, 2023 (AdaLN-Zero). No biases in the layers, pre-RMSNorm, rotary positions.

Shapes: B batch, T vectors read, S the same with those cached, N vectors to be denoised (a query each), h
heads, d per head. Keys and values are stacked: [2, B, h, S, d]. A query knows the position it would stand at,
and `seen` [N, S] or [B, N, S] says which of what has been read it may look at.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextvec.models.ops.attention import cache_append, causal_attention
from nextvec.models.ops.dropout import dropout
from nextvec.models.ops.norms import RMSNorm
from nextvec.models.ops.positions import sinusoidal
from nextvec.models.ops.rotary import rotary_angles, rotate
from nextvec.models.ops.swiglu import SwiGLU

EPS = 1e-6
LEVEL_WIDTH = 256
Angles = tuple[Tensor, Tensor]


class TwoTowerAttention(nn.Module):
    """Projections of multi-head attention with rotary positions."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(hidden, hidden, bias=False)
        self.key_value = nn.Linear(hidden, 2 * hidden, bias=False)
        self.out = nn.Linear(hidden, hidden, bias=False)

    def queries(self, x: Tensor, angles: Angles) -> Tensor:
        """x [B, N, H] -> [B, h, N, d], turned."""
        return rotate(self.query(x).unflatten(-1, (self.heads, -1)).transpose(1, 2), angles)

    def keys_values(self, x: Tensor, angles: Angles) -> Tensor:
        """x [B, S, H] -> [2, B, h, S, d], the keys turned."""
        keys, values = self.key_value(x).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return torch.stack((rotate(keys, angles), values))

    def join(self, mixed: Tensor) -> Tensor:
        """[B, h, N, d] -> [B, N, H]."""
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out


class Layer(nn.Module):
    """x + attention(norm(x)), then x + SwiGLU(norm(x))."""

    def __init__(self, hidden: int, heads: int, ffn: int, dropout: float) -> None:
        super().__init__()
        self.attention = TwoTowerAttention(hidden, heads)
        self.feed_forward = SwiGLU(hidden, ffn)
        self.norms = nn.ModuleList(RMSNorm(hidden, EPS) for _ in range(2))
        self.dropout = dropout

    def forward(self, x: Tensor, angles: Angles, cache: Tensor | None, length: int) -> tuple[Tensor, Tensor]:
        """x [B, T, H] after `length` positions in the cache -> [B, T, H] and the cache with it (or, where
        there is none, just its own keys and values)."""
        normed = self.norms[0](x)
        own = self.attention.keys_values(normed, angles)
        kept = own if cache is None else cache_append(cache, own, length)
        keys, values = kept[..., : length + x.shape[1], :].unbind()
        mixed = causal_attention(self.attention.queries(normed, angles), keys, values)
        return self._feed(x + self._drop(self.attention.join(mixed))), kept

    def denoise(self, x: Tensor, angles: Angles, read: Tensor, seen: Tensor) -> Tensor:
        """Queries x [B, N, H], each with what it has seen of `read` (this layer's keys and values) and
        itself."""
        normed = self.norms[0](x)
        keys, values = torch.cat((read, self.attention.keys_values(normed, angles)), -2).unbind()
        itself = torch.eye(x.shape[1], dtype=torch.bool, device=x.device).expand(*seen.shape[:-1], -1)
        mask = torch.cat((seen, itself), -1)
        mixed = masked(self.attention.queries(normed, angles), keys, values, mask)
        return self._feed(x + self._drop(self.attention.join(mixed)))

    def _feed(self, x: Tensor) -> Tensor:
        return x + self._drop(self.feed_forward(self.norms[1](x)))

    def _drop(self, x: Tensor) -> Tensor:
        return dropout(x, self.dropout, self.training)


class Reader(nn.Module):
    """The causal stack: Base-LCM, the contextualizer of the Two-Tower, all of the One-Tower."""

    def __init__(self, d_embed: int, hidden: int, layers: int, heads: int, ffn: int, dropout: float) -> None:
        super().__init__()
        self.embed = nn.Linear(d_embed, hidden)
        self.layers = nn.ModuleList(Layer(hidden, heads, ffn, dropout) for _ in range(layers))
        self.norm = RMSNorm(hidden, EPS)
        self.head_width = hidden // heads

    def forward(
        self, x: Tensor, caches: Sequence[Tensor] | None = None, length: int = 0
    ) -> tuple[Tensor, list[Tensor]]:
        """x [B, T, D] after `length` vectors -> hidden states [B, T, H] and every layer's keys and values."""
        hidden = self.embed(x)
        angles = rotary_angles(length, x.shape[1], self.head_width, x.device, x.dtype)
        kept: list[Tensor] = []
        for i, layer in enumerate(self.layers):
            hidden, cache = layer(hidden, angles, None if caches is None else caches[i], length)
            kept.append(cache)
        return self.norm(hidden), kept

    def denoise(self, hidden: Tensor, angles: Angles, read: Sequence[Tensor], seen: Tensor) -> Tensor:
        """Embedded queries [B, N, H] -> hidden states [B, N, H] (One-Tower); `read` as `forward` gave it."""
        for layer, keys_values in zip(self.layers, read, strict=True):
            assert isinstance(layer, Layer)
            hidden = layer.denoise(hidden, angles, keys_values, seen)
        normed: Tensor = self.norm(hidden)
        return normed


class LevelEmbedding(nn.Module):
    """Every level 0..T as a vector of width H: sines and cosines, then an MLP."""

    def __init__(self, levels: int, hidden: int) -> None:
        super().__init__()
        self.levels = levels
        self.inner = nn.Linear(LEVEL_WIDTH, hidden)
        self.outer = nn.Linear(hidden, hidden)

    def forward(self, only: int | None = None) -> Tensor:
        """All of them [T + 1, H], or one [H]."""
        weight = self.inner.weight
        first, count = (0, self.levels + 1) if only is None else (only, 1)
        waves = sinusoidal(first, count, LEVEL_WIDTH, weight.device, weight.dtype)
        embedded: Tensor = self.outer(F.silu(self.inner(waves)))
        return embedded if only is None else embedded[0]


class DenoisingLayer(nn.Module):
    """Self-attention, cross-attention to the context and feed-forward, shifted, scaled and gated by the
    level.

    The gates start closed: the layer is then the identity (AdaLN-Zero). Self-attention has its own position
    to look at, and a vector of zeros: with one key alone its weight would always be 1, and the projections of
    queries and keys would never learn.
    """

    def __init__(self, hidden: int, heads: int, ffn: int, dropout: float) -> None:
        super().__init__()
        self.self_attention = TwoTowerAttention(hidden, heads)
        self.cross_attention = TwoTowerAttention(hidden, heads)
        self.feed_forward = SwiGLU(hidden, ffn)
        self.norms = nn.ModuleList(RMSNorm(hidden, EPS) for _ in range(3))
        self.modulation = nn.Linear(hidden, 9 * hidden)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)
        self.dropout = dropout

    def forward(self, x: Tensor, angles: Angles, modulation: Tensor, read: Tensor, seen: Tensor) -> Tensor:
        """Queries x [B, N, H], modulation [..., 9 H] broadcast to them, `read` [2, B, h, S, d] -> [B, N,
        H]."""
        shifts = modulation.chunk(9, -1)
        x = x + self._gated(shifts[2], self._itself(self._shifted(0, x, *shifts[:2])))
        normed = self._shifted(1, x, *shifts[3:5])
        keys, values = read.unbind()
        mixed = masked(self.cross_attention.queries(normed, angles), keys, values, seen)
        x = x + self._gated(shifts[5], self.cross_attention.join(mixed))
        return x + self._gated(shifts[8], self.feed_forward(self._shifted(2, x, *shifts[6:8])))

    def _itself(self, x: Tensor) -> Tensor:
        """TwoTowerAttention of each query to itself and to zeros: softmax over (q k / sqrt(d), 0)."""
        attention = self.self_attention
        q = attention.query(x).unflatten(-1, (attention.heads, -1))
        k, v = attention.key_value(x).unflatten(-1, (2, attention.heads, -1)).unbind(-3)
        weight = torch.sigmoid((q * k).sum(-1, keepdim=True) * q.shape[-1] ** -0.5)
        out: Tensor = attention.out((weight * v).flatten(-2))
        return out

    def _shifted(self, i: int, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        normed: Tensor = self.norms[i](x)
        return normed * (1 + scale) + shift

    def _gated(self, gate: Tensor, x: Tensor) -> Tensor:
        return gate * dropout(x, self.dropout, self.training)


class Denoiser(nn.Module):
    """The Two-Tower's second tower."""

    def __init__(
        self, d_embed: int, levels: int, hidden: int, layers: int, heads: int, ffn: int, dropout: float
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(d_embed, hidden)
        self.level = LevelEmbedding(levels, hidden)
        self.layers = nn.ModuleList(DenoisingLayer(hidden, heads, ffn, dropout) for _ in range(layers))
        self.norm = RMSNorm(hidden, EPS)
        self.head_width = hidden // heads

    def keys_values(self, context: Tensor, start: int) -> list[Tensor]:
        """What every layer looks at of the context [B, T, H], whose first position is `start`."""
        angles = rotary_angles(start, context.shape[1], self.head_width, context.device, context.dtype)
        return [layer.cross_attention.keys_values(context, angles) for layer in self._layers()]

    def forward(
        self, z: Tensor, level: Tensor | int, angles: Angles, read: Sequence[Tensor], seen: Tensor
    ) -> Tensor:
        """Noisy vectors z [B, N, D] at `level` ([B, N], or one for all) -> hidden states [B, N, H].

        `read` begins with a vector of zeros that every query sees: all that one without context has.
        """
        hidden = self.embed(z)
        told = F.silu(self.level(level if isinstance(level, int) else None))
        for layer, keys_values in zip(self._layers(), read, strict=True):
            # One row a level, not one a query: there are far fewer levels than queries in a batch.
            modulation = layer.modulation(told)
            if isinstance(level, Tensor):
                modulation = F.embedding(level, modulation)
            hidden = layer(hidden, angles, modulation, keys_values, seen)
        normed: Tensor = self.norm(hidden)
        return normed

    def _layers(self) -> list[DenoisingLayer]:
        return [layer for layer in self.layers if isinstance(layer, DenoisingLayer)]


def masked(q: Tensor, k: Tensor, v: Tensor, seen: Tensor) -> Tensor:
    """TwoTowerAttention of q [B, h, N, d] over k, v [B, h, S, d] where `seen` [N, S] or [B, N, S] is True."""
    mask = seen if seen.ndim == 2 else seen[:, None]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def pick(angles: Angles, rows: Tensor) -> Angles:
    """Angles of one position a batch row, for all its queries: [T, d/2] and rows [B] -> [B, 1, 1, d/2]."""
    cos, sin = (part[rows][:, None, None] for part in angles)
    return cos, sin
