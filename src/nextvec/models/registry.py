"""Every architecture by name. A file in `architectures/` is an architecture of that file's name; the TOML
files in `presets/<name>/` are its sizes. Nothing is listed by hand."""

from __future__ import annotations

import difflib
import importlib
import os
import pkgutil
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.nn.modules.module import register_module_parameter_registration_hook

from nextvec.config import from_dict, merge, read_toml
from nextvec.errors import ModelError
from nextvec.models.config import ModelConfig
from nextvec.models.ops.parameters import count_parameters

if TYPE_CHECKING:
    from nextvec.models.base import NextVectorModel


MOMENTS = 2  # of AdamW
BYTES = 4  # of a weight in float32
MAX_TENSORS = 20_000
"""Of weights; building each takes some microseconds, whatever its size."""


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes.

    Attributes:
        weights: parameters and buffers.
        gradients: one of each parameter.
        moments: AdamW's two.
        activations: what autograd keeps of one batch's forward pass for the backward pass.
    """

    weights: int
    gradients: int
    moments: int
    activations: int

    @property
    def total(self) -> int:
        """All of it. Not in it: the batch itself, scratch space of single operations, the libraries."""
        return self.weights + self.gradients + self.moments + self.activations

    def shared(self, processes: int) -> TrainingMemory:
        """Of each of so many processes that share every parameter, its gradient and its moments evenly.

        Besides, a block is whole while it is used. The activations are taken as they are: count them for the
        batch of one process.
        """
        return replace(
            self,
            weights=self.weights - self.gradients + self.gradients // processes,
            gradients=self.gradients // processes,
            moments=self.moments // processes,
        )


def training_memory(model: NextVectorModel, batch: int, time: int) -> TrainingMemory:
    """Memory for training `model` in its own dtype on batches of `batch` documents of `time` chunks.

    Its `learn` is run once where the model is, and every tensor that autograd saves is counted once, at the
    size of the storage that it keeps alive. A model built under `with torch.device("meta")` computes and
    holds nothing.
    """
    parameters = sum(p.numel() * p.element_size() for p in model.parameters())
    buffers = sum(b.numel() * b.element_size() for b in model.buffers())
    own = {_key(t) for t in (*model.parameters(), *model.buffers())}
    saved: dict[int, Tensor] = {}  # the tensors themselves, so that no key is given twice

    def keep(tensor: Tensor) -> Tensor:
        if _key(tensor) not in own:
            saved[_key(tensor)] = tensor
        return tensor

    training = model.training
    x = torch.zeros(batch, time, model.d_embed, device=model.scale.device, dtype=model.scale.dtype)
    mask = torch.ones(batch, time, device=x.device, dtype=torch.bool)
    try:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            prediction, losses = model.train().learn(x, None, x, mask)
            # The graph, and with it what is saved, lives as long as these do.
            alive = prediction.raw.square().mean() + sum(losses.values())
    finally:
        model.train(training)
    activations = sum(tensor.untyped_storage().nbytes() for tensor in saved.values())
    del alive
    return TrainingMemory(parameters + buffers, parameters, MOMENTS * parameters, activations)


def estimated_memory(
    name: str, preset: str, d_embed: int, batch: int = 32, time: int = 128
) -> TrainingMemory | None:
    """The same of an architecture's preset, in float32, without building it: its tensors have shapes only.

    Returns: None where a training pass asks for a value (performer counts its passes).
    Raises:
        ModelError, ConfigError: as `registry.build`.
    """
    try:
        with FakeTensorMode():
            # Not through `build`: its dry run makes meta tensors, which cannot be mixed with these.
            model = get(name)(resolve(name, preset, d_embed))  # type: ignore[call-arg]
            return training_memory(model, batch, time)
    except DataDependentOutputException:
        return None


def _key(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


ARCHITECTURES = f"{__package__}.architectures"
PRESETS = Path(__file__).parent / "presets"
SEARCH = Path(__file__).parent / "search"
"""The search space of each architecture, NAME.toml: what `nextvec sweep` varies of it."""
DESCRIBED = ("streaming", "paper", "complexity", "best_for")
D_TABLE = 768  # the tables of the brief count parameters at this dimension

Model = TypeVar("Model", bound="type[NextVectorModel]")
_REGISTERED: dict[str, type[NextVectorModel]] = {}


def architecture(name: str) -> Callable[[Model], Model]:
    """Class decorator: register a NextVectorModel subclass under `name`, which is its file's name."""

    def register(cls: Model) -> Model:
        if name != cls.__module__.rpartition(".")[2] or not issubclass(cls.Config, ModelConfig):
            raise TypeError(f"{cls.__name__}: the name is its file's, Config a subclass of ModelConfig")
        missing = [m for m in dir(cls) if getattr(getattr(cls, m), "__isabstractmethod__", False)]
        if missing:
            raise TypeError(f"{cls.__name__} lacks {', '.join(missing)}")
        missing = [a for a in DESCRIBED if not isinstance(getattr(cls, a, None), str)]
        if missing:
            raise TypeError(f"{cls.__name__} does not give its {', '.join(missing)}")
        cls.architecture = name
        _REGISTERED[name] = cls
        return cls

    return register


@cache
def names() -> tuple[str, ...]:
    """The architectures, sorted; read from the file names, nothing is imported."""
    return tuple(
        sorted(m.name for m in pkgutil.iter_modules(importlib.import_module(ARCHITECTURES).__path__))
    )


def get(name: str) -> type[NextVectorModel]:
    """The class of that name. Raises ModelError with the nearest name for an unknown one."""
    if name not in names():
        raise _unknown("architecture", name, names())
    importlib.import_module(f"{ARCHITECTURES}.{name}")
    return _REGISTERED[name]


def presets(name: str) -> tuple[str, ...]:
    """The presets of an architecture, sorted. Raises ModelError for an unknown architecture."""
    if name not in names():
        raise _unknown("architecture", name, names())
    return tuple(sorted(p.stem for p in (PRESETS / name).glob("*.toml")))


def resolve(name: str, preset: str = "small", d_embed: int = D_TABLE, **overrides: Any) -> ModelConfig:
    """The configuration that `build` uses: the preset's file, then `overrides`.

    Raises:
        ModelError: an unknown architecture or preset, with the nearest known one.
        ConfigError: an unknown key, a wrong type or a value that cannot be meant.
    """
    cls = get(name)
    if preset not in presets(name):
        if not presets(name):
            remedy = f"write presets/{name}/small.toml and brief.toml beside the architectures"
            raise ModelError(f"{name} has no preset", remedy=remedy)
        raise _unknown(f"preset of {name}", preset, presets(name))
    values = merge(read_toml(PRESETS / name / f"{preset}.toml"), overrides, {"d_embed": d_embed})
    return from_dict(cls.Config, values, where=f"model {name}")


def build(name: str, preset: str = "small", d_embed: int = D_TABLE, **overrides: Any) -> NextVectorModel:
    """Build an architecture with fresh weights (from torch's global random state).

    Args:
        name: one of `names()`.
        preset: one of `presets(name)`; "small" and "brief" always exist.
        d_embed: D, the dimension of the vectors.
        overrides: keys of the architecture's Config, e.g. `hidden=128, head="projection", residual="mean"`.
    Raises:
        ModelError, ConfigError: as `resolve`.
    """
    config = resolve(name, preset, d_embed, **overrides)
    return construct(get(name), config)


def construct(cls: type[NextVectorModel], config: ModelConfig) -> NextVectorModel:
    """A model of these sizes, built without memory first, to see that it fits the machine.

    Raises:
        ModelError: more weights than the machine has memory for, or more tensors than can be meant.
    """
    seen: set[int] = set()
    weights = 0
    builder, memory = threading.get_ident(), os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal weights
        if threading.get_ident() != builder or parameter is None or id(parameter) in seen:
            return  # the hook is the whole process's
        seen.add(id(parameter))
        weights += parameter.numel()
        if weights > memory // BYTES:
            message = f"needs more than {memory / 2**30:.0f} GiB for its weights, all the memory there is"
            remedy = "choose smaller sizes: hidden, layers, ffn"
            raise ModelError(message, where=f"model {cls.architecture}", remedy=remedy)
        if len(seen) > MAX_TENSORS:
            message = f"has more than {MAX_TENSORS:,} tensors of weights"
            raise ModelError(
                message, where=f"model {cls.architecture}", remedy="choose fewer layers or blocks"
            )

    hook = register_module_parameter_registration_hook(count)
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            model = cls(config)  # type: ignore[call-arg]  # a subclass sets its own width
    finally:
        hook.remove()
    if torch.get_default_device().type == "meta":
        return model
    return cls(config)  # type: ignore[call-arg]


def describe(*, measure: bool = False, only: str | None = None) -> list[dict[str, Any]]:
    """Every architecture and preset at D = 768, counted on the meta device (no memory is used).

    Args:
        measure: also give `state_bytes` of each `small` preset (some seconds).
        only: this architecture.

    Returns: dictionaries of name, preset, parameters, streaming, complexity, best_for, paper, head, residual,
        and of what the file's header says: summary (its first line), parity (what it was proven against) and
        deviations (from its paper).
    """
    rows: list[dict[str, Any]] = []
    for name in names() if only is None else (only,):
        cls = get(name)
        text = importlib.import_module(cls.__module__).__doc__ or ""
        summary = text.strip().split("\n")[0]
        for preset in presets(name):
            with torch.device("meta"):
                model = build(name, preset, D_TABLE)
            rows.append(
                {
                    "name": name,
                    "preset": preset,
                    "parameters": count_parameters(model),
                    "streaming": cls.streaming,
                    "complexity": cls.complexity,
                    "best_for": cls.best_for,
                    "paper": cls.paper,
                    "head": model.config.head,
                    "residual": model.config.residual,
                    "summary": summary,
                    "parity": _section(text, "Parity"),
                    "deviations": _section(text, "Deviations"),
                    **({"state_bytes": state_bytes(name)} if measure and preset == "small" else {}),
                }
            )
    return rows


def _section(text: str, title: str) -> str:
    """What a header says under `Title:`, up to the next title or the end, on one line."""
    found = re.search(rf"\b{title}: (.*?)(?=\s[A-Z][a-z]+: |\Z)", text, re.DOTALL)
    return " ".join(found.group(1).split()) if found else ""


def state_bytes(name: str, preset: str = "small", steps: Sequence[int] = (1, 1024)) -> dict[int, int]:
    """Bytes of a streaming session's state at D = 768 in float32 after so many vectors, measured: the model
    is built and reads zeros, in chunks. A growing cache has spare room, at most as much again as it uses.

    Args:
        steps: rising numbers of vectors.
    """
    found: dict[int, int] = {}
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        model = build(name, preset, D_TABLE).eval()
        state, read = model.init_state(1), 0
        for count in steps:
            _, state = model.extend(torch.zeros(1, count - read, D_TABLE), state)
            found[count] = sum(value.numel() * value.element_size() for value in state.values())
            read = count
    return found


def _unknown(what: str, name: str, known: Iterable[str]) -> ModelError:
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    remedy = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"
    return ModelError(f"unknown {what} '{name}'", remedy=remedy)
