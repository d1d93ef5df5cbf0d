"""Baselines that a head's output is added to, so that the network only learns what they miss.

`mean`  the mean of every vector read so far (the brief's "linear baseline", AMN)
`last`  the vector just read (persistence)
`ema`   five exponential averages of everything read so far, weighted by five learned scalars
`averages`  the same, and a learned matrix on them, which starts at those scalars
`weights`  the last c vectors, weighted by c learned scalars (a row of their own for every shorter context)
`ridge`    a learned matrix on the last c vectors, which starts at those weights; below c vectors the weights

Each (`none` adds nothing) has a parallel form over [B, T, D] and a step form whose state does not grow. All
but `mean` and `last` can be fitted to training windows before training: they are the evaluator's baselines
then, and the network, whose head starts at zero, learns what these miss. `RankingBase`: the same for a query.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextvec.errors import ModelError
from nextvec.models.ops.parameters import treat

ResidualName = Literal["none", "mean", "last", "ema", "averages", "weights", "ridge"]
RESIDUALS: tuple[str, ...] = get_args(ResidualName)
State = dict[str, Tensor]
DECAYS = (0.0, 0.5, 0.75, 0.9, 1.0)  # from the last vector alone to the mean of all
RANKING_DECAYS = (0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0)
BLOCK = 64


def at_last(values: Tensor, last: Tensor | None) -> Tensor:
    """values [B, T, ...] at position `last` [B] of each row, or at the very last one of all -> [B, ...]."""
    if last is None:
        return values[:, -1]
    return values[torch.arange(values.shape[0], device=values.device), last]


def clone_state(state: State) -> State:
    """A copy that further steps on the original do not touch."""
    return {key: value.clone() for key, value in state.items()}


class Residual(nn.Module):
    """A causal prediction that is cheap and strong. This one is `none`: it predicts nothing (None)."""

    def forward(self, x: Tensor) -> Tensor | None:
        """x [B, T, D] -> [B, T, D], position t from vectors 0..t only; None where there is no baseline."""
        return None

    def after(self, x: Tensor, last: Tensor) -> Tensor | None:
        """The same after position `last` [B] of each row alone, [B, D]. What follows it in x is zeros."""
        base = self(x)
        return None if base is None else at_last(base, last)

    def init_state(self, batch: int, d_embed: int, device: torch.device, dtype: torch.dtype) -> State:
        """The state before the first vector."""
        return {}

    def chunk(self, x: Tensor, state: State) -> tuple[Tensor | None, State]:
        """The parallel form for vectors x [B, T, D] that follow those already in `state`."""
        return self(x), {}

    def step(self, x_t: Tensor, state: State) -> tuple[Tensor | None, State]:
        """x_t [B, D] and the state -> the prediction [B, D] after x_t and the new state."""
        return None, {}

    @torch.no_grad()
    def fit(self, **solution: Tensor) -> None:
        """Take the solution of a regression: one tensor for each of this baseline's parameters, by its name
        and in its shape, of any float dtype.

        Raises:
            ModelError: another set of names, another shape, or a value that is not finite.
        """
        own = dict(self.named_parameters())
        shapes = {name: list(value.shape) for name, value in own.items()}
        given = {name: list(value.shape) for name, value in solution.items()}
        if shapes != given or not all(value.isfinite().all() for value in solution.values()):
            message = f"{type(self).__name__} cannot take a solution of shapes {given}"
            raise ModelError(message, remedy=f"give finite tensors of shapes {shapes}")
        for name, value in solution.items():
            own[name].copy_(value)


class LastResidual(Residual):
    """The vector just read."""

    def forward(self, x: Tensor) -> Tensor:
        return x

    def step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        return x_t, {}


class MeanResidual(Residual):
    """The mean of the vectors read so far. Sums are kept in at least float32: a bfloat16 sum stops growing
    after 256 equal terms.

    Args:
        key: the prefix of this module's entries in the state.
    """

    def __init__(self, key: str = "residual") -> None:
        super().__init__()
        self.sum_key, self.count_key = f"{key}.sum", f"{key}.count"

    def forward(self, x: Tensor) -> Tensor:
        count = torch.arange(1, x.shape[1] + 1, device=x.device)
        return x.cumsum(1, dtype=_wide(x.dtype)).div_(count[:, None]).to(x.dtype)

    def after(self, x: Tensor, last: Tensor) -> Tensor:
        return (x.sum(1, dtype=_wide(x.dtype)) / (last + 1)[:, None]).to(x.dtype)

    def init_state(self, batch: int, d_embed: int, device: torch.device, dtype: torch.dtype) -> State:
        total = torch.zeros(batch, d_embed, device=device, dtype=_wide(dtype))
        return {self.sum_key: total, self.count_key: torch.zeros((), device=device, dtype=torch.int64)}

    def chunk(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        sums = state[self.sum_key][:, None] + x.cumsum(1, dtype=_wide(x.dtype))
        count = state[self.count_key] + torch.arange(1, x.shape[1] + 1, device=x.device)
        mean = (sums / count[:, None]).to(x.dtype)
        return mean, {self.sum_key: sums[:, -1], self.count_key: count[-1]}

    def step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        total, count = state[self.sum_key] + x_t, state[self.count_key] + 1
        return (total / count).to(x_t.dtype), {self.sum_key: total, self.count_key: count}


class Averages(Residual):
    """Something made of normalised exponential averages, of decay d_k (sum_j d_k^j x_(t-j)) / (sum_j d_k^j).

    The sums are kept in at least float32, outside of autocast. The parallel form works in blocks: inside a
    product with a [BLOCK, BLOCK] matrix, the sums of what came before carried over. Its cost is linear in T.
    """

    decays: ClassVar[tuple[float, ...]] = DECAYS

    def __init__(self, key: str) -> None:
        """key: the prefix of its entries in the state."""
        super().__init__()
        self.sum_key, self.count_key = f"{key}.sums", f"{key}.counts"

    @abstractmethod
    def combine(self, averages: Tensor) -> Tensor:
        """The averages [..., K, D] -> the prediction [..., D]."""

    def forward(self, x: Tensor) -> Tensor:
        return self.chunk(x, self.init_state(x.shape[0], x.shape[2], x.device, x.dtype))[0]

    def after(self, x: Tensor, last: Tensor) -> Tensor:
        wide = x.to(_wide(x.dtype))
        decays = wide.new_tensor(self.decays)[:, None]
        age = (last[:, None] - torch.arange(x.shape[1], device=x.device))[:, None]  # [B, 1, T]
        powers = (decays ** age.clamp(min=0)).masked_fill(age < 0, 0.0)  # [B, K, T]
        with torch.autocast(x.device.type, enabled=False):
            averages = powers / powers.sum(-1, keepdim=True) @ wide
        return self.combine(averages).to(x.dtype)

    def init_state(self, batch: int, d_embed: int, device: torch.device, dtype: torch.dtype) -> State:
        sums = torch.zeros(batch, len(self.decays), d_embed, device=device, dtype=_wide(dtype))
        return {self.sum_key: sums, self.count_key: sums.new_zeros(len(self.decays))}

    def chunk(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        with torch.autocast(x.device.type, enabled=False):
            averages, state = self.averages(x, state)
        return self.combine(averages).to(x.dtype), state

    def averages(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """x [B, T, D] after what `state` has read -> averages [B, T, K, D] and the new state."""
        sums, counts = state[self.sum_key], state[self.count_key]
        out: list[Tensor] = []
        for block in torch.split(x.to(sums.dtype), BLOCK, 1):
            made, sums, counts = self._block(block, sums, counts)
            out.append(made)
        return torch.cat(out, 1), {self.sum_key: sums, self.count_key: counts}

    def _block(self, x: Tensor, sums: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x [B, L, D] after sums [B, K, D] with counts [K] -> averages [B, L, K, D], new sums and counts."""
        decays = x.new_tensor(self.decays)[:, None]
        place = torch.arange(x.shape[1], device=x.device)
        age = place[:, None] - place
        inside = (decays[..., None] ** age.clamp(min=0)).masked_fill(age < 0, 0.0)  # [K, L, L]
        before = decays ** (place + 1)  # [K, L]
        seen = inside.sum(-1) + before * counts[:, None]
        made = torch.einsum("klm,bmd->blkd", inside / seen[..., None], x)
        made = made + torch.einsum("kl,bkd->blkd", before / seen, sums)
        sums = before[:, -1, None] * sums + torch.einsum("km,bmd->bkd", inside[:, -1], x)
        return made, sums, seen[:, -1]

    def step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        mixed, state = self.chunk(x_t[:, None], state)
        return mixed[:, 0], state


class ExponentialResidual(Averages):
    """Learned weights on the averages: sum_k w_k average_k."""

    def __init__(self, key: str = "residual", features: int | None = None) -> None:
        """features: how many vectors are weighted, where there are more than the averages."""
        super().__init__(key)
        K = features or len(self.decays)
        self.weights = treat(nn.Parameter(torch.full((K,), 1 / K)), weight_decay=0.0)

    def combine(self, averages: Tensor) -> Tensor:
        with torch.autocast(averages.device.type, enabled=False):
            return torch.einsum("k,...kd->...d", self.weights.to(averages.dtype), averages)


class InputAverages(Averages):
    """A linear map, zero at first, of the averages but for the vector itself, for a backbone to read too."""

    decays = DECAYS[1:]

    def __init__(self, d_embed: int) -> None:
        super().__init__("inputs")
        self.map = nn.Linear(len(self.decays) * d_embed, d_embed, bias=False)
        nn.init.zeros_(self.map.weight)

    def combine(self, averages: Tensor) -> Tensor:
        mapped: Tensor = self.map(averages.flatten(-2).to(self.map.weight.dtype))
        return mapped


class AveragesResidual(ExponentialResidual):
    """`ExponentialResidual` plus a learned linear map of the averages.

    Attributes:
        deviation: [K, D, D], what the map adds for each average (a row vector times a matrix). It starts at
            zero, and the optimiser's weight decay pulls it there: towards the scalar weights.
    """

    def __init__(self, d_embed: int, key: str = "residual") -> None:
        super().__init__(key)
        deviation = nn.Parameter(torch.zeros(len(self.decays), d_embed, d_embed))
        # AdamW moves every entry by about the learning rate: at a backbone's rate what was fitted to all of
        # the training windows is gone after ten updates (its entries are about 0.002).
        self.deviation = treat(deviation, max_lr=3e-5)

    def combine(self, averages: Tensor) -> Tensor:
        moved = averages.flatten(-2) @ self.deviation.flatten(0, 1).to(averages.dtype)
        return super().combine(averages) + moved


class RankingBase(ExponentialResidual):
    """A direction to rank by: learned weights on eight exponential averages of the directions read, on the
    first of them, and on the mean direction of training (the evaluator's `listwise averages` once fitted).

    Attributes:
        mean: [D] buffer of unit length, or zeros before it is fitted.
    """

    decays = RANKING_DECAYS
    mean: Tensor

    def __init__(self, d_embed: int) -> None:
        super().__init__("ranking", len(self.decays) + 2)
        self.first_key = "ranking.first"
        self.register_buffer("mean", torch.zeros(d_embed))

    def after(self, x: Tensor, last: Tensor) -> Tensor:
        return at_last(self(x), last)

    def init_state(self, batch: int, d_embed: int, device: torch.device, dtype: torch.dtype) -> State:
        state = super().init_state(batch, d_embed, device, dtype)
        return {**state, self.first_key: torch.zeros_like(state[self.sum_key][:, 0])}

    def averages(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        directions = F.normalize(x.to(state[self.sum_key].dtype), dim=-1)
        fresh = state[self.count_key][0] == 0
        first = torch.where(fresh, directions[:, 0], state[self.first_key])
        made, new = super().averages(directions, state)
        B, T, _, D = made.shape
        further = torch.stack((first[:, None].expand(B, T, D), self.mean.to(made).expand(B, T, D)), 2)
        return torch.cat((made, further), 2), {**new, self.first_key: first}


class WeightsResidual(Residual):
    """The last c vectors, each times a learned scalar that depends on its age and on how many there are.

    The state is the last c - 1 vectors and a counter that stops mattering at c.

    Attributes:
        weights: [c, c], row n - 1 for a context of n vectors, column a for the one a steps back; only a < n
            counts. At first 1/n: the mean of the last c.
    """

    def __init__(self, context: int, key: str = "residual") -> None:
        super().__init__()
        self.context = context
        self.recent_key, self.count_key = f"{key}.recent", f"{key}.count"
        rows = torch.ones(context, context).tril()
        self.weights = treat(nn.Parameter(rows / rows.sum(1, keepdim=True)), weight_decay=0.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.chunk(x, self.init_state(x.shape[0], x.shape[2], x.device, x.dtype))[0]

    def init_state(self, batch: int, d_embed: int, device: torch.device, dtype: torch.dtype) -> State:
        recent = torch.zeros(batch, self.context - 1, d_embed, device=device, dtype=dtype)
        return {self.recent_key: recent, self.count_key: torch.zeros((), dtype=torch.int64)}

    def chunk(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        past = torch.cat((state[self.recent_key], x), 1)  # [B, c - 1 + T, D]
        place = state[self.count_key] + torch.arange(x.shape[1])  # on the CPU: `RidgeResidual` looks at it
        end = past.shape[1]
        # aged[a][:, t] is the vector a steps before position t.
        aged = [past[:, self.context - 1 - a : end - a] for a in range(self.context)]
        with torch.autocast(x.device.type, enabled=False):
            mixed = self.mix(aged, place).to(x.dtype)
        recent = past[:, end - self.context + 1 :].clone()
        return mixed, {self.recent_key: recent, self.count_key: place[-1] + 1}

    def step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        mixed, state = self.chunk(x_t[:, None], state)
        return mixed[:, 0], state

    def after(self, x: Tensor, last: Tensor) -> Tensor:
        weights = self.weights[last.clamp(max=self.context - 1)].to(_wide(x.dtype))
        recent = self.recent(x, last).to(weights.dtype)
        return (weights[:, None] @ recent)[:, 0].to(x.dtype)

    def recent(self, x: Tensor, last: Tensor) -> Tensor:
        """The last c vectors of each row [B, c, D], youngest first, zeros for what is absent."""
        past = torch.nn.functional.pad(x, (0, 0, self.context - 1, 0))
        place = (last + self.context - 1)[:, None] - torch.arange(self.context, device=x.device)
        return past.gather(1, place[..., None].expand(-1, -1, x.shape[2]))

    def mix(self, aged: Sequence[Tensor], place: Tensor) -> Tensor:
        """c tensors [B, T, D], youngest first, at positions `place` [T] -> [B, T, D] in at least float32."""
        weights = self.weights[place.clamp(max=self.context - 1)]  # [T, c]; what is absent is a zero vector
        weights = weights.to(_wide(aged[0].dtype))
        mixed = aged[0] * weights[:, 0, None]
        for age in range(1, self.context):
            mixed = mixed + aged[age] * weights[:, age, None]
        return mixed


class RidgeResidual(WeightsResidual):
    """`WeightsResidual` plus, where c vectors are there, a learned linear map of them.

    Attributes:
        deviation: [c, D, D], what the map adds for the vector a steps back (a row vector times a matrix).
            It starts at zero, and the optimiser's weight decay pulls it there: towards the position weights.
    """

    def __init__(self, context: int, d_embed: int, key: str = "residual") -> None:
        super().__init__(context, key)
        self.deviation = nn.Parameter(torch.zeros(context, d_embed, d_embed))

    def after(self, x: Tensor, last: Tensor) -> Tensor:
        recent = self.recent(x, last)
        wide = _wide(x.dtype)
        moved = recent.flatten(1).to(wide) @ self.deviation.flatten(0, 1).to(wide)
        full = (last >= self.context - 1)[:, None]
        return super().after(x, last) + (moved * full).to(x.dtype)

    def mix(self, aged: Sequence[Tensor], place: Tensor) -> Tensor:
        mixed = super().mix(aged, place)
        if torch.compiler.is_exporting():  # in a graph nothing is cut at a position
            moved = torch.cat(list(aged), -1).to(mixed.dtype) @ self.deviation.flatten(0, 1).to(mixed.dtype)
            return mixed + moved * (place >= self.context - 1)[:, None]
        full = int((place < self.context - 1).sum())  # the first position with a full context
        if full == len(place):
            return mixed
        flat = torch.cat([vectors[:, full:] for vectors in aged], -1).to(mixed.dtype)
        moved = flat @ self.deviation.flatten(0, 1).to(mixed.dtype)
        return torch.cat((mixed[:, :full], mixed[:, full:] + moved), 1)


def make_residual(name: str, d_embed: int, context: int) -> Residual:
    """The baseline of that name. Raises ModelError for an unknown one.

    Args:
        context: c of `weights` and `ridge`.
    """
    if name == "none":
        return Residual()
    if name == "mean":
        return MeanResidual()
    if name == "last":
        return LastResidual()
    if name == "ema":
        return ExponentialResidual()
    if name == "averages":
        return AveragesResidual(d_embed)
    if name == "weights":
        return WeightsResidual(context)
    if name == "ridge":
        return RidgeResidual(context, d_embed)
    raise ModelError(f"unknown residual '{name}'", remedy=f"choose one of: {', '.join(RESIDUALS)}")


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
