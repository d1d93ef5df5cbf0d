"""What happened epoch by epoch: loss, cosine, learning rate, gradient norm. Of several seeds the mean, and
each of them as a thin line."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np

from nextvec.experiments.runs import RunFolder
from nextvec.objectives.config import LossConfig
from nextvec.reporting import drawing
from nextvec.reporting.figures import figure
from nextvec.reporting.inputs import ReportInputs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Value = Callable[[dict[str, Any]], float]
Options = tuple[tuple[str, str], ...]
WEIGHTS = frozenset(LossConfig().weights())
PANELS = {"train": "training, mean over the epoch", "validation": "validation, at its end"}
MARKED = 12
PANEL = 2.6
NAMED = 3


@figure("histories")
def loss_comparison(inputs: ReportInputs) -> Figure:
    """Loss over epochs.

    The loss on training and on validation documents. Losses of different terms or weights are on axes of
    their own: they cannot be compared. Thin lines: single seeds.
    """
    losses = _losses(inputs)
    drawn, grid = drawing.canvas(width=9, height=0.8 + PANEL * len(losses), rows=len(losses), columns=2,
                         sharex=True, sharey="row")  # fmt: skip
    for panels, (name, rows) in zip(grid, losses.items(), strict=True):
        for axes, part in zip(panels, PANELS, strict=True):
            _curves(axes, inputs, rows, partial(_of, part, "loss"))
        panels[0].set_ylabel(fill(f"loss ({name})", drawing.LINE))
    return _finished(drawn, grid)


@figure("histories")
def cosine_curves(inputs: ReportInputs) -> Figure:
    """Cosine over epochs.

    Cosine of prediction and true next vector on training and on validation documents. Rings: the epoch whose
    model was kept. Thin lines: single seeds.
    """
    drawn, panels = drawing.canvas(width=9, height=3.8, columns=2, sharex=True)
    rows = _rows(inputs)
    for axes, part in zip(panels[0], PANELS, strict=True):
        _curves(axes, inputs, rows, partial(_of, part, "cosine"))
        axes.set_ylabel("cosine")
    for row, runs in rows.items():
        kept, shade = [kept_epoch(run) for run in runs], drawing.look(inputs, row).colour
        cosines = [line["validation"]["cosine"] for line in kept]
        epochs = [line["epoch"] for line in kept]
        panels[0, 1].plot(epochs, cosines, "o", markersize=9, fillstyle="none", color=shade)
    return _finished(drawn, panels)


@figure("histories")
def lr_schedule(inputs: ReportInputs) -> Figure:
    """Learning rate over epochs.

    The learning rate of the last update of each epoch. Models with the same schedule share a line.
    """
    drawn, axes = drawing.canvas(width=9, height=3.2)
    shared: dict[tuple[float, ...], list[str]] = {}
    for row, runs in _rows(inputs).items():
        for run in runs:
            rates = tuple(line["lr"] for line in run.history)
            if row not in shared.setdefault(rates, []):
                shared[rates].append(row)
    for rates, names in shared.items():
        style = drawing.look(inputs, names[0])
        axes.plot(range(1, len(rates) + 1), rates, color=style.colour, marker=style.marker,
                  linestyle=style.line, markevery=_every(len(rates)), label=_named(names))  # fmt: skip
    axes.set_ylim(bottom=0)
    axes.set_ylabel("learning rate")
    axes.yaxis.set_major_formatter("{x:g}")
    return _finished(drawn, np.array([[axes]]))


@figure("histories")
def gradient_norms(inputs: ReportInputs) -> Figure:
    """Gradient norm over epochs.

    Norm of the whole gradient before clipping, mean over the updates of each epoch. The dashed line is where
    it is clipped. Thin lines: single seeds.
    """
    drawn, axes = drawing.canvas(width=9, height=3.6)
    rows = _rows(inputs)
    _curves(axes, inputs, rows, lambda line: line["gradient_norm"] or np.nan)
    clips = {run.config.get("optim", {}).get("clip", 0.0) for runs in rows.values() for run in runs}
    for clip in sorted(clips - {0.0}):
        axes.axhline(
            clip, color=drawing.BEST_BASELINE, linestyle="--", linewidth=1, label=f"clipped at {clip:g}"
        )
    drawing.magnitudes(axes, "y")
    axes.set_ylabel("gradient norm")
    return _finished(drawn, np.array([[axes]]))


@figure("histories")
def validation_loss(inputs: ReportInputs) -> Figure:
    """Validation loss by model.

    Mean squared error on validation documents at the epoch whose model was kept, whatever loss was trained
    with: losses of different terms cannot be compared. Whiskers: from seed to seed.
    """
    found = {
        row: [kept_epoch(run)["validation"]["mse"] for run in runs] for row, runs in _rows(inputs).items()
    }
    names = sorted(found, key=lambda row: np.mean(found[row]))
    drawn, axes = drawing.canvas(height=drawing.bar_height(names))
    several = any(len(seeds) > 1 for seeds in found.values())
    spread = [(min(found[row]), max(found[row])) for row in names] if several else None
    made = drawing.bars(axes, inputs, names, [float(np.mean(found[row])) for row in names], spread)
    drawing.write_values(axes, made, "{:.6f}")
    axes.set_xlabel("validation loss (mse, mean over dimensions)")
    return drawn


def kept_epoch(run: RunFolder) -> dict[str, Any]:
    """The line of history of the epoch whose model was kept (so far): the first of the best."""
    if run.config.get("optim", {}).get("select") == "loss":
        return min(run.history, key=lambda line: line["validation"]["loss"])
    return max(run.history, key=lambda line: line["validation"]["cosine"])


def _rows(inputs: ReportInputs) -> dict[str, list[RunFolder]]:
    """Row -> its runs that have finished an epoch."""
    found = {row: [run for run in inputs.runs_of(row) if run.history] for row in inputs.trained}
    return {row: runs for row, runs in found.items() if runs}


def _losses(inputs: ReportInputs) -> dict[str, dict[str, list[RunFolder]]]:
    """Loss in words -> the rows that were trained with it. Options are said where the terms do not tell two
    losses apart."""
    found: dict[tuple[str, Options], dict[str, list[RunFolder]]] = {}
    for row, runs in _rows(inputs).items():
        found.setdefault(_loss(runs[0]), {})[row] = runs
    named = {}
    for (terms, options), rows in found.items():
        others = [theirs for of_loss, theirs in found if of_loss == terms]
        own = [option for option in options if any(option not in theirs for theirs in others)]
        named[", ".join([terms, *(f"{name} {value}" for name, value in own)])] = rows
    return named


def _loss(run: RunFolder) -> tuple[str, Options]:
    """The terms of a run's loss with their weights, where they are not 1; and its options."""
    section = run.config.get("loss", {})
    terms = [key.removeprefix("loss.") for key in run.history[0]["train"] if key.startswith("loss.")]
    weighed = [(term, section.get(term, 1.0)) for term in terms]
    terms_text = " + ".join(term if weight == 1 else f"{weight:g} {term}" for term, weight in weighed)
    scaling = run.config.get("model", {}).get("scaling", "")
    options = {**section, "scaling": scaling}
    return terms_text, tuple((name, str(value)) for name, value in options.items() if name not in WEIGHTS)


def _of(part: str, name: str, line: dict[str, Any]) -> float:
    """A figure of one epoch, "loss" or "cosine", of "train" or "validation"."""
    return float(line[part][name])


def _curves(axes: Axes, inputs: ReportInputs, rows: dict[str, list[RunFolder]], value: Value) -> None:
    """A line a row: the mean over its seeds as far as all of them went, and each seed."""
    for row, runs in rows.items():
        style = drawing.look(inputs, row)
        seeds = [np.array([value(line) for line in run.history]) for run in runs]
        if len(seeds) > 1:
            for seed in seeds:
                axes.plot(np.arange(1, len(seed) + 1), seed, color=style.colour, linewidth=0.6, alpha=0.5)
        shared = min(map(len, seeds))
        mean = np.mean([seed[:shared] for seed in seeds], axis=0)
        axes.plot(np.arange(1, shared + 1), mean, color=style.colour, marker=style.marker,
                  linestyle=style.line, markevery=_every(shared), label=drawing.wrapped(row))  # fmt: skip


def _finished(drawn: Figure, grid: Any) -> Figure:
    """Titles, whole epochs on the x axes, one legend."""
    from matplotlib.ticker import MaxNLocator

    for axes in grid[-1]:
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if grid.shape[1] == len(PANELS):
        for axes, title in zip(grid[0], PANELS.values(), strict=True):
            axes.set_title(title)
    drawing.legend_outside(drawn)
    return drawn


def _named(names: list[str]) -> str:
    """The first few of several names, one under the other."""
    more = len(names) - NAMED
    return "\n".join([*map(drawing.wrapped, names[:NAMED]), *([f"and {more} more"] if more > 0 else [])])


def _every(points: int) -> int:
    """Which points get a marker, so that no more than a dozen do."""
    return -(-points // MARKED)
