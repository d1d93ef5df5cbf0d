"""Muon for the backbone's matrices and AdamW for the rest, as one optimiser with one state.

Muon: Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024. `torch.optim.Muon` always
works in bfloat16, which a processor without such instructions emulates (an update of 7M parameters took 20 s
there, float32 about one), and which a run in float32 did not ask for. So the update is written out here, and
tests hold it to torch's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

MOMENTUM = 0.95
QUINTIC = (3.4445, -4.775, 2.0315)  # steep at zero: five steps bring every singular value near 1
STEPS = 5


def orthogonalised(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """[M, N] -> about U V' of its singular value decomposition U S V', by Newton-Schulz steps in `dtype`."""
    a, b, c = QUINTIC
    x = matrix.to(dtype)
    wide = x.T if x.shape[0] > x.shape[1] else x
    wide = wide / wide.norm().clamp(min=1e-7)
    for _ in range(STEPS):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide.T if x.shape[0] > x.shape[1] else wide


class MuonWithAdamW(torch.optim.Optimizer):
    """Groups with `muon` set are updated by Muon with Nesterov momentum, the others by `torch.optim.AdamW`.

    AdamW holds the same group dictionaries and writes to the same state, so that a learning rate that is set
    here is its own, and a checkpoint of this one has everything.

    Args:
        groups: with the keys "params", "weight_decay" and "muon".
        lr: the rate of every group.
        factor: Muon's rate over `lr`.
        dtype: of Muon's products.
    """

    def __init__(
        self, groups: list[dict[str, Any]], lr: float, factor: float, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__(groups, {"lr": lr, "factor": factor})
        self.dtype = dtype
        rest = [group for group in self.param_groups if not group["muon"]]
        self.adamw = torch.optim.AdamW(rest, lr=lr) if rest else None
        self._share()

    def _share(self) -> None:
        if self.adamw is not None:
            self.adamw.state = self.state
            self.adamw.param_groups = [group for group in self.param_groups if not group["muon"]]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._share()

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        if self.adamw is not None:
            self.adamw.step()
        for group in (group for group in self.param_groups if group["muon"]):
            rate = group["lr"] * group["factor"]
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, rate, group["weight_decay"])

    def _update(self, parameter: Tensor, gradient: Tensor, lr: float, weight_decay: float) -> None:
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        momentum = state["momentum_buffer"].lerp_(gradient, 1 - MOMENTUM)
        update = orthogonalised(gradient.lerp(momentum, MOMENTUM), self.dtype)
        rows, columns = parameter.shape
        parameter.mul_(1 - lr * weight_decay)
        parameter.add_(update.to(parameter.dtype), alpha=-lr * math.sqrt(max(1, rows / columns)))
