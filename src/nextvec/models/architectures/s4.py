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
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextvec.models.base import ModelConfig, NextVectorModel
from nextvec.models.hints import treat
from nextvec.models.ops.convolution import causal_convolution
from nextvec.models.ops.dropout import dropout
from nextvec.models.ops.precise import Precise, finest, wide
from nextvec.models.ops.state_space import System, bilinear, hippo_legs, kernel, scan, step, zero_order_hold
from nextvec.models.registry import architecture
from nextvec.models.residual import State

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
            y, modes = scan(system, modes, u)
            y = torch.addcmul(y, self.skip[:, None], u)
        return y.transpose(1, 2).to(x.dtype), modes

    def step(self, x_t: Tensor, system: System, modes: Tensor) -> tuple[Tensor, Tensor]:
        """The same for one position x_t [B, H]."""
        with torch.autocast(x_t.device.type, enabled=False):
            u = x_t.to(finest(x_t.device))
            y, modes = step(system, modes, u)
            y = torch.addcmul(y, self.skip, u)
        return y.to(x_t.dtype), modes


class S4Block(nn.Module):
    """x + GLU(GELU(state space(norm(x)))), then x + FFN(norm(x))."""

    def __init__(self, config: S4Config) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden)
        self.space = StateSpace(config)
        self.glu = nn.Linear(config.hidden, 2 * config.hidden)
        self.ffn_norm = nn.LayerNorm(config.hidden)
        self.ffn_in = nn.Linear(config.hidden, config.ffn)
        self.ffn_out = nn.Linear(config.ffn, config.hidden)
        self.dropout = config.dropout

    def forward(self, x: Tensor) -> Tensor:
        """x [B, T, H] -> [B, T, H], the parallel form."""
        return self.join(x, self.space(self.norm(x)))

    def extend(self, x: Tensor, system: System, modes: Tensor) -> tuple[Tensor, Tensor]:
        """The same for x [B, T, H] that follows the state `modes` -> [B, T, H] and the new state."""
        y, modes = self.space.extend(self.norm(x), system, modes)
        return self.join(x, y), modes

    def step(self, x_t: Tensor, system: System, modes: Tensor) -> tuple[Tensor, Tensor]:
        """The same for one position x_t [B, H]."""
        y, modes = self.space.step(self.norm(x_t), system, modes)
        return self.join(x_t, y), modes

    def join(self, x: Tensor, y: Tensor) -> Tensor:
        """What follows the state space, position by position."""
        x = x + self._drop(F.glu(self.glu(self._drop(F.gelu(y)))))
        inner = self._drop(F.gelu(self.ffn_in(self.ffn_norm(x))))
        return x + self._drop(self.ffn_out(inner))

    def _drop(self, x: Tensor) -> Tensor:
        return dropout(x, self.dropout, self.training)


@architecture("s4")
class S4(NextVectorModel):
    """The state is each channel's N numbers, whatever the context; training costs O(T log T)."""

    Config = S4Config
    streaming = "constant"
    paper = "Gu, Goel and Ré, Efficiently Modeling Long Sequences with Structured State Spaces, 2022"
    complexity = "O(T log T)"
    best_for = "long contexts that fade slowly, read one vector at a time with a small state"

    def __init__(self, config: S4Config) -> None:
        super().__init__(config, width=config.hidden)
        self.embed = nn.Linear(config.d_embed, config.hidden)
        self.blocks = nn.ModuleList(S4Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.hidden)

    def encode(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.embed(x)
        for block in self.blocks:
            hidden = block(hidden)
        normed: Tensor = self.norm(hidden)
        return normed

    def encoder_state(self, batch: int, device: torch.device, dtype: torch.dtype) -> State:
        """Complex numbers as pairs. The discrete systems stand in it, so that no step has to make them."""
        spaces = [m for m in self.blocks.modules() if isinstance(m, StateSpace)]
        systems = torch.stack([_pack(space.system()) for space in spaces])
        shape = (len(self.blocks), batch, *systems.shape[-3:])
        modes = torch.zeros(shape, device=device, dtype=finest(device))
        return {"modes": modes, "systems": systems.to(device, finest(device))}

    def encode_chunk(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        hidden, after = self.embed(x), []
        for block, system, modes in self._layers(state):
            hidden, modes = block.extend(hidden, system, modes)
            after.append(torch.view_as_real(modes))
        return self.norm(hidden), {"modes": torch.stack(after), "systems": state["systems"]}

    def encode_step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        hidden, after = self.embed(x_t), []
        for block, system, modes in self._layers(state):
            hidden, modes = block.step(hidden, system, modes)
            after.append(torch.view_as_real(modes))
        return self.norm(hidden), {"modes": torch.stack(after), "systems": state["systems"]}

    def _layers(self, state: State) -> Iterator[tuple[S4Block, System, Tensor]]:
        systems, modes = torch.view_as_complex(state["systems"]), torch.view_as_complex(state["modes"])
        for block, system, own in zip(self.blocks, systems, modes, strict=True):
            assert isinstance(block, S4Block)
            yield block, System(*system), own


def _slow(value: Tensor) -> nn.Parameter:
    """A parameter of the dynamics: they are learned slowly and not decayed, or the recurrence falls apart."""
    return treat(nn.Parameter(value.contiguous()), weight_decay=0.0, max_lr=1e-3)


def _complex(pair: Tensor, kind: torch.dtype) -> Tensor:
    return torch.view_as_complex(pair.to(kind).contiguous())


def _pack(system: System) -> Tensor:
    """All that a system has, as real numbers [3 or 5, H, N/2, 2]."""
    return torch.view_as_real(torch.stack([part for part in system if part is not None]))
