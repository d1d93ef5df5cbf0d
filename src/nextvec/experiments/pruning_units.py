"""What can be taken out of a model as a whole: its hidden units, feed-forward units and attention heads, and
every place in its weights where one of them lies.

An architecture that can be pruned has a function here (`@units_of("lstm")`). Units that must stay equally
many share a `size`, a key of the architecture's configuration.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nextvec.errors import ModelError
from nextvec.models.architectures.gru import GRU
from nextvec.models.architectures.lstm import LSTM
from nextvec.models.architectures.mlp import MLP
from nextvec.models.architectures.transformer import Attention, DecoderLayer, Transformer
from nextvec.models.base import NextVectorModel

GATES_LSTM, GATES_GRU = 4, 3


@dataclass(frozen=True)
class Axis:
    """An axis of the tensor `name` along which units lie: `blocks` times all of them, one after another (the
    gates of an LSTM)."""

    name: str
    dim: int
    blocks: int = 1


@dataclass(frozen=True)
class Units:
    """Units that are removed one by one, everywhere at once.

    Attributes:
        size: the key of the configuration that counts them.
        count: how many there are.
        made: where they are computed.
        read: where they are read: a unit that is read with zeros only does nothing.
        span: numbers in a row that make one of them (the width of a head).
        product: they are what two vectors are multiplied over, divided by the root of their number: queries
            (`read`) and keys (`made`).
    """

    size: str
    count: int
    made: tuple[Axis, ...]
    read: tuple[Axis, ...]
    span: int = 1
    product: bool = False


Finder = Callable[[NextVectorModel], Iterator[Units]]
_FINDERS: dict[str, Finder] = {}


def units_of(architecture: str) -> Callable[[Finder], Finder]:

    def register(finder: Finder) -> Finder:
        _FINDERS[architecture] = finder
        return finder

    return register


def prunable() -> tuple[str, ...]:
    return tuple(sorted(_FINDERS))


def find_units(model: NextVectorModel) -> tuple[Units, ...]:
    """Everything that can be removed from a model.

    Raises:
        ModelError: an architecture, or a head on one, whose units are not known.
    """
    if model.architecture not in _FINDERS:
        message = f"{model.architecture} cannot be pruned by whole units"
        raise ModelError(message, remedy=f"choose {', '.join(prunable())}, or --method magnitude")
    return tuple(_FINDERS[model.architecture](model))


def laid_out(tensor: Tensor, axis: Axis, span: int) -> Tensor:
    """A tensor with its units first: [units, everything else]."""
    first = tensor.movedim(axis.dim, 0)  # [blocks * units * span, ...]
    return first.reshape(axis.blocks, -1, span, *first.shape[1:]).movedim(1, 0).flatten(1)


def linear(name: str) -> tuple[Axis, ...]:
    """Weight and bias of a Linear (or the scale and shift of a norm): what makes its outputs."""
    return Axis(f"{name}.weight", 0), Axis(f"{name}.bias", 0)


@units_of("mlp")
def mlp(model: NextVectorModel) -> Iterator[Units]:
    """Both layers; they are equally wide."""
    assert isinstance(model, MLP)
    count = model.second.in_features
    yield Units("hidden", count, linear("first"), (Axis("second.weight", 1),))
    yield Units("hidden", count, linear("second"), tuple(read_by_outputs(model)))


@units_of("lstm")
def lstm(model: NextVectorModel) -> Iterator[Units]:
    """Each layer's units: their four gates, what they read of each other, and who reads them."""
    assert isinstance(model, LSTM)
    layers = model.lstm.num_layers
    for i in range(layers):
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        made = tuple(Axis(f"lstm.{name}_l{i}", 0, GATES_LSTM) for name in names)
        above = read_by_outputs(model) if i == layers - 1 else [Axis(f"lstm.weight_ih_l{i + 1}", 1)]
        yield Units("hidden", model.lstm.hidden_size, made, (Axis(f"lstm.weight_hh_l{i}", 1), *above))


@units_of("gru")
def gru(model: NextVectorModel) -> Iterator[Units]:
    """The blocks add to one stream, so a unit runs through all of them."""
    assert isinstance(model, GRU)
    made, read = list(linear("embed")), read_by_outputs(model)
    for i in range(len(model.blocks)):
        cell = f"blocks.{i}.gru"
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        made += [Axis(f"{cell}.{name}_l0", 0, GATES_GRU) for name in names]
        made += linear(f"blocks.{i}.norm")
        read += [Axis(f"{cell}.{name}_l0", 1) for name in names[:2]]
    yield Units("hidden", model.embed.out_features, tuple(made), tuple(read))


@units_of("amn")
def amn(model: NextVectorModel) -> Iterator[Units]:
    """The residual net's first layer, its second, and what queries and keys are compared in."""
    net = "residual_net"
    hidden, width = (int(getattr(model.config, size)) for size in ("hidden", "width"))
    yield Units("hidden", hidden, (*linear(f"{net}.0"), *linear(f"{net}.2")), (Axis(f"{net}.3.weight", 1),))
    last = (*linear(f"{net}.3"), *linear(f"{net}.5"))
    yield Units("width", width, last, tuple(read_by_outputs(model)))
    yield Units("width", width, linear("context_encoder"), linear("query_encoder"), product=True)


@units_of("transformer")
def transformer(model: NextVectorModel) -> Iterator[Units]:
    """The heads of every attention and the feed-forward units; the stream between the layers stays."""
    assert isinstance(model, Transformer)
    for i, layer in enumerate(model.layers):
        assert isinstance(layer, DecoderLayer)
        for name in ("self_attention", "cross_attention"):
            yield _heads(f"layers.{i}.{name}", getattr(layer, name))
        inner = layer.ffn_in.out_features
        yield Units("ffn", inner, linear(f"layers.{i}.ffn_in"), (Axis(f"layers.{i}.ffn_out.weight", 1),))


def _heads(name: str, attention: Attention) -> Units:
    keys_values = (Axis(f"{name}.key_value.{part}", 0, 2) for part in ("weight", "bias"))
    return Units(
        "heads",
        attention.heads,
        (*linear(f"{name}.query"), *keys_values),
        (Axis(f"{name}.out.weight", 1),),
        span=attention.query.out_features // attention.heads,
    )


def read_by_outputs(model: NextVectorModel) -> list[Axis]:
    """Where heads, gate and confidence read the hidden state.

    Raises:
        ModelError: a head that computes with as many units of its own as the hidden state has.
    """
    if model.config.head not in ("linear", "unit", "projection"):
        raise ModelError(
            f"{model.architecture} with the head '{model.config.head}' cannot be pruned by whole units: the "
            "head is as wide as the hidden state",
            remedy="train it with the head linear, unit or projection, or choose --method magnitude",
        )
    first = "" if isinstance(model.head, nn.Linear) else "0."
    heads = ["head", *(f"further_heads.{i}" for i in range(len(model.further_heads)))]
    read = [Axis(f"{head}.{first}weight", 1) for head in heads]
    if model.gate is not None:
        read.append(Axis("gate.weight", 1))
    if model.confidence is not None:
        read.append(Axis("confidence.judge.weight", 1))
    return read


# Whole units out of a model, the least important first: a smaller model of the same architecture.
#
# Importance is Taylor's, first order (Molchanov et al., Importance Estimation for Neural Network Pruning,
# 2019, equation 8): how much the loss would change, by its gradient, if no one read the unit; squared, over
# batches.


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


# The smallest weights set to zero, the same share of every matrix (Han et al., Learning both Weights and
# Connections, 2015). The matrices stay dense: this makes nothing faster or smaller.


def zeroed(model: NextVectorModel, keep: float) -> NextVectorModel:
    """A copy, in eval mode on the CPU, with the share `keep` of every matrix: its largest weights."""
    found = deepcopy(model).cpu().eval()
    with torch.no_grad():
        for matrix in matrices(found):
            gone = matrix.numel() - round(keep * matrix.numel())
            smallest = torch.argsort(matrix.abs().flatten(), stable=True)[:gone]
            matrix.view(-1)[smallest] = 0.0
    return found


def matrices(model: NextVectorModel) -> Iterator[Tensor]:
    """The weights of linear and recurrent layers, but for those of the baseline beside the network."""
    for name, module in model.named_modules():
        if name.partition(".")[0] == "residual":
            continue
        if isinstance(module, nn.Linear):
            yield module.weight
        elif isinstance(module, nn.RNNBase):
            yield from (p for key, p in module.named_parameters() if key.startswith("weight"))


def nonzero(model: nn.Module) -> int:
    return sum(int(parameter.count_nonzero()) for parameter in model.parameters())
