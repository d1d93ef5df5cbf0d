"""All predictors of a table beside each other, by the figures that they are judged by."""

from __future__ import annotations

from collections.abc import Mapping
from math import nan
from typing import TYPE_CHECKING, Any

from nextvec.evaluation.metrics import METRICS
from nextvec.reporting.drawing import (
    LABELS,
    beside_best,
    best_baseline,
    known,
    legend_outside,
    mark_best,
)
from nextvec.reporting.figure import (
    BEST_BASELINE,
    INK,
    NothingToDraw,
    bar_height,
    bars,
    canvas,
    figure,
    look,
    wrapped,
)
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


@figure(
    "cosine_comparison",
    title="Cosine by predictor",
    caption=f"Cosine to the true next vector, more is better. {READING}",
    needs=("rows",),
)
def cosine_comparison(inputs: ReportInputs) -> Figure:
    """Cosine, and its differences from the best baseline."""
    return _comparison(inputs, "cosine")


@figure(
    "mse_comparison",
    title="Squared error by predictor",
    caption=f"Mean squared error per dimension, less is better. {READING}",
    needs=("rows",),
)
def mse_comparison(inputs: ReportInputs) -> Figure:
    """Squared error, and its differences from the best baseline."""
    return _comparison(inputs, "mse")


@figure(
    "recall_comparison",
    title="Recall@5 by predictor",
    caption=f"Share of windows whose true next chunk is among the five nearest, more is better. {READING}",
    needs=("rows",),
)
def recall_comparison(inputs: ReportInputs) -> Figure:
    """Recall@5, and its differences from the best baseline."""
    return _comparison(inputs, "recall@5")


@figure(
    "results",
    title="Cosine and rank side by side",
    caption="Every predictor by cosine (ordered by it) and by rank: the two order predictors differently. "
    "Whiskers of models: 95 % interval, over documents, of the difference from the best baseline; one that "
    "reaches over the dashed line is not clearly different.",
    needs=("rows",),
)
def results(inputs: ReportInputs) -> Figure:
    """Bars of both figures for the same rows."""
    rows = _ordered(inputs, "cosine")
    rank = "recall@5" if known(rows, "recall@5") else "mrr"
    drawn, panels = canvas(width=9, height=bar_height(_names(rows)) + 0.5, columns=2, sharey=True)
    for axes, metric in zip(panels[0], ("cosine", rank), strict=True):
        _bars(axes, inputs, rows, metric)
    legend_outside(drawn, below=True)
    return drawn


@figure(
    "topk_accuracy",
    title="Recall@k by predictor",
    caption="Share of windows whose true next chunk is among the k nearest candidates, what was read left "
    "out. Ordered by mean reciprocal rank. Bold: the best baseline of a column; + clearly better and "
    "\N{MINUS SIGN} clearly worse than it.",
    needs=("rows",),
)
def topk_accuracy(inputs: ReportInputs) -> Figure:
    """A heat map, predictors by k, with chance as its last line."""
    rows = _ordered(inputs, "mrr")
    assert inputs.table is not None
    chance = {"name": "chance", "versus_best_baseline": {}, **inputs.table["chance"]}
    ks = sorted(int(metric.removeprefix("recall@")) for metric in chance if metric.startswith("recall@"))
    if not ks:
        raise NothingToDraw("there are too few candidates for a recall")
    names = [*_names(rows), "chance"]
    drawn, axes = canvas(height=bar_height(names))
    values = [[row[f"recall@{k}"] for k in ks] for row in [*rows, chance]]
    image = axes.pcolormesh(values, vmin=0, vmax=1, edgecolor="white", linewidth=1)
    for place, row in enumerate([*rows, chance]):
        for column, k in enumerate(ks):
            _cell(axes, inputs, row, f"recall@{k}", (column, place))
    axes.set_yticks([place + 0.5 for place in range(len(names))], [wrapped(name) for name in names])
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
    weight = "bold" if best_baseline(inputs, metric) is row else "normal"
    sign = SIGNS[row["versus_best_baseline"].get(metric, {}).get("better")]
    axes.text(at[0] + 0.5, at[1] + 0.5, f"{row[metric]:.3f}{sign}", ha="center", va="center",
              color=INK if row[metric] > 0.5 else "white", weight=weight)  # fmt: skip


def _comparison(inputs: ReportInputs, metric: str) -> Figure:
    """Bars and, where documents give an interval, the differences from the best baseline beside them."""
    rows = _ordered(inputs, metric)
    paired = any(metric in row["versus_best_baseline"] for row in rows)
    height = bar_height(_names(rows)) + 0.5
    drawn, panels = canvas(width=9, height=height, columns=1 + paired, sharey=True)
    _bars(panels[0, 0] if paired else panels, inputs, rows, metric)
    if paired:
        _differences(panels[0, 1], inputs, rows, metric)
    legend_outside(drawn, below=True)
    return drawn


def _bars(axes: Axes, inputs: ReportInputs, rows: Rows, metric: str) -> None:
    """A bar a row; on those of models the interval beside the best baseline."""
    values = [row[metric] for row in rows]
    spread = [
        beside_best(inputs, row, metric) if row["kind"] == "model" else (nan, nan) for row in rows
    ]  # fmt: skip
    best = best_baseline(inputs, metric)
    bars(axes, inputs, _names(rows), values, spread, best=None if best is None else best["name"])
    mark_best(axes, inputs, metric, "x")
    axes.set_xlabel(LABELS[metric])


def _differences(axes: Axes, inputs: ReportInputs, rows: Rows, metric: str) -> None:
    """The difference of every row from the best baseline; of what lies far from all models the number."""
    best = best_baseline(inputs, metric)
    assert best is not None
    found = {
        place: interval
        for place, row in enumerate(rows)
        if (interval := row["versus_best_baseline"].get(metric)) is not None
    }
    models = [each for place, each in found.items() if rows[place]["kind"] == "model"] or list(found.values())
    low = min(0.0, *(each["low"] for each in models))
    high = max(0.0, *(each["high"] for each in models))
    margin = 0.12 * (high - low) or 1.0
    axes.set_xlim(low - margin, high + margin)
    for place, interval in found.items():
        style = look(inputs, rows[place]["name"])
        middle = interval["difference"]
        if not low - margin < middle < high + margin:
            _beyond(axes, middle, place)
            continue
        reach = [[middle - interval["low"]], [interval["high"] - middle]]
        axes.errorbar(middle, place, xerr=reach, fmt=style.marker, color=style.colour, capsize=2,
                      fillstyle="none" if interval["better"] is None else "full")  # fmt: skip
        seeds = [seed[metric] - best[metric] for seed in rows[place].get("per_seed", [])]
        if len(seeds) > 1:
            axes.plot(seeds, [place] * len(seeds), "|", color=INK, markersize=9)
    axes.axvline(0, color=BEST_BASELINE, linewidth=1.1, linestyle="--")
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
    rows = known(inputs.rows, metric)
    if not rows:
        raise NothingToDraw(f"no predictor has a figure by {metric}")
    return sorted(rows, key=lambda row: row[metric], reverse=METRICS[metric].better != "lower")


def _names(rows: Rows) -> list[str]:
    return [row["name"] for row in rows]
