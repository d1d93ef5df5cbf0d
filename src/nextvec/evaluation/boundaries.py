"""Where a document's topic changes: a curve over the places between its chunks, and its high peaks.

A curve says of each place how much speaks for a boundary there; `CURVES` lists them. A `Rule` turns a curve
into boundaries: peaks that rise above mean + threshold * deviation of the curve (the cutoff of Hearst,
"TextTiling: Segmenting Text into Multi-paragraph Subtopic Passages", 1997), the highest first, at least
`apart` chunks from each other. The cutoff moves with the document, so one of a single topic gets boundaries
too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nextvec.data.gather import VectorSource, gather_rows
from nextvec.data.windows import Extent, FloatArray, Windows
from nextvec.errors import EvaluationError
from nextvec.evaluation.evaluation_set import context_blocks
from nextvec.evaluation.predictor_protocol import (
    NextVectorPredictor,
    OnePassPredictor,
    ask,
    checked,
    row_dots,
    unit,
)

# Surprise: how far each chunk of a document is from what was expected after the chunks before it.


def surprise(
    predictor: NextVectorPredictor, vectors: VectorSource, document: Extent, least: int = 1
) -> NDArray[np.float64]:
    """[T] 1 - cos(prediction, actual) of each chunk of a document; 0 is as expected, 1 unrelated, 2 opposite.

    Args:
        vectors: of the store the document is in, raw.
        least: chunks that must have been read; the first `least` chunks of the document get nan.
    Raises:
        EvaluationError: predictions that cannot be evaluated (NaN, a wrong shape).
    """
    rows = document.first + np.arange(document.count, dtype=np.int64)
    found = 1.0 - row_dots(expected(predictor, vectors, document, least), unit(gather_rows(vectors, rows)))
    found[:least] = np.nan
    return found


def expected(
    predictor: NextVectorPredictor, vectors: VectorSource, document: Extent, least: int = 1
) -> FloatArray:
    """[T, D] the prediction of each chunk of a document, of unit length; zeros for the first `least` chunks.

    A predictor that can is asked in one pass for as many chunks as its context holds; those after them each
    have a context of their own. Arguments and errors are those of `surprise`.
    """
    units = np.zeros((document.count, vectors.shape[1]), dtype=np.float32)
    if isinstance(predictor, OnePassPredictor) and document.count > least:
        many = min(document.count - 1, predictor.context)
        start = gather_rows(vectors, document.first + np.arange(many, dtype=np.int64))
        raw, found = predictor.predict_each(start)
        checked(predictor, raw, found, (many, vectors.shape[1]))
        units[least : many + 1] = found[least - 1 :]
        least = max(least, many + 1)
    target = document.first + np.arange(least, document.count, dtype=np.int64)
    if len(target) == 0:
        return units
    first = np.full_like(target, document.first)
    windows = Windows.of_targets(target, first, np.zeros_like(target), context=least)
    for piece, contexts, lengths in context_blocks(vectors, windows, predictor.context):
        units[least:][piece] = ask(predictor, contexts, lengths)[1]
    return units


# Figures of a segmentation: how well the places where a topic is said to change are those where it does.
#
# A segmentation of T chunks is a boolean array [T - 1]: entry g is True where one segment ends with chunk g
# and the next begins with chunk g + 1. Figures also come as one value a place, so that they can be summed
# over whatever is resampled.

Cuts = NDArray[np.bool_]


def pk_errors(true: Cuts, hypothesis: Cuts, k: int) -> NDArray[np.bool_]:
    """[..., T - k] of which pairs of chunks i and i + k one segmentation says that they are of one segment
    and the other that they are not. Their share is Pk (Beeferman, Berger, Lafferty, "Statistical Models for
    Text Segmentation", 1999): 0 is perfect; saying nothing at all costs the share of pairs that truly lie in
    two segments.

    Args:
        true: [T - 1]. hypothesis: [..., T - 1].
        k: usually `half_length`.
    Raises:
        EvaluationError: the two are not of one length, or k is not from 1 to T - 1.
    """
    between, given = _between(true, hypothesis, k)
    return np.asarray((between > 0) != (given > 0))


def window_diff_errors(true: Cuts, hypothesis: Cuts, k: int) -> NDArray[np.bool_]:
    """[..., T - k] between which pairs of chunks i and i + k the two count different numbers of boundaries.
    Their share is WindowDiff (Pevzner and Hearst, "A Critique and Improvement of an Evaluation Metric for
    Text Segmentation", 2002), never below Pk; arguments and errors are the same."""
    between, given = _between(true, hypothesis, k)
    return np.asarray(between != given)


def found(true: Cuts, hypothesis: Cuts, tolerance: int = 1) -> NDArray[np.bool_]:
    """[T - 1] which true boundaries have one of `hypothesis` for themselves, at most `tolerance` chunks away.

    The first free one in reach is taken, which on a line pairs as many as can be paired.
    """
    _check(true, hypothesis)
    paired = np.zeros_like(true)
    free = np.flatnonzero(hypothesis).tolist()
    for place in np.flatnonzero(true).tolist():
        while free and free[0] < place - tolerance:
            free.pop(0)
        if free and free[0] <= place + tolerance:
            free.pop(0)
            paired[place] = True
    return paired


def half_length(truths: Sequence[Cuts]) -> int:
    """k: half the mean length of the true segments of some documents, at least 1."""
    chunks = sum(len(true) + 1 for true in truths)
    segments = sum(int(true.sum()) + 1 for true in truths)
    return max(1, round(chunks / segments / 2))


def _between(true: Cuts, hypothesis: Cuts, k: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How many boundaries of each lie between chunks i and i + k."""
    _check(true, hypothesis)
    if not 1 <= k <= len(true):
        remedy = "evaluate longer documents, or give a k from 1 to less than their length"
        raise EvaluationError(f"pairs of chunks {k} apart among {len(true) + 1} chunks", remedy=remedy)
    counts = []
    for cuts in (true, hypothesis):
        total = np.zeros((*cuts.shape[:-1], cuts.shape[-1] + 1), dtype=np.int64)
        total[..., 1:] = np.cumsum(cuts, axis=-1)
        counts.append(total[..., k:] - total[..., :-k])
    return counts[0], counts[1]


def _check(true: Cuts, hypothesis: Cuts) -> None:
    if true.ndim != 1 or hypothesis.shape[-1:] != true.shape:
        remedy = "give one entry for each place between two chunks of the document"
        raise EvaluationError(
            f"segmentations of shape {[*true.shape]} and {[*hypothesis.shape]}", remedy=remedy
        )


Curve = NDArray[np.float64]

APART = (1, 3, 5)
WIDTHS = (1, 2, 3, 4, 6, 8)
THRESHOLDS = np.round(np.arange(-1.0, 3.01, 0.1), 2)


@dataclass(frozen=True)
class ReadDocument:
    """A document of T chunks as a curve sees it.

    Attributes:
        units: [T, D] its vectors, of unit length.
        expected: [T, D] what a predictor expected each of them to be, of unit length; row 0 is not used.
    """

    units: FloatArray
    expected: FloatArray

    @classmethod
    def of(cls, predictor: NextVectorPredictor, vectors: FloatArray) -> ReadDocument:
        """A document's raw vectors [T, D], read by a predictor. Raises EvaluationError."""
        return cls(unit(vectors), expected(predictor, vectors, _Whole(0, len(vectors))))


@dataclass(frozen=True)
class _Whole:
    first: int
    count: int


@dataclass(frozen=True)
class Rule:
    """How a curve becomes boundaries.

    Attributes:
        threshold: deviations above the curve's mean that a peak must reach.
        apart: chunks between two boundaries at least.
        width: chunks that make a block, for the curves that compare blocks.
    """

    threshold: float = 1.0
    apart: int = 1
    width: int = 1


@dataclass(frozen=True)
class CurveKind:
    """A way to look at the places between chunks.

    Attributes:
        about: one line, the docstring's first.
        predicts: it uses what a predictor expected.
        widths: the sizes of a block that are worth a try; (1,) where there are no blocks.
        usual: the rule for a text of which nothing is known: about what `nextvec surprise --evaluate` fits
            on real documents joined from segments of 5 to 20 chunks; of those without a predictor, the best
            on segments of 3 to 11 and of 5 to 20 together (LOG.md, 2026-11-29).
    """

    name: str
    about: str
    make: Callable[[ReadDocument, int], Curve]
    predicts: bool
    widths: tuple[int, ...]
    usual: Rule

    def boundaries(self, read: ReadDocument, rule: Rule) -> Cuts:
        """[T - 1] where a rule says that the topic of a document of T chunks changes."""
        return boundaries(self.make(read, rule.width), rule)


CURVES: dict[str, CurveKind] = {}
DEFAULT = "cosine-gap"
"""Where nothing was fitted: the finder that did best on real documents (docs/text.md); it needs no model."""


def curve(
    name: str, usual: Rule, *, predicts: bool = True, widths: tuple[int, ...] = (1,)
) -> Callable[[Callable[[ReadDocument, int], Curve]], Callable[[ReadDocument, int], Curve]]:
    """Register a curve: a function of a `ReadDocument` of T chunks and a width -> [T - 1]."""

    def register(make: Callable[[ReadDocument, int], Curve]) -> Callable[[ReadDocument, int], Curve]:
        about = (make.__doc__ or "").partition("\n\n")[0]
        CURVES[name] = CurveKind(name, " ".join(about.split()), make, predicts, widths, usual)
        return make

    return register


@curve("surprise", Rule(1.2, 5))
def _surprise(read: ReadDocument, width: int) -> Curve:
    """How unexpected the chunk after the place is."""
    return 1.0 - row_dots(read.expected[1:], read.units[1:])


@curve("surprise-depth", Rule(1.6, 5))
def _surprise_depth(read: ReadDocument, width: int) -> Curve:
    """How far the surprise stands above the valleys on either side of it."""
    return depth(_surprise(read, width))


@curve("surprise-ahead", Rule(0.5, 5, 6), widths=WIDTHS)
def _surprise_ahead(read: ReadDocument, width: int) -> Curve:
    """How unexpected the mean of the next chunks is: an odd chunk is not yet another topic."""
    return 1.0 - row_dots(read.expected[1:], blocks(read.units, width)[1])


@curve("cosine-drop", Rule(0.6, 3, 6), predicts=False, widths=WIDTHS)
def _cosine_drop(read: ReadDocument, width: int) -> Curve:
    """TextTiling: how deep the similarity of the blocks before and after the place dips below the hills on
    either side."""
    return depth(_cosine_gap(read, width))


@curve("cosine-gap", Rule(0.4, 3, 6), predicts=False, widths=WIDTHS)
def _cosine_gap(read: ReadDocument, width: int) -> Curve:
    """How unlike the blocks before and after the place are."""
    before, after = blocks(read.units, width)
    return 1.0 - row_dots(before, after)


def blocks(units: FloatArray, width: int) -> tuple[FloatArray, FloatArray]:
    """For each place the directions [T - 1, D] of the mean of up to `width` chunks before it and after it."""
    total = np.zeros((len(units) + 1, units.shape[1]))
    np.cumsum(units, axis=0, dtype=np.float64, out=total[1:])
    place = np.arange(1, len(units))
    before = total[place] - total[np.maximum(place - width, 0)]
    after = total[np.minimum(place + width, len(units))] - total[place]
    return unit(before), unit(after)


def depth(values: Curve) -> Curve:
    """[n] how far each value stands above the nearest valley to its left and to its right, summed (the depth
    score of TextTiling, of a curve that is high where blocks are unlike)."""
    climbed = np.zeros((2, len(values)))
    for side, along in zip(climbed, (values, values[::-1]), strict=True):
        for i in range(1, len(along)):
            if along[i] >= along[i - 1]:
                side[i] = side[i - 1] + along[i] - along[i - 1]
    return np.asarray(climbed[0] + climbed[1][::-1])


def boundaries(values: Curve, rule: Rule) -> Cuts:
    """[n] the boundaries that a rule reads off a curve [n]; none where the curve is flat."""
    place, height = high_peaks(values, rule.apart)
    cuts = np.zeros(len(values), dtype=np.bool_)
    cuts[place[height > rule.threshold]] = True
    return cuts


def high_peaks(values: Curve, apart: int) -> tuple[NDArray[np.int64], Curve]:
    """Places of the peaks of a curve and their heights in deviations above its mean, the highest first; one
    closer than `apart` to a higher one is left out. Of equal neighbours the last is the peak."""
    none = np.zeros(0, dtype=np.int64), np.zeros(0)
    spread = float(values.std()) if len(values) else 0.0
    if spread == 0.0:
        return none
    walled = np.concatenate([[-np.inf], values, [-np.inf]])
    place = np.flatnonzero((walled[1:-1] >= walled[:-2]) & (walled[1:-1] > walled[2:]))
    kept: list[int] = []
    for at in place[np.argsort(-values[place], kind="stable")].tolist():
        if all(abs(at - other) >= apart for other in kept):
            kept.append(at)
    chosen = np.asarray(kept, dtype=np.int64)
    return chosen, (values[chosen] - values.mean()) / spread


def fit_rule(kind: CurveKind, reads: Sequence[ReadDocument], truths: Sequence[Cuts]) -> tuple[Rule, float]:
    """The rule with the lowest Pk on documents whose boundaries are known, and that Pk.

    Of equally good thresholds the one in the middle is taken, of other rules the narrowest block.
    """
    k = half_length(truths)
    best: tuple[float, Rule] | None = None
    for width in kind.widths:
        curves = [kind.make(read, width) for read in reads]
        for apart in APART:
            wrong, pairs = np.zeros(len(THRESHOLDS)), 0
            for values, true in zip(curves, truths, strict=True):
                errors = pk_errors(true, _at_thresholds(values, apart), k)
                wrong += errors.sum(axis=1)
                pairs += errors.shape[1]
            equal = np.flatnonzero(wrong == wrong.min())
            at = int(equal[len(equal) // 2])
            if best is None or wrong[at] / pairs < best[0]:
                best = float(wrong[at] / pairs), Rule(float(THRESHOLDS[at]), apart, width)
    assert best is not None
    return best[1], best[0]


def _at_thresholds(values: Curve, apart: int) -> Cuts:
    """[thresholds, n] the boundaries at each of THRESHOLDS."""
    place, height = high_peaks(values, apart)
    cuts = np.zeros((len(THRESHOLDS), len(values)), dtype=np.bool_)
    cuts[:, place] = height > THRESHOLDS[:, None]
    return cuts
