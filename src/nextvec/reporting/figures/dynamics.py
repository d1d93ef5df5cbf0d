"""Order: what the data's order holds, which chunk a prediction is nearest to, where predictions lead."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nextvec.diagnostics.lags import LagCurve, lag_curves, sum_store
from nextvec.diagnostics.sections import sample
from nextvec.diagnostics.standing import ORACLE
from nextvec.errors import NothingToDraw
from nextvec.evaluation.trajectory import STEPS, offset_cosines, offset_profile
from nextvec.reporting import drawing
from nextvec.reporting.figures import figure
from nextvec.reporting.inputs import ReportInputs
from nextvec.reporting.predicted import PredictedWindows

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from nextvec.corpus.store import Store

MOST_CHUNKS = 100_000
RESAMPLES = 200
MOST_SOURCES = 6
COPY_LAST = "copy-last"


@figure("store")
def lag_curve(inputs: ReportInputs) -> Figure:
    """Lag curve of the data.

    Mean cosine of chunks so many apart in a document, with its 95 % interval over documents. Dashed: the same
    chunks in random order; dotted: chunks of different documents. Where the curve meets the dashed line,
    order carries no signal that cosine could see.
    """
    assert inputs.store is not None
    whole, *parts = lag_curves(sum_store(inputs.store, _some_documents(inputs.store)), resamples=RESAMPLES)
    if not whole.lags:
        raise NothingToDraw("no document has two chunks")
    drawn, grid = drawing.canvas(height=3.8, columns=1 + bool(parts), sharex=True, sharey=True)
    first, *second = np.ravel(np.asarray(grid, dtype=object))
    _lags(first, whole)
    first.set_title(f"all {whole.documents:,} documents", size=8)
    for number, curve in enumerate(parts[:MOST_SOURCES]):
        k, cosine = [lag.k for lag in curve.lags], [lag.cosine.value for lag in curve.lags]
        shade, marker = drawing.COLOURS[number], drawing.MARKERS[number]
        second[0].plot(k, cosine, color=shade, marker=marker, label=curve.source)
        second[0].plot(k, [lag.shuffled for lag in curve.lags], color=shade, ls="--", lw=0.9)
    if parts:
        which = "by source" if len(parts) <= MOST_SOURCES else f"{MOST_SOURCES} of {len(parts)} sources"
        second[0].set_title(f"{which} (dashed: in random order)", size=8)
    first.set_ylim(bottom=min(0, first.get_ylim()[0]))
    first.set_ylabel("mean cosine")
    for axes in (first, *second):
        axes.set_xlabel("chunks apart")
    drawing.legend_outside(drawn, below=True)
    return drawn


def _some_documents(store: Store) -> list[int]:
    """Originals, evenly spaced over the store: all of them up to 100,000 chunks."""
    whole = np.array([i for i, d in enumerate(store.documents) if d.view_of is None], dtype=np.int64)
    if not len(whole):
        raise NothingToDraw("the store holds no documents")
    most = max(2, int(len(whole) * MOST_CHUNKS / max(len(store), MOST_CHUNKS)))
    return list(whole[sample(len(whole), most, seed=0)].tolist())


def _lags(axes: Axes, curve: LagCurve) -> None:
    k = [lag.k for lag in curve.lags]
    means = [lag.cosine for lag in curve.lags]
    if all(mean.low is not None for mean in means):
        low, high = [m.low or 0 for m in means], [m.high or 0 for m in means]
        axes.fill_between(k, low, high, color=drawing.INK, alpha=0.15)
    axes.plot(k, [mean.value for mean in means], color=drawing.INK, marker="o", label="all sources")
    random = [lag.shuffled for lag in curve.lags]
    axes.plot(k, random, color=drawing.BEST_BASELINE, ls="--", label="in random order")
    if np.isfinite(curve.apart):
        axes.axhline(curve.apart, color=drawing.BASELINE, ls=":", label="of different documents")
    axes.set_xticks(k)


@figure("rows", "answers", "store", name="offset_profile")
def offset_profiles(inputs: ReportInputs) -> Figure:
    """Offset profile.

    Mean cosine of the predictions to the chunk so many after the target; 0 is the target, below 0 was read. A
    predictor of noisy text is nearest to what it read. The target itself shows how alike chunks are.
    """
    answered = PredictedWindows.of(inputs)
    drawn, axes = drawing.canvas(height=3.2 + drawing.legend_height(answered.models))
    others = [row for row in dict.fromkeys((answered.baseline, COPY_LAST)) if row in answered.answers.units]
    profile = offset_profile(offset_cosines(answered.targets, answered.evaluation_set))
    around = [k for k in profile if k]  # at 0 it is 1, which would press everything else together
    for side in ([k for k in around if k < 0], [k for k in around if k > 0]):
        label = ORACLE if side and side[0] < 0 else None
        axes.plot(side, [profile[k] for k in side], color=drawing.INK, lw=2.4, alpha=0.35, label=label)
    for row in [*others, *answered.models]:
        profile = offset_profile(offset_cosines(answered.units(row), answered.evaluation_set))
        if row == COPY_LAST:
            profile.pop(-answered.evaluation_set.windows.horizon, None)  # the chunk that was copied: 1 again
        drawing.line(axes, inputs, row, list(profile), list(profile.values()))
    axes.axvline(0, color=drawing.INK, lw=0.8, ls=":")
    axes.set_xlabel("chunks after the target")
    axes.set_ylabel("mean cosine")
    drawing.legend_outside(drawn, below=True)
    return drawn


@figure("rows", STEPS=STEPS)
def rollout_decay(inputs: ReportInputs) -> Figure:
    """Rollout: reading its own predictions.

    Left: cosine to the truth at the first step (mark, over all windows) and at step {STEPS} (end of the line,
    over documents that go on so far), each step reading the predictions before it. Right: mean cosine of each
    step's prediction to the one before; at 1 it stands still.
    """
    last, repetition = f"rollout@{STEPS}", f"rollout_repetition@{STEPS}"
    rows = sorted(drawing.known(inputs.rows, "cosine", last, repetition), key=lambda row: -row[last])
    if not rows:
        raise NothingToDraw(f"no rollout: no document goes on for {STEPS} chunks, or the task is another")
    height = drawing.bar_height([row["name"] for row in rows])
    drawn, grid = drawing.canvas(height=height, columns=2, sharey=True)
    (left, right), shades = grid[0], [drawing.look(inputs, row["name"]) for row in rows]
    for place, (row, drawn_as) in enumerate(zip(rows, shades, strict=True)):
        left.plot([row["cosine"], row[last]], [place, place], color=drawn_as.colour, ls=drawn_as.line)
        left.plot(row["cosine"], place, color=drawn_as.colour, marker=drawn_as.marker)
        left.plot(row[last], place, color=drawn_as.colour, marker="|", ms=9, mew=1.8)
        right.plot(row[repetition], place, color=drawn_as.colour, marker=drawn_as.marker)
    left.set_yticks(range(len(rows)), [drawing.wrapped(row["name"]) for row in rows])
    left.invert_yaxis()
    left.set_xlabel(f"cosine at step 1 and at step {STEPS}")
    right.set_xlabel("mean cosine to the step before")
    for axes in (left, right):
        axes.set_xlim(min(0, axes.get_xlim()[0]), max(1, axes.get_xlim()[1]))
    return drawn
