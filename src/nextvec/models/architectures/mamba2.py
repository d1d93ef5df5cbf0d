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

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextvec.models.base import ModelConfig
from nextvec.models.hints import treat
from nextvec.models.ops.dropout import dropout
from nextvec.models.ops.norms import RMSNorm, rms_norm
from nextvec.models.ops.short_convolution import short_convolution, short_convolution_after
from nextvec.models.ops.ssd import ssd, ssd_step
from nextvec.models.registry import architecture
from nextvec.models.residual import State
from nextvec.models.stack import Block, Place, Stack

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
    dropout: float

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
