"""The result in words. A claim's numbers are read out of files by path while it is put together, so that
each of them can be looked up there again."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from nextvec.disk import read_object
from nextvec.errors import RunError
from nextvec.evaluation.intervals import STANDING
from nextvec.evaluation.metrics import METRICS
from nextvec.evaluation.results import COMPARED
from nextvec.evaluation.table import FIGURES, TABLE, read_table
from nextvec.experiments.runs import RunFolder
from nextvec.models.saving import WEIGHTS
from nextvec.reporting.inputs import RUN_TABLE, ReportInputs
from nextvec.training.history import HISTORY
from nextvec.training.loop import METRICS as RESULT

QUOTED = ("cosine", "recall@5")
"""What the headline compares models by; `energy_score` too, where a model predicts a distribution."""
Relation = Literal["above", "level", "below", "plain"]
_STEP = re.compile(r"\[(?P<index>\d+)\]|(?P<key>[^.\[\]]+)")


@dataclass(frozen=True)
class Claim:
    """A sentence.

    Attributes:
        text: what is claimed.
        figures: FILE#PATH -> the value there, of every number in the text, as in
            {"matrix.json#rows[3].cosine": 0.59}.
        standing: against the best baseline, where the claim is about that.
    """

    text: str
    figures: dict[str, float]
    standing: Relation = "plain"


@dataclass
class Quote:
    """Writes numbers of one JSON file into a text and remembers where they stand."""

    file: str
    document: Any
    figures: dict[str, float] = field(default_factory=dict)

    def __call__(self, path: str, form: str = ",", *, turned: bool = False) -> str:
        """The value at a path such as "rows[3].cosine", in a format; KeyError where there is none.

        Args:
            turned: write its negative: a table has the difference of two rows one way round only.
        """
        value = resolve(self.document, path)
        self.figures[f"{self.file}#{path}"] = value
        return format(-value if turned else value, form)


def resolve(document: Any, path: str) -> Any:
    """What stands at a path of names and [indices]. Raises KeyError, IndexError."""
    for step in _STEP.finditer(path):
        document = document[int(step["index"]) if step["index"] else step["key"]]
    return document


def headline(inputs: ReportInputs) -> list[Claim]:
    """What came out, the most important first; of what is not evaluated yet, how its training stands."""
    if inputs.table is None:
        return list(_trained(inputs))
    return [*_compared(inputs, inputs.table), _evaluated(inputs, inputs.table)]


def _compared(inputs: ReportInputs, table: dict[str, Any]) -> Iterator[Claim]:
    """By each figure: the best model against the best baseline and against the next model."""
    for metric in (*QUOTED, "energy_score"):
        if metric == "energy_score" and not any(row.get("diversity") for row in inputs.models):
            continue
        ranked = _ranked(inputs.models, metric)
        if not ranked:
            continue
        quote = Quote(inputs.table_file, table)
        text, standing = _against_baseline(quote, ranked, metric)
        yield Claim(f"{text}{_against_next(quote, ranked, metric)}", quote.figures, standing)


def _ranked(rows: list[dict[str, Any]], metric: str) -> list[str]:
    """Names of the rows that have the figure, the best first."""
    known = [row for row in rows if row.get(metric) is not None]
    known.sort(key=lambda row: row[metric], reverse=METRICS[metric].better == "higher")
    return [row["name"] for row in known]


def _against_baseline(quote: Quote, ranked: list[str], metric: str) -> tuple[str, Relation]:
    rows = quote.document["rows"]
    names = [row["name"] for row in rows]
    at = names.index(ranked[0])
    only = "" if len(ranked) > 1 else " (the only one)"
    figure = quote(f"rows[{at}].{metric}", ".4f")
    text = f"By {metric.replace('_', ' ')} the best model is {ranked[0]}{only} at {figure}"
    best = quote.document["best_baseline"].get(metric)
    if best is None:
        return f"{text}; no baseline was evaluated beside it", "plain"
    opponent = f"the best baseline, {best}, at {quote(f'rows[{names.index(best)}].{metric}', '.4f')}"
    if metric not in rows[at]["versus_best_baseline"]:
        return f"{text}, {opponent}; one document gives no interval", "plain"
    difference = _difference(quote, f"rows[{at}].versus_best_baseline.{metric}")
    better = rows[at]["versus_best_baseline"][metric]["better"]
    relations: dict[bool | None, Relation] = {True: "above", False: "below", None: "level"}
    return f"{text}, {STANDING[better]} {opponent}: {difference}", relations[better]


def _against_next(quote: Quote, ranked: list[str], metric: str) -> str:
    """Whether the best model is better than the second, by the interval that the table has of them."""
    pairs = quote.document.get("pairs", [])
    for at, pair in enumerate(pairs):
        if pair["metric"] == metric and {pair["row"], pair["than"]} == set(ranked[:2]):
            how = STANDING[True if pair["low"] > 0 or pair["high"] < 0 else None]
            difference = _difference(quote, f"pairs[{at}]", turned=pair["row"] != ranked[0])
            return f". It is {how} the next model, {ranked[1]}: {difference}."
    return "."


def _difference(quote: Quote, path: str, *, turned: bool = False) -> str:
    ends = ("high", "low") if turned else ("low", "high")
    middle, low, high = (quote(f"{path}.{end}", "+.4f", turned=turned) for end in ("difference", *ends))
    return f"difference {middle} [{low}, {high}]"


def _evaluated(inputs: ReportInputs, table: dict[str, Any]) -> Claim:
    quote = Quote(inputs.table_file, table)
    seen = "documents that were trained on" if table["in_sample"] else "documents that no model saw"
    text = (
        f"Evaluated on {quote('windows')} windows of {quote('documents')} {seen}, among "
        f"{quote('pool')} candidates; intervals of 95 % over documents."
    )
    if table["in_sample"]:
        text += " In-sample figures say nothing about new documents."
    if len(inputs.models) > 1:
        text += " The best model was picked by these same figures, which flatters it a little."
    return Claim(text, quote.figures)


def _trained(inputs: ReportInputs) -> Iterator[Claim]:
    """How far the training came, where nothing was evaluated."""
    best = max((run for run in inputs.runs if run.history), key=_cosine, default=None)
    if best is None:
        yield Claim("Nothing was trained to the end of an epoch yet.", {})
        return
    name, where = f"The best run so far, {best.name},", f"runs/{best.name}/"
    if inputs.kind == "run":
        name, where = best.name, ""
    yield _result(best, name, where) if best.result is not None else _so_far(best, name, where)
    yield Claim("Nothing was evaluated beside the baselines yet: this shows only how training went.", {})


def _cosine(run: RunFolder) -> float:
    return max(float(line["validation"]["cosine"]) for line in run.history)


def _result(run: RunFolder, name: str, where: str) -> Claim:
    quote = Quote(f"{where}{RESULT}", run.result)
    text = (
        f"{name} reached a cosine of {quote('verified.cosine', '.4f')} on its validation "
        f"documents, with the model of epoch {quote('epoch')} of {quote('epochs')}, after {quote('updates')} "
        f"updates and {quote('seconds', ',.0f')} s."
    )
    return Claim(text, quote.figures)


def _so_far(run: RunFolder, name: str, where: str) -> Claim:
    lines = list(run.history)
    at = max(range(len(lines)), key=lambda i: lines[i]["validation"]["cosine"])
    quote = Quote(f"{where}{HISTORY}", lines)
    text = (
        f"{name} was interrupted; its best cosine on the validation documents so far is "
        f"{quote(f'[{at}].validation.cosine', '.4f')}, in epoch {quote(f'[{at}].epoch')}."
    )
    return Claim(text, quote.figures)


# Where one run stands in the table that it was evaluated in.

REPORT = "report"
"""Where a run's report lies, unless it was asked for elsewhere."""
READINGS = {better: words.rsplit(" ", 1)[0] for better, words in STANDING.items()}


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
        """Whether the row is better or worse; None: neither, or not known."""
        return None if self.difference is None else self.difference["better"]

    def cells(self) -> list[str]:
        """Metric, figure, best baseline, its figure, difference with interval, how to read it."""
        form, interval = FIGURES[self.metric][1], ["", ""]
        if self.difference is not None:
            signed = form.replace("{:", "{:+")
            middle, low, high = (signed.format(self.difference[k]) for k in ("difference", "low", "high"))
            interval = [f"{middle} [{low}, {high}]", READINGS[self.better]]
        better = f"{self.metric} ({METRICS[self.metric].better} is better)"
        return [better, form.format(self.figure), self.best, form.format(self.best_figure), *interval]


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
        """Of the run of `inputs`: as it was evaluated just now, by the matrix that it belongs to, or by its
        last report; None where it was not. Raises RunError for a damaged table."""
        if inputs.table is not None:
            return cls._in(inputs.table, WEIGHTS)
        folder = inputs.folder.resolve()
        matrix = folder.parent.parent
        if (matrix / TABLE).is_file():
            found = cls._in(read_table(matrix), f"{folder.parent.name}/{folder.name}/{WEIGHTS}")
            if found is not None:
                return found
        table_file = folder / REPORT / RUN_TABLE
        if not table_file.is_file():
            return None
        return cls._in(read_object(table_file, RunError, needs={"rows": list}), WEIGHTS)

    @classmethod
    def _in(cls, table: Mapping[str, Any], weights: str) -> Standing | None:
        """In the first of the tables that evaluated this file of weights."""
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
            Beside(each, self.row[each], best[each], rows[best[each]][each], differences.get(each))
            for each in COMPARED
            if each in best
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
            yield f"A simple baseline is better by {', '.join(worse)}: take it where that counts."
        if beside and not any(each.better for each in beside):
            yield "It is better than the best baseline by no figure."
        if self.table["in_sample"]:
            yield "It was evaluated on documents that it was trained on: that says nothing about new ones."
        if self.row["seeds"] == 1:
            yield "One run was trained: what another seed would change is not known."
        yield "The documents evaluated are of the same store as those trained on; others may be harder."
