"""S4: structured state spaces, a linear recurrence for each channel, trained as a long convolution.

Paper: Gu, Goel, Ré, Efficiently Modeling Long Sequences with Structured State Spaces, 2022 (kernel "dplr":
HiPPO-LegS, normal plus low rank, bilinear); Gu, Gupta, Goel, Ré, On the Parameterization and Initialization
of Diagonal State Space Models, 2022 (kernel "diagonal": S4D-Lin, zero-order hold).
Deviations: C itself is learned, not C (I - A^L), and the kernel's quotient of power series is taken by
Newton's iteration, not at the roots of unity (see below): no longest length is declared. The low
rank term is p p*, which keeps A stable (Goel et al., 2022). The imaginary parts of B start as they are
computed, where the authors' code clips them to 2. S4D's B is fixed at 1: C takes it in. Blocks are
pre-norm; a state space is followed by GELU and a gated linear unit, then by a feed-forward block.
Parity: the dense recurrence in float64, and the kernel at the roots of unity (tests/parity/test_s4.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from nextvec.config import number
from nextvec.models.base import ModelConfig
from nextvec.models.ops.convolution import causal_convolution
from nextvec.models.ops.layers import FeedForward, dropout
from nextvec.models.ops.parameters import Precise, finest, treat, wide
from nextvec.models.ops.power_series import delay, loop_inverse, loop_response
from nextvec.models.registry import architecture
from nextvec.models.residual import State
from nextvec.models.stack import Block, Place, Stack

# State spaces x' = A x + B u, y = C x, one for each channel. A is diagonal, or diagonal minus low rank:
# diag(a) - p p*. Discretised bilinearly that is again a diagonal minus a rank of one (Woodbury), d - u v, so
# that a step costs O(N) and the response to an impulse is a loop around a diagonal system: with w = v x, the
# one number that is fed back,
#     w_k = (v d^k b) - sum over j < k of (v d^(k-1-j) u) w_j        a quotient of power series
#     K_k = (c d^k b) - sum over j < k of (c d^(k-1-j) u) w_j.
# S4's own algorithm takes the same quotient at the roots of unity (Cauchy products), for which it must learn
# C (I - A^L) in place of C and fix L. Here the four series are sums of powers and the quotient is Newton's:
# exact for every length, with C itself as the parameter.
# Shapes: B batch, H channels, T time, N stored modes (one of each conjugate pair: the state's size is 2 N),
# so that sums over modes are 2 Re(...). Give the system in float64: its rates are raised to high powers.

BLOCK, FINE = 64, 8  # of the sums of powers and of the chunks of a scan; of the powers in a block


class System(NamedTuple):
    """A discrete state space, all [H, N] complex: x' = exp(rate) x - u (2 Re v x) + b in, out = 2 Re c x'.

    Without u and v it is diagonal.
    """

    rate: Tensor
    b: Tensor
    c: Tensor
    u: Tensor | None = None
    v: Tensor | None = None


@cache
def hippo_legs(modes: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """HiPPO-LegS of size 2 `modes` as diag(-1/2 + i frequency) - p p*: (frequency, p), `modes` values each.

    The eigenvectors' phases are free: they are chosen so that p is real and positive. B is sqrt(2) p.
    """
    n = np.arange(2 * modes)
    p = np.sqrt(n + 0.5)
    skew = np.tril(2 * np.outer(p, p), -1)  # A + p p' + 1/2 is minus the skew part of this, over 2
    frequency, vectors = np.linalg.eigh(0.5j * (skew - skew.T))
    kept = frequency > 0
    return tuple(frequency[kept].tolist()), tuple(np.abs(vectors.conj().T @ p)[kept].tolist())


def bilinear(a: Tensor, p: Tensor, b: Tensor, c: Tensor, dt: Tensor) -> System:
    """Discretise diag(a) - p p* by the bilinear rule (Tustin's), S4's.

    Args:
        a, p, b, c: [H, N] complex, the real parts of `a` negative: then the system is stable for every p.
        dt: [H], the step's size.
    """
    half = dt[:, None] / 2
    resolvent = 1 / (1 - half * a)
    gain = half / (1 + half * _pair_sum(p.conj() * resolvent * p)[:, None])  # Woodbury's scalar
    v = p.conj() * resolvent
    u = resolvent * p * gain
    into = 2 * half * (resolvent * b - u * _pair_sum(v * b)[:, None])
    return System(2 * torch.atanh(half * a), into, c, 2 * u, v)


def zero_order_hold(a: Tensor, b: Tensor, c: Tensor, dt: Tensor) -> System:
    """Discretise diag(a) for inputs that are constant during a step, S4D's. Arguments as `bilinear`."""
    rate = a * dt[:, None]
    turn = (rate.imag / 2).sin()
    grown = torch.complex(  # exp(rate) - 1 without cancellation
        torch.expm1(rate.real) * rate.imag.cos() - 2 * turn.square(), rate.real.exp() * rate.imag.sin()
    )
    return System(rate, b * grown / a, c)


def kernel(system: System, length: int, dtype: torch.dtype) -> Tensor:
    """The response to an impulse, [H, length] of real `dtype`: out = causal_convolution(in, kernel).

    With low rank the sums are in `dtype`; the quotient, where errors add up, in the system's precision.
    """
    rate, b, c, u, v = system
    if u is None or v is None:
        return vandermonde(rate, (c * b)[None], length, dtype).squeeze(0)
    weights = torch.stack((c * b, v * b, c * u, v * u))
    return loop_response(vandermonde(rate, weights, length, dtype), rate.real.dtype)


def scan(system: System, x: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Go on from a state: x [B, H, N] complex, inputs [B, H, T] real -> outputs [B, H, T], the new state."""
    outputs: list[Tensor] = []
    for piece in torch.split(inputs, BLOCK, -1):
        y, x = _scan_block(system, x, piece)
        outputs.append(y)
    return torch.cat(outputs, -1), x


def step(system: Tensor, x: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """One position, O(N): x [B, H, N, 2], inputs [B, H] -> outputs [B, H] and the new state.

    All in real numbers, pairs for complex ones, so that it can be written for engines that have no others.
    Args:
        system: as `pack` gives it.
    """
    rate, b, c, *low_rank = system.unbind()
    turn = rate[..., 0].exp()[..., None] * torch.stack((rate[..., 1].cos(), rate[..., 1].sin()), -1)
    new = _times(turn, x) + b * inputs[..., None, None]
    if low_rank:
        u, v = low_rank
        new = new - u * (2 * _times(v, x)[..., 0].sum(-1))[..., None, None]
    return 2 * _times(c, new)[..., 0].sum(-1), new


def _times(a: Tensor, b: Tensor) -> Tensor:
    """The product of complex numbers that are pairs of real ones, [..., 2]."""
    real = a[..., 0] * b[..., 0] - a[..., 1] * b[..., 1]
    return torch.stack((real, a[..., 0] * b[..., 1] + a[..., 1] * b[..., 0]), -1)


def vandermonde(rate: Tensor, weights: Tensor, length: int, dtype: torch.dtype) -> Tensor:
    """Sums of powers: 2 Re sum over n of weights[w, h, n] exp(k rate[h, n]), for k < length.

    k is split into a block and a place in it, so that 2 sqrt(length) powers are taken, not `length`, and the
    rest is one product of real matrices.
    Args:
        rate: [H, N] complex; weights: [W, H, N] complex.
        dtype: real, of the powers and the product; angles are cut to a turn in the precision of `rate`.
    Returns: [W, H, length].
    """
    sums: Tensor = _Vandermonde.apply(rate, weights, length, dtype)  # type: ignore[no-untyped-call]
    return sums


class _Vandermonde(torch.autograd.Function):
    """With e = exp(k rate) the gradients are those of g, summed over k: of weights 2 g conj(e), of rates
    2 k g conj(weights e). Each takes one product with the powers in a block."""

    @staticmethod
    def forward(ctx: Any, rate: Tensor, weights: Tensor, length: int, dtype: torch.dtype) -> Tensor:
        rows = len(weights)
        block = min(BLOCK, 2 ** round(math.log2(rows * length) / 2))
        blocks = -(-length // block)
        first = _powers(rate, blocks, block, dtype).transpose(1, 2)[:, None]  # [H, 1, blocks, N]
        fine = min(FINE, block)  # 2 sqrt(block) powers, not `block`, and their products
        right = (
            _powers(rate, block // fine, fine, dtype)[..., None] * _powers(rate, fine, 1, dtype)[:, :, None]
        )
        right = torch.cat((right.real, right.imag), 1).flatten(2)  # [H, 2 N, block]
        by_channel = weights.to(dtype.to_complex()).permute(1, 0, 2)[:, :, None]
        left = by_channel * first
        left = torch.cat((left.real, -left.imag), -1).flatten(1, 2)  # [H, W blocks, 2 N]
        ctx.save_for_backward(first, right, by_channel)
        ctx.kinds = rate.dtype, weights.dtype
        sums = torch.bmm(left, right).mul_(2).reshape(len(rate), rows, blocks * block)
        return sums[..., :length].transpose(0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        first, right, weights = ctx.saved_tensors
        (H, rows, _, N), blocks, block = weights.shape, first.shape[2], right.shape[-1]
        grad = F.pad(2 * grad.transpose(0, 1), (0, blocks * block - grad.shape[-1])).reshape(H, -1, block)
        place = torch.arange(block, device=grad.device, dtype=grad.dtype)

        def by_block(given: Tensor) -> Tensor:
            """[H, W blocks, block] -> its product with the conjugate powers, [H, W, blocks, N]."""
            real, imag = torch.split(torch.bmm(given, right.mT).view(H, rows, blocks, 2 * N), N, -1)
            return torch.complex(real, imag).mul_(first)

        found, later = by_block(grad), by_block(grad * place)
        later.add_(found * (block * torch.arange(blocks, device=grad.device))[:, None])
        d_rate = (later.sum(2, keepdim=True) * weights).sum((1, 2)).conj().resolve_conj()
        d_weights = found.sum(2).transpose(0, 1).conj().resolve_conj()
        of_rate, of_weights = ctx.kinds
        return d_rate.to(of_rate), d_weights.to(of_weights), None, None


def _scan_block(system: System, x: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """`scan` for a block: the state's echo and the kernel's answer, and the state after it."""
    rate, b, c, u, v = system
    length = inputs.shape[-1]
    powers = _powers(rate, length + 1, 1, inputs.dtype)  # [H, N, T + 1]
    outputs = _echo(c * x, powers[..., 1:])
    entered = b[..., None] * inputs[..., None, :]
    if u is None or v is None:
        outputs = outputs + causal_convolution(inputs, kernel(system, length, inputs.dtype))
    else:
        weights = torch.stack((c * b, v * b, c * u, v * u))
        forward, sensed, steered, looped = vandermonde(rate, weights, length, inputs.dtype).unbind()
        felt = _echo(v * x, powers[..., :-1]) + causal_convolution(inputs, delay(sensed))
        fed_back = causal_convolution(felt, loop_inverse(looped))
        outputs = outputs + causal_convolution(inputs, forward) - causal_convolution(fed_back, steered)
        entered = entered - u[..., None] * fed_back[..., None, :]
    ended = (entered * powers[..., :-1].flip(-1)).sum(-1)
    return outputs, powers[..., -1] * x + ended


def _powers(rate: Tensor, count: int, stride: int, dtype: torch.dtype) -> Tensor:
    """exp(rate k) for k = 0, stride, ..: complex [..., count], its parts of `dtype`."""
    k = stride * torch.arange(count, device=rate.device)
    angle = rate.imag[..., None] * k
    angle = angle - 2 * math.pi * (angle.detach() / (2 * math.pi)).round()
    return torch.polar((rate.real.to(dtype)[..., None] * k).exp(), angle.to(dtype))


def _echo(weights: Tensor, powers: Tensor) -> Tensor:
    """weights [B, H, N], powers [H, N, T] -> 2 Re of their sum over the modes, [B, H, T]."""
    return _pair_sum((weights[..., None] * powers).transpose(-1, -2))


def _pair_sum(modes: Tensor) -> Tensor:
    """The sum over the stored modes (the last dimension) and their conjugates: real."""
    return 2 * modes.real.sum(-1)


SHORTEST, LONGEST = 1e-3, 0.1
"""A channel's step: log dt ~ U(log 1e-3, log 0.1), so that it looks back over 10 to 1000 vectors."""


@dataclass(frozen=True, kw_only=True)
class S4Config(ModelConfig):
    """hidden: H; layers; state: N real numbers a channel; ffn: inner width; kernel: which S4; dropout."""

    hidden: int
    layers: int
    state: int
    ffn: int
    dropout: float = number(least=0, below=1)
    kernel: Literal["dplr", "diagonal"] = "dplr"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.state % 2:
            raise ValueError(f"state = {self.state} must be even: modes come in conjugate pairs")


class StateSpace(Precise):
    """H channels, each with its own state space and a skip from its input: [B, T, H] -> [B, T, H].

    It stays in float32 under autocast and in a bfloat16 model; chunks and steps are taken in float64.
    """

    def __init__(self, config: S4Config) -> None:
        super().__init__()
        shape = config.hidden, config.state // 2
        log_dt = torch.empty(shape[0]).uniform_(math.log(SHORTEST), math.log(LONGEST))
        self.log_dt = _slow(log_dt)
        self.log_decay = _slow(torch.full(shape, math.log(0.5)))
        if config.kernel == "dplr":
            frequency, p = (torch.tensor(values).expand(shape) for values in hippo_legs(shape[1]))
            low_rank = torch.stack((p, torch.zeros_like(p)), -1)
            self.low_rank = _slow(low_rank)
            self.into = _slow(math.sqrt(2) * low_rank)
        else:
            frequency = math.pi * torch.arange(shape[1]).expand(shape)
        self.frequency = _slow(frequency.clone())
        self.out = nn.Parameter(torch.randn(*shape, 2) / math.sqrt(2))
        self.skip = nn.Parameter(torch.randn(shape[0]))
        self.low = config.kernel == "dplr"

    def system(self) -> System:
        """The discrete state spaces, in float64 where there is that: a step is taken to high powers."""
        kind = finest(self.skip.device)
        a = torch.complex(-self.log_decay.to(kind).exp(), self.frequency.to(kind))
        dt, c = self.log_dt.to(kind).exp(), _complex(self.out, kind)
        if self.low:
            return bilinear(a, _complex(self.low_rank, kind), _complex(self.into, kind), c, dt)
        return zero_order_hold(a, torch.ones_like(a), c, dt)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, T, H] -> [B, T, H], the parallel form."""
        with torch.autocast(x.device.type, enabled=False):
            u = x.transpose(1, 2).to(wide(x.dtype))
            y = causal_convolution(u, kernel(self.system(), u.shape[-1], u.dtype))
            y = torch.addcmul(y, self.skip[:, None], u)
        return y.transpose(1, 2).to(x.dtype)

    def extend(self, x: Tensor, system: Tensor, modes: Tensor) -> tuple[Tensor, Tensor]:
        """The same for x [B, T, H] that follows the state `modes` [B, H, N/2, 2], and the new state. system:
        as `pack` gives it."""
        with torch.autocast(x.device.type, enabled=False):
            u = x.transpose(1, 2).to(finest(x.device))
            if x.shape[1] == 1:
                y_t, modes = step(system, modes, u[..., 0])
                y = y_t[..., None]
            else:
                y, reached = scan(System(*torch.view_as_complex(system)), torch.view_as_complex(modes), u)
                modes = torch.view_as_real(reached)
            y = torch.addcmul(y, self.skip[:, None], u)
        return y.transpose(1, 2).to(x.dtype), modes


class S4Block(Block):
    """x + GLU(GELU(state space(norm(x)))), then the feed-forward half.

    In the state complex numbers are pairs. The discrete system stands in it, so that no step has to make it.
    """

    entries = ("modes", "system")

    def __init__(self, config: S4Config) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden)
        self.space = StateSpace(config)
        self.glu = nn.Linear(config.hidden, 2 * config.hidden)
        self.feed_forward = FeedForward(config.hidden, config.ffn, config.dropout)
        self.dropout = config.dropout

    def forward(self, x: Tensor, place: Place, state: State | None) -> tuple[Tensor, State]:
        normed, after = self.norm(x), State()
        if state is None:
            y = self.space(normed)
        else:
            y, modes = self.space.extend(normed, state["system"], state["modes"])
            after = {"modes": modes, "system": state["system"]}
        y = F.glu(self.glu(self._drop(F.gelu(y))))
        return self.feed_forward(x + self._drop(y)), after

    def initial(self, batch: int, device: torch.device, dtype: torch.dtype) -> State:
        system = pack(self.space.system()).to(device, finest(device))
        return {"modes": system.new_zeros(batch, *system.shape[1:]), "system": system}

    def _drop(self, x: Tensor) -> Tensor:
        return dropout(x, self.dropout, self.training)


@architecture("s4")
class S4(Stack):
    """The state is each channel's N numbers, whatever the context; training costs O(T log T)."""

    Config = S4Config
    streaming = "constant"
    paper = "Gu, Goel and Ré, Efficiently Modeling Long Sequences with Structured State Spaces, 2022"
    complexity = "O(T log T)"
    best_for = "long contexts that fade slowly, read one vector at a time with a small state"

    def __init__(self, config: S4Config) -> None:
        blocks = (S4Block(config) for _ in range(config.layers))
        super().__init__(config, config.hidden, blocks, nn.LayerNorm(config.hidden))


def _slow(value: Tensor) -> nn.Parameter:
    """A parameter of the dynamics: they are learned slowly and not decayed, or the recurrence falls apart."""
    return treat(nn.Parameter(value.contiguous()), weight_decay=0.0, max_lr=1e-3)


def _complex(pair: Tensor, kind: torch.dtype) -> Tensor:
    return torch.view_as_complex(pair.to(kind).contiguous())


def pack(system: System) -> Tensor:
    """All that a system has, as real numbers [3 or 5, H, N/2, 2]."""
    return torch.view_as_real(torch.stack([part for part in system if part is not None]))
