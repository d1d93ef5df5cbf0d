"""Hyena: gates and long convolutions whose filters a small network draws, in place of attention.

Paper: Poli et al., Hyena Hierarchy: Towards Larger Convolutional Language Models, 2023.
Deviations: order N has N gates and N - 1 long convolutions, as the authors' code, not the paper's recurrence
(N of each). A filter is drawn over the declared longest sequence and cut to what is read, so that a lag's
weight never depends on the length; its time runs i / L, where the authors' code has i / (L - 1). Pre-norm
blocks, each with a feed-forward block, as their language models. There is no step of constant cost: a step
keeps the gated vectors and takes one product with the filter.
Parity: the direct long convolution, O(T^2), in float64 (tests/parity/test_hyena.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextvec.config import number
from nextvec.errors import ModelError
from nextvec.models.base import ModelConfig
from nextvec.models.ops.convolution import causal_convolution, short_convolution, short_convolution_after
from nextvec.models.ops.layers import FeedForward, dropout
from nextvec.models.ops.parameters import Precise, finest, treat, wide
from nextvec.models.registry import architecture
from nextvec.models.residual import State
from nextvec.models.stack import Block, Place, Stack

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
    order: int = number(least=2)
    ffn: int
    max_length: int
    dropout: float = number(least=0, below=1)


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
        self.short = nn.Parameter(torch.empty(channels, TAPS).uniform_(-bound, bound))
        self.short_bias = nn.Parameter(torch.empty(channels).uniform_(-bound, bound))
        self.filters = Filters(self.longs, config.hidden, config.max_length)
        self.skip = nn.Parameter(torch.randn(self.longs, config.hidden))
        self.out = nn.Linear(config.hidden, config.hidden)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, T, H] -> [B, T, H], the parallel form."""
        gates, v, _ = self._project(x, None)
        filters = self.filters(x.shape[1])
        for i in range(self.longs):
            v = v * gates[i]
            v = torch.addcmul(causal_convolution(v, filters[i]), self.skip[i][:, None], v)
        return self._join(v, gates[-1], x)

    def extend(self, x: Tensor, state: State, start: int) -> tuple[Tensor, State]:
        """The same for x [B, n, H] that follows `start` vectors; the state's buffers are written in place."""
        gates, v, after = self._project(x, state["short"])
        buffers, filters, end = state["buffer"], state["filters"], start + x.shape[1]
        for i in range(self.longs):
            v = v * gates[i]
            if torch.compiler.is_exporting():
                buffers, seen, filters_i = _anywhere(buffers, i, v, filters[i], start)
            else:
                buffers[:, i, :, start:end] = v
                seen, filters_i = buffers[:, i, :, :end], filters[i, :, filters.shape[-1] - end :]
            if x.shape[1] == 1:
                mixed = (seen * filters_i).sum(-1, keepdim=True)
            else:
                mixed = causal_convolution(seen, filters_i.flip(-1))[..., start:]
            v = torch.addcmul(mixed.to(v.dtype), self.skip[i][:, None], v)
        return self._join(v, gates[-1], x), {**after, "buffer": buffers, "filters": filters}

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

    def _project(self, x: Tensor, window: Tensor | None) -> tuple[list[Tensor], Tensor, State]:
        """x [B, T, H] -> the gates in the order of use and the value, each [B, H, T]; and the new window of
        the short convolution, where one is given."""
        y, after = self.project(x).to(self.short.dtype), State()
        if window is None:
            y = short_convolution(y, self.short, self.short_bias)
        else:
            y, after["short"] = short_convolution_after(y, self.short, self.short_bias, window)
        *gates, v = y.transpose(1, 2).chunk(self.order + 1, 1)
        return gates, v, after

    def _join(self, v: Tensor, gate: Tensor, x: Tensor) -> Tensor:
        mixed: Tensor = self.out((v * gate).transpose(1, 2).to(x.dtype))
        return mixed


class HyenaBlock(Block):
    """x + operator(norm(x)), then the feed-forward half."""

    entries = ("short", "buffer", "filters")

    def __init__(self, config: HyenaConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden)
        self.operator = HyenaOperator(config)
        self.feed_forward = FeedForward(config.hidden, config.ffn, config.dropout)
        self.dropout = config.dropout

    def forward(self, x: Tensor, place: Place, state: State | None) -> tuple[Tensor, State]:
        normed, after = self.norm(x), State()
        if state is None:
            y = self.operator(normed)
        else:
            y, after = self.operator.extend(normed, state, place.start)
        return self.feed_forward(x + dropout(y, self.dropout, self.training)), after

    def initial(self, batch: int, device: torch.device, dtype: torch.dtype) -> State:
        return self.operator.state(batch, device, dtype)


@architecture("hyena")
class Hyena(Stack):
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
        blocks = (HyenaBlock(config) for _ in range(config.layers))
        super().__init__(config, config.hidden, blocks, nn.LayerNorm(config.hidden))
        self.max_length = config.max_length

    def enter(self, x: Tensor, start: int) -> Tensor:
        length = start + x.shape[1]
        if not torch.compiler.is_exporting() and length > self.max_length:
            raise ModelError(
                f"hyena reads at most {self.max_length} vectors, its max_length; it was given {length}",
                remedy="cut the context, or train one with a larger model.options.max_length",
            )
        return super().enter(x, start)


def _anywhere(
    buffers: Tensor, i: int, v: Tensor, filters: Tensor, start: int
) -> tuple[Tensor, Tensor, Tensor]:
    """What `extend` writes and reads for one vector v [B, H, 1], with nothing cut at `start`, for a graph in
    which that is a tensor: all of the buffer, whose end is zeros, and the filters moved behind it."""
    place = torch.arange(filters.shape[-1], device=v.device)
    seen = torch.where(place == start, v.to(buffers.dtype), buffers[:, i])
    # A look-up out of bounds ends what goes on past the longest context.
    moved = filters[:, (place + filters.shape[-1] - 1 - start).clamp(max=filters.shape[-1] - 1)]
    bounds = filters[:, start + torch.zeros(1, dtype=torch.int64, device=v.device)]
    buffers = torch.cat((buffers[:, :i], seen[:, None], buffers[:, i + 1 :]), 1)
    return buffers, seen + 0.0 * bounds, moved


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
