"""What several figures draw alike: the best baseline, intervals beside it, legends, orders of magnitude."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from nextvec.reporting.figure import BEST_BASELINE
from nextvec.reporting.inputs import ReportInputs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.container import BarContainer
    from matplotlib.figure import Figure

LABELS = {
    "cosine": "cosine to the true next vector",
    "mse": "mean squared error of the raw prediction",
    "recall@5": "recall@5 of the true next chunk",
    "mrr": "mean reciprocal rank of the true next chunk",
}
LEGEND_ROWS = 24
NARROW = (1, 1.5, 2, 3, 4, 5, 7)


def known(rows: Sequence[dict[str, Any]], *metrics: str) -> list[dict[str, Any]]:
    """The rows that have all of these figures."""
    return [row for row in rows if all(row.get(metric) is not None for metric in metrics)]


def best_baseline(inputs: ReportInputs, metric: str) -> dict[str, Any] | None:
    """The row of the best baseline by a metric; None where no baseline was judged."""
    name = (inputs.table or {}).get("best_baseline", {}).get(metric)
    return next((row for row in inputs.baselines if row["name"] == name), None)


def beside_best(inputs: ReportInputs, row: dict[str, Any], metric: str) -> tuple[float, float]:
    """The interval of a row's difference from the best baseline, put where that one stands: it reaches over
    the best baseline's line exactly where the two are not clearly different. No width where there is none.
    """
    best, found = best_baseline(inputs, metric), row["versus_best_baseline"].get(metric)
    if best is None or found is None:
        return row[metric], row[metric]
    return best[metric] + found["low"], best[metric] + found["high"]


def mark_best(axes: Axes, inputs: ReportInputs, metric: str, which: Literal["x", "y"]) -> None:
    """A line where the best baseline stands on the axis of the metric, named in the legend."""
    best = best_baseline(inputs, metric)
    if best is not None:
        line = axes.axvline if which == "x" else axes.axhline
        label = f"best baseline by {metric}:{' ' if which == 'x' else chr(10)}{best['name']}"
        line(best[metric], color=BEST_BASELINE, linestyle="--", linewidth=1.1, label=label)


def legend_outside(drawn: Figure, *, below: bool = False) -> None:
    """One legend for all axes, beside or below them, each label once."""
    found: dict[str, Any] = {}
    for axes in drawn.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    if not found:
        return
    handles, labels = list(found.values()), list(found)
    if below:
        drawn.legend(handles, labels, loc="outside lower center", ncols=min(len(found), 3))
    else:
        drawn.legend(handles, labels, loc="outside right upper", ncols=-(-len(found) // LEGEND_ROWS))


def write_values(axes: Axes, made: BarContainer, form: str) -> None:
    """The value of each bar at its end, where bars from 0 look alike."""
    axes.bar_label(made, fmt=form, padding=4, fontsize=8)
    low, high = axes.get_xlim()
    room = 0.12 * (high - low)
    axes.set_xlim(low - room if low < 0 else low, high + room)


def magnitudes(axes: Axes, which: Literal["x", "y"], *, counted: bool = False) -> None:
    """A scale of orders of magnitude, labelled at 1, 2 and 5 and, in a narrow span, between them; what is
    `counted` in k and M. Call it when all is drawn: the span is that of the axis then."""
    from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullFormatter

    axes.set(**{f"{which}scale": "log"})
    axis = axes.xaxis if which == "x" else axes.yaxis
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=NARROW if high < 8 * low else (1, 2, 5)))
    axis.set_major_formatter(
        EngFormatter(sep="") if counted else FuncFormatter(lambda value, _: f"{value:g}")
    )
    axis.set_minor_formatter(NullFormatter())
