"""Mamba-2: selective state spaces, read chunk by chunk with matrix products; steps of constant cost.

Paper: Dao and Gu, Transformers are SSMs: Generalized Models and Efficient Algorithms Through Structured State
Space Duality, 2024. Source: the published mamba2-130m (preset `published` is its body).
Deviations: one group (b and c are shared by all heads), as published; dropout on what each layer adds, 0 in
`brief` and `published`. A is drawn from U(1, 16) as in the paper's code, not set to 1..heads.
Parity: transformers.Mamba2Model with the same weights (tests/parity/test_mamba2.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from nextvec.config import number
from nextvec.models.base import ModelConfig
from nextvec.models.ops.attention import spans
from nextvec.models.ops.convolution import short_convolution, short_convolution_after
from nextvec.models.ops.layers import RMSNorm, dropout, rms_norm
from nextvec.models.ops.parameters import treat
from nextvec.models.registry import architecture
from nextvec.models.residual import State
from nextvec.models.stack import Block, Place, Stack

# State space duality (sections 6 and 7 of the paper): each head keeps a matrix S [N, P],
#     S_t = exp(dt_t a) S_{t-1} + dt_t b_t x_t^T,    y_t = c_t^T S_t + skip x_t.
# Inside a chunk this is causal attention with scores c_i b_j, no softmax, and a weight exp(a sum of dt from
# j + 1 to i); what comes from before the chunk goes through S. Time and memory grow linearly with T.
# The backward pass is our own: it keeps one state a chunk, and nothing of the size of the weights. The
# gradients of decays are summed over pairs i > j alone, so that no large terms cancel where the decay is
# fast. Shapes: B batch, T time, h heads, P values a head, N state, l positions in a chunk.

CHUNK = 64  # of 16 to 256 the fastest on a CPU at N 64 and 128, P 32 and 64, 8 and 24 heads


def ssd(
    x: Tensor,
    dt: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    skip: Tensor,
    state: Tensor | None = None,
    chunk: int = CHUNK,
) -> tuple[Tensor, Tensor | None]:
    """Read T positions.

    Args:
        x: [B, T, h, P] values.
        dt: [B, T, h] step sizes, above 0.
        a: [h] decay rates, below 0.
        b: [B, T, N] what is written into the state, the same in all heads.
        c: [B, T, N] what is read out of it.
        skip: [h] how much of x itself is added to y.
        state: [B, N, h, P] before the first position; None: nothing was read before, and no one goes on.
        chunk: positions multiplied at once; the result does not depend on it.
    All of one dtype, float32 or wider; inside, autocast is off.
    Returns: y [B, T, h, P], and the state after the last position (None where none was given).
    """
    with torch.autocast(x.device.type, enabled=False):
        y, state = _SSD.apply(x, dt, a, b, c, skip, state, chunk)  # type: ignore[no-untyped-call]
    return y, state


def ssd_step(
    x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, skip: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """One position: x [B, h, P], dt [B, h], b, c [B, N], state [B, N, h, P] -> y [B, h, P], new state."""
    decay = (dt * a).exp()[:, None, :, None]
    state = torch.addcmul(state * decay, b[:, :, None, None], (x * dt[..., None])[:, None])
    read = torch.bmm(c[:, None], state.flatten(2)).view_as(x)
    return torch.addcmul(read, x, skip[:, None]), state


class _SSD(torch.autograd.Function):
    """x, dt, a, b, c, skip, state, chunk -> y and the last state. Keeps the state before each chunk.

    What is multiplied head by head lies as [B, h, T, ...]; what all heads share, and the state, as it comes.
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor | None]:
        x, dt, a, b, c, skip, state, chunk = inputs
        y = torch.empty_like(x, memory_format=torch.contiguous_format)
        values, steps = x.transpose(1, 2).contiguous(), dt.transpose(1, 2).contiguous()
        z, states, keep_state = steps * a[:, None], [], state is not None
        for part in spans(x.shape[1], chunk):
            states.append(state)
            bs, cs, zs, ds = b[:, part], c[:, part], z[:, :, part].cumsum(-1), steps[:, :, part]
            scores = torch.bmm(cs, bs.transpose(1, 2)).tril_()
            inside = torch.matmul(_weights(zs, ds).mul_(scores[:, None]), values[:, :, part])
            ys = torch.addcmul(inside.transpose(1, 2), x[:, part], skip[:, None], out=y[:, part])
            if state is not None:
                past = torch.bmm(cs, state.flatten(2)).view_as(ys)
                ys.addcmul_(past, _by_time(zs.exp()))
            if keep_state or part.stop < x.shape[1]:
                written = x[:, part] * _by_time(_to_end(zs, ds))
                new = torch.bmm(bs.transpose(1, 2), written.flatten(2)).view(x.shape[0], -1, *x.shape[2:])
                state = new if state is None else new.addcmul_(state, _by_time(zs[..., -1:].exp()))
        ctx.save_for_backward(values, steps, a, b, c, skip, *states)
        ctx.chunk = chunk
        return y, state if keep_state else None

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, d_state: Tensor | None) -> tuple[Tensor | None, ...]:
        values, steps, a, b, c, skip, *states = ctx.saved_tensors
        dx, db, dc = (torch.empty_like(v, memory_format=torch.contiguous_format) for v in (dy, b, c))
        d_skip, weighed, dz = (torch.empty_like(steps) for _ in range(3))
        z, by_head, parts = steps * a[:, None], dy.transpose(1, 2).contiguous(), spans(dy.shape[1], ctx.chunk)
        with torch.autocast(dy.device.type, enabled=False):
            for part, state in zip(reversed(parts), reversed(states), strict=True):
                one = _Chunk(
                    values[:, :, part], steps[:, :, part], z[:, :, part].cumsum(-1), b[:, part], c[:, part]
                )
                found, d_state = _chunk_backward(one, by_head[:, :, part], dy[:, part], state, d_state)
                torch.addcmul(found.x, dy[:, part], skip[:, None], out=dx[:, part])
                db[:, part], dc[:, part] = found.b, found.c
                d_skip[..., part], weighed[..., part], dz[..., part] = found.skip, found.weighed, found.z
        ddt = weighed.div_(steps.clamp(min=torch.finfo(steps.dtype).tiny)).addcmul_(dz, a[:, None])
        da = dz.mul_(steps).sum((0, 2))
        return dx, ddt.transpose(1, 2), da, db, dc, d_skip.sum((0, 2)), d_state, None


class _Chunk(NamedTuple):
    """Of the positions of a chunk: values [B, h, l, P], step sizes and summed log decays [B, h, l], b and c
    [B, l, N]."""

    values: Tensor
    steps: Tensor
    z: Tensor
    b: Tensor
    c: Tensor


class _Found(NamedTuple):
    """A chunk's gradients. x [B, l, h, P]: without what goes through skip; b, c [B, l, N]; by position and
    head [B, h, l]: of skip; weighed: of dt where it scales x, times dt; z: of the log decay dt a."""

    x: Tensor
    b: Tensor
    c: Tensor
    skip: Tensor
    weighed: Tensor
    z: Tensor


def _chunk_backward(
    chunk: _Chunk, by_head: Tensor, dy: Tensor, state: Tensor | None, d_state: Tensor | None
) -> tuple[_Found, Tensor | None]:
    """The gradients of one chunk and of the state [B, N, h, P] before it.

    dy [B, l, h, P], by_head (the same, [B, h, l, P]) and d_state: of its output and of the state after it.
    """
    values, steps, z, b, c = chunk
    # Through the products inside the chunk.
    weights, scores = _weights(z, steps), torch.bmm(c, b.transpose(1, 2)).tril_()
    dx = torch.matmul((weights * scores[:, None]).transpose(-1, -2), by_head).transpose(1, 2)
    pairs = torch.matmul(by_head, values.transpose(-1, -2))
    d_skip = pairs.diagonal(dim1=-2, dim2=-1).clone()
    d_scores = pairs.mul_(weights).sum(1).tril_()
    db, dc = torch.bmm(d_scores.transpose(1, 2), c), torch.bmm(d_scores, b)
    alone = d_skip * steps * scores.diagonal(dim1=-2, dim2=-1)[:, None]
    pairs.mul_(scores.tril_(-1)[:, None])  # what the decay from j + 1 to i does to the loss
    weighed = pairs.sum(-2)
    reads = pairs.sum(-1) - weighed
    weighed += alone
    decays: Tensor | float = 0.0
    if d_state is not None:  # through the state that the chunk leaves behind
        to_end, by_time = _by_time(_to_end(z, steps)), values.transpose(1, 2)
        kept = torch.bmm(b, d_state.flatten(2)).view_as(dy).mul_(to_end)
        db.baddbmm_((by_time * to_end).flatten(2), d_state.flatten(2).transpose(1, 2))
        writes = (kept * by_time).sum(-1).transpose(1, 2)
        dx = kept.add_(dx)
        weighed += writes
        decays = writes.cumsum(-1) - writes  # position t decays what was written before t
    if state is not None:  # through the state that it found
        reading = dy * _by_time(z.exp())
        past = torch.bmm(c, state.flatten(2)).view_as(dy)
        reads += past.mul_(reading).sum(-1).transpose(1, 2)
        dc.baddbmm_(reading.flatten(2), state.flatten(2).transpose(1, 2))
        found = torch.bmm(c.transpose(1, 2), reading.flatten(2)).view_as(state)
        if d_state is not None:
            passed = d_state * _by_time(z[..., -1:].exp())
            decays = decays + (passed * state).sum((1, 3))[..., None]
            found += passed
        d_state = found
    else:
        d_state = None
    return _Found(dx, db, dc, d_skip, weighed, reads.flip(-1).cumsum(-1).flip(-1) + decays), d_state


def _weights(z: Tensor, steps: Tensor) -> Tensor:
    """Summed log decays z and step sizes [B, h, l] -> exp(z_i - z_j) dt_j [B, h, l, l]; dt_j above the
    diagonal, where it is not used and would overflow."""
    return (z[..., :, None] - z[..., None, :]).clamp_(max=0).exp_().mul_(steps[..., None, :])


def _to_end(z: Tensor, steps: Tensor) -> Tensor:
    """How much of each position [B, h, l] is in the state after the chunk."""
    return (z[..., -1:] - z).exp_().mul_(steps)


def _by_time(x: Tensor) -> Tensor:
    """[B, h, l] -> [B, l, h, 1]."""
    return x.transpose(1, 2)[..., None]


EPS = 1e-5
STEP_SIZES = 1e-3, 0.1  # dt at first, log-uniform
RATES = 1.0, 16.0  # -A at first, uniform


@dataclass(frozen=True, kw_only=True)
class Mamba2Config(ModelConfig):
    """hidden: H; layers; expand: inner width over H; head_dim: P values a head; state: N numbers kept for
    each value; taps: positions that the short convolution mixes; dropout: on what each layer adds.
    """

    hidden: int
    layers: int
    expand: int
    head_dim: int
    state: int
    taps: int
    dropout: float = number(least=0, below=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.expand * self.hidden % self.head_dim:
            inner = self.expand * self.hidden
            raise ValueError(f"expand * hidden = {inner} does not divide into heads of {self.head_dim}")


class Mamba2Mixer(nn.Module):
    """Projection, short convolution, state space, gated norm, projection: [B, T, H] -> [B, T, H].

    Between the projections it computes in at least float32, outside of autocast.
    """

    def __init__(self, hidden: int, inner: int, head_dim: int, state: int, taps: int) -> None:
        super().__init__()
        self.inner, self.heads, self.state, self.taps = inner, inner // head_dim, state, taps
        mixed = inner + 2 * state
        self.project = nn.Linear(hidden, inner + mixed + self.heads, bias=False)  # gate; x, b, c; dt
        self.filters = nn.Parameter(torch.empty(mixed, taps).uniform_(-1, 1) * taps**-0.5)
        self.filter_bias = nn.Parameter(torch.empty(mixed).uniform_(-1, 1) * taps**-0.5)
        low, high = (math.log(size) for size in STEP_SIZES)
        dt = torch.empty(self.heads).uniform_(low, high).exp()
        inverse_softplus = dt + torch.log(-torch.expm1(-dt))
        self.dt_bias = treat(nn.Parameter(inverse_softplus), weight_decay=0.0)
        self.log_rate = treat(nn.Parameter(torch.empty(self.heads).uniform_(*RATES).log()), weight_decay=0.0)
        self.skip = treat(nn.Parameter(torch.ones(self.heads)), weight_decay=0.0)
        self.norm_weight = nn.Parameter(torch.ones(inner))
        self.out = nn.Linear(inner, hidden, bias=False)

    def initial(self, batch: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """What stands before the first position: the convolution's window and the state, in >= float32."""
        wide = torch.promote_types(dtype, torch.float32)
        window = torch.zeros(batch, self.taps - 1, self.inner + 2 * self.state, device=device, dtype=wide)
        shape = batch, self.state, self.heads, self.inner // self.heads
        return window, torch.zeros(shape, device=device, dtype=wide)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, T, H] from its first position on -> [B, T, H]."""
        return self._mix(x, None)[0]

    def extend(self, x: Tensor, before: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The same for x that follows what `before` (see `initial`) has read; and what stands after it."""
        y, after = self._mix(x, before)
        assert after is not None
        return y, after

    def _mix(
        self, x: Tensor, before: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        wide = torch.promote_types(x.dtype, torch.float32)
        sizes = [self.inner, self.inner + 2 * self.state, self.heads]
        gate, mixed, dt = (part.to(wide) for part in self.project(x).split(sizes, -1))
        with torch.autocast(x.device.type, enabled=False):
            taps, bias, window = self.filters.to(wide), self.filter_bias.to(wide), None
            if before is None:
                mixed = short_convolution(mixed, taps, bias)
            else:
                mixed, window = short_convolution_after(mixed, taps, bias, before[0])
            y, state = self._scan(F.silu(mixed), dt, None if before is None else before[1])
            y = rms_norm(y.flatten(2) * F.silu(gate), self.norm_weight.to(wide), EPS).to(x.dtype)
        out: Tensor = self.out(y)
        return out, None if window is None or state is None else (window, state)

    def _scan(self, mixed: Tensor, dt: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Values, b and c side by side [B, T, ...] and dt before its bias [B, T, h] -> y [B, T, h, P]."""
        x, b, c = torch.split(mixed, [self.inner, self.state, self.state], -1)
        x = x.view(*x.shape[:2], self.heads, -1)
        dt, a = F.softplus(dt + self.dt_bias.to(dt.dtype)), -self.log_rate.to(dt.dtype).exp()
        skip = self.skip.to(dt.dtype)
        if state is None or x.shape[1] > 1:
            return ssd(x, dt, a, b, c, skip, state)
        y, state = ssd_step(x[:, 0], dt[:, 0], a, b[:, 0], c[:, 0], skip, state)
        return y[:, None], state


class Mamba2Block(Block):
    """x + dropout(mixer(norm(x))); the sum stays in x's dtype, also under autocast."""

    entries = ("window", "ssm")

    def __init__(self, mixer: Mamba2Mixer, hidden: int, layers: int, dropout: float) -> None:
        """`layers` of the whole network: each one's output starts smaller by its root, as in GPT-2."""
        super().__init__()
        self.norm = RMSNorm(hidden, EPS)
        self.mixer = mixer
        self.dropout = dropout
        with torch.no_grad():
            mixer.out.weight.div_(layers**0.5)

    def forward(self, x: Tensor, place: Place, state: State | None) -> tuple[Tensor, State]:
        normed, after = self.norm(x), State()
        if state is None:
            y = self.mixer(normed)
        else:
            y, (after["window"], after["ssm"]) = self.mixer.extend(normed, (state["window"], state["ssm"]))
        return x + dropout(y, self.dropout, self.training), after

    def initial(self, batch: int, device: torch.device, dtype: torch.dtype) -> State:
        window, ssm = self.mixer.initial(batch, device, dtype)
        return {"window": window, "ssm": ssm}


@architecture("mamba2")
class Mamba2(Stack):
    """The state is each layer's last taps - 1 inputs of the convolution and its matrices, in float32."""

    Config = Mamba2Config
    streaming = "constant"
    paper = "Dao and Gu, Transformers are SSMs, 2024"
    complexity = "O(T)"
    best_for = "long documents: it chooses at every chunk what to keep in a state of constant size"

    def __init__(self, config: Mamba2Config) -> None:
        blocks = (make_block(config) for _ in range(config.layers))
        super().__init__(config, config.hidden, blocks, RMSNorm(config.hidden, EPS))


def make_block(config: Mamba2Config) -> Mamba2Block:
    """One layer of a network of `config.layers`."""
    inner = config.expand * config.hidden
    mixer = Mamba2Mixer(config.hidden, inner, config.head_dim, config.state, config.taps)
    return Mamba2Block(mixer, config.hidden, config.layers, config.dropout)
