"""Flags of `train`, `matrix` and `sweep` as layers of configuration: defaults < recipe < file < objective and
task by name < the other flags.

A name on the command line wins over the file, as any flag does, and what is set key by key wins over a name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from nextvec.cli.common import names
from nextvec.config import given, merge, parse_assignments, read_toml
from nextvec.errors import ConfigError

DEFAULT_RECIPE = "default"
TRAINING = Path(__file__).parents[1] / "training"


def _stems(*folder: str) -> str:
    """Names of the TOML files in a folder of `nextvec.training`: reading it imports nothing heavy."""
    return ", ".join(sorted(path.stem for path in TRAINING.joinpath(*folder).glob("*.toml")))


@Parameter(name="*")
@dataclass(frozen=True)
class TrainingFlags:
    """What `train` and `matrix` have in common. What is not given is left to the file, then the recipe."""

    preset: Annotated[str | None, Parameter(help="Size of the model: small or brief.")] = None
    recipe: Annotated[
        str | None,
        Parameter(
            help=f"Protocol: {_stems('recipes')}; residual is a baseline and what it misses, brief is to the "
            "letter."
        ),
    ] = None
    config: Annotated[Path | None, Parameter(help="A TOML file over the recipe; flags win over it.")] = None
    objective: Annotated[
        str | None,
        Parameter(help=f"What is minimised, over recipe and file: {_stems('layers', 'objectives')}."),
    ] = None
    task: Annotated[
        str | None, Parameter(help=f"What is predicted, over recipe and file: {_stems('layers', 'tasks')}.")
    ] = None
    residual: Annotated[
        str | None,
        Parameter(help="Baseline the network corrects: none, mean, last, ema, averages, weights or ridge."),
    ] = None
    head: Annotated[
        str | None,
        Parameter(help="What makes vectors of hidden states: linear, projection, compact, unit or energy."),
    ] = None
    epochs: Annotated[int | None, Parameter(help="Passes over the training targets.")] = None
    max_updates: Annotated[int | None, Parameter(help="Stop after so many updates.")] = None
    lr: Annotated[float | None, Parameter(help="Highest learning rate.")] = None
    batch_size: Annotated[int | None, Parameter(help="Slices (or single windows) in a batch.")] = None
    context: Annotated[int | None, Parameter(help="Chunks read at most before a target.")] = None
    horizon: Annotated[
        str | None, Parameter(help="How many chunks ahead the target is; several at once as 1,2,5.")
    ] = None
    sources: Annotated[str | None, Parameter(help="Train on these sources only, separated by commas.")] = None
    split_file: Annotated[Path | None, Parameter(help="JSON with train, validation, test document ids.")] = (
        None
    )
    device: Annotated[Literal["auto", "cpu", "cuda", "mps"] | None, Parameter(help="Where to train.")] = None
    precision: Annotated[
        Literal["auto", "float32", "bfloat16"] | None, Parameter(help="Arithmetic of the matrix products.")
    ] = None
    set: Annotated[
        tuple[str, ...], Parameter(help="Any other key, as KEY=VALUE: --set optim.clip=0.5", negative=())
    ] = ()

    def layers(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The configuration file and the flags, as nested dictionaries.

        Raises:
            ConfigError: no such file, an unknown objective or task, or a flag that cannot be read.
        """
        file = read_toml(self.config) if self.config is not None else {}
        flags = {
            "model": {"preset": self.preset, "options": {"residual": self.residual, "head": self.head}},
            "data": {
                "context": self.context,
                "min_context": self._min_context(file),
                "horizons": _whole_numbers(self.horizon, "--horizon"),
                "sources": list(names(self.sources)) or None,
                "split": {"file": None if self.split_file is None else str(self.split_file.resolve())},
            },
            "optim": {
                "epochs": self.epochs,
                "max_updates": self.max_updates,
                "lr": self.lr,
                "batch_size": self.batch_size,
            },
            "runtime": {"device": self.device, "precision": self.precision},
        }
        return file, merge(self._named(), given(flags), parse_assignments(self.set))

    def _named(self) -> dict[str, Any]:
        """What the objective and the task of these names are."""
        if self.objective is None and self.task is None:
            return {}
        from nextvec.training.config import read_layer

        objective = {} if self.objective is None else read_layer("objectives", self.objective, "--objective")
        task = {} if self.task is None else read_layer("tasks", self.task, "--task")
        return merge(objective, task)

    def _min_context(self, file: Mapping[str, Any]) -> int | None:
        """Recipe brief and task middle train on windows of exactly `context`; --context changes both ends
        there."""
        brief = self.recipe == "brief" and "min_context" not in file.get("data", {})
        return self.context if brief or self.task == "middle" else None


def _whole_numbers(text: str | None, flag: str) -> list[int] | None:
    """Of a flag's value: numbers separated by commas."""
    try:
        return [int(part) for part in names(text)] or None
    except ValueError:
        raise ConfigError(
            f"'{text}' is not a list of whole numbers", where=flag, remedy=f"write {flag} 1 or {flag} 1,2,5"
        ) from None
