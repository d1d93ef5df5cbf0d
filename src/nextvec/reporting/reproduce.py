"""How a matrix or a run can be made again: one file of configuration and one command."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nextvec.config import flatten
from nextvec.reporting.inputs import ReportInputs, Run

CONFIGURATION = "configuration.toml"
"""What all runs share: the report writes it beside the page."""
_GIVEN_APART = ("model.name", "runtime.seed")


def shared(inputs: ReportInputs) -> dict[str, Any]:
    """The keys on which all runs agree, joined by dots; without the model and the seed of a run."""
    configs = [flatten(run.config) for run in inputs.runs]
    if not configs:
        return {}
    return {
        key: value
        for key, value in configs[0].items()
        if key not in _GIVEN_APART and all(key in config and config[key] == value for config in configs)
    }


def own(inputs: ReportInputs) -> dict[str, dict[str, Any]]:
    """Row -> the keys that not all rows agree on, as the first run of each has them; seeds aside."""
    common = {*shared(inputs), "runtime.seed"}
    return {
        row: {k: v for k, v in flatten(inputs.runs_of(row)[0].config).items() if k not in common}
        for row in dict.fromkeys(run.row for run in inputs.runs)
    }


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`."""
    out: dict[str, Any] = {}
    for key, value in flat.items():
        *sections, last = key.split(".")
        inner = out
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[last] = value
    return out


def command(inputs: ReportInputs) -> str:
    """The command that makes it again, with `CONFIGURATION` in the working folder and the store beside it."""
    store = _store(inputs)
    if inputs.kind == "run":
        model = inputs.runs[0].architecture
        words = ["train", store, "--model", model, "--config", CONFIGURATION, *_seed(inputs.runs[0])]
    else:
        words = ["matrix", store, *_axes(inputs), "--config", CONFIGURATION, *_exam(inputs)]
    return shlex.join(["nextvec", *words, "--out", inputs.name])


def _store(inputs: ReportInputs) -> str:
    """The folder's name alone: for whoever gets the report it lies elsewhere."""
    if inputs.store is not None:
        return inputs.store.path.resolve().name
    noted = [run.metadata["store"] for run in inputs.runs if "store" in run.metadata]
    return Path(noted[0]).name if noted else "STORE"


def _seed(run: Run) -> list[str]:
    return ["--set", f"runtime.seed={run.seed}"] if run.seed else []


def _axes(inputs: ReportInputs) -> list[str]:
    plan = inputs.plan
    if plan is None:  # a table whose plan is gone: the rows tell the models
        return ["--models", ",".join(dict.fromkeys(run.architecture for run in inputs.runs))]
    words = ["--models", ",".join(plan.models), "--seeds", str(plan.seeds)]
    for flag, names in (("--objectives", plan.objectives), ("--tasks", plan.tasks)):
        words += [flag, ",".join(names)] if names else []
    for axis in plan.vary:
        words += ["--vary", axis]
    return words


def _exam(inputs: ReportInputs) -> list[str]:
    """The flags of judging that differ from what they are by default."""
    table = inputs.table
    if table is None:
        return []
    words = []
    for flag, key, usual in (("--split", "split", "test"), ("--candidates", "candidates", "split")):
        words += [flag, table[key]] if table[key] != usual else []
    sources = judged_sources(inputs)
    return words + (["--judge-sources", ",".join(sources)] if sources else [])


def judged_sources(inputs: ReportInputs) -> Sequence[str]:
    """The sources that were judged, where these are not all of the store's; none where that is not known."""
    if inputs.answers is None or inputs.store is None:
        return ()
    documents = inputs.store.documents
    found = sorted({documents[i].source for i in set(inputs.answers.document.tolist())})
    trained = inputs.runs[0].config.get("data", {}).get("sources") if inputs.runs else []
    return () if found == sorted(trained or inputs.store.sources) else found
