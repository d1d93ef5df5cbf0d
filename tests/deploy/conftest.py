"""The files of a deployment, read."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Image:
    """What the Dockerfile says.

    Attributes:
        bases: what each stage starts from.
        copied: what is taken from the folder it is built in.
        instructions: the instructions of the last stage; of equal ones the last counts.
    """

    bases: list[str]
    copied: list[str]
    instructions: dict[str, str]

    def command(self, name: str) -> list[str]:
        """The JSON list of an instruction."""
        found: list[str] = json.loads(self.instructions[name][self.instructions[name].index("[") :])
        return found


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def image() -> Image:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line and not line.startswith("#")]
    stages = [i for i, (name, _) in enumerate(lines) if name == "FROM"]
    taken = [shlex.split(rest) for name, rest in lines if name == "COPY" and "--from" not in rest]
    return Image(
        [lines[i][1] for i in stages],
        [source for sources in taken for source in sources[:-1]],
        dict(map(tuple, lines[stages[-1] :])),
    )


@pytest.fixture(scope="session")
def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="session")
def prometheus() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "deploy/prometheus.yml").read_text(encoding="utf-8"))
    return found
