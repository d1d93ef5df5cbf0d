"""RetNet: retention instead of attention, read in parallel, in chunks or step by step with a constant state.

Paper: Sun et al., Retentive Network: A Successor to Transformer for Large Language Models, 2023. Source: the
form published as torchscale 0.3: RMSNorm before each half, SwiGLU, rotation without the xPos scale.
Deviations: the chunked form divides by the same numbers as the parallel one (torchscale's own does not, and
differs from it); dropout on what each half of a layer adds, 0 in `brief`.
Parity: torchscale's MultiScaleRetention with the same weights (tests/parity/test_retnet.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextvec.config import number
from nextvec.models.base import ModelConfig
from nextvec.models.ops.layers import RMSNorm, SwiGLU, dropout, rms_norm
from nextvec.models.registry import architecture
from nextvec.models.residual import State
from nextvec.models.stack import Block, Place, Stack

# Retention (sections 2.1 to 2.3 of the paper): queries and keys turn with their position, and head h keeps
# gamma = 1 - 2^(-5-h) of its memory from one position to the next:
#     S_i = gamma S_{i-1} + k_i v_i^T,    n_i = gamma n_{i-1} + k_i,    y_i = q_i^T S_i / max(r_i, |q_i n_i|),
# with r_i^2 = 1 + gamma + ... + gamma^i. This is the paper's parallel form with its two normalisers, the row
# of decays over sqrt(its sum) and the row of scores over max(1, |its sum|); n is part of the state, so that
# the parallel, the chunked and the step form divide by the same number. The denominator is detached, as
# published: the group norm that follows undoes a scale anyway.
# Shapes: B batch, h heads, T time, d per key, e per value.

SLOWEST = 10_000.0  # the first pair of a key turns by 1 a position, the last one by 1/SLOWEST
SHORTEST, LONGEST = 64, 512  # chunks; gamma^-LONGEST must be a number, and is 10^7 in the fastest head


class RetentionState(NamedTuple):
    """memory: S [B, h, d, e]; keys: n [B, h, d]."""

    memory: Tensor
    keys: Tensor


def forgetting(heads: int, like: Tensor) -> Tensor:
    """1 - gamma = 2^(-5-h) of each head [h], of `like`'s dtype and device."""
    return 2.0 ** (-5 - torch.arange(heads, device=like.device)).to(like.dtype)


def phases(start: int, count: int, width: int, like: Tensor) -> Tensor:
    """How positions start..start+count-1 turn: complex [count, width/2], of `like`'s device, its dtype's or
    float32's precision. Pair i of n, the values 2i and 2i+1, turns by SLOWEST^(-i/(n-1)) a position.
    """
    exact = torch.float32 if like.device.type == "mps" else torch.float64
    pairs = torch.linspace(0, 1, width // 2, device=like.device, dtype=exact)
    angle = torch.arange(start, start + count, device=like.device, dtype=exact)[:, None] * SLOWEST**-pairs
    wide = torch.promote_types(like.dtype, torch.float32)
    return torch.complex(angle.cos().to(wide), angle.sin().to(wide))


def retention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rotary: Tensor,
    start: int,
    state: RetentionState | None = None,
    chunk: int | None = None,
    products: torch.dtype | None = None,
) -> tuple[Tensor, RetentionState | None]:
    """Read T positions, `start`, `start` + 1, ...

    Args:
        q, k: [B, h, T, d], d even, neither turned nor scaled; float32 or wider.
        v: [B, h, T, e].
        rotary: `phases` of the T positions.
        start: how many positions were read before.
        state: what they left; None: nothing was read before, and no one goes on from here.
        chunk: positions multiplied at once, at most LONGEST; the result does not depend on it. None: the
            power of 2 at which the products inside a chunk and those with the memory cost about the same,
            from SHORTEST to LONGEST: 64 for d, e = 64, 128 and 256 for 256, 512, as measured on a CPU.
        products: what matrices are multiplied in; None: q's dtype, in which all else is, too.
    Returns: y [B, h, T, e] and the state after the last position (None where none was given).
    """
    (_, heads, time, d), e = q.shape, v.shape[-1]
    length = min(chunk or min(max(2 ** round(math.log2(2 * d * e / (d + e))), SHORTEST), LONGEST), time)
    count, kind, lost = -(-time // length), q.dtype, forgetting(heads, q)
    # gamma^(i-j) as a product: from its chunk's start on q fades, k by the inverse.
    inside = torch.arange(time, device=q.device) % length + 1
    fade = (torch.log1p(-lost)[:, None, None] * inside[:, None]).exp()  # [h, T, 1]
    q, k = _turn(q, rotary * fade), _turn(k, rotary * (d**-0.5 / fade))
    q, k, v = (_in_chunks(x.to(products or kind), count, length) for x in (q, k, v))  # [B, h, n, length, ..]
    scores = (q @ k.mT).tril()
    y, total = scores @ v, scores.detach().sum(-1, dtype=kind)
    after = None
    if count > 1 or state is not None:
        ends = fade[:, [*range(length - 1, time - 1, length), time - 1], :, None]  # [h, n, 1, 1]
        memory, keys = (None, None) if state is None else (state.memory, state.keys[..., None])
        found, memory = _before_each((k.mT @ v).to(kind), memory, ends)
        seen, keys = _before_each(k.detach().sum(3, dtype=kind)[..., None], keys, ends)
        y = y + q @ found.to(q.dtype)
        total += (q.detach() @ seen.to(q.dtype))[..., 0]
        after = None if state is None else RetentionState(memory, keys[..., 0])
    norms = _in_chunks(_row_norms(lost, start, time)[..., None], count, length)[..., 0]
    y = y.to(kind) / torch.maximum(norms, total.abs_()).clamp_(min=1)[..., None]
    return y.flatten(2, 3)[:, :, :time], after


def _in_chunks(x: Tensor, count: int, length: int) -> Tensor:
    """x [..., T, d] -> [..., n, length, d], zeros where there are no more positions."""
    short = count * length - x.shape[-2]
    x = F.pad(x, (0, 0, 0, short)) if short else x
    return x.reshape(*x.shape[:-2], count, length, x.shape[-1])


def _before_each(written: Tensor, state: Tensor | None, ends: Tensor) -> tuple[Tensor, Tensor]:
    """What chunks write [B, h, n, ...], what was there before them, how much of it all is left after each
    [h, n, ...] -> what is there before each chunk, and after the last."""
    now = torch.zeros_like(written[:, :, 0]) if state is None else state
    befores: list[Tensor] = []
    for new, end in zip(written.unbind(2), ends.unbind(1), strict=True):
        befores.append(now)
        now = (now + new) * end
    return torch.stack(befores, 2), now


def retention_step(
    q: Tensor, k: Tensor, v: Tensor, rotary: Tensor, start: int, state: RetentionState
) -> tuple[Tensor, RetentionState]:
    """One position: q, k [B, h, d], v [B, h, e], rotary [1, d/2] -> y [B, h, e] and the new state."""
    lost = forgetting(q.shape[1], q)
    gamma = 1 - lost
    q, k = _turn(q, rotary), _turn(k, rotary * q.shape[-1] ** -0.5)
    memory = torch.addcmul(k[..., None] * v[..., None, :], state.memory, gamma[:, None, None])
    keys = torch.addcmul(k, state.keys, gamma[:, None])
    size = torch.maximum(_row_norms(lost, start, 1), (q * keys).sum(-1, keepdim=True).abs())
    return (q[..., None, :] @ memory)[..., 0, :] / size, RetentionState(memory, keys)


def _turn(x: Tensor, by: Tensor) -> Tensor:
    """Multiply the pairs of neighbours in x [..., d], as complex numbers, with `by` [..., d/2]."""
    pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * by).flatten(-2)


def _row_norms(lost: Tensor, first: int, count: int) -> Tensor:
    """sqrt(1 + gamma + ... + gamma^i) for i = first..first+count-1: [h, count]. Nothing cancels in the slow
    heads, whose gamma is next to 1.
    """
    terms = torch.arange(first + 1, first + count + 1, device=lost.device).to(lost.dtype)
    return (-torch.expm1(torch.log1p(-lost)[:, None] * terms) / lost[:, None]).sqrt()


EPS = 1e-6


@dataclass(frozen=True, kw_only=True)
class RetNetConfig(ModelConfig):
    """hidden: H; layers; heads; values: width of all heads' values together; ffn: inner width; dropout: on
    what each half of a layer adds.
    """

    hidden: int
    layers: int
    heads: int
    values: int
    ffn: int
    dropout: float = number(least=0, below=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden % (2 * self.heads):
            raise ValueError(f"hidden = {self.hidden} does not divide into {self.heads} heads of even width")
        if self.values % self.heads:
            raise ValueError(f"values = {self.values} does not divide into {self.heads} heads")


class Retention(nn.Module):
    """Multi-scale retention with a gate: [B, T, H] -> [B, T, H]."""

    def __init__(self, hidden: int, heads: int, values: int) -> None:
        super().__init__()
        self.hidden, self.heads, self.values = hidden, heads, values
        self.query_key = nn.Linear(hidden, 2 * hidden, bias=False)
        self.value_gate = nn.Linear(hidden, 2 * values, bias=False)
        self.out = nn.Linear(values, hidden, bias=False)
        for projection, width in ((self.query_key, hidden), (self.value_gate, values)):
            # Xavier over each of the two projections alone, times 2^-2.5, as published.
            bound = 2**-2.5 * (6 / (hidden + width)) ** 0.5
            nn.init.uniform_(projection.weight, -bound, bound)
        nn.init.xavier_uniform_(self.out.weight)

    def forward(
        self, x: Tensor, start: int, rotary: Tensor, state: RetentionState | None = None
    ) -> tuple[Tensor, RetentionState | None]:
        """x [B, T, H] at positions `start`, `start` + 1, ... -> what is read [B, T, H] and the new state.

        Retention itself is computed in at least float32, outside of autocast.
        """
        wide, device = torch.promote_types(x.dtype, torch.float32), x.device.type
        products = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        query_key, value_gate = self.query_key(x).to(wide), self.value_gate(x).to(wide)
        with torch.autocast(device, enabled=False):
            q, k = query_key.unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
            v, gate = value_gate.chunk(2, -1)
            v = v.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            if state is None or x.shape[1] > 1:
                y, state = retention(q, k, v, rotary, start, state, products=products)
            else:
                q, k, v = q[:, :, 0], k[:, :, 0], v[:, :, 0]
                read, state = retention_step(q, k, v, rotary, start, state)
                y = read[:, :, None]
            y = rms_norm(y, None, EPS).transpose(1, 2).flatten(2)
            y = (F.silu(gate) * y).to(x.dtype)
        return self.out(y), state

    def initial(self, batch: int, device: torch.device, dtype: torch.dtype) -> RetentionState:
        """The state before the first position, in at least float32."""
        wide = torch.promote_types(dtype, torch.float32)
        d, e = self.hidden // self.heads, self.values // self.heads
        memory = torch.zeros(batch, self.heads, d, e, device=device, dtype=wide)
        return RetentionState(memory, torch.zeros(batch, self.heads, d, device=device, dtype=wide))


class RetNetBlock(Block):
    """x + retention(norm(x)), then x + SwiGLU(norm(x)); the sums stay in x's dtype, also under autocast."""

    entries = RetentionState._fields

    def __init__(self, config: RetNetConfig) -> None:
        super().__init__()
        self.norm = RMSNorm(config.hidden, EPS)
        self.retention = Retention(config.hidden, config.heads, config.values)
        self.ffn_norm = RMSNorm(config.hidden, EPS)
        self.ffn = SwiGLU(config.hidden, config.ffn)
        self.dropout = config.dropout

    def forward(self, x: Tensor, place: Place, state: State | None) -> tuple[Tensor, State]:
        (rotary,), before = place.rotary, None if state is None else RetentionState(**state)
        read, after = self.retention(self.norm(x), place.start, rotary, before)
        x = x + dropout(read, self.dropout, self.training)
        x = x + dropout(self.ffn(self.ffn_norm(x)), self.dropout, self.training)
        return x, {} if after is None else after._asdict()

    def initial(self, batch: int, device: torch.device, dtype: torch.dtype) -> State:
        return self.retention.initial(batch, device, dtype)._asdict()


@architecture("retnet")
class RetNet(Stack):
    """The state is each layer's fading sums of keys with values and of keys alone, in float32."""

    Config = RetNetConfig
    streaming = "constant"
    paper = "Sun et al., Retentive Network: A Successor to Transformer for Large Language Models, 2023"
    complexity = "O(T)"
    best_for = "long documents where nearness matters: memories that fade at fixed rates, constant steps"

    def __init__(self, config: RetNetConfig) -> None:
        blocks = (RetNetBlock(config) for _ in range(config.layers))
        super().__init__(config, config.hidden, blocks, RMSNorm(config.hidden, EPS))
        self.head_dim = config.hidden // config.heads

    def rotary(self, x: Tensor, start: int) -> tuple[Tensor, ...]:
        return (phases(start, x.shape[1], self.head_dim, x),)
