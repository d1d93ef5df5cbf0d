"""The report: one page that holds everything and needs nothing beside it, and the same as files."""

from __future__ import annotations

import base64
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nextvec.config import nested, write_toml
from nextvec.diagnostics.sections import Verdict
from nextvec.disk import locked, write_text
from nextvec.errors import NextvecError, RunError
from nextvec.evaluation.table import FIGURES, METADATA, heading, legend
from nextvec.progress import Progress
from nextvec.reporting.card import write_card
from nextvec.reporting.figures import Format, Spec, chosen, draw, save
from nextvec.reporting.headline import headline
from nextvec.reporting.inputs import ReportInputs
from nextvec.reporting.predicted import NEEDS, extremes, write_qualitative
from nextvec.reporting.result_files import CONFIGURATION, command, own, render, shared, write_tables

PAGE = "report.html"
PLOTS = "comparison_plots"
"""Beside the JSON files, as the brief's PRD has it."""
LARGE_SVG = 100_000
"""Bytes from which the page shows a figure as PNG: of many points a vector drawing is the larger."""
EXAMPLES = 10
"""Of the best answered windows, and as many of the worst."""
ENVIRONMENT_KEYS = (
    "nextvec",
    "python",
    "platform",
    "device",
    "device_name",
    "precision",
    "threads",
    "packages",
)
WHAT = {
    "rows": "The scores",
    "histories": "Training curves",
    "answers": "Answers window by window",
    "store": "The store",
    "deep": "What needs the models",
}


@dataclass(frozen=True)
class Picture:
    """A figure on the page: `source` is the picture itself, as a data URI."""

    spec: Spec
    source: str


@dataclass(frozen=True)
class TableCell:
    """A cell of the table: what is shown, what it is sorted by, and how it stands to the best baseline."""

    text: str
    value: str | float = ""
    standing: str = ""


@dataclass
class Made:
    """What a report came to.

    Attributes:
        page: the file to open.
        files: everything else that was written.
        left_out: figure, or the model card -> why it could not be made.
    """

    page: Path
    files: list[Path] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


def make_report(
    inputs: ReportInputs, out: Path, *, figures: Collection[str] | None = None, quiet: bool = False
) -> Made:
    """Write `report.html`, every figure as PNG and SVG, every number as CSV, and the PRD's JSON into `out`.
    A run gets its model card too.

    Args:
        figures: names of the figures to draw; None is all of them.
    Raises:
        ConfigError: an unknown figure.
        BusyError: another process is writing `out`. DiskError: it cannot be written to.
        MissingDependencyError: figures are asked for and matplotlib is not installed.
    """
    made = Made(out / PAGE)
    with locked(out):
        sections = _sections(inputs, made, figures, quiet=quiet)
        made.files += write_tables(inputs, out)
        if (qualitative := write_qualitative(inputs, out)) is not None:
            made.files.append(qualitative)
        if inputs.runs:
            write_toml(out / CONFIGURATION, nested(shared(inputs)))
            made.files.append(out / CONFIGURATION)
        write_text(made.page, page(inputs, sections, made.left_out))
        if inputs.kind == "run":
            try:
                made.files.append(write_card(inputs))
            except RunError as e:
                made.left_out["the model card"] = str(e)
    return made


def page(inputs: ReportInputs, sections: Mapping[str, Sequence[Picture]], left_out: Mapping[str, str]) -> str:
    """The page as HTML. Whatever comes from documents, files or folders is escaped."""
    best, worst = ([], []) if inputs.lacks(NEEDS) or not inputs.models else extremes(inputs, EXAMPLES)
    return render(
        "report.html.j2",
        inputs=inputs,
        claims=headline(inputs),
        tables=[] if inputs.table is None else _tables(inputs.table),
        failed={} if inputs.table is None else inputs.table["failed"],
        sections=sections,
        best=best,
        worst=worst,
        verdicts=_verdicts(inputs),
        settings=shared(inputs),
        differences=_differences(inputs),
        environment=_environment(inputs),
        command=command(inputs),
        configuration=CONFIGURATION,
        missing=_missing(inputs, left_out),
    )


def _sections(
    inputs: ReportInputs, made: Made, names: Collection[str] | None, *, quiet: bool
) -> dict[str, list[Picture]]:
    """Draw and write the figures; those that could not be drawn are noted in `made`."""
    if names is not None and not names:
        return {}
    found: dict[str, list[Picture]] = {}
    with Progress("report", len(chosen(names)), "figures", quiet=quiet) as progress:
        for spec, drawn in draw(inputs, names):
            progress.advance(note=spec.name)
            if isinstance(drawn, str):
                made.left_out[spec.name] = drawn
                continue
            files = save(drawn, made.page.parent / PLOTS, spec.name)
            made.files += [made.page.parent / PLOTS / f"{spec.name}.{form}" for form in files]
            found.setdefault(spec.section, []).append(Picture(spec, _data_uri(files)))
    return found


def _data_uri(files: Mapping[Format, bytes]) -> str:
    form: Format = "svg" if len(files["svg"]) < LARGE_SVG else "png"
    kind = {"svg": "image/svg+xml", "png": "image/png"}[form]
    return f"data:{kind};base64,{base64.b64encode(files[form]).decode()}"


def _tables(table: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The main table and those of the other questions."""
    return [_table(title, each) for title, each in {"Results": table, **table.get("others", {})}.items()]


def _table(title: str, report: Mapping[str, Any]) -> dict[str, Any]:
    """As the template takes it."""
    shown = FIGURES | METADATA
    keys = [key for key in shown if any(row.get(key) is not None for row in report["rows"])]
    rows = [
        [TableCell(row["name"], row["name"], row["kind"]), *(_cell(report, row, key) for key in keys)]
        for row in report["rows"]
    ]
    head = ["predictor", *(shown[key][0] for key in keys)]
    about, notes = heading(report), [legend(head), *report["notes"]]
    return {"title": title, "about": about, "columns": head, "rows": rows, "notes": notes}


def _cell(report: Mapping[str, Any], row: Mapping[str, Any], key: str) -> TableCell:
    value = row.get(key)
    if value is None:
        return TableCell("")
    text = (FIGURES | METADATA)[key][1].format(value)
    if report["best_baseline"].get(key) == row["name"]:
        return TableCell(f"{text}*", value, "best")
    better = row["versus_best_baseline"].get(key, {}).get("better")
    mark, standing = {True: ("+", "above"), False: ("−", "below"), None: ("", "")}[better]
    return TableCell(f"{text}{mark}", value, standing)


def _verdicts(inputs: ReportInputs) -> list[Verdict]:
    """What the data diagnosis says, the gravest first; nothing without a store."""
    order = ("red", "warning", "note", "ok")
    try:
        found = inputs.diagnosis
    except NextvecError as e:
        return [Verdict("diagnosis", "warning", f"the data could not be looked at: {e}")]
    return [] if found is None else sorted(found.verdicts, key=lambda verdict: order.index(verdict.level))


def _differences(inputs: ReportInputs) -> tuple[list[str], list[list[str]]]:
    """What rows differ in, as columns and lines."""
    found = own(inputs)
    keys = sorted({key for differing in found.values() for key in differing})
    return keys, [[row, *(_text(found[row].get(key)) for key in keys)] for row in found]


def _environment(inputs: ReportInputs) -> dict[str, str]:
    """What the runs ran on; where they differ, all that was said."""
    environment = {
        key: dict.fromkeys(_text(run.metadata.get(key)) for run in inputs.runs) for key in ENVIRONMENT_KEYS
    }
    return {key: "; ".join(filter(None, values)) for key, values in environment.items() if any(values)}


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {each}" for key, each in value.items())
    return "" if value is None else str(value)


def _missing(inputs: ReportInputs, left_out: Mapping[str, str]) -> dict[str, str]:
    """What is not on the page, and why."""
    parts = {WHAT[need]: why for need, why in inputs.missing.items()}
    figures = {f"Figure {name}": why for name, why in left_out.items() if why not in parts.values()}
    return parts | figures
