"""S4: structured state spaces, a linear recurrence for each channel, trained as a long convolution.

Paper: Gu, Goel, Ré, Efficiently Modeling Long Sequences with Structured State Spaces, 2022 (kernel "dplr":
HiPPO-LegS, normal plus low rank, bilinear); Gu, Gupta, Goel, Ré, On the Parameterization and Initialization
of Diagonal State Space Models, 2022 (kernel "diagonal": S4D-Lin, zero-order hold).
Deviations: C itself is learned, not C (I - A^L), and the kernel's quotient of power series is taken by
Newton's iteration, not at the roots of unity (ops/state_space.py): no longest length is declared. The low
rank term is p p*, which keeps A stable (Goel et al., 2022). S4D's B is fixed at 1: C takes it in. Blocks are
pre-norm; a state space is followed by GELU and a gated linear unit, then by a feed-forward block.
Parity: the dense recurrence in float64, and the kernel at the roots of unity (tests/parity/test_s4.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextvec.models.base import ModelConfig
from nextvec.models.hints import treat
from nextvec.models.ops.convolution import causal_convolution
from nextvec.models.ops.dropout import dropout
from nextvec.models.ops.feedforward import FeedForward
from nextvec.models.ops.precise import Precise, finest, wide
from nextvec.models.ops.state_space import System, bilinear, hippo_legs, kernel, scan, step, zero_order_hold
from nextvec.models.registry import architecture
from nextvec.models.residual import State
from nextvec.models.stack import Block, Place, Stack

SHORTEST, LONGEST = 1e-3, 0.1
"""A channel's step: log dt ~ U(log 1e-3, log 0.1), so that it looks back over 10 to 1000 vectors."""


@dataclass(frozen=True, kw_only=True)
class S4Config(ModelConfig):
    """hidden: H; layers; state: N real numbers a channel; ffn: inner width; kernel: which S4; dropout."""

    hidden: int
    layers: int
    state: int
    ffn: int
    dropout: float
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

    def extend(self, x: Tensor, system: System, modes: Tensor) -> tuple[Tensor, Tensor]:
        """The same for x [B, T, H] that follows the state `modes` [B, H, N/2], and the new state."""
        with torch.autocast(x.device.type, enabled=False):
            u = x.transpose(1, 2).to(finest(x.device))
            if x.shape[1] == 1:
                y_t, modes = step(system, modes, u[..., 0])
                y = y_t[..., None]
            else:
                y, modes = scan(system, modes, u)
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
            system = System(*torch.view_as_complex(state["system"]))
            y, modes = self.space.extend(normed, system, torch.view_as_complex(state["modes"]))
            after = {"modes": torch.view_as_real(modes), "system": state["system"]}
        y = F.glu(self.glu(self._drop(F.gelu(y))))
        return self.feed_forward(x + self._drop(y)), after

    def initial(self, batch: int, device: torch.device, dtype: torch.dtype) -> State:
        system = _pack(self.space.system()).to(device, finest(device))
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


def _pack(system: System) -> Tensor:
    """All that a system has, as real numbers [3 or 5, H, N/2, 2]."""
    return torch.view_as_real(torch.stack([part for part in system if part is not None]))
