"""What was answered beside what was true, window by window: for the figures that look at single windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nextvec.corpus.store import Store
from nextvec.data.gather import gather_rows
from nextvec.data.trained import TRAINED_ON, TrainedOn
from nextvec.data.windows import FloatArray, IntArray, Windows
from nextvec.diagnostics.examples import nearest_candidates, one_a_document
from nextvec.diagnostics.sections import sample
from nextvec.disk import write_text
from nextvec.errors import NothingToDraw
from nextvec.evaluation.evaluation_set import EvaluationSet
from nextvec.evaluation.harness import EvaluationConfig, make_evaluation_set
from nextvec.evaluation.predictor_protocol import row_dots, unit
from nextvec.evaluation.results import KeptPredictions
from nextvec.reporting.drawing import best_baseline
from nextvec.reporting.inputs import Need, ReportInputs
from nextvec.reporting.result_files import render

Values = NDArray[np.float64]
MOST_SEEN = 5000
"""Windows whose vectors are looked at: all of most test splits, and no memory of a very large one."""
MOST_WINDOWS, FEWEST_WINDOWS = 1000, 100
MOST_PRODUCTS = 2e10
"""Multiplications that a search for nearest training chunks may take: seconds on one core."""


@dataclass(frozen=True)
class PredictedWindows:
    """The answers of a matrix, with the store they were given on. N windows of D dimensions.

    Figures ask for the needs "rows", "answers" and "store" before they make one.

    Attributes:
        answers: to N of the evaluated windows.
    """

    inputs: ReportInputs
    answers: KeptPredictions
    store: Store

    @classmethod
    def of(cls, inputs: ReportInputs, most: int = MOST_SEEN) -> PredictedWindows:
        """Of a inputs that has answers and a store: of at most so many windows, drawn the same each time.

        Raises:
            NothingToDraw: no model was evaluated.
        """
        assert inputs.answers is not None
        assert inputs.store is not None
        found = cls(inputs, _some(inputs.answers, most), inputs.store)
        if not found.models:
            raise NothingToDraw("no model was evaluated")
        return found

    def __len__(self) -> int:
        return len(self.answers.target)

    @cached_property
    def models(self) -> tuple[str, ...]:
        """The models that answered, the best by cosine first."""
        return models_of(self.inputs)

    @property
    def best(self) -> str:
        """The model with the highest cosine."""
        return self.models[0]

    @property
    def baseline(self) -> str | None:
        """The baseline with the highest cosine; None where none was evaluated."""
        best = best_baseline(self.inputs, "cosine")
        return None if best is None else best["name"]

    def units(self, row: str) -> FloatArray:
        """[N, D] predictions of one row, of unit length as far as float16 kept it."""
        return np.asarray(self.answers.units[row], dtype=np.float32)

    @cached_property
    def targets(self) -> FloatArray:
        """[N, D] the true next vectors, of unit length."""
        return unit(gather_rows(self.store.vectors, self.answers.target))

    @cached_property
    def lengths(self) -> IntArray:
        """[N] chunks in each window's document."""
        return np.array([self.store.documents[i].count for i in self.answers.document], dtype=np.int64)

    @cached_property
    def evaluation_set(self) -> EvaluationSet:
        table = self.inputs.table
        assert table is not None
        document = self.answers.document
        first = np.array([self.store.documents[i].first for i in document], dtype=np.int64)
        horizon, task = table["horizon"], table.get("task", "next")
        windows = Windows.of_targets(self.answers.target, first, document, table["context"], horizon, task)
        question = {"context": windows.context, "horizon": horizon, "task": task}
        how = EvaluationConfig(**question, candidates=table["candidates"])
        return make_evaluation_set(self.store, windows, np.unique(document).tolist(), how, None)

    @cached_property
    def trained(self) -> IntArray:
        """[n] rows of the chunks trained on, ascending. Raises NothingToDraw: no run lists them."""
        runs = (runs[0] for row in self.models if (runs := self.inputs.runs_of(row)))
        listed = [file for run in runs if (file := run.folder / TRAINED_ON).is_file()]
        if not listed:
            raise NothingToDraw("no run here lists what it was trained on")
        seen = TrainedOn.union([TrainedOn.load(path) for path in listed])
        return self.store.rows_of(seen.among(self.store.documents))


def _some(answers: KeptPredictions, most: int) -> KeptPredictions:
    if len(answers.target) <= most:
        return answers
    which = sample(len(answers.target), most, seed=0)
    return replace(
        answers,
        target=answers.target[which],
        last=answers.last[which],
        document=answers.document[which],
        values={row: {name: v[which] for name, v in own.items()} for row, own in answers.values.items()},
        units={row: units[which] for row, units in answers.units.items()},
    )


def models_of(inputs: ReportInputs) -> tuple[str, ...]:
    """The models of the table, the best by cosine first."""
    ranked = sorted(inputs.models, key=lambda row: -(row["cosine"] or 0.0))
    return tuple(row["name"] for row in ranked)


def searchable(answered: PredictedWindows, *, share: float = 1.0, seed: int = 0) -> IntArray:
    """Windows [n], at most 1,000 and as many as can be compared with all that was trained on in a `share` of
    the time that a figure may take. Raises NothingToDraw: nothing of what was trained on is here."""
    products = len(answered.trained) * answered.store.dimension
    if not products:
        raise NothingToDraw("the store holds nothing of what was trained on")
    able = int(share * MOST_PRODUCTS / products)
    return sample(len(answered), min(MOST_WINDOWS, max(FEWEST_WINDOWS, able)), seed)


# Windows with their texts: what was read, what came next, and which passage each predictor took for it.

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
        NothingToDraw: no model was evaluated.
    """
    answered = PredictedWindows.of(inputs)
    cosines = row_dots(unit(answered.units(answered.best)), answered.targets)
    order = np.argsort(-cosines, kind="stable")
    half = (len(order) + 1) // 2
    best, worst = (
        one_a_document(answered.answers.document, ranked, count)
        for ranked in (order[:half], order[half:][::-1])
    )
    made = _examples(answered, np.concatenate([best, worst]))
    return made[: len(best)], made[len(best) :]


def drawn(inputs: ReportInputs, count: int = DRAWN, seed: int = 0) -> list[WindowExample]:
    """`count` windows at even distances over the evaluated documents, from a random start; all if there are
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


def _examples(answered: PredictedWindows, chosen: IntArray) -> list[WindowExample]:
    """These windows [n], in this order."""
    evaluation_set = answered.evaluation_set.select(chosen)
    every = np.arange(len(chosen))
    found: list[dict[int, list[PredictorScore]]] = [{} for _ in chosen]
    for row in answered.inputs.rows:
        if row["name"] not in answered.answers.units:
            continue
        units = unit(answered.units(row["name"])[chosen])
        cosines, ranks = row_dots(units, answered.targets[chosen]), evaluation_set.ranks(units)
        # Of equals the true one counts as found: a rank says so too.
        nearest = np.where(
            ranks == 1, evaluation_set.windows.target, nearest_candidates(evaluation_set, units, every)
        )
        for i in every:
            answer = PredictorScore(row["name"], row["kind"] == "model", float(cosines[i]), int(ranks[i]))
            found[i].setdefault(int(nearest[i]), []).append(answer)
    return [_example(answered, evaluation_set.windows, i, answers) for i, answers in enumerate(found)]


def _example(
    answered: PredictedWindows, windows: Windows, i: int, found: dict[int, list[PredictorScore]]
) -> WindowExample:
    store, target = answered.store, int(windows.target[i])
    document = store.documents[int(windows.document[i])]
    first, last = (int(edge[i]) for edge in windows.read_range)
    shown = windows.context + (windows.task == "middle")  # with the gap
    read = [row for row in range(max(first, last + 1 - shown), last + 1) if row != target]
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


def _retrieved(store: Store, row: int, answers: Sequence[PredictorScore], true: bool) -> RetrievedPassage:
    document = store.documents[int(store.document_of(row))]
    return RetrievedPassage(
        text=_texts(store, [row])[0],
        title=document.title or document.doc_id,
        position=row - document.first,
        true=true,
        answers=tuple(answers),
    )


def _texts(store: Store, rows: Sequence[int]) -> tuple[str, ...]:
    """Texts of rows; of vectors without texts, that they have none."""
    pairs = zip(rows, store.texts(rows), strict=True)
    return tuple(text.strip() or f"(row {row}: no text)" for row, text in pairs)
