"""Can a run be believed? Reload it in a fresh process and reproduce what it says of itself.

In the field a validation figure of 0.62 was 0.04 when somebody measured it later. Here the saved model has to
give its golden output and its recorded validation again to 1e-6, and to stand on the documents it names.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from nextvec import errors
from nextvec.config import to_dict
from nextvec.corpus.store import Store
from nextvec.data.splits import Split, SplitConfig, split_documents
from nextvec.data.trained import TRAINED_ON, TrainedOn, chunk_keys, key, known
from nextvec.disk import read_json
from nextvec.errors import NextvecError, RunError, SplitError, StoreError

Status = Literal["ok", "note", "RED"]
TOLERANCE = 1e-6
LIMIT = 0.01
"""Share of validation or test chunks whose text stands in training, above which the harness refuses."""
OF_TRAINING = {"float32": 1e-6, "bfloat16": 5e-3}
ON_OTHER_DEVICES = 1e-3
"""How far a figure taken while training may lie from the same in float32 on the CPU."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. "note": worth knowing, or not checked (the text says why)."""

    name: str
    status: Status
    text: str


@dataclass(frozen=True)
class Verification:
    """What `verify` found."""

    run: str
    checks: tuple[Check, ...]

    @property
    def red(self) -> bool:
        """Whether any check failed."""
        return any(check.status == "RED" for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready: "run", "passed", "checks"."""
        return {"run": self.run, "passed": not self.red, "checks": [asdict(c) for c in self.checks]}


def verify(run: str | Path, store: str | Path | None = None, split_file: str | Path | None = None) -> Verification:
    """Check a run in a process of its own, where nothing of the training is in memory.

    Args:
        store, split_file: where they lie now; by default where the run says they were.
    Raises:
        RunError, StoreError, SplitError: no run, store or split file there: nothing can be said.
    """
    given = {"run": str(run), "store": store and str(store), "split_file": split_file and str(split_file)}
    fresh = subprocess.run(  # noqa: S603 - our own module, in our own interpreter
        [sys.executable, "-m", __name__, json.dumps(given)], stdout=subprocess.PIPE, check=False
    )
    try:
        answer = json.loads(fresh.stdout)
    except ValueError:
        raise RunError(f"the process that looked at it ended with code {fresh.returncode}", where=run) from None
    if "error" in answer:
        raise getattr(errors, answer["error"])(
            answer["message"], where=answer["where"], remedy=answer["remedy"]
        )
    return Verification(str(run), tuple(Check(**check) for check in answer["checks"]))


class Unchecked(Exception):  # noqa: N818 - nothing is wrong with what cannot be looked at
    """A check that cannot be made; the message says why."""


class Evidence:
    """What the checks look at, loaded once.

    Raises:
        RunError, StoreError: no run or no store there.
    """

    def __init__(self, run: Path, store: Path | None, split_file: Path | None) -> None:
        from nextvec.experiments.records import read_run_config

        self.run, self.config = run, read_run_config(run)
        self.info = self._read("config.json")
        self.training = self.info.get("training")
        if not isinstance(self.training, dict):
            raise RunError(
                "has no saved model yet", where=run, remedy="finish its first epoch: nextvec train --resume"
            )
        self.facts = self._read("run.json")
        self.result = self._read("metrics.json")
        self.store = self._open_store(store)
        division = self.config.data.split
        if split_file is not None:
            division = SplitConfig(file=str(split_file))
        if division.file is not None and not Path(division.file).is_file():
            raise SplitError("the split file is not there", where=division.file, remedy="give it with --split-file")
        self.division = division
        self.documents = int(self.identity.get("store.documents", len(self.store.documents)))

    def _read(self, name: str) -> dict[str, Any]:
        path = self.run / name
        found = read_json(path, RunError) if path.is_file() else {}
        return found if isinstance(found, dict) else {}

    def _open_store(self, store: Path | None) -> Store:
        path = Path(str(self.training.get("store", ""))) if store is None else store
        try:
            return Store.open(path)
        except StoreError as e:
            raise StoreError(e.message, where=e.where, remedy=f"{e.remedy or 'give it'} (--store)") from None

    @property
    def identity(self) -> dict[str, Any]:
        """What the run says of its store: fingerprint, vectors, splits, how many documents."""
        found = self.facts.get("identity")
        return found if isinstance(found, dict) else {}

    @cached_property
    def model(self) -> Any:
        """The saved model. Raises RunError."""
        from nextvec.models.saving import load_model

        return load_model(self.run)[0]

    @cached_property
    def split(self) -> Split:
        """Its division, of the documents that were in the store when it was trained. Raises SplitError."""
        found = split_documents(self.store, self.division, self.config.data.sources)
        return Split(*(tuple(i for i in found.of(n) if i < self.documents) for n in ("train", "validation", "test")))

    @cached_property
    def trained_on(self) -> TrainedOn:
        """Keys of what it was trained on. Raises RunError."""
        return TrainedOn.load(self.run / TRAINED_ON)

    def need(self, *names: str) -> None:
        """Raise Unchecked where one of these cannot be had: its own check says so in red."""
        for name in names:
            try:
                getattr(self, name)
            except NextvecError as e:
                raise Unchecked(f"{name.replace('_', ' ')}: {e.message}") from None


def examine(run: Path, store: Path | None = None, split_file: Path | None = None) -> list[Check]:
    """Make every check in this process. Raises as `verify`."""
    evidence = Evidence(run, store, split_file)
    found = []
    for name, check in CHECKS.items():
        try:
            status, text = check(evidence)
        except Unchecked as e:
            status, text = "note", f"not checked: {e}"
        except NextvecError as e:
            status, text = "RED", str(e)
        found.append(Check(name, status, text))
    return found


def _golden(e: Evidence) -> tuple[Status, str]:
    """Weights, configuration and code give the output that was stored with them."""
    import torch
    from safetensors.torch import load_file

    from nextvec.models.saving import GOLDEN

    model = e.model  # loading it has compared the golden output to 1e-5 already
    golden = load_file(e.run / GOLDEN)
    with torch.inference_mode(), torch.autocast("cpu", enabled=False):
        off = float((model.double()(golden["input"].double()).raw - golden["raw"]).abs().max())
        exact = float((model.float()(golden["input"].float()).raw - golden["raw"]).abs().max())
    return "ok", f"{off} {exact}"


CHECKS: dict[str, Callable[[Evidence], tuple[Status, str]]] = {}
