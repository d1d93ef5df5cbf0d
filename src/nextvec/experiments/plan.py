"""What a matrix holds: models, and whatever else is varied, crossed with seeds."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from nextvec.config import merge, parse_assignments
from nextvec.errors import ConfigError
from nextvec.training.recipes import read_layer

MAX_CELLS = 10_000
_FREE = re.compile(r"[^A-Za-z0-9._=+,-]+")


@dataclass(frozen=True)
class Cell:
    """One training run of a matrix.

    Attributes:
        row: the cell without its seed: the row of the table that its seeds share.
        model, seed: what is trained.
        named: what its objective and its task set, as nested dictionaries of the configuration: below what
            the user sets key by key.
        layer: what the varied keys set: above everything else.
    """

    row: str
    model: str
    seed: int
    named: dict[str, Any] = field(default_factory=dict, hash=False, compare=False)
    layer: dict[str, Any] = field(default_factory=dict, hash=False, compare=False)

    @property
    def name(self) -> str:
        """Of the run and its folder."""
        return f"{self.row}-seed{self.seed}"


@dataclass(frozen=True)
class Plan:
    """A matrix; saved so that a second call goes on with the same thing.

    Attributes:
        store: where the vectors lie.
        models: architectures.
        seeds: runs of each combination, with seeds 0, 1, ...
        objectives, tasks: named layers (`nextvec.training.recipes.layer_names`); none is an axis of one.
        vary: any keys of the configuration, each written `KEY=VALUE,VALUE,...`.
    """

    store: str
    models: tuple[str, ...]
    seeds: int
    objectives: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    vary: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.models or self.seeds < 1:
            raise ValueError(
                f"a matrix needs a model and a seed: {len(self.models)} --models, --seeds {self.seeds}"
            )
        for what in ("models", "objectives", "tasks", "vary"):
            if len(set(getattr(self, what))) != len(getattr(self, what)):
                raise ValueError(f"--{what}: one is named twice")
        count = len(self.models) * self.seeds
        for axis in self.axes():
            count *= len(axis)
        if count > MAX_CELLS:
            raise ValueError(f"a matrix of {count:,} runs; {MAX_CELLS:,} at most")

    def axes(self) -> list[list[tuple[str, dict[str, Any]]]]:
        """The axes beside models and seeds, each a list of (label, layer).

        Raises:
            ConfigError: an unknown objective or task, or a `vary` that cannot be read.
        """
        named = [
            [(name, read_layer("objectives", name)) for name in self.objectives],
            [(name, read_layer("tasks", name)) for name in self.tasks],
        ]
        return [axis for axis in named if axis] + [parse_axis(text) for text in self.vary]

    @property
    def cells(self) -> list[Cell]:
        """Seed by seed, so that an interrupted matrix has everything once before anything twice."""
        return [
            Cell(row, model, seed, named, layer)
            for seed in range(self.seeds)
            for row, model, named, layer in self._rows()
        ]

    @property
    def rows(self) -> list[str]:
        """The rows of the table, in order."""
        return [row for row, *_ in self._rows()]

    def _rows(self) -> Iterator[tuple[str, str, dict[str, Any], dict[str, Any]]]:
        names = bool(self.objectives) + bool(self.tasks)
        for model, *chosen in product(self.models, *self.axes()):
            row = "-".join([model, *(_FREE.sub("_", label) for label, _ in chosen)])
            layers = [layer for _, layer in chosen]
            yield row, model, merge(*layers[:names]), merge(*layers[names:])


def parse_axis(text: str) -> list[tuple[str, dict[str, Any]]]:
    """`data.context=5,10` -> a label and a layer for each value.

    Keys that change together are joined by a plus, and so are their values, as in
    `data.context+optim.batch_size=1+512,2+256`. Enough of them to tell the values apart give the label.

    Raises:
        ConfigError: no key, no value, or one named twice.
    """
    key, equals, values = text.partition("=")
    each = [value.strip() for value in values.split(",")]
    if not equals or not key.strip() or not all(each) or len(set(each)) != len(each):
        raise ConfigError(
            f"'{text}' is no axis", where="--vary", remedy="write --vary data.context=5,10, each value once"
        )
    keys = [one.strip() for one in key.split("+")]
    values_of = [value.split("+") if len(keys) > 1 else [value] for value in each]
    if not all(keys) or any(len(values) != len(keys) for values in values_of):
        raise ConfigError(
            f"'{text}' joins {len(keys)} keys", where="--vary", remedy="give as many values, joined by +"
        )
    short = [key.rpartition(".")[2] for key in keys]
    shown = next(
        n for n in range(1, len(keys) + 1) if len({tuple(v[:n]) for v in values_of}) == len(values_of)
    )
    return [
        (
            "-".join(f"{k}={v}" for k, v in zip(short[:shown], values[:shown], strict=True)),
            parse_assignments(f"{k}={v}" for k, v in zip(keys, values, strict=True)),
        )
        for values in values_of
    ]
