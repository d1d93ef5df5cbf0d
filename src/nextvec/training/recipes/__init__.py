"""Recipes: named training configurations, one TOML file each in this folder; named layers to put over them.

`default` trains an architecture as it is; `residual` lets it learn what the strongest simple baseline misses,
and is what we recommend to users; `brief` is the product brief to the letter, so that its figures can be had
again. A layer is a part of a configuration with a name: an objective (the section `loss`) or a task (the
section `data`), each a TOML file in `training/layers/`. A matrix takes them as axes.

A recipe may begin with `base = "NAME"`, the recipe it changes, and `objective = "NAME"`, which goes over
that; its own sections go over both.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from nextvec.config import from_dict, merge, read_toml
from nextvec.errors import ConfigError
from nextvec.objectives.config import OWN, LossConfig
from nextvec.training.config import TrainConfig

FOLDER = Path(__file__).parent
LAYERS = FOLDER.parent / "layers"
Kind = Literal["objectives", "tasks"]


def recipe_names() -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))


def read_recipe(name: str) -> dict[str, Any]:
    """A recipe as nested dictionaries. Raises ConfigError for an unknown name."""
    if name not in recipe_names():
        raise ConfigError(
            f"no recipe '{name}'", where="recipe", remedy=f"choose one of: {', '.join(recipe_names())}"
        )
    own = read_toml(FOLDER / f"{name}.toml")
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
