"""Where one run stands in the table that it was judged in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nextvec.disk import read_json
from nextvec.errors import RunError
from nextvec.evaluation.metrics import METRICS
from nextvec.evaluation.report import COMPARED
from nextvec.evaluation.table import FIGURES
from nextvec.experiments.matrix import TABLE, read_table
from nextvec.models.saving import WEIGHTS
from nextvec.reporting.inputs import JUDGED, ReportInputs

REPORT = "report"
"""Where a run's report lies, unless it was asked for elsewhere."""
READINGS = {True: "better", False: "worse", None: "not told apart"}


@dataclass(frozen=True)
class Beside:
    """One figure of a row beside the best baseline's; `difference` has "difference", "low", "high" and
    "better", and is None where one document gives no interval."""

    metric: str
    figure: float
    best: str
    best_figure: float
    difference: Mapping[str, Any] | None

    @property
    def better(self) -> bool | None:
        """Whether the row is clearly better or worse; None: neither, or not known."""
        return None if self.difference is None else self.difference["better"]

    def cells(self) -> list[str]:
        """Metric, figure, best baseline, its figure, difference with interval, how to read it."""
        form, said = FIGURES[self.metric][1], ["", ""]
        if self.difference is not None:
            signed = form.replace("{:", "{:+")
            middle, low, high = (signed.format(self.difference[k]) for k in ("difference", "low", "high"))
            said = [f"{middle} [{low}, {high}]", READINGS[self.better]]
        better = f"{self.metric} ({METRICS[self.metric].better} is better)"
        return [better, form.format(self.figure), self.best, form.format(self.best_figure), *said]


@dataclass(frozen=True)
class Standing:
    """A run's place in a table.

    Attributes:
        table: all of it.
        row: the row of the run and, where there are several, of its other seeds.
        own: the figures of the run alone, as far as the table has them.
    """

    table: Mapping[str, Any]
    row: Mapping[str, Any]
    own: Mapping[str, Any]

    @classmethod
    def find(cls, inputs: ReportInputs) -> Standing | None:
        """Of the run of `inputs`: as it was judged just now, by the matrix that it belongs to, or by its
        last report; None where it was not. Raises RunError for a damaged table."""
        if inputs.table is not None:
            return cls._in(inputs.table, WEIGHTS)
        folder = inputs.folder.resolve()
        matrix = folder.parent.parent
        if (matrix / TABLE).is_file():
            found = cls._in(read_table(matrix), f"{folder.parent.name}/{folder.name}/{WEIGHTS}")
            if found is not None:
                return found
        judged = folder / REPORT / JUDGED
        return cls._in(read_json(judged, RunError), WEIGHTS) if judged.is_file() else None

    @classmethod
    def _in(cls, table: Mapping[str, Any], weights: str) -> Standing | None:
        """In the first of the tables that judged this file of weights."""
        for each in (table, *table.get("others", {}).values()):
            for row in each["rows"]:
                for own in row.get("per_seed", []):
                    if own.get("model_file") == weights:
                        return cls(each, row, row if row["seeds"] == 1 else own)
        return None

    @property
    def beside(self) -> list[Beside]:
        """Every figure that there is of the row and of a baseline."""
        best = {m: name for m, name in self.table["best_baseline"].items() if self.row.get(m) is not None}
        rows = {row["name"]: row for row in self.table["rows"]}
        differences = self.row["versus_best_baseline"]
        return [
            Beside(
                metric, self.row[metric], best[metric], rows[best[metric]][metric], differences.get(metric)
            )
            for metric in COMPARED
            if metric in best
        ]

    @property
    def seeds(self) -> str:
        """Of how many runs the figures are, and this run's own among several."""
        count = self.row["seeds"]
        if count == 1:
            return "The figures are of this run."
        known = [metric for metric in COMPARED if self.own.get(metric) is not None]
        own = ", ".join(f"{metric} {FIGURES[metric][1].format(self.own[metric])}" for metric in known)
        return f"The figures are means of {count} runs that differ in their seed only. This run alone: {own}."

    def limits(self) -> Iterator[str]:
        """What the table says against the run, in words."""
        beside = self.beside
        worse = [f"{each.metric} ({each.best})" for each in beside if each.better is False]
        if worse:
            yield f"A simple baseline is clearly better by {', '.join(worse)}: take it where that counts."
        if beside and not any(each.better for each in beside):
            yield "It is not clearly better than the best baseline by any figure."
        if self.table["in_sample"]:
            yield "It was judged on documents that it was trained on: that says nothing of new ones."
        if self.row["seeds"] == 1:
            yield "One run was trained: what another seed would change is not known."
        yield "The documents judged are of the same store as those trained on; others may be harder."
