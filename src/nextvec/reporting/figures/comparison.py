"""All predictors of a table beside each other: by their figures, and by what these cost (parameters, training
time, time of an answer)."""

from __future__ import annotations

from collections.abc import Mapping
from math import nan
from textwrap import fill
from typing import TYPE_CHECKING, Any

from nextvec.errors import NothingToDraw
from nextvec.evaluation.metrics import LINEAR_AVERAGE, METRICS
from nextvec.reporting import drawing
from nextvec.reporting.figures import figure
from nextvec.reporting.inputs import ReportInputs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Rows = list[dict[str, Any]]
SIGNS = {True: "+", False: "\N{MINUS SIGN}", None: " "}
ARROWS = ("\N{BLACK LEFT-POINTING SMALL TRIANGLE}", "\N{BLACK RIGHT-POINTING SMALL TRIANGLE}")
READING = (
    "Left: from 0 on. Right: the difference from the best baseline (dashed) with its 95 % interval over "
    "documents, filled where the interval leaves out 0; ticks: single seeds; numbers lie beyond the edge."
)


def _comparison(inputs: ReportInputs, metric: str) -> Figure:
    """Bars and, where documents give an interval, the differences from the best baseline beside them."""
    rows = _ordered(inputs, metric)
    paired = any(metric in row["versus_best_baseline"] for row in rows)
    height = drawing.bar_height(_names(rows)) + 0.5
    drawn, panels = drawing.canvas(width=9, height=height, columns=1 + paired, sharey=True)
    _bars(panels[0, 0] if paired else panels, inputs, rows, metric)
    if paired:
        _differences(panels[0, 1], inputs, rows, metric)
    drawing.legend_outside(drawn, below=True)
    return drawn


@figure("rows", READING=READING)
def cosine_comparison(inputs: ReportInputs) -> Figure:
    """Cosine by predictor.

    Cosine to the true next vector, more is better. {READING}
    """
    return _comparison(inputs, "cosine")


@figure("rows", READING=READING)
def mse_comparison(inputs: ReportInputs) -> Figure:
    """Squared error by predictor.

    Mean squared error per dimension, less is better. {READING}
    """
    return _comparison(inputs, "mse")


@figure("rows", READING=READING)
def recall_comparison(inputs: ReportInputs) -> Figure:
    """Recall@5 by predictor.

    Share of windows whose true next chunk is among the five nearest, more is better. {READING}
    """
    return _comparison(inputs, "recall@5")


@figure("rows")
def results(inputs: ReportInputs) -> Figure:
    """Cosine and rank side by side.

    Every predictor by cosine (ordered by it) and by rank: the two order predictors differently. Whiskers of
    models: 95 % interval, over documents, of the difference from the best baseline; one that reaches over the
    dashed line is not clearly different.
    """
    rows = _ordered(inputs, "cosine")
    rank = "recall@5" if drawing.known(rows, "recall@5") else "mrr"
    drawn, panels = drawing.canvas(
        width=9, height=drawing.bar_height(_names(rows)) + 0.5, columns=2, sharey=True
    )
    for axes, metric in zip(panels[0], ("cosine", rank), strict=True):
        _bars(axes, inputs, rows, metric)
    drawing.legend_outside(drawn, below=True)
    return drawn


@figure("rows")
def topk_accuracy(inputs: ReportInputs) -> Figure:
    """Recall@k by predictor.

    Share of windows whose true next chunk is among the k nearest candidates, what was read left out. Ordered
    by mean reciprocal rank. Bold: the best baseline of a column; + clearly better and − clearly worse than
    it.
    """
    rows = _ordered(inputs, "mrr")
    assert inputs.table is not None
    chance = {"name": "chance", "versus_best_baseline": {}, **inputs.table["chance"]}
    ks = sorted(int(metric.removeprefix("recall@")) for metric in chance if metric.startswith("recall@"))
    if not ks:
        raise NothingToDraw("there are too few candidates for a recall")
    names = [*_names(rows), "chance"]
    drawn, axes = drawing.canvas(height=drawing.bar_height(names))
    values = [[row[f"recall@{k}"] for k in ks] for row in [*rows, chance]]
    image = axes.pcolormesh(values, vmin=0, vmax=1, edgecolor="white", linewidth=1)
    for place, row in enumerate([*rows, chance]):
        for column, k in enumerate(ks):
            _cell(axes, inputs, row, f"recall@{k}", (column, place))
    axes.set_yticks([place + 0.5 for place in range(len(names))], [drawing.wrapped(name) for name in names])
    axes.set_xticks([column + 0.5 for column in range(len(ks))], [str(k) for k in ks])
    axes.invert_yaxis()
    axes.set_xlabel("k (candidates looked at)")
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    drawn.colorbar(image, ax=axes, label="recall@k (share of windows)", shrink=0.5, anchor=(0, 1))
    return drawn


def _cell(axes: Axes, inputs: ReportInputs, row: Mapping[str, Any], metric: str, at: tuple[int, int]) -> None:
    """The number of a cell and how it stands beside the best baseline."""
    weight = "bold" if drawing.best_baseline(inputs, metric) is row else "normal"
    sign = SIGNS[row["versus_best_baseline"].get(metric, {}).get("better")]
    axes.text(at[0] + 0.5, at[1] + 0.5, f"{row[metric]:.3f}{sign}", ha="center", va="center",
              color=drawing.INK if row[metric] > 0.5 else "white", weight=weight)  # fmt: skip


def _bars(axes: Axes, inputs: ReportInputs, rows: Rows, metric: str) -> None:
    """A bar a row; on those of models the interval beside the best baseline."""
    values = [row[metric] for row in rows]
    spread = [
        drawing.beside_best(inputs, row, metric) if row["kind"] == "model" else (nan, nan) for row in rows
    ]
    best = drawing.best_baseline(inputs, metric)
    drawing.bars(axes, inputs, _names(rows), values, spread, best=None if best is None else best["name"])
    drawing.mark_best(axes, inputs, metric, "x")
    axes.set_xlabel(drawing.LABELS[metric])


def _differences(axes: Axes, inputs: ReportInputs, rows: Rows, metric: str) -> None:
    """The difference of every row from the best baseline; of what lies far from all models the number."""
    best = drawing.best_baseline(inputs, metric)
    assert best is not None
    intervals = {place: row["versus_best_baseline"].get(metric) for place, row in enumerate(rows)}
    found = {place: interval for place, interval in intervals.items() if interval is not None}
    models = [each for place, each in found.items() if rows[place]["kind"] == "model"] or list(found.values())
    low = min(0.0, *(each["low"] for each in models))
    high = max(0.0, *(each["high"] for each in models))
    margin = 0.12 * (high - low) or 1.0
    axes.set_xlim(low - margin, high + margin)
    for place, interval in found.items():
        style = drawing.look(inputs, rows[place]["name"])
        middle = interval["difference"]
        if not low - margin < middle < high + margin:
            _beyond(axes, middle, place)
            continue
        reach = [[middle - interval["low"]], [interval["high"] - middle]]
        axes.errorbar(middle, place, xerr=reach, fmt=style.marker, color=style.colour, capsize=2,
                      fillstyle="none" if interval["better"] is None else "full")  # fmt: skip
        seeds = [seed[metric] - best[metric] for seed in rows[place].get("per_seed", [])]
        if len(seeds) > 1:
            axes.plot(seeds, [place] * len(seeds), "|", color=drawing.INK, markersize=9)
    axes.axvline(0, color=drawing.BEST_BASELINE, linewidth=1.1, linestyle="--")
    axes.locator_params(axis="x", nbins=5)
    better = {"higher": "right", "lower": "left"}[METRICS[metric].better or "higher"]
    axes.set_xlabel(f"less the best baseline's ({better} is better)")


def _beyond(axes: Axes, value: float, place: int) -> None:
    """A number at the edge that it lies beyond."""
    left = value < axes.get_xlim()[0]
    text = f"{ARROWS[0]} {value:+.3g}" if left else f"{value:+.3g} {ARROWS[1]}"
    axes.text(0.01 if left else 0.99, place, text, transform=axes.get_yaxis_transform(), fontsize=7,
              ha="left" if left else "right", va="center")  # fmt: skip


def _ordered(inputs: ReportInputs, metric: str) -> Rows:
    """The rows that have the figure, the best first. Raises NothingToDraw."""
    rows = drawing.known(inputs.rows, metric)
    if not rows:
        raise NothingToDraw(f"no predictor has a figure by {metric}")
    return sorted(rows, key=lambda row: row[metric], reverse=METRICS[metric].better != "lower")


def _names(rows: Rows) -> list[str]:
    return [row["name"] for row in rows]


TEXT_LINE = 72
COSTS = {"parameters": "a number of parameters", "seconds": "a training time", "latency_p50_ms": "a latency"}
COST_WHISKERS = (
    "Whiskers: 95 % interval, over documents, of the difference from the best baseline (dashed); one that "
    "reaches over the line is not clearly different."
)


def _against(inputs: ReportInputs, cost: str, label: str) -> Figure:
    drawn, axes = _scatter(inputs, _costing(inputs.models, cost), cost)
    drawing.magnitudes(axes, "x", counted=cost == "parameters")
    axes.set_xlabel(label)
    return _finished(drawn, axes, inputs)


@figure("rows", section="cost", COST_WHISKERS=COST_WHISKERS)
def params_vs_performance(inputs: ReportInputs) -> Figure:
    """Parameters against cosine.

    Cosine of each model by its number of trained parameters. {COST_WHISKERS}
    """
    return _against(inputs, "parameters", "parameters")


@figure("rows", section="cost", COST_WHISKERS=COST_WHISKERS)
def training_time_vs_performance(inputs: ReportInputs) -> Figure:
    """Training time against cosine.

    Cosine of each model by the wall time of its training, mean of the seeds. {COST_WHISKERS}
    """
    return _against(inputs, "seconds", "training time (s)")


@figure("rows", section="cost")
def latency_vs_performance(inputs: ReportInputs) -> Figure:
    """Latency against cosine.

    Cosine of each predictor by the time of one prediction, batch 1: its median, and the whisker to the 95th
    percentile. The line is the Pareto front: nothing is faster and better than what is ringed.
    """
    rows = _costing(inputs.rows, "latency_p50_ms")
    # The least cosine worth showing: of the models and the linear average.
    worth = [row["cosine"] for row in rows if row["kind"] == "model" or row["name"] == LINEAR_AVERAGE]
    floor = min(worth, default=-1.0)
    shown = [row for row in rows if row["cosine"] >= floor]
    drawn, axes = _scatter(inputs, shown, "latency_p50_ms", "latency_p95_ms")
    front = pareto_front(shown, "latency_p50_ms")
    axes.step([row["latency_p50_ms"] for row in front], [row["cosine"] for row in front], where="post",
              color=drawing.INK, linewidth=1, zorder=1, marker="o", markersize=13, fillstyle="none",
              label="Pareto front")  # fmt: skip
    drawing.magnitudes(axes, "x")
    below = [f"{row['name']} {row['cosine']:.3f}" for row in rows if row["cosine"] < floor]
    label = fill(f"below the axis: {', '.join(below)}", TEXT_LINE) if below else ""
    axes.set_xlabel(f"latency of one prediction, batch 1, p50 to p95 (ms)\n{label}".rstrip())
    return _finished(drawn, axes, inputs)


@figure("rows", section="cost")
def efficiency(inputs: ReportInputs) -> Figure:
    """Cosine per million parameters.

    Cosine divided by millions of trained parameters. It favours the small: a linear average has none at all,
    so look at the cosine beside it.
    """
    rows = _costing(inputs.models, "parameters")
    per_million = {row["name"]: row["cosine"] / row["parameters"] * 1e6 for row in rows}
    names = sorted(per_million, key=lambda name: -per_million[name])
    drawn, axes = drawing.canvas(height=drawing.bar_height(names))
    made = drawing.bars(axes, inputs, names, [per_million[name] for name in names])
    drawing.write_values(axes, made, "{:.3f}")
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
    found = [row for row in drawing.known(rows, "cosine", cost) if row[cost] > 0]
    if not found:
        raise NothingToDraw(f"{COSTS[cost]} above 0 is in no row of the table")
    return found


def _scatter(inputs: ReportInputs, rows: Rows, cost: str, upto: str | None = None) -> tuple[Figure, Axes]:
    """A point a row, with its interval and, to the right, the whisker to another cost."""
    drawn, axes = drawing.canvas(width=8, height=4.2)
    for row in rows:
        style = drawing.look(inputs, row["name"])
        x, y = row[cost], row["cosine"]
        low, high = drawing.beside_best(inputs, row, "cosine")
        right = None if upto is None else [[0], [max((row.get(upto) or x) - x, 0)]]
        reach = [[max(y - low, 0)], [max(high - y, 0)]]
        axes.errorbar(x, y, xerr=right, yerr=reach, fmt=style.marker, color=style.colour, markersize=7,
                      elinewidth=0.8, label=drawing.wrapped(row["name"]))  # fmt: skip
    axes.set_ylabel(drawing.LABELS["cosine"])
    return drawn, axes


def _finished(drawn: Figure, axes: Axes, inputs: ReportInputs) -> Figure:
    drawing.mark_best(axes, inputs, "cosine", "y")
    drawing.legend_outside(drawn)
    return drawn
