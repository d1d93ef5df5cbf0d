"""What every figure draws with: style, an empty canvas, bars, lines and small panels of the rows of a table,
the best baseline, intervals beside it, legends, orders of magnitude."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from nextvec.disk import atomic_path
from nextvec.errors import ConfigError, MissingDependencyError
from nextvec.experiments.surprise import Surprises
from nextvec.reporting.inputs import ReportInputs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.container import BarContainer
    from matplotlib.figure import Figure

# Okabe and Ito, without black and yellow: safe for colour-blind readers, and to be seen on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", (0, (5, 1.5)), (0, (1, 1)))
BASELINE, BEST_BASELINE, INK = "#8C8C8C", "#4D4D4D", "#222222"
WIDTH = 7.0
LINE = 28
_AXIS_END = re.compile(r"(?<=-)(?=[A-Za-z_])")
MOST_PANELS = 16
COLUMNS = 4
STYLE: Any = {
    "figure.facecolor": "white",
    "figure.dpi": 100,
    "savefig.facecolor": "white",
    "savefig.dpi": 150,
    "figure.constrained_layout.use": True,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.4,
    "lines.markersize": 5,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "text.parse_math": False,  # names and texts are not ours: a $ in them is a $
    "image.cmap": "cividis",
    "svg.fonttype": "none",
    "svg.hashsalt": "nextvec",
}
"""Light in the light and in the dark: a figure brings its own white ground."""
LABELS = {
    "cosine": "cosine to the true next vector",
    "mse": "mean squared error of the raw prediction",
    "recall@5": "recall@5 of the true next chunk",
    "mrr": "mean reciprocal rank of the true next chunk",
}
LEGEND_ROWS = 24
NARROW = (1, 1.5, 2, 3, 4, 5, 7)


@dataclass(frozen=True)
class Look:
    """How one row of the table is drawn in every figure: a colour, a marker and a line that no other has."""

    colour: str
    marker: str
    line: Any


def known(rows: Sequence[dict[str, Any]], *metrics: str) -> list[dict[str, Any]]:
    """The rows that have all of these figures."""
    return [row for row in rows if all(row.get(metric) is not None for metric in metrics)]


def best_baseline(inputs: ReportInputs, metric: str) -> dict[str, Any] | None:
    """The row of the best baseline by a metric; None where no baseline was evaluated."""
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


def canvas(
    *, width: float = WIDTH, height: float = 3.6, rows: int = 1, columns: int = 1, **options: Any
) -> tuple[Figure, Any]:
    """An empty figure in inches and its axes: one, or an array [rows, columns] of them (`options` as
    sharex, sharey)."""
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height))
    return made, made.subplots(rows, columns, squeeze=rows == columns == 1, **options)


def look(inputs: ReportInputs, row: str) -> Look:
    """How a row is drawn: a model in a colour and marker of its own, a baseline in grey and dashed."""
    if row not in inputs.trained:
        names = [each["name"] for each in inputs.baselines]
        at = names.index(row) if row in names else 0
        return Look(BASELINE, MARKERS[at % len(MARKERS)], "--")
    at = inputs.trained.index(row)
    line = LINES[at // len(COLOURS) % len(LINES)]
    return Look(COLOURS[at % len(COLOURS)], MARKERS[at % len(MARKERS)], line)


def bar_height(names: Sequence[str], *, panels: int = 1) -> float:
    """Inches that so many bars under each other need."""
    lines = max((wrapped(name).count("\n") + 1 for name in names), default=1)
    return panels * ((0.1 + 0.14 * lines) * len(names) + 1.0)


def wrapped(name: str) -> str:
    """The name of a row in lines of at most 28 characters, broken where one axis of a matrix ends."""
    lines = [""]
    for part in _AXIS_END.split(name):
        if lines[-1] and len(lines[-1] + part) > LINE:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def bars(
    axes: Axes,
    inputs: ReportInputs,
    names: Sequence[str],
    values: Sequence[float],
    spread: Sequence[tuple[float, float]] | None = None,
    *,
    best: str | None = None,
) -> BarContainer:
    """Bars from left to right, one a row of the table, the first on top. They start at 0 in any case.

    Baselines are hatched. Models have their colours while no two have the same; more of them share one.
    The legend may tell which is which.

    Args:
        spread: (low, high) of each value: the interval that is drawn over its bar; NaN draws none.
        best: the baseline to be marked.
    """
    places = range(len(names))
    apart = len(inputs.trained) <= len(COLOURS)
    colours = [
        BEST_BASELINE if name == best else look(inputs, name).colour
        if apart or name not in inputs.trained else COLOURS[0] for name in names
    ]  # fmt: skip
    kinds = [
        "best baseline" if name == best else "baseline" if name not in inputs.trained
        else "_" if apart else "model" for name in names
    ]  # fmt: skip
    hatches = ["" if name in inputs.trained else "///" for name in names]
    low_high = None
    if spread is not None:
        pairs = zip(values, spread, strict=True)
        low_high = tuple(zip(*((max(v - low, 0), max(high - v, 0)) for v, (low, high) in pairs), strict=True))
    made = axes.barh(places, values, color=colours, hatch=hatches, edgecolor="white", linewidth=0.4,
                     xerr=low_high, error_kw={"ecolor": INK, "elinewidth": 1, "capsize": 2},
                     label=kinds)  # fmt: skip
    axes.set_yticks(places, [wrapped(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    least, most = min([0, *values]), max([0, *values])
    if least == 0:
        axes.set_xlim(left=0)
    if most == 0:
        axes.set_xlim(right=0 if least else 1)
    return made


def panels(names: Sequence[str], height: float = 1.55) -> tuple[Figure, list[tuple[str, Axes]]]:
    """A small picture for each name, at most 16, side by side on the same axes.

    Returns: the figure, and the names drawn with their axes.
    """
    shown = list(names[:MOST_PANELS])
    columns = min(COLUMNS, len(shown))
    rows = ceil(len(shown) / columns)
    size = rows * height + 0.6
    drawn, grid = canvas(height=size, rows=rows, columns=columns, sharex=True, sharey=True)
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


def diagonal(axes: Axes) -> None:
    """Where both axes agree."""
    axes.axline((0, 0), slope=1, color=INK, lw=0.8, ls="--")


def name_axes(drawn: Figure, x: str, y: str) -> Figure:
    """What the axes of all panels have in common; returns the figure."""
    drawn.supxlabel(x, size=9)
    drawn.supylabel(y, size=9)
    return drawn


def line(axes: Axes, inputs: ReportInputs, row: str, x: Sequence[float], y: ArrayLike) -> None:
    """A row's values from point to point, as that row looks in every figure."""
    drawn_as = look(inputs, row)
    axes.plot(x, y, color=drawn_as.colour, marker=drawn_as.marker, ls=drawn_as.line, label=row)


def legend_height(rows: Sequence[str]) -> float:
    """Inches that the names of these rows take below a figure (`drawing.legend_outside`)."""
    lines = max((wrapped(row).count("\n") + 1 for row in rows), default=0)
    return 0.2 + 0.15 * lines * ceil((len(rows) + 3) / 3)


# The curve of a document's surprise as a picture.


def require_figure(path: Path) -> None:
    """Said before the work. Raises ConfigError for another format, MissingDependencyError."""
    if path.suffix[1:] not in ("svg", "png") or path.is_dir():
        message = f"{path} is not an .svg or .png file"
        raise ConfigError(message, where="--figure", remedy="give FILE.svg or FILE.png")
    if importlib.util.find_spec("matplotlib") is None:
        message = "a picture needs matplotlib, which is not installed"
        raise MissingDependencyError(message, remedy="pip install nextvec[figures]")


def draw_surprise(found: Surprises, path: Path, peaks: int) -> None:
    """Write the curve with boundaries and peaks marked; the same bytes for the same figures."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    chunks = np.arange(2, len(found.texts) + 1)
    with rc_context({"svg.hashsalt": "nextvec", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(9, 3), layout="constrained")
        axis = figure.subplots()
        for number, at in enumerate(np.flatnonzero(found.cuts)):
            label = "a topic ends" if number == 0 else None
            axis.axvline(at + 1.5, color=BASELINE, linewidth=1, linestyle="--", label=label)
        axis.plot(chunks, found.surprise, color=COLOURS[0], linewidth=1.2, marker=".", label="surprise")
        high = found.peaks(peaks)
        axis.plot(high + 1, found.surprise[high - 1], "o", color=COLOURS[1], label="peaks")
        axis.set_xlabel("chunk")
        axis.set_ylim(bottom=0)
        axis.set_ylabel("1 - cos(prediction, actual)")
        axis.set_title(f"{found.where}, read by {found.run}")
        axis.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
        axis.spines[["top", "right"]].set_visible(False)
        kind = path.suffix[1:]
        undated = {"Date": None} if kind == "svg" else None
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format=kind, dpi=150, metadata=undated)
