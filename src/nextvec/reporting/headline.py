"""The result in words. A claim's numbers are read out of files by path while it is put together, so that
each of them can be looked up there again."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from nextvec.evaluation.metrics import METRICS
from nextvec.reporting.inputs import ReportInputs, Run
from nextvec.training.history import HISTORY
from nextvec.training.loop import METRICS as RESULT

SAID = ("cosine", "recall@5")
"""What the headline compares models by; `energy_score` too, where a model predicts a distribution."""
Standing = Literal["above", "level", "below", "plain"]
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
    standing: Standing = "plain"


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
    """What came out, the most important first; of what is not judged yet, how its training stands."""
    if inputs.table is None:
        return list(_trained(inputs))
    found = list(_compared(inputs, inputs.table))
    return [*found, _judged(inputs)]


def _compared(inputs: ReportInputs, table: dict[str, Any]) -> Iterator[Claim]:
    """By each figure: the best model against the best baseline and against the next model."""
    for metric in (*SAID, "energy_score"):
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


def _against_baseline(quote: Quote, ranked: list[str], metric: str) -> tuple[str, Standing]:
    rows = quote.document["rows"]
    names = [row["name"] for row in rows]
    at = names.index(ranked[0])
    only = "" if len(ranked) > 1 else " (the only one)"
    figure = quote(f"rows[{at}].{metric}", ".4f")
    text = f"By {metric.replace('_', ' ')} the best model is {ranked[0]}{only} at {figure}"
    best = quote.document["best_baseline"].get(metric)
    if best is None:
        return f"{text}; no baseline was judged beside it", "plain"
    said = f"the best baseline, {best}, at {quote(f'rows[{names.index(best)}].{metric}', '.4f')}"
    if metric not in rows[at]["versus_best_baseline"]:
        return f"{text}, {said}; one document gives no interval", "plain"
    difference = _difference(quote, f"rows[{at}].versus_best_baseline.{metric}")
    better = rows[at]["versus_best_baseline"][metric]["better"]
    words: dict[bool | None, tuple[str, Standing]] = {
        True: ("clearly better than", "above"),
        False: ("clearly worse than", "below"),
        None: ("not told apart from", "level"),
    }
    verdict, standing = words[better]
    return f"{text}, {verdict} {said}: {difference}", standing


def _against_next(quote: Quote, ranked: list[str], metric: str) -> str:
    """Whether the best model is clearly ahead of the second, by the interval that the table has of them."""
    pairs = quote.document.get("pairs", [])
    for at, pair in enumerate(pairs):
        if pair["metric"] == metric and {pair["row"], pair["than"]} == set(ranked[:2]):
            clear = "" if pair["low"] > 0 or pair["high"] < 0 else "not "
            difference = _difference(quote, f"pairs[{at}]", turned=pair["row"] != ranked[0])
            return f". It is {clear}clearly ahead of the next model, {ranked[1]}: {difference}."
    return "."


def _difference(quote: Quote, path: str, *, turned: bool = False) -> str:
    """A difference with its interval."""
    ends = ("high", "low") if turned else ("low", "high")
    middle, low, high = (quote(f"{path}.{end}", "+.4f", turned=turned) for end in ("difference", *ends))
    return f"difference {middle} [{low}, {high}]"


def _judged(inputs: ReportInputs) -> Claim:
    """On what all of this stands."""
    table = inputs.table
    assert table is not None
    quote = Quote(inputs.table_file, table)
    seen = "documents that were trained on" if table["in_sample"] else "documents that no model saw"
    text = (
        f"Judged on {quote('windows')} windows of {quote('documents')} {seen}, among "
        f"{quote('pool')} candidates; intervals of 95 % over documents."
    )
    if table["in_sample"]:
        text += " In-sample figures say nothing about new documents."
    if len(inputs.models) > 1:
        text += " The best model was picked by these same figures, which flatters it a little."
    return Claim(text, quote.figures)


def _trained(inputs: ReportInputs) -> Iterator[Claim]:
    """How far the training came, where nothing was judged."""
    best = max((run for run in inputs.runs if run.history), key=_cosine, default=None)
    if best is None:
        yield Claim("Nothing was trained to the end of an epoch yet.", {})
        return
    yield _result(inputs, best) if best.result is not None else _so_far(inputs, best)
    yield Claim("Nothing was judged beside the baselines yet: this says how training went, no more.", {})


def _cosine(run: Run) -> float:
    return max(float(line["validation"]["cosine"]) for line in run.history)


def _result(inputs: ReportInputs, run: Run) -> Claim:
    quote = Quote(_file(inputs, run, RESULT), run.result)
    text = (
        f"{_called(inputs, run)} reached a cosine of {quote('verified.cosine', '.4f')} on its validation "
        f"documents, with the model of epoch {quote('epoch')} of {quote('epochs')}, after {quote('updates')} "
        f"updates and {quote('seconds', ',.0f')} s."
    )
    return Claim(text, quote.figures)


def _so_far(inputs: ReportInputs, run: Run) -> Claim:
    lines = list(run.history)
    at = max(range(len(lines)), key=lambda i: lines[i]["validation"]["cosine"])
    quote = Quote(_file(inputs, run, HISTORY), lines)
    text = (
        f"{_called(inputs, run)} was interrupted; its best cosine on the validation documents so far is "
        f"{quote(f'[{at}].validation.cosine', '.4f')}, in epoch {quote(f'[{at}].epoch')}."
    )
    return Claim(text, quote.figures)


def _called(inputs: ReportInputs, run: Run) -> str:
    return run.name if inputs.kind == "run" else f"The best run so far, {run.name},"


def _file(inputs: ReportInputs, run: Run, name: str) -> str:
    return name if inputs.kind == "run" else f"runs/{run.name}/{name}"
