"""Several terms in one loss, with the checks that history asks for.

Two faults of the field are refused or reported here: a loss whose weights are all zero (a model was "trained"
on nothing), and a term whose gradient drowns the others (InfoNCE at weight 0.5 beside a mean squared error:
700 times the gradient, cosine 0.27).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nextvec.errors import ConfigError, NextvecWarning
from nextvec.objectives.regression import cosine, mse

Term = Callable[[Tensor, Tensor, Tensor], Tensor]
TERMS: dict[str, Term] = {"mse": mse, "cosine": cosine}
"""Every term that a configuration can weigh, by name."""
GRADIENT_RATIO_LIMIT = 50.0


@dataclass(frozen=True)
class Loss:
    """One batch's loss: `total` (what is differentiated) and every term's own value, before its weight."""

    total: Tensor
    terms: dict[str, Tensor]


def keep_graph(value: Tensor) -> None:
    """Differentiate `value` into the leaves of its graph, which stays usable."""
    torch.autograd.backward(value, retain_graph=True)


class Objective:
    """The weighted sum of terms.

    Args:
        weights: name of a term -> weight. Terms of weight 0 are not computed.
    Raises:
        ConfigError: an unknown term, a weight that is negative or not finite, or no weight above 0.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        for name, weight in weights.items():
            if name not in TERMS:
                raise ConfigError(
                    f"unknown loss term '{name}'", where="loss", remedy=f"known: {', '.join(TERMS)}"
                )
            if not math.isfinite(weight) or weight < 0:
                raise ConfigError(
                    f"the weight is {weight}", where=f"loss.{name}", remedy="give a weight >= 0"
                )
        self.weights = {name: weight for name, weight in weights.items() if weight > 0}
        if not self.weights:
            raise ConfigError(
                "every loss weight is zero: nothing would be learned",
                where="loss",
                remedy=f"give one of {', '.join(f'loss.{n}' for n in TERMS)} a weight above 0",
            )

    def __call__(self, prediction: Tensor, target: Tensor, mask: Tensor) -> Loss:
        """Loss of prediction [B, T, D] against target [B, T, D] where mask [B, T] is True."""
        terms = {name: TERMS[name](prediction, target, mask) for name in self.weights}
        return Loss(self.combine(terms), terms)

    def combine(self, terms: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum of the terms' values."""
        return torch.stack([weight * terms[name] for name, weight in self.weights.items()]).sum()

    def gradient_norms(
        self, loss: Loss, parameters: Sequence[Tensor], backward: Callable[[Tensor], object] = keep_graph
    ) -> dict[str, float]:
        """Norm over all parameters of each term's weighted gradient; the graph is kept for the real backward.

        Costs one backward pass per term and leaves the parameters without gradients. Warns (NextvecWarning)
        when the largest norm is more than 50 times the smallest: the smaller term then has no say.

        Args:
            parameters: leaves of the graph, without gradients so far.
            backward: how to differentiate a scalar into them, keeping the graph.
        """
        norms: dict[str, float] = {}
        for name, weight in self.weights.items():
            backward(weight * loss.terms[name])
            norms[name] = float(
                torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
            )
            for parameter in parameters:
                parameter.grad = None
        largest, smallest = max(norms, key=norms.__getitem__), min(norms, key=norms.__getitem__)
        if norms[largest] > GRADIENT_RATIO_LIMIT * norms[smallest]:
            warnings.warn(
                f"the gradient of loss.{largest} ({norms[largest]:.3g}) is more than "
                f"{GRADIENT_RATIO_LIMIT:.0f} times that of loss.{smallest} ({norms[smallest]:.3g}), "
                "which has no say; change their weights",
                NextvecWarning,
                stacklevel=2,
            )
        return norms
