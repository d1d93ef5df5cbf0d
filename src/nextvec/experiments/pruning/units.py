"""What can be taken out of a model as a whole: its hidden units, feed-forward units and attention heads, and
every place in its weights where one of them lies.

An architecture that can be pruned has a function here (`@units_of("lstm")`). Units that must stay equally
many share a `size`, a key of the architecture's configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

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
    """Decorator of the function that finds the units of an architecture."""

    def register(finder: Finder) -> Finder:
        _FINDERS[architecture] = finder
        return finder

    return register


def prunable() -> tuple[str, ...]:
    """The architectures whose units are known."""
    return tuple(sorted(_FINDERS))


def find_units(model: NextVectorModel) -> tuple[Units, ...]:
    """Everything that can be removed from a model.

    Raises:
        ModelError: an architecture, or a head on one, whose units are not known.
    """
    if model.architecture not in _FINDERS:
        raise ModelError(
            f"{model.architecture} cannot be pruned by whole units",
            remedy=f"choose {', '.join(prunable())}, or --method magnitude",
        )
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
