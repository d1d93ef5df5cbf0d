"""Windows with their texts: what was read, what came next, and which passage each predictor took for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nextvec.corpus.store import Store
from nextvec.data.windows import IntArray, Windows
from nextvec.diagnostics.examples import nearest_candidates
from nextvec.disk import write_text
from nextvec.evaluation.predictor import row_dots, unit
from nextvec.reporting.inputs import Need, ReportInputs
from nextvec.reporting.pages import render
from nextvec.reporting.predicted import PredictedWindows, Values

NEEDS: tuple[Need, ...] = ("rows", "answers", "store")
PAGE = "qualitative.html"
DRAWN = 30
"""Windows on the page, as the brief asks."""


@dataclass(frozen=True)
class PredictorScore:
    """How close one predictor came: cosine to the true next vector, and its rank among the candidates."""

    row: str
    model: bool
    cosine: float
    rank: int


@dataclass(frozen=True)
class RetrievedPassage:
    """A passage that lies nearest to what some predictors said; `true` where it is what came next."""

    text: str
    title: str
    position: int
    true: bool
    answers: tuple[PredictorScore, ...]


@dataclass(frozen=True)
class WindowExample:
    """One window.

    Attributes:
        title, source, position: the document, and which of its chunks was to be predicted, from 0.
        before, after: texts of the nearest chunks read, in the document's order; `after` only where the chunk
            between them was asked for.
        target: text of what was to be predicted.
        best, cosine: the best model by cosine over all windows, and its cosine here.
        retrieved: every passage taken for it, the true one first, then by how many took it.
    """

    title: str
    source: str
    position: int
    before: tuple[str, ...]
    after: tuple[str, ...]
    target: str
    best: str
    cosine: float
    retrieved: tuple[RetrievedPassage, ...]


def extremes(inputs: ReportInputs, count: int) -> tuple[list[WindowExample], list[WindowExample]]:
    """At most `count` windows that the best model answered best and as many that it answered worst, at most
    one of a document each; no window is both. The most extreme come first.

    Args:
        inputs: that has `NEEDS`. Of several seeds, the first answers.
    Raises:
        NothingToDraw: no model was judged.
    """
    answered = PredictedWindows.of(inputs)
    order = np.argsort(-_cosines(answered, answered.best), kind="stable")
    half = (len(order) + 1) // 2
    best, worst = (
        _one_a_document(answered.answers.document, ranked, count)
        for ranked in (order[:half], order[half:][::-1])
    )
    made = _examples(answered, np.concatenate([best, worst]))
    return made[: len(best)], made[len(best) :]


def drawn(inputs: ReportInputs, count: int = DRAWN, seed: int = 0) -> list[WindowExample]:
    """`count` windows at even distances over the judged documents, from a random start on; all if there are
    fewer. Arguments and errors as `extremes`.
    """
    answered = PredictedWindows.of(inputs)
    n = min(count, len(answered))
    start = np.random.default_rng(seed).random()
    return _examples(answered, ((np.arange(n) + start) * len(answered) / n).astype(np.int64))


def write_qualitative(inputs: ReportInputs, folder: Path) -> Path | None:
    """Write `folder`/qualitative.html: windows drawn evenly, best and worst ones in no way preferred. Returns
    None where its inputs are missing."""
    if inputs.lacks(NEEDS) is not None or not inputs.models:
        return None
    write_text(folder / PAGE, render("qualitative.html.j2", inputs=inputs, examples=drawn(inputs)))
    return folder / PAGE


def _one_a_document(documents: IntArray, ranked: IntArray, count: int) -> IntArray:
    """The first of `ranked` of each document, at most `count`."""
    _, first = np.unique(documents[ranked], return_index=True)
    return ranked[np.sort(first)[:count]]


def _cosines(answered: PredictedWindows, row: str) -> Values:
    """[N] between predictions and truth."""
    return row_dots(unit(answered.units(row)), answered.targets)


def _examples(answered: PredictedWindows, chosen: IntArray) -> list[WindowExample]:
    """These windows [n], in this order."""
    exam = answered.exam.select(chosen)
    every = np.arange(len(chosen))
    found: list[dict[int, list[PredictorScore]]] = [{} for _ in chosen]
    for row in answered.inputs.rows:
        if row["name"] not in answered.answers.units:
            continue
        units = unit(answered.units(row["name"])[chosen])
        cosines, ranks = row_dots(units, answered.targets[chosen]), exam.ranks(units)
        # Of equals the true one counts as found: a rank says so too.
        nearest = np.where(ranks == 1, exam.windows.target, nearest_candidates(exam, units, every))
        for i in every:
            answer = PredictorScore(row["name"], row["kind"] == "model", float(cosines[i]), int(ranks[i]))
            found[i].setdefault(int(nearest[i]), []).append(answer)
    return [_example(answered, exam.windows, i, answers) for i, answers in enumerate(found)]


def _example(
    answered: PredictedWindows, windows: Windows, i: int, found: dict[int, list[PredictorScore]]
) -> WindowExample:
    store, target = answered.store, int(windows.target[i])
    document = store.documents[int(windows.document[i])]
    first, last = (int(edge[i]) for edge in windows.read_range)
    read = [row for row in range(max(first, last + 1 - _shown(windows)), last + 1) if row != target]
    retrieved = [_retrieved(store, row, answers, row == target) for row, answers in found.items()]
    retrieved.sort(key=lambda passage: (not passage.true, -len(passage.answers)))
    best = next(a.cosine for answers in found.values() for a in answers if a.row == answered.best)
    return WindowExample(
        title=document.title or document.doc_id,
        source=document.source,
        position=target - document.first,
        before=_texts(store, [row for row in read if row < target]),
        after=_texts(store, [row for row in read if row > target]),
        target=_texts(store, [target])[0],
        best=answered.best,
        cosine=best,
        retrieved=tuple(retrieved),
    )


def _shown(windows: Windows) -> int:
    """Rows that the chunks shown as read span, the gap of task middle among them."""
    return windows.context + (windows.task == "middle")


def _retrieved(store: Store, row: int, answers: Sequence[PredictorScore], true: bool) -> RetrievedPassage:
    at = int(np.searchsorted([d.first for d in store.documents], row, side="right")) - 1
    document = store.documents[at]
    return RetrievedPassage(
        text=_texts(store, [row])[0],
        title=document.title or document.doc_id,
        position=row - document.first,
        true=true,
        answers=tuple(answers),
    )


def _texts(store: Store, rows: Sequence[int]) -> tuple[str, ...]:
    """Texts of rows; of vectors without texts, that they have none."""
    return tuple(
        text.strip() or f"(row {row}: no text)" for row, text in zip(rows, store.texts(rows), strict=True)
    )
