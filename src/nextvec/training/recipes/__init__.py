"""Recipes: named training configurations, one TOML file each in this folder.

`default` trains an architecture as it is; `residual` lets it learn what the strongest simple baseline misses,
and is what we recommend to users; `brief` is the product brief to the letter, so that its figures can be had
again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nextvec.config import from_dict, merge, read_toml
from nextvec.errors import ConfigError
from nextvec.training.config import TrainConfig

FOLDER = Path(__file__).parent


def recipe_names() -> tuple[str, ...]:
    """The recipes there are."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))


def read_recipe(name: str) -> dict[str, Any]:
    """A recipe as nested dictionaries. Raises ConfigError for an unknown name."""
    if name not in recipe_names():
        raise ConfigError(
            f"no recipe '{name}'", where="recipe", remedy=f"choose one of: {', '.join(recipe_names())}"
        )
    return read_toml(FOLDER / f"{name}.toml")


def make_config(recipe: str, *layers: Mapping[str, Any], where: str | Path = "configuration") -> TrainConfig:
    """The configuration of a recipe with `layers` of nested dictionaries over it; later ones win.

    One layer has to bring `model.name`.

    Args:
        where: what errors name as the place of an unknown key.
    Raises:
        ConfigError: an unknown key or recipe, or a value that cannot be meant.
    """
    return from_dict(TrainConfig, merge(read_recipe(recipe), *layers), where=where)
