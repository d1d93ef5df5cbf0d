"""Flags of `train` and `matrix` as one layer of configuration: defaults < recipe < file < flags."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from nextvec.cli.common import names
from nextvec.config import merge, parse_assignments, read_toml
from nextvec.errors import ConfigError

DEFAULT_RECIPE = "default"


@Parameter(name="*")
@dataclass(frozen=True)
class TrainingFlags:
    """What `train` and `matrix` have in common. What is not given is left to the file, then the recipe."""

    preset: Annotated[str | None, Parameter(help="Size of the model: small or brief.")] = None
    recipe: Annotated[
        str | None,
        Parameter(
            help="Protocol: default, residual (a baseline and what it misses) or brief (to the letter)."
        ),
    ] = None
    config: Annotated[Path | None, Parameter(help="A TOML file over the recipe; flags win over it.")] = None
    epochs: Annotated[int | None, Parameter(help="Passes over the training targets.")] = None
    max_updates: Annotated[int | None, Parameter(help="Stop after so many updates.")] = None
    lr: Annotated[float | None, Parameter(help="Highest learning rate.")] = None
    batch_size: Annotated[int | None, Parameter(help="Stretches (or windows) in a batch.")] = None
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
        """The configuration file and the flags, as nested dictionaries."""
        file = read_toml(self.config) if self.config is not None else {}
        flags = {
            "model": {"preset": self.preset},
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
        return file, merge(_given(flags), parse_assignments(self.set))

    def _min_context(self, file: Mapping[str, Any]) -> int | None:
        """Recipe brief trains on windows of exactly `context`; --context changes both ends there."""
        fixed = self.recipe == "brief" and "min_context" not in file.get("data", {})
        return self.context if fixed else None


def _whole_numbers(text: str | None, flag: str) -> list[int] | None:
    """Of a flag's value: numbers separated by commas."""
    try:
        return [int(part) for part in names(text)] or None
    except ValueError:
        raise ConfigError(
            f"'{text}' is not a list of whole numbers", where=flag, remedy=f"write {flag} 1 or {flag} 1,2,5"
        ) from None


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    """Without what was not given."""
    nested = {k: _given(v) if isinstance(v, Mapping) else v for k, v in values.items()}
    return {k: v for k, v in nested.items() if v is not None and v != {}}
