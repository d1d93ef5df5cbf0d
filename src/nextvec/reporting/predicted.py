"""What was answered beside what was true, window by window: for the figures that look at single windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nextvec.corpus.store import Store
from nextvec.data.gather import gather_rows
from nextvec.data.trained import TRAINED_ON, TrainedOn
from nextvec.data.windows import FloatArray, IntArray, Windows
from nextvec.diagnostics.engine import sample
from nextvec.evaluation.evaluation_set import EvaluationSet
from nextvec.evaluation.harness import EvaluationConfig, make_evaluation_set
from nextvec.evaluation.predictor import unit
from nextvec.evaluation.report import KeptPredictions
from nextvec.reporting.drawing import best_baseline
from nextvec.reporting.figure import NothingToDraw, canvas, look, wrapped
from nextvec.reporting.inputs import ReportInputs, Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Values = NDArray[np.float64]
MOST_PANELS = 16
MOST_SEEN = 5000
"""Windows whose vectors are looked at: all of most test splits, and no memory of a very large one."""
MOST_WINDOWS, FEWEST_WINDOWS = 1000, 100
MOST_PRODUCTS = 2e10
"""Multiplications that a search for nearest training chunks may take: seconds on one core."""
COLUMNS = 4


@dataclass(frozen=True)
class PredictedWindows:
    """The answers of a matrix, with the store they were given on. N windows of D dimensions.

    Figures ask for the needs "rows", "answers" and "store" before they make one.

    Attributes:
        answers: to N of the judged windows.
    """

    inputs: ReportInputs
    answers: KeptPredictions
    store: Store

    @classmethod
    def of(cls, inputs: ReportInputs, most: int = MOST_SEEN) -> PredictedWindows:
        """Of a inputs that has answers and a store: of at most so many windows, drawn the same each time.

        Raises:
            NothingToDraw: no model was judged.
        """
        assert inputs.answers is not None
        assert inputs.store is not None
        found = cls(inputs, _some(inputs.answers, most), inputs.store)
        if not found.models:
            raise NothingToDraw("no model was judged")
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
        """The baseline with the highest cosine; None where none was judged."""
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
    def exam(self) -> EvaluationSet:
        """The exam that was answered."""
        table = self.inputs.table
        assert table is not None
        document = self.answers.document
        first = np.array([self.store.documents[i].first for i in document], dtype=np.int64)
        horizon, task = table["horizon"], table.get("task", "next")
        windows = Windows.of_targets(self.answers.target, first, document, table["context"], horizon, task)
        how = EvaluationConfig(
            context=windows.context, horizon=horizon, task=task, candidates=table["candidates"]
        )
        return make_evaluation_set(self.store, windows, np.unique(document).tolist(), how, None)

    @cached_property
    def trained(self) -> IntArray:
        """[n] rows of the chunks trained on, ascending. Raises NothingToDraw: no run lists them."""
        listed = [run.folder / TRAINED_ON for run in self._first_runs if (run.folder / TRAINED_ON).is_file()]
        if not listed:
            raise NothingToDraw("no run here lists what it was trained on")
        seen = TrainedOn.union([TrainedOn.load(path) for path in listed])
        documents = self.store.documents
        rows = [np.arange(documents[i].first, documents[i].first + documents[i].count)
                for i in seen.among(documents)]  # fmt: skip
        return np.concatenate([np.zeros(0, np.int64), *rows])

    @property
    def _first_runs(self) -> list[Run]:
        return [runs[0] for row in self.models if (runs := self.inputs.runs_of(row))]


def _some(answers: KeptPredictions, most: int) -> KeptPredictions:
    count = len(answers.target)
    if count <= most:
        return answers
    which = sample(count, most, seed=0)
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


def panels(
    names: Sequence[str], *, height: float = 1.55, **options: Any
) -> tuple[Figure, list[tuple[str, Axes]]]:
    """A small picture for each name, at most 16, side by side on the same axes.

    Returns: the figure, and the names drawn with their axes.
    """
    shown = list(names[:MOST_PANELS])
    columns = min(COLUMNS, len(shown))
    rows = ceil(len(shown) / columns)
    drawn, grid = canvas(height=rows * height + 0.6, rows=rows, columns=columns, **options)
    flat = list(np.ravel(np.asarray(grid, dtype=object)))
    for axes in flat[len(shown) :]:
        axes.remove()
    for above in flat[max(0, len(shown) - columns) : len(shown)]:
        above.tick_params(labelbottom=True)
    if len(names) > len(shown):
        drawn.text(0.995, 0.005, f"the best {len(shown)} of {len(names)} models", ha="right", size=7)
    for name, axes in zip(shown, flat, strict=False):
        axes.set_title(wrapped(name), size=7)
    return drawn, list(zip(shown, flat, strict=False))


def line(axes: Axes, inputs: ReportInputs, row: str, x: Sequence[float], y: ArrayLike) -> None:
    """A row's values from point to point, as that row looks in every figure."""
    drawn_as = look(inputs, row)
    axes.plot(x, y, color=drawn_as.colour, marker=drawn_as.marker, ls=drawn_as.line, label=row)


def searchable(answered: PredictedWindows, *, share: float = 1.0, seed: int = 0) -> IntArray:
    """Windows [n], at most 1,000 and as many as can be compared with all that was trained on in a `share` of
    the time that a figure may take. Raises NothingToDraw: nothing of what was trained on is here."""
    products = len(answered.trained) * answered.store.dimension
    if not products:
        raise NothingToDraw("the store holds nothing of what was trained on")
    able = int(share * MOST_PRODUCTS / products)
    return sample(len(answered), min(MOST_WINDOWS, max(FEWEST_WINDOWS, able)), seed)


def legend_height(rows: Sequence[str]) -> float:
    """Inches that the names of these rows take below a figure (`drawing.legend_outside`)."""
    lines = max((wrapped(row).count("\n") + 1 for row in rows), default=0)
    return 0.2 + 0.15 * lines * ceil((len(rows) + 3) / 3)
