"""Muon for the backbone's matrices and AdamW for the rest, as one optimiser with one state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class MuonWithAdamW(torch.optim.Optimizer):
    """Groups with `muon` set are updated by `torch.optim.Muon`, the others by `torch.optim.AdamW`.

    Both hold the same group dictionaries and write to the same state, so that a learning rate that is set
    here is theirs, and a checkpoint of this one has everything.

    Args:
        groups: with the keys "params", "weight_decay" and "muon".
        lr: the rate of every group.
        factor: Muon's rate over `lr`.
    """

    def __init__(self, groups: list[dict[str, Any]], lr: float, factor: float) -> None:
        super().__init__(groups, {"lr": lr, "factor": factor})
        muon = [group for group in self.param_groups if group["muon"]]
        rest = [group for group in self.param_groups if not group["muon"]]
        self.parts: list[torch.optim.Optimizer] = []
        if muon:
            self.parts.append(torch.optim.Muon(muon, lr=lr, adjust_lr_fn="original"))
        if rest:
            self.parts.append(torch.optim.AdamW(rest, lr=lr))
        self._share()

    def _share(self) -> None:
        for part in self.parts:
            part.state = self.state
            own = part.param_groups[0]["muon"]
            part.param_groups = [group for group in self.param_groups if group["muon"] == own]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._share()

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for part in self.parts:
            scaled = [(group, group["lr"]) for group in part.param_groups if group["muon"]]
            for group, lr in scaled:
                group["lr"] = lr * group["factor"]
            try:
                part.step()
            finally:
                for group, lr in scaled:
                    group["lr"] = lr
