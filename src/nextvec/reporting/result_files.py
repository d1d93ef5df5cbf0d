"""All numbers of a report as CSV, and the three JSON files of the brief's PRD."""

from __future__ import annotations

import csv
import io
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from nextvec.config import flatten
from nextvec.disk import write_json, write_text
from nextvec.experiments.runs import RunFolder
from nextvec.reporting.inputs import RUN_TABLE, ReportInputs

Line = Mapping[str, Any]
NOT_FLAT = ("versus_best_baseline", "per_seed")
RETRIEVAL = ("median_rank", "mrr")
LATENCIES = ("latency_p50_ms", "latency_p95_ms", "latency_p99_ms")
INFERENCE = (*LATENCIES, "throughput", "predict_seconds", "parameters", "bytes")


def write_tables(inputs: ReportInputs, folder: Path) -> list[Path]:
    """Write every table that the inputs allow, into `folder`.

    `rows.csv` (a predictor a line), `versus_best_baseline.csv`, `pairs.csv` (every two rows), `seeds.csv` (a
    run a line), `history.csv` (an epoch of a run a line), `windows.csv` (a window a line, the cosine of each
    predictor), and the PRD's `validation_results.json`, `retrieval_results.json` and
    `inference_benchmarks.json`. The table of a lone run too, which no matrix keeps: `judged.json`.

    Returns: what was written.
    """
    written = []
    for name, lines in csv_tables(inputs).items():
        if lines:
            written.append(folder / f"{name}.csv")
            write_text(written[-1], as_csv(lines))
    for name, found in prd_files(inputs).items():
        written.append(folder / f"{name}.json")
        write_json(written[-1], found)
    if inputs.kind == "run" and inputs.table is not None:
        written.append(folder / RUN_TABLE)
        write_json(written[-1], inputs.table)
    return written


def as_csv(lines: Sequence[Line]) -> str:
    """Lines of one table under the names of all their keys, in the order they first come; None is empty."""
    out = io.StringIO()
    keys = list(dict.fromkeys(key for line in lines for key in line))
    writer = csv.DictWriter(out, keys, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue()


def csv_tables(inputs: ReportInputs) -> dict[str, list[Line]]:
    """Name -> lines; a table that there is nothing for is empty."""
    return {
        "rows": [{k: v for k, v in row.items() if k not in NOT_FLAT} for row in inputs.rows],
        "versus_best_baseline": [
            {"name": row["name"], "metric": metric, **versus}
            for row in inputs.rows
            for metric, versus in row["versus_best_baseline"].items()
        ],
        "pairs": [] if inputs.table is None else list(inputs.table.get("pairs", [])),
        "seeds": [{"row": row["name"], **seed} for row in inputs.models for seed in row.get("per_seed", [])],
        "history": [
            {"run": run.name, "row": run.row, "seed": run.seed, **flatten(line)}
            for run in inputs.runs
            for line in run.history
        ],
        "windows": list(_windows(inputs)),
    }


def _windows(inputs: ReportInputs) -> Iterable[Line]:
    """Every evaluated window: its document, the rows of its last chunk read and its target, the cosines."""
    answers = inputs.answers
    if answers is None:
        return
    documents = None if inputs.store is None else inputs.store.documents
    places = (each.tolist() for each in (answers.document, answers.last, answers.target))
    for i, (document, last, target) in enumerate(zip(*places, strict=True)):
        name = document if documents is None else documents[document].doc_id
        cosines = {row: round(float(values["cosine"][i]), 6) for row, values in answers.values.items()}
        yield {"document": name, "last_row": last, "target_row": target, **cosines}


def prd_files(inputs: ReportInputs) -> dict[str, dict[str, Any]]:
    """The files that the PRD names, by name: those of the scores only where there is one."""
    found: dict[str, dict[str, Any]] = {"validation_results": _validation(inputs)}
    if inputs.table is not None:
        found["retrieval_results"] = _retrieval(inputs.table)
        # Speed and size: one context at a time on one thread, and in batches of 256 on all.
        of = {row["name"]: {k: row[k] for k in INFERENCE if row.get(k) is not None} for row in inputs.rows}
        found["inference_benchmarks"] = {"predictors": of}
    return found


def _validation(inputs: ReportInputs) -> dict[str, Any]:
    """All models on the validation documents: every run's result, or its last epoch while it has none."""

    def figures(run: RunFolder) -> Mapping[str, Any]:
        last = {"last_epoch": run.history[-1]} if run.history else {}
        return run.result or {"finished": False, **last}

    metric = "cosine and mse on the validation documents, of the model as it was saved"
    models = {row: {run.name: figures(run) for run in inputs.runs_of(row)} for row in inputs.trained}
    return {"metric": metric, "models": models}


def _retrieval(table: dict[str, Any]) -> dict[str, Any]:
    """Top-K accuracy on the evaluated documents, beside what it is among."""
    about = ("split", "windows", "documents", "candidates", "pool", "eligible", "chance", "best_baseline")
    found = {
        row["name"]: {k: v for k, v in row.items() if k in RETRIEVAL or k.startswith("recall@")}
        for row in table["rows"]
    }
    return {**{key: table[key] for key in about}, "predictors": found}


# Templates: how what we found becomes a page.

_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>|~#&$])")


def render(template: str, **values: object) -> str:
    """A template of `nextvec.reporting.templates`, filled in.

    In pages of HTML everything is escaped. Markdown has no such rule that holds everywhere, so there what
    comes from outside takes the filter `plain`.
    """
    environment = Environment(
        loader=PackageLoader("nextvec.reporting"),
        autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["plain"] = plain
    return environment.get_template(template).render(values)


def plain(text: object) -> str:
    """Text that Markdown shows as it is, on one line, in a cell of a table too."""
    return _MARKDOWN.sub(r"\\\1", " ".join(str(text).split()))


# How a matrix or a run can be made again: one file of configuration and one command.

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


def command(inputs: ReportInputs) -> str:
    """The command that makes it again, with `CONFIGURATION` in the working folder and the store beside it."""
    # The store's folder by its name alone: for whoever gets the report it lies elsewhere.
    noted = [run.metadata["store"] for run in inputs.runs if "store" in run.metadata]
    store = Path(noted[0]).name if noted else "STORE"
    if inputs.store is not None:
        store = inputs.store.path.resolve().name
    if inputs.kind == "run":
        model = inputs.runs[0].architecture
        seed = ["--set", f"runtime.seed={inputs.runs[0].seed}"] if inputs.runs[0].seed else []
        words = ["train", store, "--model", model, "--config", CONFIGURATION, *seed]
    else:
        words = ["matrix", store, *_axes(inputs), "--config", CONFIGURATION, *_exam(inputs)]
    return shlex.join(["nextvec", *words, "--out", inputs.name])


def _axes(inputs: ReportInputs) -> list[str]:
    plan = inputs.plan
    if plan is None:  # a table whose plan is gone: the rows tell the models
        return ["--models", ",".join(dict.fromkeys(run.architecture for run in inputs.runs))]
    words = ["--models", ",".join(plan.models), "--seeds", str(plan.seeds)]
    for flag, names in (("--objectives", plan.objectives), ("--tasks", plan.tasks)):
        words += [flag, ",".join(names)] if names else []
    for axis in plan.vary:
        words += ["--vary", axis]
    return words + (["--folds", str(plan.folds)] if plan.folds else [])


def _exam(inputs: ReportInputs) -> list[str]:
    """The flags of evaluation that differ from what they are by default."""
    table = inputs.table
    if table is None:
        return []
    words = ["--split", table["split"]] if table["split"] != "test" else []
    words += ["--candidates", table["candidates"]] if table["candidates"] != "split" else []
    sources = evaluated_sources(inputs)
    return words + (["--judge-sources", ",".join(sources)] if sources else [])


def evaluated_sources(inputs: ReportInputs) -> Sequence[str]:
    """The sources that were evaluated, where these are not all of the store's; none where it is unknown."""
    if inputs.answers is None or inputs.store is None:
        return ()
    documents = inputs.store.documents
    found = sorted({documents[i].source for i in set(inputs.answers.document.tolist())})
    trained = inputs.runs[0].config.get("data", {}).get("sources") if inputs.runs else []
    return () if found == sorted(trained or inputs.store.sources) else found
