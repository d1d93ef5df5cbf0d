"""What a sweep varies: a TOML file beside each architecture, and what all have in common.

A file has a table `space`: a key of the configuration -> either `choices = [...]` or `low`, `high` and `log`.
What an architecture's file says of a key wins over the shared space.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nextvec.config import from_dict, merge, read_toml
from nextvec.errors import ConfigError
from nextvec.models.registry import SEARCH
from nextvec.training.recipes import read_layer

SHARED = Path(__file__).parent / "search"
"""Spaces that are not of one architecture: `shared` (every sweep's) and `hundred` (the brief's plan)."""
OBJECTIVE = "objective"
"""A key that is not of the configuration: which named objective."""


@dataclass(frozen=True)
class Choice:
    """The values of one key: `choices`, or all from `low` to `high`; evenly in the logarithm if `log`."""

    choices: tuple[Any, ...] = ()
    low: float | int | None = None
    high: float | int | None = None
    log: bool = False

    def __post_init__(self) -> None:
        ranged = self.low is not None and self.high is not None
        if bool(self.choices) == ranged or (self.low is None) != (self.high is None):
            raise ValueError("give either choices, or low and high")
        if ranged and not (self.low < self.high and (self.low > 0 or not self.log)):  # type: ignore[operator]
            raise ValueError(f"low {self.low} and high {self.high} are no range")


Space = dict[str, Choice]


@dataclass(frozen=True)
class SpaceFile:
    """A search space as it lies on disk."""

    space: dict[str, Any] = field(default_factory=dict)


def read_space(path: Path) -> Space:
    """A search space. Raises ConfigError naming file and key."""
    held = from_dict(SpaceFile, read_toml(path), where=path).space
    return {key: from_dict(Choice, value, where=f"{path}: {key}") for key, value in held.items()}


def space_of(model: str, shared: Space | None = None) -> Space:
    """What is varied of a model: the shared space with its own over it. Raises ConfigError."""
    own = SEARCH / f"{model}.toml"
    if not own.is_file():
        raise ConfigError(f"{model} has no search space", where=own, remedy="write one beside the others")
    return {**(named_space("shared") if shared is None else shared), **read_space(own)}


def named_space(name: str) -> Space:
    """A space that comes with nextvec. Raises ConfigError for an unknown name."""
    known = sorted(path.stem for path in SHARED.glob("*.toml"))
    if name not in known:
        raise ConfigError(
            f"no search space '{name}'", where="--space", remedy=f"choose one of: {', '.join(known)}"
        )
    return read_space(SHARED / f"{name}.toml")


def assignments(chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys and their values as a layer of configuration; `objective` is a named layer."""
    layers: list[dict[str, Any]] = []
    for key, value in chosen.items():
        if key == OBJECTIVE:
            layers.insert(0, read_layer("objectives", str(value)))
            continue
        nested: Any = value
        for part in reversed(key.split(".")):
            nested = {part: nested}
        layers.append(nested)
    return merge(*layers)
