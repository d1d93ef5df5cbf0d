"""Hyena: gates and long convolutions whose filters a small network draws, in place of attention.

Paper: Poli et al., Hyena Hierarchy: Towards Larger Convolutional Language Models, 2023.
Deviations: order N has N gates and N - 1 long convolutions, as the authors' code, not the paper's recurrence
(N of each). A filter is drawn over the declared longest sequence and cut to what is read, so that a lag's
weight never depends on the length. Pre-norm blocks, each with a feed-forward block, as their language models.
There is no step of constant cost: a step keeps the gated vectors and takes one product with the filter.
Parity: the direct long convolution, O(T^2), in float64 (tests/parity/test_hyena.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextvec.errors import ModelError
from nextvec.models.base import ModelConfig, NextVectorModel
from nextvec.models.hints import treat
from nextvec.models.ops.convolution import causal_convolution, short_convolution
from nextvec.models.ops.dropout import dropout
from nextvec.models.ops.precise import Precise, finest, wide
from nextvec.models.registry import architecture
from nextvec.models.residual import State

TAPS = 3  # of the short convolution
SIZES = (33, 64, 64, 64)  # of the network that draws the filters: position features, three hidden layers
FREQUENCY = 14.0  # of its sine activations
SLOW, FAST, TARGET = 1.5, 0.3, 0.01  # a window falls to `TARGET` at 1.5 to 0.3 times the longest sequence


@dataclass(frozen=True, kw_only=True)
class HyenaConfig(ModelConfig):
    """hidden: H; layers; order: number of gates; ffn: inner width; max_length: the longest sequence that can
    be read, and the unit of the filters' time axis; dropout: on what a block adds."""

    hidden: int
    layers: int
    order: int
    ffn: int
    max_length: int
    dropout: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.order < 2:
            raise ValueError(f"order = {self.order}: must be 2 or more")


class Filters(Precise):
    """Draws the long filters: a sine network of the position, times a window that fades, for each channel.

    Each sine multiplies an error by about 6, so the network stays in float32 when the model is brought to
    bfloat16, and is evaluated in float64 (on devices that have it).
    """

    def __init__(self, count: int, hidden: int, max_length: int) -> None:
        super().__init__()
        self.count, self.hidden, self.max_length = count, hidden, max_length
        self.inner = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(SIZES))
        self.frequency = nn.Parameter(torch.full(SIZES[-1:], FREQUENCY))
        self.out = nn.Linear(SIZES[-1], count * hidden, bias=False)
        for parameter in self.parameters():
            treat(parameter, weight_decay=0.0, max_lr=1e-3)

    def forward(self, length: int) -> Tensor:
        """The filters' first `length` weights, real [count, H, length]."""
        device = self.frequency.device
        kind = finest(device)
        with torch.autocast(device.type, enabled=False):
            time = torch.arange(length, device=device, dtype=kind) / self.max_length
            y = position_features(time)
            for layer in self.inner:
                assert isinstance(layer, nn.Linear)
                y = F.linear(y, layer.weight.to(kind), layer.bias.to(kind))
                y = torch.sin(self.frequency.to(kind) * y)
            drawn = self.out.weight.to(kind) @ y.T
            window = torch.exp(-decay_rates(self.hidden, device, kind)[:, None] * time)
            return (drawn.view(self.count, self.hidden, length) * window).to(self.frequency.dtype)


class HyenaOperator(nn.Module):
    """Projections, a short convolution, then gate and long convolution in turn: [B, T, H] -> [B, T, H]."""

    def __init__(self, config: HyenaConfig) -> None:
        super().__init__()
        channels = (config.order + 1) * config.hidden
        self.order, self.longs = config.order, config.order - 1
        self.project = nn.Linear(config.hidden, channels)
        bound = TAPS**-0.5
        self.short = nn.Parameter(torch.empty(TAPS, channels).uniform_(-bound, bound))
        self.short_bias = nn.Parameter(torch.empty(channels).uniform_(-bound, bound))
        self.filters = Filters(self.longs, config.hidden, config.max_length)
        self.skip = nn.Parameter(torch.randn(self.longs, config.hidden))
        self.out = nn.Linear(config.hidden, config.hidden)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, T, H] -> [B, T, H], the parallel form."""
        *gates, v, _ = self._project(x, None)
        filters = self.filters(x.shape[1])
        for i in range(self.longs):
            v = v * gates[i]
            v = torch.addcmul(causal_convolution(v, filters[i]), self.skip[i][:, None], v)
        return self._join(v, gates[-1], x)

    def extend(self, x: Tensor, state: State, start: int) -> tuple[Tensor, State]:
        """The same for x [B, n, H] that follows `start` vectors; the state's buffers are written in place."""
        *gates, v, tail = self._project(x, state["short"])
        buffers, filters, end = state["buffer"], state["filters"], start + x.shape[1]
        for i in range(self.longs):
            v = v * gates[i]
            buffers[:, i, :, start:end] = v
            seen, filters_i = buffers[:, i, :, :end], filters[i, :, filters.shape[-1] - end :]
            if x.shape[1] == 1:
                mixed = (seen * filters_i).sum(-1, keepdim=True)
            else:
                mixed = causal_convolution(seen, filters_i.flip(-1))[..., start:]
            v = torch.addcmul(mixed.to(v.dtype), self.skip[i][:, None], v)
        return self._join(v, gates[-1], x), {"short": tail, "buffer": buffers, "filters": filters}

    def state(self, batch: int, device: torch.device, dtype: torch.dtype) -> State:
        """Before the first vector. The filters stand in it, last weight first, so that no step draws them."""
        kind = wide(dtype)
        filters = self.filters(self.filters.max_length).flip(-1).to(device, kind)
        channels = self.short_bias.shape[0]
        return {
            "short": torch.zeros(batch, TAPS - 1, channels, device=device, dtype=dtype),
            "buffer": torch.zeros(batch, *filters.shape, device=device, dtype=kind),
            "filters": filters,
        }

    def _project(self, x: Tensor, tail: Tensor | None) -> tuple[Tensor, ...]:
        """x [B, T, H] -> the gates in the order of use, the value, each [B, H, T], and the new tail."""
        y, tail = short_convolution(self.project(x), self.short, self.short_bias, tail)
        return *y.transpose(1, 2).chunk(self.order + 1, 1), tail

    def _join(self, v: Tensor, gate: Tensor, x: Tensor) -> Tensor:
        mixed: Tensor = self.out((v * gate).transpose(1, 2).to(x.dtype))
        return mixed


class HyenaBlock(nn.Module):
    """x + operator(norm(x)), then x + FFN(norm(x))."""

    def __init__(self, config: HyenaConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden)
        self.operator = HyenaOperator(config)
        self.ffn_norm = nn.LayerNorm(config.hidden)
        self.ffn_in = nn.Linear(config.hidden, config.ffn)
        self.ffn_out = nn.Linear(config.ffn, config.hidden)
        self.dropout = config.dropout

    def forward(self, x: Tensor) -> Tensor:
        """x [B, T, H] -> [B, T, H], the parallel form."""
        return self.join(x, self.operator(self.norm(x)))

    def extend(self, x: Tensor, state: State, start: int) -> tuple[Tensor, State]:
        """The same for x [B, n, H] that follows `start` vectors."""
        y, state = self.operator.extend(self.norm(x), state, start)
        return self.join(x, y), state

    def join(self, x: Tensor, y: Tensor) -> Tensor:
        """What follows the operator, position by position."""
        x = x + self._drop(y)
        inner = self._drop(F.gelu(self.ffn_in(self.ffn_norm(x))))
        return x + self._drop(self.ffn_out(inner))

    def _drop(self, x: Tensor) -> Tensor:
        return dropout(x, self.dropout, self.training)


@architecture("hyena")
class Hyena(NextVectorModel):
    """The state holds each layer's gated vectors, for as many as `max_length`, and its filters.

    A step costs as much as the filter is long, and no more vectors than `max_length` can be read.
    """

    Config = HyenaConfig
    streaming = "buffer"
    caches = ("buffer",)
    paper = "Poli et al., Hyena Hierarchy: Towards Larger Convolutional Language Models, 2023"
    complexity = "O(T log T)"
    best_for = "contexts of hundreds of vectors up to a known length, read at once"

    def __init__(self, config: HyenaConfig) -> None:
        super().__init__(config, width=config.hidden)
        self.embed = nn.Linear(config.d_embed, config.hidden)
        self.blocks = nn.ModuleList(HyenaBlock(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.hidden)
        self.max_length = config.max_length

    def encode(self, x: Tensor) -> Tensor:
        self._refuse_beyond(x.shape[1])
        hidden: Tensor = self.embed(x)
        for block in self.blocks:
            hidden = block(hidden)
        normed: Tensor = self.norm(hidden)
        return normed

    def encoder_state(self, batch: int, device: torch.device, dtype: torch.dtype) -> State:
        state: State = {"position": torch.zeros((), dtype=torch.int64)}
        for i, block in enumerate(self.blocks):
            assert isinstance(block, HyenaBlock)
            own = block.operator.state(batch, device, dtype)
            state |= {f"{key}.{i}": value for key, value in own.items()}
        return state

    def encode_chunk(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        start = int(state["position"])
        self._refuse_beyond(start + x.shape[1])
        hidden = self.embed(x)
        new: State = {"position": state["position"] + x.shape[1]}
        for i, block in enumerate(self.blocks):
            assert isinstance(block, HyenaBlock)
            own = {key: state[f"{key}.{i}"] for key in ("short", "buffer", "filters")}
            hidden, own = block.extend(hidden, own, start)
            new |= {f"{key}.{i}": value for key, value in own.items()}
        return self.norm(hidden), new

    def encode_step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        hidden, state = self.encode_chunk(x_t[:, None], state)
        return hidden[:, 0], state

    def _refuse_beyond(self, length: int) -> None:
        if length > self.max_length:
            raise ModelError(
                f"hyena reads at most {self.max_length} vectors, its max_length; it was given {length}",
                remedy="cut the context, or train one with a larger model.options.max_length",
            )


def position_features(time: Tensor) -> Tensor:
    """time [L] in [0, 1) -> [L, SIZES[0]]: the time, then cosines and negative sines of 1e-4 to 15 turns."""
    bands = (SIZES[0] - 1) // 2
    turns = torch.linspace(1e-4, bands - 1, bands, device=time.device, dtype=time.dtype)
    angle = 2 * math.pi * time[:, None] * turns
    return torch.cat((time[:, None], angle.cos(), -angle.sin()), -1)


def decay_rates(hidden: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """[H] rates |d|: a channel's window is exp(-|d| t), t in units of the longest sequence."""
    slow, fast = (abs(math.log(TARGET)) / share for share in (SLOW, FAST))
    return torch.linspace(slow, fast, hidden, device=device, dtype=dtype)
