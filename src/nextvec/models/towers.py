"""The towers of a Large Concept Model: one that reads vectors, and two ways to take noise out of the next
one.

Paper: LCM team, Large Concept Models, arXiv 2412.08821, 2024, sections 2.3 and 2.4; Peebles and Xie, Scalable
Diffusion Models with Transformers, 2023 (AdaLN-Zero). No biases in the layers, pre-RMSNorm, rotary positions.

Shapes: B batch, T vectors read, S the same with those cached, N vectors to be denoised (a query each), h
heads, d per head. Keys and values are stacked: [2, B, h, S, d]. A query knows the position it would stand at,
and `seen` [N, S] or [B, N, S] says which of what has been read it may look at.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextvec.models.ops.attention import cache_append, cache_used, causal_attention
from nextvec.models.ops.layers import RMSNorm, SwiGLU, dropout
from nextvec.models.ops.positions import rotary_angles, rotate, sinusoidal

# Diffusion: a vector z0 at level t of T is z_t = signal_t z0 + noise_t e, e standard normal,
# signal_t^2 + noise_t^2 = 1. Level 0 is the vector itself, level T noise alone. A network gives z0 for z_t.
# Papers: Nichol and Dhariwal, Improved Denoising Diffusion Probabilistic Models, 2021 (cosine schedule); Lin
# et al., Common Diffusion Noise Schedules and Sample Steps are Flawed, 2024 (zero terminal SNR, trailing
# levels, rescaled guidance); Song et al., Denoising Diffusion Implicit Models, 2021 (the steps); Ho and
# Salimans, Classifier-Free Diffusion Guidance, 2022.

OFFSET = 0.008  # of the cosine schedule: level 1 is not quite without noise


@dataclass(frozen=True)
class Schedule:
    """The cosine schedule of `levels` levels, T, in closed form: nothing is stored."""

    levels: int

    def mix(self, level: int) -> tuple[float, float]:
        """signal_t and noise_t of one level: (1, 0) at 0, and exactly (0, 1) at T."""
        if level in (0, self.levels):
            return (1.0, 0.0) if level == 0 else (0.0, 1.0)

        def angle(t: float) -> float:
            return (t / self.levels + OFFSET) / (1 + OFFSET) * math.pi / 2

        signal = math.cos(angle(level)) / math.cos(angle(0))
        return signal, math.sqrt(1 - signal**2)

    def table(self, like: Tensor) -> Tensor:
        """[T + 1, 2]: signal and noise of every level, on the device and in the dtype of `like`."""
        rows = [self.mix(level) for level in range(self.levels + 1)]
        return torch.tensor(rows, device=like.device, dtype=like.dtype)

    def noised(self, z0: Tensor, level: Tensor, noise: Tensor) -> Tensor:
        """z0 and noise [..., D] mixed at level [...] (integers 0..T)."""
        signal, share = self.table(z0)[level].unsqueeze(-1).unbind(-2)
        return signal * z0 + share * noise

    def skip(self, z: Tensor, estimate: Tensor, prior: Tensor | None, level: Tensor | int) -> Tensor:
        """An estimate of z0 that lets z itself through: signal z + noise (estimate - prior) + noise^2 prior.

        For z0 of variance 1 about the prior (0 where there is none), signal z + noise^2 prior is the best
        linear estimate from z, and noise the size of what it misses (Karras et al., Elucidating the Design
        Space of Diffusion-Based Generative Models, 2022, section 5). So what a network narrower than D says
        need not hold all of z. At level T this is `estimate`.

        Args:
            z, estimate, prior: [..., D]; `estimate` is what a network takes z0 to be.
            level: [...], or one for all.
        """
        signal, share = self.table(z)[level].unsqueeze(-1).unbind(-2)
        out = signal * z + share * estimate
        return out if prior is None else out + (share * share - share) * prior

    def trailing(self, steps: int) -> list[int]:
        """`steps` levels from T downwards, evenly spaced, and 0: the levels that a sampler visits.

        They begin at the noisiest, where training put no signal at all. The last gap ends at 0, whatever
        rounding did to the others, so that the next level is always the one that follows in this list.
        """
        return [round(self.levels * (1 - i / steps)) for i in range(steps)] + [0]

    def step(self, z: Tensor, z0: Tensor, level: int, following: int, fresh: float, noise: Tensor) -> Tensor:
        """From z at `level` to the lower level `following`, given what z0 [..., D] is taken to be.

        The noise in z is (z - signal z0) / noise_t, which is known at every level above 0: at T it is z
        itself. (To find z0 from a predicted noise one would divide by the signal, 0 at T.)

        Args:
            fresh: 0 keeps that noise (DDIM), 1 replaces as much as the ancestral sampler does.
            noise: standard normal, as z.
        """
        (signal, share), (next_signal, next_share) = self.mix(level), self.mix(following)
        kept = (z - signal * z0) / share
        new = fresh * (next_share / share) * math.sqrt(max(0.0, 1 - (signal / next_signal) ** 2))
        return next_signal * z0 + math.sqrt(max(0.0, next_share**2 - new**2)) * kept + new * noise


def guided(conditional: Tensor, free: Tensor, guidance: float, rescale: float) -> Tensor:
    """Away from the estimate without context: free + guidance (conditional - free), all [..., D].

    Args:
        rescale: 0..1, how far to bring the result's standard deviation over D back to that of `conditional`,
            which guidance inflates (Lin et al. 2024, section 3.4).
    """
    pushed = torch.lerp(free, conditional, guidance)
    wide = pushed.std(-1, keepdim=True).clamp(min=torch.finfo(pushed.dtype).tiny)
    return pushed * (1 - rescale + rescale * conditional.std(-1, keepdim=True) / wide)


@torch.no_grad()
def denoise(
    schedule: Schedule,
    guess: Callable[[Tensor, int], Tensor],
    start: Tensor,
    steps: int,
    fresh: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Sample: from noise `start` [..., D] down the trailing levels.

    Args:
        guess: z [..., D] and its level -> what z0 is taken to be.
        steps: how often it is called, at most T.
        fresh: see `Schedule.step`.
    Returns: z0 [..., D].
    """
    z = start
    for level, following in pairwise(schedule.trailing(steps)):
        z0 = guess(z, level)
        noise = torch.zeros_like(z)
        if fresh and following:
            noise = torch.randn(z.shape, generator=generator, device=z.device, dtype=z.dtype)
        z = schedule.step(z, z0, level, following, fresh, noise) if following else z0
    return z


EPS = 1e-6
LEVEL_WIDTH = 256
Angles = tuple[Tensor, Tensor]


class TwoTowerAttention(nn.Module):
    """Projections of multi-head attention with rotary positions.

    Args:
        norm: divide queries and keys by their root mean square.
    """

    def __init__(self, hidden: int, heads: int, *, norm: bool = False) -> None:
        super().__init__()
        self.heads, self.norm = heads, norm
        self.query = nn.Linear(hidden, hidden, bias=False)
        self.key_value = nn.Linear(hidden, 2 * hidden, bias=False)
        self.out = nn.Linear(hidden, hidden, bias=False)

    def queries(self, x: Tensor, angles: Angles) -> Tensor:
        """x [B, N, H] -> [B, h, N, d], turned."""
        queries = self.query(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return rotate(self._normed(queries), angles)

    def keys_values(self, x: Tensor, angles: Angles) -> Tensor:
        """x [B, S, H] -> [2, B, h, S, d], the keys turned."""
        keys, values = self.key_value(x).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return torch.stack((rotate(self._normed(keys), angles), values))

    def _normed(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], eps=EPS) if self.norm else x

    def join(self, mixed: Tensor) -> Tensor:
        """[B, h, N, d] -> [B, N, H]."""
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out


class Layer(nn.Module):
    """x + attention(norm(x)), then x + SwiGLU(norm(x))."""

    def __init__(self, hidden: int, heads: int, ffn: int, dropout: float, *, qk_norm: bool = False) -> None:
        super().__init__()
        self.attention = TwoTowerAttention(hidden, heads, norm=qk_norm)
        self.feed_forward = SwiGLU(hidden, ffn)
        if qk_norm:
            nn.init.zeros_(self.attention.out.weight)
            nn.init.zeros_(self.feed_forward.outer.weight)
        self.norms = nn.ModuleList(RMSNorm(hidden, EPS) for _ in range(2))
        self.dropout = dropout

    def forward(self, x: Tensor, angles: Angles, cache: Tensor | None, length: int) -> tuple[Tensor, Tensor]:
        """x [B, T, H] after `length` positions in the cache -> [B, T, H] and the cache with it (or, where
        there is none, just its own keys and values)."""
        normed = self.norms[0](x)
        own = self.attention.keys_values(normed, angles)
        kept = own if cache is None else cache_append(cache, own, length)
        keys, values = (own if cache is None else cache_used(kept, length + x.shape[1])).unbind()
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

    def __init__(
        self,
        d_embed: int,
        hidden: int,
        layers: int,
        heads: int,
        ffn: int,
        dropout: float,
        *,
        qk_norm: bool = False,
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(d_embed, hidden)
        self.layers = nn.ModuleList(
            Layer(hidden, heads, ffn, dropout, qk_norm=qk_norm) for _ in range(layers)
        )
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
        condition = F.silu(self.level(level if isinstance(level, int) else None))
        for layer, keys_values in zip(self._layers(), read, strict=True):
            # One row a level, not one a query: there are far fewer levels than queries in a batch.
            modulation = layer.modulation(condition)
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
