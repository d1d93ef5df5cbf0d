"""What the quality of a predictor costs: parameters, training time, time of an answer."""

from __future__ import annotations

from textwrap import fill
from typing import TYPE_CHECKING, Any

from nextvec.evaluation.metrics import LINEAR_AVERAGE
from nextvec.reporting.drawing import (
    LABELS,
    beside_best,
    known,
    legend_outside,
    magnitudes,
    mark_best,
    write_values,
)
from nextvec.reporting.figure import INK, NothingToDraw, bar_height, bars, canvas, figure, look, wrapped
from nextvec.reporting.inputs import ReportInputs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Rows = list[dict[str, Any]]
LINE = 72
COSTS = {
    "parameters": "a number of parameters",
    "seconds": "a training time",
    "latency_p50_ms": "a latency",
}
WHISKERS = (
    "Whiskers: 95 % interval, over documents, of the difference from the best baseline (dashed); one that "
    "reaches over the line is not clearly different."
)


@figure(
    "params_vs_performance",
    title="Parameters against cosine",
    caption=f"Cosine of each model by its number of trained parameters. {WHISKERS}",
    needs=("rows",),
)
def params_vs_performance(inputs: ReportInputs) -> Figure:
    """Models only: most baselines have no parameters."""
    drawn, axes = _scatter(inputs, _costing(inputs.models, "parameters"), "parameters")
    magnitudes(axes, "x", counted=True)
    axes.set_xlabel("parameters")
    return _finished(drawn, axes, inputs)


@figure(
    "training_time_vs_performance",
    title="Training time against cosine",
    caption=f"Cosine of each model by the wall time of its training, mean of the seeds. {WHISKERS}",
    needs=("rows",),
)
def training_time_vs_performance(inputs: ReportInputs) -> Figure:
    """Models only."""
    drawn, axes = _scatter(inputs, _costing(inputs.models, "seconds"), "seconds")
    magnitudes(axes, "x")
    axes.set_xlabel("training time (s)")
    return _finished(drawn, axes, inputs)


@figure(
    "latency_vs_performance",
    title="Latency against cosine",
    caption="Cosine of each predictor by the time of one prediction, batch 1: its median, and the whisker to "
    "the 95th percentile. The line is the Pareto front: nothing is faster and better than what is ringed.",
    needs=("rows",),
)
def latency_vs_performance(inputs: ReportInputs) -> Figure:
    """Models and baselines, but for those far below all that matters: they are named under the axis."""
    rows = _costing(inputs.rows, "latency_p50_ms")
    floor = _floor(rows)
    shown = [row for row in rows if row["cosine"] >= floor]
    drawn, axes = _scatter(inputs, shown, "latency_p50_ms", "latency_p95_ms")
    front = pareto_front(shown, "latency_p50_ms")
    axes.step([row["latency_p50_ms"] for row in front], [row["cosine"] for row in front], where="post",
              color=INK, linewidth=1, zorder=1, marker="o", markersize=13, fillstyle="none",
              label="Pareto front")  # fmt: skip
    magnitudes(axes, "x")
    below = [f"{row['name']} {row['cosine']:.3f}" for row in rows if row["cosine"] < floor]
    said = fill(f"below the axis: {', '.join(below)}", LINE) if below else ""
    axes.set_xlabel(f"latency of one prediction, batch 1, p50 to p95 (ms)\n{said}".rstrip())
    return _finished(drawn, axes, inputs)


@figure(
    "efficiency",
    title="Cosine per million parameters",
    caption="Cosine divided by millions of trained parameters. It favours the small: a linear average has "
    "none at all, so look at the cosine beside it.",
    needs=("rows",),
)
def efficiency(inputs: ReportInputs) -> Figure:
    """Bars of the models, the most efficient first."""
    rows = _costing(inputs.models, "parameters")
    per_million = {row["name"]: row["cosine"] / row["parameters"] * 1e6 for row in rows}
    names = sorted(per_million, key=lambda name: -per_million[name])
    drawn, axes = canvas(height=bar_height(names))
    made = bars(axes, inputs, names, [per_million[name] for name in names])
    write_values(axes, made, "{:.3f}")
    axes.set_xlabel("cosine per million parameters")
    return drawn


def pareto_front(rows: Rows, cost: str) -> Rows:
    """The rows than which none is both cheaper and better by cosine, the cheapest first."""
    front: Rows = []
    for row in sorted(rows, key=lambda row: (row[cost], -row["cosine"])):
        if not front or row["cosine"] > front[-1]["cosine"]:
            front.append(row)
    return front


def _costing(rows: Rows, cost: str) -> Rows:
    """The rows with a cosine and a cost that is known and not 0. Raises NothingToDraw."""
    found = [row for row in known(rows, "cosine", cost) if row[cost] > 0]
    if not found:
        raise NothingToDraw(f"{COSTS[cost]} above 0 is in no row of the table")
    return found


def _scatter(inputs: ReportInputs, rows: Rows, cost: str, upto: str | None = None) -> tuple[Figure, Axes]:
    """A point a row, with its interval and, to the right, the whisker to another cost."""
    drawn, axes = canvas(width=8, height=4.2)
    for row in rows:
        style = look(inputs, row["name"])
        x, y = row[cost], row["cosine"]
        low, high = beside_best(inputs, row, "cosine")
        right = None if upto is None else [[0], [max((row.get(upto) or x) - x, 0)]]
        reach = [[max(y - low, 0)], [max(high - y, 0)]]
        axes.errorbar(x, y, xerr=right, yerr=reach, fmt=style.marker, color=style.colour, markersize=7,
                      elinewidth=0.8, label=wrapped(row["name"]))  # fmt: skip
    axes.set_ylabel(LABELS["cosine"])
    return drawn, axes


def _floor(rows: Rows) -> float:
    """The least cosine worth showing: of the models and the linear average, the least."""
    shown = [row["cosine"] for row in rows if row["kind"] == "model" or row["name"] == LINEAR_AVERAGE]
    return min(shown, default=-1.0)


def _finished(drawn: Figure, axes: Axes, inputs: ReportInputs) -> Figure:
    mark_best(axes, inputs, "cosine", "y")
    legend_outside(drawn)
    return drawn
