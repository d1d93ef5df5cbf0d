"""What a model answers, and the heads that make it: from a backbone's hidden state [..., H] to a vector
[..., D]. Any backbone wears any.

`linear`      Linear(H, D)
`projection`  Linear(H, D) - GELU - LayerNorm(D) - Linear(D, D)   (the brief's task list)
`compact`     Linear(H, H) - GELU - LayerNorm(H) - Linear(H, D)   (the brief's transformer)
`unit`        Linear(H, D), divided by its length: as the brief first had it, raw and unit output in one
`energy`      a residual MLP from noise: samples, and their mean as the point (`EnergyHead`)
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, field
from itertools import combinations
from typing import ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextvec.errors import ModelError
from nextvec.models.ops.layers import RMSNorm, SwiGLU
from nextvec.models.residual import RankingBase


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a model says comes next.

    Attributes:
        raw: [B, T, D] ([B, D] from a step): the vector as the encoder would give it, at the first (often the
            only) horizon. Decoders take it.
        extras: what was asked for besides, such as AMN's attention weights.
        further: [B, T, K - 1, D] ([B, K - 1, D] from a step): the same for the other horizons; None where
            the model has one.
        query: [B, T, D] ([B, D] from a step), of unit length: the direction to rank candidates by, at the
            first horizon; None where the model has no ranking head, and `unit` ranks.
    """

    raw: Tensor
    extras: dict[str, Tensor] = field(default_factory=dict)
    further: Tensor | None = None
    query: Tensor | None = None

    @property
    def unit(self) -> Tensor:
        """`raw` divided by its length, for cosine and retrieval. Same shape."""
        return F.normalize(self.raw, dim=-1)

    @property
    def ahead(self) -> Tensor:
        """All horizons, nearest first: [B, T, K, D] ([B, K, D] from a step)."""
        first = self.raw.unsqueeze(-2)
        return first if self.further is None else torch.cat((first, self.further), -2)

    @property
    def everything(self) -> Tensor:
        """`ahead`, and after the horizons the query where there is one."""
        return self.ahead if self.query is None else torch.cat((self.ahead, self.query.unsqueeze(-2)), -2)


class GenerativeHead(nn.Module):
    """A head whose output depends on noise. Called as other heads are, it gives the point prediction.

    What it says is a correction to the residual's baseline where there is one; the model turns it (gate,
    standardiser, baseline) into vectors of its own scale, and hands those back to `score`.

    Attributes:
        draws: how many samples `score` needs of each position.
    """

    draws: ClassVar[int]

    @abstractmethod
    def draw(self, hidden: Tensor, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Hidden states [..., H] -> `count` independent samples [count, ..., D] of what it may say."""

    @abstractmethod
    def score(self, samples: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        """The head's own loss, a scalar: samples [draws, B, T, D] against targets [B, T, D], in the model's
        scale, over the positions where mask [B, T] is True."""


# The energy head: samples from noise, and a proper score to learn them by. Paper: Shao et al., Continuous
# Autoregressive Language Models (CALM), arXiv 2510.27688, 2025, section 3: a residual MLP turns noise into a
# vector, given the hidden state at every block. Deviations: RMSNorm before each block, one target instead of
# draws from an autoencoder's posterior, and a point prediction.

NOISE = 64  # uniform numbers a sample
BLOCKS = 2
POINT_PAIRS = 4


class EnergyBlock(nn.Module):
    """e + SwiGLU(Linear(RMSNorm(e)) + Linear(h))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = RMSNorm(width, 1e-6)
        self.own = nn.Linear(width, width, bias=False)
        self.told = nn.Linear(width, width)
        self.mix = SwiGLU(width, width)

    def forward(self, e: Tensor, hidden: Tensor) -> Tensor:
        """e [n, ..., H] of n samples, hidden [..., H] -> [n, ..., H]."""
        out: Tensor = e + self.mix(self.own(self.norm(e)) + self.told(hidden))
        return out


class EnergyHead(GenerativeHead):
    """H -> D with noise; called without, it gives the mean of 8 samples whose noise is fixed and saved.

    That noise comes in pairs of opposite sign, so that whatever is linear in it cancels in the mean.

    Attributes:
        pairs: [4, NOISE] buffer, saved with the model: the fixed noise, to be taken with both signs.
    """

    draws = 4
    pairs: Tensor

    def __init__(self, width: int, d_embed: int) -> None:
        super().__init__()
        self.start = nn.Linear(NOISE, width)
        self.blocks = nn.ModuleList(EnergyBlock(width) for _ in range(BLOCKS))
        self.norm = RMSNorm(width, 1e-6)
        self.out = nn.Linear(width, d_embed)
        self.register_buffer("pairs", torch.rand(POINT_PAIRS, NOISE) - 0.5)

    def forward(self, hidden: Tensor) -> Tensor:
        """Hidden states [..., H] -> the point prediction [..., D]."""
        noise = torch.cat((self.pairs, -self.pairs)).view(-1, *(1,) * (hidden.ndim - 1), NOISE)
        # The mean of a linear layer's outputs is its output of the mean: one product instead of eight.
        point: Tensor = self.out(self._mixed(hidden, noise).mean(0))
        return point

    def draw(self, hidden: Tensor, count: int, generator: torch.Generator | None = None) -> Tensor:
        shape, kind = (count, *hidden.shape[:-1], NOISE), self.pairs.dtype
        noise = torch.rand(shape, generator=generator, device=hidden.device, dtype=kind) - 0.5
        samples: Tensor = self.out(self._mixed(hidden, noise))
        return samples

    def _mixed(self, hidden: Tensor, noise: Tensor) -> Tensor:
        """hidden [..., H] and noise [n, ..., NOISE], which broadcasts to it -> [n, ..., H]."""
        e = self.start(noise)
        for block in self.blocks:
            e = block(e, hidden)
        normed: Tensor = self.norm(e)
        return normed

    def score(self, samples: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        return energy_loss(samples, target, mask)


def energy_loss(samples: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """2 E|x - y| - E|x - x'| of samples [n, B, T, D] and target [B, T, D], the mean where mask [B, T] is
    True.

    Gneiting and Raftery 2007, equation 22, times 2 (CALM's form), over pairs of different samples: unbiased
    for every n >= 2, and in the mean lowest for the true distribution. Distances are taken in float32 at
    least.
    """
    kind = torch.promote_types(samples.dtype, torch.float32)
    samples, target = samples.to(kind), target.to(kind)
    near = torch.linalg.vector_norm(samples - target, dim=-1).mean(0)
    # Equal samples (a silent head) have a distance without slope: torch gives 0 there, not NaN.
    apart = torch.stack([torch.linalg.vector_norm(a - b, dim=-1) for a, b in combinations(samples, 2)])
    loss = 2 * near - apart.mean(0)
    mean: Tensor = loss.masked_fill(~mask, 0.0).sum() / mask.sum().clamp(min=1)
    return mean


HeadName = Literal["linear", "projection", "compact", "unit", "energy"]
SOFT = 1e-6
"""Added to a squared length before dividing by it."""
HEADS: tuple[str, ...] = get_args(HeadName)


def make_head(name: str, width: int, d_embed: int) -> nn.Module:
    """A head from `width` = H to `d_embed` = D. Raises ModelError for an unknown name."""
    if name == "linear":
        return nn.Linear(width, d_embed)
    if name == "projection":
        return _mlp(width, d_embed, d_embed)
    if name == "compact":
        return _mlp(width, width, d_embed)
    if name == "unit":
        return UnitHead(width, d_embed)
    if name == "energy":
        return EnergyHead(width, d_embed)
    raise ModelError(f"unknown head '{name}'", remedy=f"choose one of: {', '.join(HEADS)}")


class UnitHead(nn.Linear):
    """Linear, then brought to length 1 in the network's scale (which is the encoder's own length where the
    scaling is "norm"). A decoder is misled by it, which is why it is here: to be compared with."""

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., H] -> [..., D] of length 1; 0 stays 0, with a gradient that is finite."""
        output = super().forward(hidden)
        return output * torch.rsqrt(output.square().sum(-1, keepdim=True) + SOFT)


def last_linear(head: nn.Module) -> nn.Linear:
    """The layer of a head that its output comes from, and is linear in (a `UnitHead`'s is not)."""
    return [module for module in head.modules() if isinstance(module, nn.Linear)][-1]


def zero_init_head(head: nn.Module) -> None:
    """Set the last Linear of a head to zero: it then says nothing until it has learned something."""
    zero_init(last_linear(head))


def zero_init(linear: nn.Linear) -> nn.Linear:
    """The same Linear, set to zero."""
    nn.init.zeros_(linear.weight)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)
    return linear


def _mlp(width: int, inner: int, d_embed: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.LayerNorm(inner), nn.Linear(inner, d_embed))


# The head of continuations: two numbers a position, made from the hidden state: how steeply, and from which
# cosine on, a candidate close to the prediction is believed. The probability is calibrated by one
# temperature, fitted on validation (Guo et al., On Calibration of Modern Neural Networks, 2017).

STEEPNESS, CENTRE = 10.0, 0.5  # of an untrained head: the logit is 10 (cos - 0.5)
LOWEST, HIGHEST = 0.05, 20.0  # of a temperature


class Misses(nn.Module):
    """What the trained model missed on validation windows: any one of them may be what it misses next.

    A point with resampled residuals is the simplest distribution there is (Efron, Bootstrap Methods: Another
    Look at the Jackknife, 1979, section 7); unlike a generative head it costs the point nothing.

    Attributes:
        values: [R, D] buffer in the model's scale; zeros before training has ended.
    """

    values: Tensor

    def __init__(self, count: int, d_embed: int) -> None:
        super().__init__()
        self.register_buffer("values", torch.zeros(count, d_embed))

    def draw(self, n: int, rows: int, generator: torch.Generator | None = None) -> Tensor:
        """[n, rows, D]; those of one row differ, unless there are fewer than n."""
        # A shuffled list, read from a random place on.
        count, device = len(self.values), self.values.device
        start = torch.randint(count, (rows,), generator=generator, device=device)
        return self.values[(start + torch.arange(n, device=device)[:, None]) % count]


class ContinuationHead(nn.Module):
    """Logit of "this candidate continues this context": steepness * cos(candidate, prediction) - offset.

    Attributes:
        temperature: 0-dim buffer, saved with the model: the probability is sigmoid(logit / temperature).
    """

    temperature: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.judge = nn.Linear(width, 2)
        nn.init.zeros_(self.judge.weight)
        with torch.no_grad():
            self.judge.bias.copy_(torch.tensor([math.log(STEEPNESS), STEEPNESS * CENTRE]))
        self.register_buffer("temperature", torch.ones(()))

    def forward(self, hidden: Tensor) -> Tensor:
        """Hidden states [..., H] -> [..., 2]: log of the steepness, and the offset."""
        parameters: Tensor = self.judge(hidden)
        return parameters.to(self.temperature.dtype)

    def logit(self, parameters: Tensor, predicted: Tensor, candidate: Tensor) -> Tensor:
        """parameters [..., 2], predicted and candidate [..., D] of any length -> logits [...]."""
        steepness, offset = parameters.unbind(-1)
        return steepness.exp() * F.cosine_similarity(candidate, predicted, dim=-1) - offset

    def probability(self, logit: Tensor) -> Tensor:
        """Calibrated probabilities in [0, 1], same shape."""
        return torch.sigmoid(logit / self.temperature)


@torch.no_grad()
def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature that makes sigmoid(logits / temperature) most likely for labels (0 or 1), both [N].

    The likelihood has one maximum over 1 / temperature (it is concave in it); bisection on its derivative in
    float64 finds it, between 1/20 and 20.

    Raises:
        ModelError: shapes differ, nothing to fit on, or a logit that is not finite.
    """
    if logits.shape != labels.shape or logits.ndim != 1 or not len(logits) or not logits.isfinite().all():
        message = f"cannot fit a temperature to logits {list(logits.shape)} and labels {list(labels.shape)}"
        raise ModelError(message, remedy="give finite logits [N] and as many labels, at least one")
    z, y = logits.double(), labels.double()
    low, high = 1 / HIGHEST, 1 / LOWEST
    for _ in range(60):
        middle = math.sqrt(low * high)
        # Derivative of the mean log likelihood by the inverse temperature; it falls as that grows.
        rises = float(((y - torch.sigmoid(middle * z)) * z).mean()) > 0
        low, high = (middle, high) if rises else (low, middle)
    return 1 / math.sqrt(low * high)


class Ranker(nn.Module):
    """From hidden states [..., H] to queries [..., D] of unit length: `base` plus a linear head, which starts
    at zero, so that an untrained model ranks as its base does."""

    def __init__(self, width: int, d_embed: int) -> None:
        super().__init__()
        self.base = RankingBase(d_embed)
        self.head = nn.Linear(width, d_embed, bias=False)
        nn.init.zeros_(self.head.weight)

    def forward(self, hidden: Tensor, base: Tensor) -> Tensor:
        # The head's components are about 1 where the base's are about 1 / sqrt(D).
        return F.normalize(base + self.head(hidden).to(base.dtype) / base.shape[-1] ** 0.5, dim=-1)


# A frozen, robust normaliser between the vectors and a network, which a head's output is brought back by.
#
# Source: the normaliser of the Large Concept Model (LCM team, Large Concept Models: Language Modeling in a
# Sentence Representation Space, 2024, section 2.3): (x - median) / spread in every dimension.

NORMAL = 0.7413  # the interquartile range of a normal distribution times this is its standard deviation
FLAT = 1e-3  # of the middle dimension's spread: below it a dimension counts as constant
MAX_ROWS = 2**17


class Standardiser(nn.Module):
    """x -> (x - median) / spread, dimension by dimension, on [..., D] in the model's scale. Not learned.

    Until it is fitted it changes nothing. Quartiles rather than moments, because a few outliers (an encoder's
    answer to an empty page) must not set the scale of a dimension.

    Attributes:
        median, spread: [D] buffers, saved with the model. `spread` is 0.7413 times the interquartile range:
            the standard deviation, if the values are normally distributed.
    """

    median: Tensor
    spread: Tensor

    def __init__(self, d_embed: int) -> None:
        super().__init__()
        self.register_buffer("median", torch.zeros(d_embed))
        self.register_buffer("spread", torch.ones(d_embed))

    @torch.no_grad()
    def fit(self, rows: Tensor) -> None:
        """Take median and quartiles from vectors [N, D] in the model's scale (store's vectors / model.scale).

        Of more than 131,072 rows, evenly spaced ones are taken. A dimension that hardly varies gets the
        spread of the middle one: dividing by its own would turn its rounding errors into signal.

        Raises:
            ModelError: not [N, D], no row, or a value that is not finite.
        """
        if rows.ndim != 2 or rows.shape[1] != len(self.median) or not len(rows) or not rows.isfinite().all():
            message = f"cannot standardise by rows of shape {list(rows.shape)}"
            raise ModelError(message, remedy=f"give finite vectors [N, {len(self.median)}], at least one")
        taken = rows[:: -(-len(rows) // MAX_ROWS)].detach().double().cpu()
        at = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
        # Dimension by dimension: torch.quantile takes at most 2^24 values, and sorts a copy of them.
        low, middle, high = torch.stack([torch.quantile(column, at) for column in taken.unbind(1)], 1)
        spread = NORMAL * (high - low)
        varying = spread[spread > FLAT * spread.median()]
        usual = varying.median() if len(varying) else spread.new_ones(())
        spread = torch.where(spread > FLAT * usual, spread, usual)
        self.median.copy_(middle)
        self.spread.copy_(spread)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] in the model's scale -> standardised."""
        return (x - self.median) / self.spread

    def back(self, x: Tensor, *, shift: bool) -> Tensor:
        """Standardised [..., D] -> the model's scale; without `shift` the median is not added, which is right
        for a difference of two vectors."""
        return x * self.spread + self.median if shift else x * self.spread
