"""What a run is made of. Build it with `make_config`; it is saved with the run."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from nextvec.config import Checked, from_dict, merge, number, read_toml
from nextvec.data.sampling import Sampling
from nextvec.data.splits import SplitConfig
from nextvec.data.windows import SequenceShape
from nextvec.errors import ConfigError
from nextvec.hardware import RuntimeConfig
from nextvec.objectives.config import OWN, LossConfig

MAX_CONTEXT = 512


@dataclass(frozen=True)
class ModelChoice:
    """Which network: an architecture, one of its presets, and options that override the preset's.

    Attributes:
        pretrained: folder of a GPT-2 checkpoint that a new run of distilgpt2 takes its body from.
        scaling: how the network sees the vectors, whatever the encoder's scale. "norm": about 1 long (the
            brief's own unit vectors stay as they are). "component": their single numbers about 1 in size, as
            initial weights, positions and layer norms expect them.
    """

    name: str
    preset: str = "small"
    options: dict[str, Any] = field(default_factory=dict)
    pretrained: str = ""
    scaling: Literal["norm", "component"] = "component"


@dataclass(frozen=True)
class DataConfig(Checked):
    """Which documents, how they are cut (`nextvec.data.sampling`) and drawn (`nextvec.data.sampling`).

    Attributes:
        context: chunks read at most before a target, 1 to 512.
        min_context: chunks read at least; equal to `context` it gives windows with one loss at their end.
        horizons: how far ahead the targets stand, ascending; 1 is the next chunk. Several are predicted at
            once.
        task: "next" predicts what follows; "middle" the chunk missing amid `context` / 2 on either side.
        whole: documents that fit in one window are never cut; otherwise the cut starts at a random phase.
        conditional: share of the windows that are given a query, a chunk further on; 0 gives none.
        broken: share of the windows whose targets are replaced, from a random position on, by those of
            another document; 0 breaks none.
        max_per_document: windows of one document in a batch at most; 0 sets no limit.
        mixing: source -> share of an epoch's targets, as weights; empty leaves the sources as they are.
        mixing_temperature: shares are raised to 1 / temperature: 1 leaves them, above 1 evens them out.
        curriculum: "none"; "context", from 1 chunk to all; "coherence", windows of alike chunks first.
        curriculum_share: share of the epochs until the curriculum has come to everything.
        sources: only documents of these; all when empty.
        split: how documents are divided.
        workers: processes that gather batches ahead. The result is the same for any number.
    """

    context: int = number(32, least=1, most=MAX_CONTEXT)
    min_context: int = 1
    horizons: tuple[int, ...] = (1,)
    task: Literal["next", "middle"] = "next"
    whole: bool = False
    conditional: float = number(0.0, least=0, most=1)
    broken: float = number(0.0, least=0, most=1)
    max_per_document: int = number(8, least=0)
    mixing: dict[str, float] = field(default_factory=dict)
    mixing_temperature: float = number(1.0, above=0)
    curriculum: Literal["none", "context", "coherence"] = "none"
    curriculum_share: float = number(0.5, above=0, most=1)
    sources: tuple[str, ...] = ()
    split: SplitConfig = field(default_factory=SplitConfig)
    workers: int = number(0, least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.min_context <= self.context:
            raise ValueError(
                f"min_context is {self.min_context}; it must be between 1 and context, {self.context}"
            )
        if not self.horizons or min(self.horizons) < 1 or list(self.horizons) != sorted(set(self.horizons)):
            raise ValueError(
                f"horizons is {list(self.horizons)}; it must list one or more, ascending, each at least 1"
            )
        if self.task == "middle":
            self._check_middle()
        for source, weight in self.mixing.items():
            if not 0 <= weight < float("inf"):
                raise ValueError(f"mixing gives '{source}' the weight {weight}; it must be at least 0")
        if self.mixing and not any(self.mixing.values()):
            raise ValueError("mixing gives every source the weight 0; at least one must be above")

    def _check_middle(self) -> None:
        if self.context % 2:
            raise ValueError(f"context is {self.context}; task middle reads as many chunks before as after")
        if self.min_context != self.context:
            raise ValueError(
                f"min_context is {self.min_context}; task middle needs it to be context, {self.context}"
            )
        if self.horizons != (1,):
            raise ValueError(f"horizons is {list(self.horizons)}; task middle has no horizon but 1")

    @property
    def shape(self) -> SequenceShape:
        return SequenceShape(self.context, self.min_context, self.horizons, self.task, self.whole)

    def sampling(self, epochs: int) -> Sampling:
        """How the batches of a run of so many epochs are drawn."""
        return Sampling(
            max_per_document=self.max_per_document,
            mixing=self.mixing,
            mixing_temperature=self.mixing_temperature,
            conditional=self.conditional,
            broken=self.broken,
            curriculum=self.curriculum,
            curriculum_share=self.curriculum_share,
            epochs=epochs,
        )


@dataclass(frozen=True)
class OptimConfig(Checked):
    """The optimiser and how long it runs.

    Attributes:
        optimiser: "adamw", or "muon" for the backbone's matrices with AdamW for the rest.
        lr: the highest learning rate.
        muon_factor: Muon's learning rate over `lr`: its updates have the same size whatever the gradient.
        weight_decay: decoupled decay of the parameters that `decay` names.
        decay: "all" parameters, or only "matrices" (biases and norm scales have one dimension and go free).
        batch_size: full windows in a batch; batches of shorter ones hold more (`batch_windows`).
        epochs: passes over the training targets.
        max_updates: stop after so many updates, whatever `epochs` says; 0 sets no cap.
        max_seconds: stop after so many seconds of training (validation not counted); 0 sets no cap. The
            schedule then follows the clock where that is ahead, so such a run is not the same twice.
        schedule: after the warm-up, "constant", "cosine" down to 0 at the last update, or "plateau": times
            `plateau_factor` when the validation loss has not improved for more than `plateau_patience`
            epochs.
        warmup: share of all updates over which the rate rises from 0.
        clip: largest gradient norm; 0 clips nothing.
        patience: stop after so many epochs without a better validation figure; 0 never stops early.
        select: by which validation figure an epoch is the best: the highest "cosine" or the lowest "loss".
    """

    optimiser: Literal["adamw", "muon"] = "adamw"
    lr: float = number(1e-3, above=0)
    muon_factor: float = number(10.0, above=0)
    weight_decay: float = number(0.01, least=0)
    decay: Literal["all", "matrices"] = "matrices"
    batch_size: int = number(32, least=1)
    epochs: int = number(20, least=1)
    max_updates: int = number(0, least=0)
    max_seconds: float = number(0.0, least=0)
    schedule: Literal["constant", "cosine", "plateau"] = "cosine"
    plateau_factor: float = number(0.5, above=0, below=1)
    plateau_patience: int = number(3, least=0)
    warmup: float = number(0.05, least=0, below=1)
    clip: float = number(1.0, least=0)
    patience: int = number(5, least=0)
    select: Literal["cosine", "loss"] = "cosine"


@dataclass(frozen=True)
class ProcessConfig(RuntimeConfig):
    """Where and how a training runs, and on how many processes (`nextvec.training.distributed`).

    Attributes:
        devices: processes on each machine, one an accelerator (on the CPU they share it). Together they take
            the batches that one would take.
        nodes: machines; more than one are started by torchrun.
        strategy: "ddp", each process holds the model; "fsdp", each holds a share of it.
    """

    devices: int = number(1, least=1)
    nodes: int = number(1, least=1)
    strategy: Literal["ddp", "fsdp"] = "ddp"

    @property
    def processes(self) -> int:
        """Of all machines."""
        return self.devices * self.nodes


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides what a run gives, in sections."""

    model: ModelChoice
    data: DataConfig = field(default_factory=DataConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    runtime: ProcessConfig = field(default_factory=ProcessConfig)


def read_config(path: Path) -> TrainConfig:
    """The configuration that was saved with a run, of an older version too.

    Raises:
        ConfigError: the file is not there, or no configuration.
    """
    found = read_toml(path)
    data = found.get("data")
    if isinstance(data, dict) and "horizon" in data:
        # Before there were several horizons, a batch could hold any number of windows of a document.
        data["horizons"] = [data.pop("horizon")]
        data.setdefault("max_per_document", 0)
    return from_dict(TrainConfig, found, where=path)


PLATEAU_THRESHOLD = 1e-4
"""Relative improvement that counts, as in torch.optim.lr_scheduler.ReduceLROnPlateau."""


@dataclass
class Plateau:
    """The memory of the plateau schedule: the best loss, the epochs since, and the factor reached."""

    factor: float = 1.0
    best: float | None = None
    bad_epochs: int = 0

    def update(self, loss: float, config: OptimConfig) -> None:
        """Take in an epoch's validation loss."""
        if self.best is None or loss < self.best * (1 - PLATEAU_THRESHOLD):
            self.best, self.bad_epochs = loss, 0
        else:
            self.bad_epochs += 1
        if self.bad_epochs > config.plateau_patience:
            self.factor, self.bad_epochs = self.factor * config.plateau_factor, 0


@dataclass
class TrainingState:
    """How far a run has come: all of it is in the checkpoint.

    Attributes:
        epoch: epochs completed.
        batch: batches done of the running epoch.
        update, positions, chunks: optimiser steps, targets and chunks read so far.
        seconds: wall time so far, validation included; epoch_seconds: of the running epoch's training alone,
            train_seconds: of all training alone.
        epoch_positions: targets of the running epoch.
        best_epoch, best_cosine: the best validation so far (0: none yet) and its cosine.
        best_score: what it is the best by (`optim.select`; larger is better).
        peak_cosine: the highest validation cosine so far.
        lr: learning rate of the last update.
        term_gradients: norm of each loss term's weighted gradient at the running epoch's first batch.
        stopped: why the run is over; empty while it is not.
    """

    epoch: int = 0
    batch: int = 0
    update: int = 0
    positions: int = 0
    chunks: int = 0
    seconds: float = 0.0
    epoch_seconds: float = 0.0
    train_seconds: float = 0.0
    epoch_positions: int = 0
    best_epoch: int = 0
    best_cosine: float = -1.0
    best_score: float = -math.inf
    peak_cosine: float = -1.0
    lr: float = 0.0
    term_gradients: dict[str, float] = field(default_factory=dict)
    plateau: Plateau = field(default_factory=Plateau)
    stopped: str = ""


def learning_rate(config: OptimConfig, update: float, total: int, plateau: Plateau) -> float:
    """The rate of update number `update` (from 0; not whole where the clock decides) out of `total`."""
    warmup = round(config.warmup * total)
    if update < warmup:
        return config.lr * (update + 1) / warmup
    if config.schedule == "cosine":
        progress = min((update - warmup) / max(total - warmup, 1), 1.0)
        return config.lr * 0.5 * (1.0 + math.cos(math.pi * progress))
    return config.lr * plateau.factor if config.schedule == "plateau" else config.lr


# Recipes: named training configurations, one TOML file each in `recipes/`; named layers to put over them.
#
# `default` lets an architecture learn what the strongest simple baselines miss, for its point and for its
# ranking; `residual` for its point only; `scratch` trains it as it is; `brief` is the product brief to the
# letter, so that its figures can be had again. A layer is a part of a configuration with a name: an objective
# (the section `loss`) or a task (the section `data`), each a TOML file in `layers/`. A matrix takes them as
# axes.
#
# A recipe may begin with `base = "NAME"`, the recipe it changes, and `objective = "NAME"`, which goes over
# that; its own sections go over both.

RECIPES, LAYERS = Path(__file__).parent / "recipes", Path(__file__).parent / "layers"
Kind = Literal["objectives", "tasks"]


def recipe_names() -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in RECIPES.glob("*.toml")))


def read_recipe(name: str) -> dict[str, Any]:
    """A recipe as nested dictionaries. Raises ConfigError for an unknown name."""
    if name not in recipe_names():
        raise ConfigError(
            f"no recipe '{name}'", where="recipe", remedy=f"choose one of: {', '.join(recipe_names())}"
        )
    own = read_toml(RECIPES / f"{name}.toml")
    base, objective = own.pop("base", None), own.pop("objective", None)
    return merge(
        read_recipe(base) if base else {},
        read_layer("objectives", objective, flag=f"recipe '{name}'") if objective else {},
        own,
    )


def layer_names(kind: Kind) -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in (LAYERS / kind).glob("*.toml")))


def read_layer(kind: Kind, name: str, flag: str | None = None) -> dict[str, Any]:
    """A named layer as nested dictionaries.

    A name says everything of its kind, so that nothing else is left under it: what an objective's file does
    not weigh has the weight 0 (but for the loss that a model brings along), and a task has no queries unless
    its file says so.

    Args:
        flag: what errors name as the place of the name.
    Raises:
        ConfigError: an unknown name, with the nearest.
    """
    known = layer_names(kind)
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        remedy = f"did you mean '{close[0]}'?" if close else f"choose one of: {', '.join(known)}"
        raise ConfigError(f"no {kind.removesuffix('s')} '{name}'", where=flag or f"--{kind}", remedy=remedy)
    layer = read_toml(LAYERS / kind / f"{name}.toml")
    if kind == "objectives":
        unnamed = {term: 0.0 for term in LossConfig().weights() if term != OWN}
        return {**layer, "loss": {**unnamed, **layer["loss"]}}
    return {**layer, "data": {"conditional": 0.0, **layer["data"]}}


def make_config(recipe: str, *layers: Mapping[str, Any], where: str | Path = "configuration") -> TrainConfig:
    """The configuration of a recipe with `layers` of nested dictionaries over it; later ones win.

    One layer has to bring `model.name`.

    Args:
        where: what errors name as the place of an unknown key.
    Raises:
        ConfigError: an unknown key or recipe, or a value that cannot be meant.
    """
    return from_dict(TrainConfig, merge(read_recipe(recipe), *layers), where=where)
