"""What only the models themselves can tell: how sure they are, what they put out, what they attend to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from nextvec.data.windows import FloatArray, IntArray
from nextvec.diagnostics.groups import quantile_masks
from nextvec.diagnostics.sections import sample
from nextvec.errors import NothingToDraw
from nextvec.evaluation.baselines import CopyLast
from nextvec.evaluation.evaluation_set import EvaluationSet
from nextvec.evaluation.intervals import short
from nextvec.evaluation.metrics import Scores, moments
from nextvec.evaluation.predictor_protocol import NextVectorPredictor, row_dots
from nextvec.evaluation.trajectory import rollable, rollout
from nextvec.inference.predictor import RunPredictor
from nextvec.reporting import drawing
from nextvec.reporting.figures import figure
from nextvec.reporting.inputs import Need, ReportInputs
from nextvec.reporting.predicted import PredictedWindows, Values
from nextvec.text import shorten
from nextvec.training.saved import calibration_error

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NEEDS: tuple[Need, ...] = ("rows", "answers", "store", "deep")
CONTINUED, ROLLED = 500, 100
BINS = 10
STEPS = 10
READ, SHOWN = 8, 62
EXAMPLES = {"well predicted": 0.05, "usual": 0.5, "badly predicted": 0.95}


def opened(answered: PredictedWindows) -> Iterator[RunPredictor]:
    """The first run of every model, loaded, answering for the horizon that was evaluated."""
    for row in answered.models:
        runs = answered.inputs.runs_of(row)
        if runs:
            predictor = RunPredictor(runs[0].folder, row)
            yield predictor.at_horizon(answered.evaluation_set.windows.horizon)


def _some(answered: PredictedWindows) -> EvaluationSet:
    return answered.evaluation_set.select(sample(len(answered), CONTINUED, seed=0))


@figure(*NEEDS)
def calibration(inputs: ReportInputs) -> Figure:
    """Calibration of confidence.

    How often a candidate that a model gives such a probability is the one that really follows; half of the
    candidates are, the others are chunks of other documents. On the dashed line it is as often as it says.
    """
    answered = PredictedWindows.of(inputs)
    evaluation_set = _some(answered)
    if len(np.unique(evaluation_set.windows.document)) < 2:
        raise NothingToDraw("one document was evaluated: there are no chunks of others to compare with")
    drawn, axes = drawing.canvas(height=4.6)
    for predictor in opened(answered):
        if predictor.confident:
            probability, true = _continuations(predictor, evaluation_set)
            parts = _tenths(probability)
            observed = [float(true[part].mean()) for part in parts]
            drawing.line(
                axes, inputs, predictor.name, [float(probability[part].mean()) for part in parts], observed
            )
            off = calibration_error(torch.from_numpy(probability), torch.from_numpy(true))
            axes.lines[-1].set_label(f"{predictor.name}: off by {short(off)}")
    if not axes.lines:
        raise NothingToDraw("no model was trained with confidence (loss.continuation)")
    _diagonal(axes, "probability that the candidate follows, as predicted", "share that follows")
    axes.set(xlim=(0, 1), ylim=(0, 1))
    drawing.legend_outside(drawn, below=True)
    return drawn


def _continuations(predictor: RunPredictor, evaluation_set: EvaluationSet) -> tuple[Values, Values]:
    """[2 n] predicted probabilities of the true chunks and of as many of other documents; [2 n] 1 and 0."""
    others = evaluation_set.targets[_elsewhere(evaluation_set.windows.document)]
    probability = np.empty((len(evaluation_set), 2))
    for piece, contexts, lengths in evaluation_set.blocks(predictor.context):
        candidates = np.stack([evaluation_set.targets[piece], others[piece]], axis=1)
        probability[piece] = predictor.continuation(contexts, lengths, candidates)
    return probability.ravel(), np.tile([1.0, 0.0], len(evaluation_set))


def _elsewhere(document: IntArray) -> IntArray:
    """[N] for each window one of another document, drawn the same each time."""
    rng = np.random.default_rng(0)
    return np.array([rng.choice(np.flatnonzero(document != own)) for own in document], dtype=np.int64)


def _tenths(values: Values) -> list[NDArray[np.bool_]]:
    """Masks [N] of the values in [0, 1] in ten bins of equal width, without empty ones."""
    label = np.minimum((values * BINS).astype(np.int64), BINS - 1)
    return [label == i for i in np.unique(label)]


def _diagonal(axes: Axes, x: str, y: str) -> None:
    drawing.diagonal(axes)
    axes.set_xlabel(x)
    axes.set_ylabel(y)


@figure(*NEEDS)
def length_calibration(inputs: ReportInputs) -> Figure:
    """Calibration of cosine.

    The length of a raw output over that of true vectors is the cosine it can expect to score, if it is the
    mean of what may come next. Tenths of the windows by that length, and the cosine they scored; below the
    dashed line a model is over-confident.
    """
    answered = PredictedWindows.of(inputs)
    evaluation_set = _some(answered)
    size = float(np.sqrt(row_dots(evaluation_set.targets, evaluation_set.targets).mean()))
    drawn, axes = drawing.canvas(height=3.6 + drawing.legend_height(answered.models))
    for predictor in opened(answered):
        scores = Scores.of(predictor, evaluation_set)
        length = np.sqrt(row_dots(scores.raw, scores.raw)) / size
        parts = quantile_masks(np.round(length, 6), BINS)
        scored = [float(scores.cosines[part].mean()) for part in parts]
        drawing.line(axes, inputs, predictor.name, [float(length[part].mean()) for part in parts], scored)
    _diagonal(axes, "length of the raw output over that of true vectors", "cosine scored")
    drawing.legend_outside(drawn, below=True)
    return drawn


@figure(*NEEDS)
def raw_dimensions(inputs: ReportInputs) -> Figure:
    """Mean and standard deviation of every dimension, raw output.

    One coloured point a dimension: its standard deviation over the encoder's vectors and over the raw output;
    grey: its mean. On the dashed line they agree.
    """
    answered = PredictedWindows.of(inputs)
    evaluation_set = _some(answered)
    true = moments(evaluation_set.targets)
    drawn, grid = drawing.panels(answered.models)
    room = dict(grid)
    for predictor in opened(answered):
        if predictor.name in room:
            own, axes = moments(Scores.of(predictor, evaluation_set).raw), room[predictor.name]
            shades = (drawing.BASELINE, drawing.look(inputs, predictor.name).colour)
            for encoders, models, shade in zip(true, own, shades, strict=True):
                axes.plot(encoders, models, ".", color=shade, alpha=0.5, ms=4, mew=0, rasterized=True)
            drawing.diagonal(axes)
    return drawing.name_axes(drawn, "over the encoder's vectors", "over the raw predictions")


@figure(*NEEDS)
def rollout_curve(inputs: ReportInputs) -> Figure:
    """Rollout step by step.

    Each step reads the predictions before it as if they were text. Left: cosine to the true chunk of that
    step; right: to the last chunk that was really read.
    """
    answered = PredictedWindows.of(inputs)
    evaluation_set = answered.evaluation_set
    steps = next((n for n in range(STEPS, 1, -1) if len(rollable(evaluation_set, n))), None)
    if steps is None:
        raise NothingToDraw("no rollout: no document goes on for two chunks, or another task was evaluated")
    drawn, grid = drawing.canvas(height=2.9 + drawing.legend_height(answered.models), columns=2)
    left, right = grid[0]
    every: list[NextVectorPredictor] = [CopyLast(evaluation_set.windows.context), *opened(answered)]
    for predictor in every:
        found = rollout(predictor, evaluation_set, steps, ROLLED)
        drawing.line(left, inputs, predictor.name, range(1, steps + 1), found.cosine.mean(axis=0))
        drawing.line(right, inputs, predictor.name, range(1, steps + 1), found.drift.mean(axis=0))
    left.set_ylabel("cosine to the truth")
    right.set_ylabel("cosine to the last chunk read")
    for axes in (left, right):
        axes.set_xlabel("step")
        axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
    drawing.legend_outside(drawn, below=True)
    return drawn


@figure(*NEEDS, READ=READ)
def attention_maps(inputs: ReportInputs) -> Figure:
    """What the attention mixture network attends to.

    The last {READ} chunks of three windows, and how much each of them counts once the chunk of a row is read
    (columns have the rows' numbers): 1 is an even share of all that was read by then. The last row makes the
    prediction.
    """
    answered = PredictedWindows.of(inputs)
    network = next((p for p in opened(answered) if p.model.gives_attention), None)
    if network is None:
        raise NothingToDraw("no attention mixture network (amn) was evaluated")
    cosine = answered.answers.values[network.name]["cosine"]
    order = np.argsort(-cosine, kind="stable")
    windows = [int(order[round(quantile * (len(order) - 1))]) for quantile in EXAMPLES.values()]
    found = [_attention(network, answered.evaluation_set.select(np.array([window]))) for window in windows]
    drawn, grid = drawing.canvas(height=2.3 * len(EXAMPLES) + 0.4, rows=len(EXAMPLES))
    most = max(float(weights.max()) for weights, _ in found)
    for name, window, (weights, rows), axes in zip(EXAMPLES, windows, found, np.ravel(grid), strict=True):
        seen = np.where(np.tri(len(rows), dtype=bool), weights, np.nan)
        image = axes.imshow(seen, vmin=0, vmax=most, aspect="auto")
        texts = answered.store.texts([*rows, answered.answers.target[window]])
        seen_as = ("".join(c if c.isprintable() else " " for c in text) for text in texts)
        *read, came = (shorten(text, SHOWN) for text in seen_as)
        axes.set_yticks(range(len(rows)), [f"{text}  {i + 1}" for i, text in enumerate(read)], size=6.5)
        axes.set_xticks(range(len(rows)), [str(i + 1) for i in range(len(rows))], size=6.5)
        axes.grid(visible=False)
        title = f"{name}, cosine {short(float(cosine[window]), 2)}. Then came: {came}"
        axes.set_title(title, size=7, loc="right")
    drawn.suptitle(drawing.wrapped(network.name), size=8)
    drawn.supxlabel("chunk attended to", size=8)
    drawn.supylabel("chunk read", size=8)
    drawn.colorbar(image, ax=np.ravel(grid).tolist(), label="attention over an even share", shrink=0.5)
    return drawn


@torch.inference_mode()
def _attention(network: RunPredictor, evaluation_set: EvaluationSet) -> tuple[FloatArray, IntArray]:
    """How much each position of a window's last chunks takes from each of them [T, T], in even shares of what
    it has read, and their rows [T]."""
    _, contexts, lengths = next(evaluation_set.blocks(min(READ, network.context)))
    x, n = torch.from_numpy(contexts), torch.from_numpy(lengths)
    found = network.model(x, n, return_attention=True).extras["attention"][0].float().numpy()
    count = int(lengths[0])
    rows = np.array(
        [int(evaluation_set.windows.back(step)[0]) for step in range(count - 1, -1, -1)], dtype=np.int64
    )
    return found[:count, :count] * np.arange(1, count + 1, dtype=np.float32)[:, None], rows
