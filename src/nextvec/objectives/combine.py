"""Several terms in one loss, with the checks that history asks for.

Two faults of the field are refused or reported here: a loss whose weights are all zero (a model was "trained"
on nothing), and a term whose gradient drowns the others (InfoNCE at weight 0.5 beside a mean squared error:
700 times the gradient, cosine 0.27).
"""

from __future__ import annotations

import importlib
import pkgutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nextvec import objectives
from nextvec.errors import ConfigError, NextvecWarning, TrainingError
from nextvec.objectives.config import OWN, LossConfig
from nextvec.objectives.sample import Sample, Statistics
from nextvec.objectives.terms import TERMS

GRADIENT_RATIO_LIMIT = 50.0


def find_terms() -> None:
    """Import every file of this package: what carries `@term` in any of them is then in TERMS."""
    for module in pkgutil.iter_modules(objectives.__path__):
        importlib.import_module(f"{objectives.__name__}.{module.name}")


find_terms()


@dataclass(frozen=True)
class Loss:
    """One batch's loss: `total` (what is differentiated) and every term's own value, before its weight."""

    total: Tensor
    terms: dict[str, Tensor]


def needs_statistics(config: LossConfig) -> bool:
    """Whether a term that a configuration weighs has to know the encoder's vectors."""
    weighed = (name for name, weight in config.weights().items() if weight > 0 and name in TERMS)
    return any(TERMS[name].needs_statistics(config) for name in weighed)


def keep_graph(value: Tensor) -> None:
    """Differentiate `value` into the leaves of its graph, which stays usable."""
    torch.autograd.backward(value, retain_graph=True)


class Objective(nn.Module):
    """The weighted sum of terms.

    Its parameters (a learned temperature) belong to the optimiser, without weight decay; its buffers (memory
    bank, the encoder's statistics) to the checkpoint. In eval mode nothing is updated.

    Args:
        config: weights and options. Terms of weight 0 are not computed.
        statistics: of the encoder's vectors, for the terms that need them.
        generative: whether the model has a generative loss of its own.
    Attributes:
        weights: name -> weight of the terms that count.
    Raises:
        ConfigError: no weight above 0, a weight without a term, or a term that needs statistics without them.
    """

    def __init__(
        self, config: LossConfig, statistics: Statistics | None = None, *, generative: bool = False
    ) -> None:
        super().__init__()
        self.weights = config.active(generative=generative)
        for name in self.weights:
            if name not in TERMS and name != OWN:
                message = f"no class of nextvec.objectives is the term '{name}'"
                remedy = f'mark one with @term("{name}"), or leave the weight out'
                raise ConfigError(message, where=f"loss.{name}", remedy=remedy)
        self.terms = nn.ModuleDict(
            {name: TERMS[name](config, statistics) for name in self.weights if name in TERMS}
        )

    def forward(self, sample: Sample, own: Mapping[str, Tensor] | None = None) -> Loss:
        """The loss of a batch.

        Args:
            own: the losses that the model computed itself, by name.
        Raises:
            TrainingError: the sample has not what a term needs, or the model did not give its own loss.
        """
        values: dict[str, Tensor] = {}
        with torch.autocast(sample.prediction.device.type, enabled=False):
            for name in self.weights:
                if name in self.terms:
                    values[name] = self.terms[name](sample)
                elif own and name in own:
                    values[name] = own[name].to(sample.dtype)
                else:
                    raise TrainingError("the model gives no such loss", where=f"loss.{name}")
        return Loss(self.combine(values), values)

    def combine(self, terms: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum of the terms' values."""
        return torch.stack([weight * terms[name] for name, weight in self.weights.items()]).sum()

    def gradient_norms(
        self,
        loss: Loss,
        parameters: Sequence[Tensor],
        backward: Callable[[Tensor], object] = keep_graph,
        norm: Callable[[list[Tensor]], Tensor] = torch.nn.utils.get_total_norm,
    ) -> dict[str, float]:
        """Norm over all parameters of each term's weighted gradient; the graph is kept for the real backward.

        Costs one backward pass per term and leaves the parameters without gradients. Warns (NextvecWarning)
        when the largest norm is more than 50 times the smallest above 0: the smaller term then has no say. (A
        term of gradient 0, such as a hinge that is satisfied, asks for nothing.)

        Args:
            parameters: leaves of the graph, without gradients so far.
            backward: how to differentiate a scalar into them, keeping the graph.
            norm: of gradients.
        """
        norms: dict[str, float] = {}
        for name, weight in self.weights.items():
            backward(weight * loss.terms[name])
            norms[name] = float(norm([p.grad for p in parameters if p.grad is not None]))
            for parameter in (*parameters, *self.parameters()):
                parameter.grad = None
        warn_of_drowning({name: norm for name, norm in norms.items() if norm > 0})
        return norms


def warn_of_drowning(norms: Mapping[str, float]) -> None:
    """Warn (NextvecWarning) when one of the norms, all above 0, is more than 50 times another."""
    if len(norms) < 2:
        return
    largest, smallest = max(norms, key=norms.__getitem__), min(norms, key=norms.__getitem__)
    if norms[largest] > GRADIENT_RATIO_LIMIT * norms[smallest]:
        warnings.warn(
            f"the gradient of loss.{largest} ({norms[largest]:.3g}) is more than "
            f"{GRADIENT_RATIO_LIMIT:.0f} times that of loss.{smallest} ({norms[smallest]:.3g}), "
            "which hardly counts then; change their weights",
            NextvecWarning,
            stacklevel=3,
        )
