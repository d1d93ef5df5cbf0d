"""Whole units out of a model, the least important first: a smaller model of the same architecture.

Importance is Taylor's, first order (Molchanov et al., Importance Estimation for Neural Network Pruning, 2019,
equation 8): how much the loss would change, by its gradient, if nobody read the unit; squared, over batches.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from nextvec.experiments.pruning.units import Axis, Units, laid_out
from nextvec.models.base import NextVectorModel


class Importance:
    """Sums what batches say of every unit.

    Attributes:
        scores: one tensor [count] for each of `units`.
    """

    def __init__(self, model: NextVectorModel, units: Sequence[Units]) -> None:
        self.parameters, self.units = dict(model.named_parameters()), tuple(units)
        device = next(model.parameters()).device
        self.scores = [torch.zeros(each.count, device=device) for each in self.units]

    @torch.no_grad()
    def add(self) -> None:
        """Count the gradients that the model's parameters hold now."""
        for units, score in zip(self.units, self.scores, strict=True):
            change = torch.zeros_like(score)
            for axis in units.read:
                parameter = self.parameters[axis.name]
                if parameter.grad is not None:  # the loss may not ask for every output
                    change += laid_out(parameter * parameter.grad, axis, units.span).sum(1)
            score += change.square()


def chosen(units: Sequence[Units], scores: Sequence[Tensor], keep: float) -> list[Tensor]:
    """The units that stay, for each of `units`: the share `keep` of them, at least one, with the highest
    scores, in their old order."""
    kept = []
    for each, score in zip(units, scores, strict=True):
        count = max(1, round(keep * each.count))
        # Stable, so that among equals the first stay.
        best = torch.argsort(score, descending=True, stable=True)[:count]
        kept.append(best.sort().values.cpu())
    return kept


def smaller(model: NextVectorModel, units: Sequence[Units], kept: Sequence[Tensor]) -> NextVectorModel:
    """A model of only the units `kept` (indices, for each of `units`), in eval mode on the CPU."""
    state = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    for each, indices in zip(units, kept, strict=True):
        for axis in (*each.made, *each.read):
            state[axis.name] = _taken(state[axis.name], axis, each.span, indices)
        if each.product:
            # A dot product is divided by the root of the number of its terms, which is now another.
            factor = (len(indices) / each.count) ** 0.5
            state |= {axis.name: state[axis.name] * factor for axis in each.read}
    changed: dict[str, Any] = sizes(units, kept)
    config = dataclasses.replace(model.config, **changed)
    with torch.random.fork_rng(devices=[]):
        found = type(model)(config)  # type: ignore[call-arg]  # a subclass sets its own width
    found.load_state_dict(state)
    return found.eval()


def sizes(units: Sequence[Units], kept: Sequence[Tensor]) -> dict[str, int]:
    """What of the configuration is another in the smaller model."""
    found = {each.size: len(indices) for each, indices in zip(units, kept, strict=True)}
    widths = {each.span for each in units if each.size == "heads"}
    return found | ({"head_width": widths.pop()} if widths else {})


def _taken(tensor: Tensor, axis: Axis, span: int, indices: Tensor) -> Tensor:
    """The same tensor with only some of the units along an axis."""
    before, after = tensor.shape[: axis.dim], tensor.shape[axis.dim + 1 :]
    blocks = tensor.reshape(*before, axis.blocks, -1, span, *after)
    return blocks.index_select(axis.dim + 1, indices).reshape(*before, -1, *after)
