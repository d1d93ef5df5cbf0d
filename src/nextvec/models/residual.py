"""Baselines that a head's output is added to, so that the network only learns what they miss.

`none`  nothing is added
`mean`  the mean of every vector read so far (the brief's "linear baseline", AMN)
`last`  the vector just read (persistence)

Each has a parallel form over [B, T, D] and a step form whose state does not grow.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from nextvec.errors import ModelError

ResidualName = Literal["none", "mean", "last"]
RESIDUALS: tuple[str, ...] = get_args(ResidualName)
State = dict[str, Tensor]


class Baseline(nn.Module):
    """A causal prediction that needs no learning. This one is `none`: it predicts nothing (None)."""

    def forward(self, x: Tensor) -> Tensor | None:
        """x [B, T, D] -> [B, T, D], position t from vectors 0..t only; None where there is no baseline."""
        return None

    def init_state(self, batch: int, d_embed: int, device: torch.device, dtype: torch.dtype) -> State:
        """The state before the first vector."""
        return {}

    def chunk(self, x: Tensor, state: State) -> tuple[Tensor | None, State]:
        """The parallel form for vectors x [B, T, D] that follow those already in `state`."""
        return self(x), {}

    def step(self, x_t: Tensor, state: State) -> tuple[Tensor | None, State]:
        """x_t [B, D] and the state -> the prediction [B, D] after x_t and the new state."""
        return None, {}


class Last(Baseline):
    """The vector just read."""

    def forward(self, x: Tensor) -> Tensor:
        return x

    def step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        return x_t, {}


class RunningMean(Baseline):
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


def make_residual(name: str) -> Baseline:
    """The baseline of that name. Raises ModelError for an unknown one."""
    if name == "none":
        return Baseline()
    if name == "mean":
        return RunningMean()
    if name == "last":
        return Last()
    raise ModelError(f"unknown residual '{name}'", remedy=f"choose one of: {', '.join(RESIDUALS)}")


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
