"""Where the error is: how it is spread over windows, and what it depends on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nextvec.diagnostics.examples import nearest_cosine
from nextvec.diagnostics.groups import quantile_masks
from nextvec.diagnostics.sections import spearman
from nextvec.errors import NothingToDraw
from nextvec.evaluation.intervals import short
from nextvec.evaluation.results import KeptPredictions
from nextvec.reporting import drawing
from nextvec.reporting.figures import figure
from nextvec.reporting.inputs import ReportInputs
from nextvec.reporting.predicted import PredictedWindows, Values, models_of, searchable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BINS = 40
LENGTHS = 4
SIMILARITIES = 8


@figure("rows", "answers")
def error_histogram(inputs: ReportInputs) -> Figure:
    """Error of single windows, by cosine.

    How many windows have which error, 1 - cosine to the true next vector. The dark outline is the best
    baseline.
    """
    return _histograms(inputs, "cosine", "1 - cosine")


@figure("rows", "answers")
def mse_histogram(inputs: ReportInputs) -> Figure:
    """Error of single windows, by squared error.

    How many windows have which mean squared error of the raw output. The dark outline is the best baseline by
    cosine; what lies beyond the 99th percentile of all is counted in the last bar.
    """
    return _histograms(inputs, "mse", "squared error per dimension")


def _histograms(inputs: ReportInputs, metric: str, label: str) -> Figure:
    assert inputs.answers is not None
    models, best = models_of(inputs), drawing.best_baseline(inputs, "cosine")
    if not models:
        raise NothingToDraw("no model was evaluated")
    baseline = None if best is None else best["name"]
    errors = {name: _errors(inputs.answers, name, metric) for name in (*models, baseline) if name is not None}
    most = float(np.quantile(np.concatenate(list(errors.values())), 0.99 if metric == "mse" else 1.0))
    edges = np.linspace(0, most or 1.0, BINS + 1).tolist()
    drawn, grid = drawing.panels(models)
    for name, axes in grid:
        axes.hist(_within(errors[name], most), edges, color=drawing.look(inputs, name).colour, alpha=0.75)
        if baseline is not None:
            axes.hist(_within(errors[baseline], most), edges, histtype="step", color=drawing.BEST_BASELINE)
        axes.set_xlim(0, edges[-1])
    return drawing.name_axes(drawn, label, "windows")


def _errors(answers: KeptPredictions, row: str, metric: str) -> NDArray[np.float32]:
    """[N] the error of each window by cosine or mse. Raises NothingToDraw: it was not kept."""
    try:
        values = answers.values[row][metric]
    except KeyError:
        raise NothingToDraw(f"no {metric} of single windows was kept for {row}") from None
    return 1 - values if metric == "cosine" else values


def _within(values: NDArray[np.float32], most: float) -> NDArray[np.float32]:
    return np.minimum(values, np.float32(most))


@figure("rows", "answers", "store")
def error_by_length(inputs: ReportInputs) -> Figure:
    """Error by length of the document.

    Error of windows (1 - cosine) in documents of so many chunks: box from the lower to the upper quartile
    with the median, whiskers from the 5th to the 95th percentile. Dashes: the best baseline's median.
    """
    answered = PredictedWindows.of(inputs)
    groups = quantile_masks(answered.lengths, LENGTHS)
    labels = [_range(answered.lengths[which]) for which in groups]
    places = range(1, len(groups) + 1)
    drawn, grid = drawing.panels(answered.models, 1.8)
    for name, axes in grid:
        error, shade = _errors(answered.answers, name, "cosine"), drawing.look(inputs, name).colour
        parts = [error[which] for which in groups]
        boxes = axes.boxplot(parts, whis=(5, 95), showfliers=False, widths=0.6, patch_artist=True,
                             medianprops={"color": drawing.INK})  # fmt: skip
        for box in boxes["boxes"]:
            box.set(facecolor=shade, alpha=0.6)
        if answered.baseline is not None:
            other = _errors(answered.answers, answered.baseline, "cosine")
            medians = [float(np.median(other[which])) for which in groups]
            axes.hlines(medians, [p - 0.42 for p in places], [p + 0.42 for p in places],
                        color=drawing.BEST_BASELINE, linestyle="--", linewidth=1.2)  # fmt: skip
        axes.set_xticks(places, labels, size=7, rotation=30)
    grid[0][1].set_ylim(bottom=0)
    return drawing.name_axes(drawn, "chunks of the document", "1 - cosine")


def _range(values: NDArray[np.int64]) -> str:
    low, high = int(values.min()), int(values.max())
    return str(low) if low == high else f"{low}-{high}"


@figure("rows", "answers", "store")
def error_by_similarity(inputs: ReportInputs) -> Figure:
    """Error by similarity to the training data.

    Error (1 - cosine) against the cosine of the true next chunk to the nearest chunk trained on. Left:
    windows of the best model, and means of groups of equally many. Right: how much nearer than the best
    baseline each model comes in these groups; above 0 it is better.
    """
    answered = PredictedWindows.of(inputs)
    which = searchable(answered)
    nearest = nearest_cosine(answered.targets[which], answered.store.vectors, answered.trained)
    groups = quantile_masks(nearest, SIMILARITIES)
    middle = [float(nearest[group].mean()) for group in groups]

    def means(row: str) -> Values:
        error = _errors(answered.answers, row, "cosine")[which]
        return np.array([float(error[group].mean()) for group in groups])

    drawn, grid = drawing.canvas(height=2.9 + drawing.legend_height(answered.models), columns=2)
    left, right = grid[0]
    best = _errors(answered.answers, answered.best, "cosine")[which]
    shade, alpha = drawing.look(inputs, answered.best).colour, min(0.8, max(0.25, 100 / len(which)))
    left.plot(nearest, best, ".", color=shade, alpha=alpha, ms=4, mew=0, rasterized=True)
    left.plot(middle, means(answered.best), color=drawing.INK, marker="o")
    left.set_ylim(bottom=0)
    left.set_ylabel("1 - cosine")
    left.set_title(f"{drawing.wrapped(answered.best)}\nrank correlation {short(spearman(nearest, best), 2)} "
                   f"over {len(which):,} windows", size=8)  # fmt: skip
    base = 0.0 if answered.baseline is None else means(answered.baseline)
    for name in answered.models:
        drawing.line(right, inputs, name, middle, base - means(name))
    right.axhline(0, color=drawing.BEST_BASELINE, ls="--", lw=1)
    right.set_ylabel("cosine above the\nbest baseline's" if answered.baseline else "cosine less 1")
    for axes in (left, right):
        axes.set_xlabel(f"cosine of the true chunk to the\nnearest of {len(answered.trained):,} trained on")
    drawing.legend_outside(drawn, below=True)
    return drawn
