"""RWKV: a recurrent network that trains in parallel; version 7 (a delta rule on a matrix), or version 4.

Paper: Peng et al., RWKV-7 "Goose" with Expressive Dynamic State Evolution, 2025; Peng et al., RWKV:
Reinventing RNNs for the Transformer Era, 2023 (version 4). Fresh weights as in the authors' training code.
Deviations: Linear(D, H) in the place of the token embedding, before the first LayerNorm; dropout (off in
`brief`) on what a block adds; the epsilon of RWKV-7's group norm is 1e-5 times the head's width, which is the
authors' 64e-5 at their 64; a decay is computed in float32 under autocast.
Parity: rwkv7-hf and transformers.RwkvModel with the same weights (tests/parity/test_rwkv.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextvec.config import number
from nextvec.models.base import ModelConfig, NextVectorModel
from nextvec.models.ops.layers import dropout
from nextvec.models.ops.wkv import empty_state, wkv4, wkv7
from nextvec.models.registry import architecture
from nextvec.models.residual import State

FASTEST = exp(-0.5)  # RWKV-7's decays are exp(-FASTEST * sigmoid(.)), never below 0.545
NO_DECAY = {"weight_decay": 0.0}


@dataclass(frozen=True, kw_only=True)
class RWKVConfig(ModelConfig):
    """hidden: H; layers; heads: of H / heads each (RWKV-4 has none: 1 there); ffn: inner width; dropout: on
    what a block adds; version: 7 or 4."""

    hidden: int
    layers: int
    heads: int
    ffn: int
    dropout: float = number(least=0, below=1)
    version: Literal[7, 4] = 7

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.version == 4 and self.heads != 1:
            raise ValueError(f"heads = {self.heads}: RWKV-4 has no heads; set heads = 1")
        if self.hidden % self.heads or self.hidden == self.heads:
            raise ValueError(f"hidden = {self.hidden} does not divide into {self.heads} heads of 2 or more")


@dataclass(frozen=True)
class RwkvPlace:
    """Where a block stands, as the authors' initialisation wants it: `depth` 0..1, and `left` 1..almost 0."""

    depth: float
    left: float

    @classmethod
    def of(cls, layer: int, layers: int) -> RwkvPlace:
        return cls(layer / max(layers - 1, 1), 1 - layer / layers)


class LowRank(nn.Module):
    """x [B, T, H] -> bias + act(x A) B [B, T, H], A [H, rank] zero at first. The bias is added last, in its
    own dtype, so that autocast does not round it."""

    bias: Tensor | None

    def __init__(self, hidden: int, factor: float, act: nn.Module, bias: Tensor | None) -> None:
        super().__init__()
        rank = max(32, round(factor * hidden**0.5 / 32) * 32)  # the authors' suggestion
        self.down, self.up = nn.Linear(hidden, rank, bias=False), nn.Linear(rank, hidden, bias=False)
        nn.init.zeros_(self.down.weight)
        nn.init.orthogonal_(self.up.weight, gain=0.1 * max(hidden / rank, 1) ** 0.5)
        self.act = act
        self.bias = None if bias is None else vector(bias)
        for matrix in (self.down.weight, self.up.weight):
            matrix.optim = NO_DECAY  # type: ignore[attr-defined]

    def forward(self, x: Tensor) -> Tensor:
        update: Tensor = self.up(self.act(self.down(x)))
        return update if self.bias is None else self.bias + update


class TimeMix7(nn.Module):
    """RWKV-7's time mixing on x [B, T, H]. `first` is the first block's values, which later ones mix in."""

    def __init__(self, config: RWKVConfig, layer: int) -> None:
        super().__init__()
        H, self.heads, place = config.hidden, config.heads, RwkvPlace.of(layer, config.layers)
        channel = torch.arange(H) / H
        powers = (0.2, 0.9, 0.7, 0.7, 0.9, 0.2)
        self.mix = vector(torch.stack([1 - channel ** (p * place.left) for p in powers]))  # r w k v a g
        linear = torch.arange(H) / (H - 1) - 0.5
        N = H // self.heads
        zigzag = (torch.arange(H) % N - (N - 1) / 2) / ((N - 1) / 2)
        zigzag = zigzag * zigzag.abs()
        decay = -6 + 6 * (linear + 0.5) ** (1 + place.depth**0.3)

        self.receptance, self.key, self.value, self.output = (nn.Linear(H, H, bias=False) for _ in range(4))
        self.decay = LowRank(H, 2.5, nn.Tanh(), decay + 0.5 + 2.5 * zigzag)
        self.rate = LowRank(H, 2.5, nn.Identity(), -0.19 + 0.3 * zigzag + 0.4 * linear)
        self.gate = LowRank(H, 5.0, nn.Sigmoid(), None)
        self.keep = LowRank(H, 1.7, nn.Identity(), 0.73 - 0.4 * linear) if layer else None
        self.removal = vector(0.71 - 0.1 * linear)
        self.key_rate = vector(torch.full((H,), 1.02))
        self.bonus = vector(torch.full((self.heads, N), -0.04))
        self.norm_weight = vector(torch.full((H,), ((1 + layer) / config.layers) ** 0.7))
        self.norm_bias = vector(torch.zeros(H))
        for linear_map, gain in ((self.receptance, 1.0), (self.key, 0.1), (self.value, 1.0)):
            nn.init.orthogonal_(linear_map.weight, gain)
        nn.init.zeros_(self.output.weight)

    def forward(
        self, x: Tensor, change: Tensor, first: Tensor | None, state: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x and how it differs from the vector before -> the output, the first block's values, the new
        state."""
        xr, xw, xk, xv, xa, xg = (torch.addcmul(x, change, m) for m in self.mix.to(x.dtype).unbind())
        r, k, v = self.receptance(xr), self.key(xk), self.value(xv)
        log_w = -FASTEST * torch.sigmoid(self.decay(xw))
        rate = torch.sigmoid(self.rate(xa))  # how much of the old value under this key is replaced
        if self.keep is None or first is None:
            first = v
        else:
            v = torch.lerp(v, first, torch.sigmoid(self.keep(xv)).to(v.dtype))
        removal = F.normalize(self._split(k * self.removal), dim=-1)
        k = k * torch.addcmul(1 - self.key_rate, self.key_rate, rate)
        r, log_w, k, v, rate = (self._split(y) for y in (r, log_w, k, v, rate))
        out, state = wkv7(r, log_w, k, v, -removal, removal * rate, state)
        out = F.layer_norm(out, out.shape[-1:], eps=1e-5 * out.shape[-1]).flatten(2)
        direct = (r * k * self.bonus).sum(-1, keepdim=True) * v
        out = torch.addcmul(self.norm_bias, out, self.norm_weight) + direct.flatten(2)
        return self.output(out * self.gate(xg)), first, state

    def _split(self, x: Tensor) -> Tensor:
        """[B, T, H] -> [B, T, heads, N]."""
        return x.view(*x.shape[:2], self.heads, -1)


class TimeMix4(nn.Module):
    """RWKV-4's time mixing on x [B, T, H]; `first` is passed on unused."""

    def __init__(self, config: RWKVConfig, layer: int) -> None:
        super().__init__()
        H, place = config.hidden, RwkvPlace.of(layer, config.layers)
        ramp = (torch.arange(H) / H) ** place.left
        self.mix = vector(1 - torch.stack((ramp, ramp + 0.3 * place.depth, ramp**0.5)))  # k v r
        self.decay = vector(-5 + 8 * (torch.arange(H) / (H - 1)) ** (0.7 + 1.3 * place.depth))
        self.now = vector(log(0.3) + 0.5 * ((torch.arange(H) + 1) % 3 - 1))
        self.key, self.value, self.receptance, self.output = (nn.Linear(H, H, bias=False) for _ in range(4))
        nn.init.orthogonal_(self.value.weight)
        for linear_map in (self.key, self.receptance, self.output):
            nn.init.zeros_(linear_map.weight)

    def forward(
        self, x: Tensor, change: Tensor, first: Tensor | None, state: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        xk, xv, xr = (torch.addcmul(x, change, m) for m in self.mix.to(x.dtype).unbind())
        out, state = wkv4(-self.decay.exp(), self.now, self.key(xk), self.value(xv), state)
        return self.output(torch.sigmoid(self.receptance(xr)) * out), first, state


class ChannelMix(nn.Module):
    """relu(.)^2 feed-forward on x mixed with the one before; RWKV-4 also gates its output."""

    def __init__(self, config: RWKVConfig, layer: int) -> None:
        super().__init__()
        H, left = config.hidden, RwkvPlace.of(layer, config.layers).left
        channel = torch.arange(H) / H
        self.key, self.value = nn.Linear(H, config.ffn, bias=False), nn.Linear(config.ffn, H, bias=False)
        nn.init.zeros_(self.value.weight)
        if config.version == 7:
            nn.init.orthogonal_(self.key.weight)
            self.mix = vector((1 - channel ** (left**4))[None])
            self.receptance = None
        else:
            nn.init.orthogonal_(self.key.weight, gain=max(config.ffn / H, 1) ** 0.5)
            self.mix = vector((1 - channel**left).expand(2, H).clone())
            self.receptance = nn.Linear(H, H, bias=False)
            nn.init.zeros_(self.receptance.weight)

    def forward(self, x: Tensor, change: Tensor) -> Tensor:
        xk, *xr = (torch.addcmul(x, change, m) for m in self.mix.to(x.dtype).unbind())
        out: Tensor = self.value(F.relu(self.key(xk)).square())
        return out if self.receptance is None else torch.sigmoid(self.receptance(*xr)) * out


class RwkvBlock(nn.Module):
    """x + time mixing, then + channel mixing, each of a LayerNorm."""

    def __init__(self, config: RWKVConfig, layer: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(config.hidden) for _ in range(2))
        self.time = TimeMix7(config, layer) if config.version == 7 else TimeMix4(config, layer)
        self.channel = ChannelMix(config, layer)
        self.dropout = config.dropout

    def forward(
        self, x: Tensor, first: Tensor | None, state: tuple[Tensor, Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor | None, tuple[Tensor, Tensor, Tensor]]:
        """x [B, T, H] after `state` (None at a document's start): the last normalised inputs of both mixings
        [B, H], and the sums -> the output, the first block's values, the new state."""
        last_time, last_channel, sums = state or (None, None, None)
        normed = self.norms[0](x)
        mixed, first, sums = self.time(normed, change(normed, last_time), first, sums)
        x = x + dropout(mixed, self.dropout, self.training)
        last_time, normed = normed[:, -1], self.norms[1](x)
        mixed = self.channel(normed, change(normed, last_channel))
        x = x + dropout(mixed, self.dropout, self.training)
        return x, first, (last_time, normed[:, -1], sums)


@architecture("rwkv")
class RWKV(NextVectorModel):
    """The state of each block: the last inputs of its two mixings, and its sums (a matrix a head in RWKV-7,
    three numbers a channel in RWKV-4), these in at least float32."""

    Config = RWKVConfig
    streaming = "constant"
    paper = 'Peng et al., RWKV-7 "Goose" with Expressive Dynamic State Evolution, 2025'
    complexity = "O(T)"
    best_for = "long streams at a constant cost a step; state tracking that attention cannot do"

    def __init__(self, config: RWKVConfig) -> None:
        super().__init__(config, width=config.hidden)
        self.heads = config.heads if config.version == 7 else 0
        self.embed = nn.Linear(config.d_embed, config.hidden)
        self.norm_in, self.norm_out = nn.LayerNorm(config.hidden), nn.LayerNorm(config.hidden)
        self.blocks = nn.ModuleList(RwkvBlock(config, layer) for layer in range(config.layers))

    def encode(self, x: Tensor) -> Tensor:
        hidden, first = self.norm_in(self.embed(x)), None
        for block in self.blocks:
            hidden, first, _ = block(hidden, first, None)
        out: Tensor = self.norm_out(hidden)
        return out

    def encoder_state(self, batch: int, device: torch.device, dtype: torch.dtype) -> State:
        H, state = self.embed.out_features, {}
        for i in range(len(self.blocks)):
            for key in ("time", "channel"):
                state[f"{key}.{i}"] = torch.zeros(batch, H, device=device, dtype=dtype)
            if self.heads:
                shape = (batch, self.heads, H // self.heads, H // self.heads)
                wide = torch.promote_types(dtype, torch.float32)
                state[f"sums.{i}"] = torch.zeros(shape, device=device, dtype=wide)
            else:
                state[f"sums.{i}"] = empty_state(batch, H, device, dtype)
        return state

    def encode_chunk(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        hidden, first = self.norm_in(self.embed(x)), None
        new: State = {}
        for i, block in enumerate(self.blocks):
            keys = f"time.{i}", f"channel.{i}", f"sums.{i}"
            hidden, first, values = block(hidden, first, tuple(state[key] for key in keys))
            new.update(zip(keys, values, strict=True))
        return self.norm_out(hidden), new

    def encode_step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        hidden, state = self.encode_chunk(x_t[:, None], state)
        return hidden[:, 0], state


def vector(values: Tensor) -> nn.Parameter:
    """A parameter that stands by itself, not in a matrix product: no weight decay, as the authors have it."""
    parameter = nn.Parameter(values.float())
    parameter.optim = NO_DECAY  # type: ignore[attr-defined]
    return parameter


def change(x: Tensor, last: Tensor | None) -> Tensor:
    """What leads from each vector of x [B, T, H] back to the one before; the first follows `last` [B, H]
    (or zeros)."""
    before = x.new_zeros(x.shape[0], 1, x.shape[-1]) if last is None else last[:, None].to(x.dtype)
    return torch.cat((before, x[:, :-1]), 1) - x
