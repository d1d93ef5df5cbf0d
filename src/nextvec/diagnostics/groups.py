"""Cosine in groups of windows: the model beside the best baseline, and by its confidence (calibration)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from nextvec.data.gather import gather_rows
from nextvec.data.windows import FloatArray
from nextvec.diagnostics.examples import nearest_cosine
from nextvec.diagnostics.sections import DiagnosisContext, Section, Verdict, spearman
from nextvec.evaluation.intervals import Estimate, Values, estimate, short
from nextvec.evaluation.predictor_protocol import row_dots, unit
from nextvec.text import table

QUANTILES = 4


@dataclass(frozen=True)
class WindowGroup:
    """Windows that have something in common.

    Attributes:
        cosine, baseline: mean cosine of the model and of the best baseline; gain: their difference.
        better: share of the windows where the model is the nearer one.
    """

    name: str
    windows: int
    documents: int
    cosine: Estimate
    baseline: float
    gain: Estimate
    better: float


@dataclass(frozen=True)
class Factor:
    """One property of a window, and the model's cosine by it.

    Attributes:
        correlation: rank correlation of the property with the model's cosine over windows; None for
            properties without order.
    """

    name: str
    correlation: float | None
    groups: tuple[WindowGroup, ...]


@dataclass(frozen=True)
class FactorsSection(Section):
    """The model's cosine by document length, position in the document and similarity to training data."""

    title: ClassVar[str] = "Where the error is"
    best: str
    factors: tuple[Factor, ...]

    def verdicts(self) -> list[Verdict]:
        found = []
        for factor in self.factors:
            low = min(factor.groups, key=lambda g: g.cosine.value)
            high = max(factor.groups, key=lambda g: g.cosine.value)
            if len(factor.groups) < 2:
                continue
            text = (
                f"by {factor.name}: cosine from {short(low.cosine.value)} ({low.name}) to "
                f"{short(high.cosine.value)} ({high.name})"
            )
            losing = [g.name for g in factor.groups if g.gain.below]
            if losing and len(losing) < len(factor.groups):
                text += f"; below the best baseline at {', '.join(losing)}"
            found.append(Verdict(f"error by {factor.name}", "note", text))
        return found

    def lines(self) -> list[str]:
        lines: list[str] = []
        for factor in self.factors:
            lines += group_table(factor.name, factor.groups, self.best)
            if factor.correlation is not None:
                lines.append(f"Rank correlation with the model's cosine: {short(factor.correlation)}.")
            lines.append("")
        return lines[:-1]


def find_factors(context: DiagnosisContext) -> FactorsSection:
    properties: list[tuple[str, NDArray[Any], Callable[[Any], str]]] = [
        ("chunks of the document", context.length, str),
        ("position of the target", context.position, str),
    ]
    if context.train_vectors is not None and context.trained is not None:
        nearest = nearest_cosine(context.evaluation_set.target_units, context.train_vectors, context.trained)
        properties.append(("cosine of the nearest training chunk", nearest, short))
    factors = []
    for name, values, show in properties:
        groups = tuple(group(context, label, part) for label, part in named_masks(values, show, QUANTILES))
        factors.append(Factor(name, spearman(values, context.cosine), groups))
    return FactorsSection(context.best, tuple(factors))


def group(context: DiagnosisContext, name: str, which: NDArray[np.bool_]) -> WindowGroup:
    """The windows of a mask [N]."""
    documents = context.document[which]
    return WindowGroup(
        name,
        windows=int(which.sum()),
        documents=len(np.unique(documents)),
        cosine=estimate(documents, context.cosine[which]),
        baseline=float(context.best_cosine[which].mean()),
        gain=context.gain(which),
        better=float((context.cosine[which] > context.best_cosine[which]).mean()),
    )


def named_masks(
    values: NDArray[Any], show: Callable[[Any], str], count: int
) -> list[tuple[str, NDArray[np.bool_]]]:
    """`quantile_masks`, each with its bounds as a name."""
    parts = quantile_masks(values, count)
    bounds = [(show(values[p].min().item()), show(values[p].max().item())) for p in parts]
    names = [low if low == high else f"{low} to {high}" for low, high in bounds]
    return list(zip(names, parts, strict=True))


def quantile_masks(values: NDArray[Any], count: int) -> list[NDArray[np.bool_]]:
    """Masks [N] of up to `count` groups of about equal size, ascending; equal values stay together."""
    edges = np.unique(np.quantile(values, np.linspace(0, 1, count + 1)[1:-1]))
    label = np.searchsorted(edges, values, side="left")
    return [label == i for i in np.unique(label)]


def group_table(what: str, groups: Sequence[WindowGroup], best: str) -> list[str]:
    rows = [
        [
            g.name,
            f"{g.windows:,}",
            f"{g.documents:,}",
            short(g.cosine.value, 4),
            short(g.baseline, 4),
            g.gain.show(4, sign=True),
            f"{100 * g.better:.0f} %",
        ]
        for g in groups
    ]
    return table([what, "windows", "documents", "cosine", best, "difference", "better in"], rows)


# Where the model gains and where it loses against the best baseline: at topic shifts, or elsewhere?

SHIFT_NAMES = ("topic goes on", "in between", "topic shift")
UNREST_NAMES = ("steady context", "in between", "mixed context")


@dataclass(frozen=True)
class ShiftSection(Section):
    """Windows in thirds by topic shift (distance of the target from the mean of the context).

    These thirds are chosen by the target, so a baseline near the mean of the context is at its worst in the
    last of them by construction, and anything that differs from it gains there. Hence two things beside it:
    the same thirds for every baseline, and thirds by what is known before the target: how far the last chunk
    read is from the mean of those before it.

    Attributes:
        bounds: the shifts that part the thirds.
        thirds: by shift; unrest: by the context alone (empty for a context of one).
        others: baseline -> its mean cosine in each third by shift.
        better: share of all windows where the model is nearer than the best baseline.
    """

    title: ClassVar[str] = "Gains and losses against the best baseline"
    best: str
    bounds: tuple[float, ...]
    gain: Estimate
    better: float
    thirds: tuple[WindowGroup, ...]
    unrest: tuple[WindowGroup, ...]
    others: dict[str, list[float]]

    def verdicts(self) -> list[Verdict]:
        places = {"topic goes on": "the topic goes on", "topic shift": "it shifts"}
        gains = [f"where {places.get(g.name, 'it is in between')} {gained(g.gain)}" for g in self.thirds]
        text = f"against {self.best}: {', '.join(gains)}; nearer in {100 * self.better:.0f} % of windows"
        losing = all(g.gain.below for g in self.thirds)
        return [Verdict("gains and losses", "warning" if losing else "note", text)]

    def lines(self) -> list[str]:
        lines = group_table("by the target", self.thirds, self.best)
        shown = "; ".join(f"{name} {', '.join(short(x) for x in own)}" for name, own in self.others.items())
        lines += [
            f"Thirds by 1 - cos(target, mean of the context), parted at "
            f"{' and '.join(short(b) for b in self.bounds)}. They are chosen by the target: what is near the "
            "mean of the context is at its worst in the last by construction.",
            f"Cosines of the other baselines in them: {shown}.",
        ]
        if self.unrest:
            lines += ["", *group_table("by the context", self.unrest, self.best)]
            lines.append("Thirds by 1 - cos(last chunk read, mean of those before it): known in advance.")
        return lines


def gained(gain: Estimate) -> str:
    """A difference from the best baseline in words, the sign in the verb."""
    if gain.low is None:
        return "it cannot be said (one document)"
    if gain.above:
        return f"it gains {gain}"
    return f"it loses {-gain}" if gain.below else f"it is level ({gain})"


def find_shifts(context: DiagnosisContext) -> ShiftSection:
    parts = quantile_masks(context.shift, len(SHIFT_NAMES))
    others = [a for name, a in context.summaries.items() if name not in (context.best, context.model.name)]
    unrest = _unrest(context)
    calm = [] if unrest is None else quantile_masks(unrest, len(UNREST_NAMES))
    return ShiftSection(
        best=context.best,
        bounds=tuple(float(context.shift[p].max()) for p in parts[:-1]),
        gain=context.gain(),
        better=float((context.cosine > context.best_cosine).mean()),
        thirds=_thirds(context, SHIFT_NAMES, parts),
        unrest=_thirds(context, UNREST_NAMES, calm),
        others={a.name: [float(a.cosine[p].mean()) for p in parts] for a in others},
    )


def _unrest(context: DiagnosisContext) -> Values | None:
    """[N] distance of the last chunk read from the mean of the others in the context."""
    windows = context.evaluation_set.windows
    if windows.context < 2:
        return None
    rows = windows.last[:, None] - np.arange(1, windows.context)
    before = np.empty((len(windows), context.evaluation_set.dimension), dtype=np.float32)
    for start in range(0, len(windows), 1024):
        piece = slice(start, start + 1024)
        before[piece] = gather_rows(context.evaluation_set.vectors, rows[piece]).mean(axis=1)
    return 1.0 - row_dots(context.evaluation_set.last_units, unit(before))


def _thirds(
    context: DiagnosisContext, names: tuple[str, ...], parts: list[NDArray[np.bool_]]
) -> tuple[WindowGroup, ...]:
    """The groups of these masks: where values are equal there are fewer than three."""
    names = {0: (), 1: (names[1],), 2: (names[0], names[2])}.get(len(parts), names)
    return tuple(group(context, name, part) for name, part in zip(names, parts, strict=True))


# Calibration of cosine: does the predictor know how near it will be?
#
# The best prediction by squared error is the mean of what may come next. Of unit vectors this mean has as its
# length the cosine that its direction will score on average: E cos(t, m/|m|) = |m| for m = E[t]. So the
# length of the raw output, in units of the targets' length, is a predicted cosine, defined for every
# predictor. A copy of a chunk claims 1; a model that normalises its output says nothing. A second table shows
# the cosine by how much the prediction agrees with the last chunk read, which is no predicted cosine but
# defined as generally.

BINS = 10
SAME_LENGTH = 1e-3
WELL = 0.05
SEEN_BEFORE = 1e-6


@dataclass(frozen=True)
class ConfidenceBin:
    """Windows of similar confidence: mean confidence, and what was scored."""

    windows: int
    confidence: float
    cosine: Estimate


@dataclass(frozen=True)
class Reliability:
    """Cosine by confidence.

    Attributes:
        correlation: rank correlation of confidence and cosine over windows; None where one does not vary.
        error: mean over bins, weighted by windows, of |confidence - cosine|.
    """

    bins: tuple[ConfidenceBin, ...]
    correlation: float | None
    error: float


@dataclass(frozen=True)
class CalibrationSection(Section):
    """Reliability of the model's and of the best baseline's predicted cosines.

    Attributes:
        constant: the raw outputs all have the same length, so no confidence is stated.
        length: by length of the raw output over root mean square length of the targets.
        baseline: the same of the best baseline.
        agreement: by cosine of the prediction to the last chunk read.
    """

    title: ClassVar[str] = "Calibration of cosine"
    best: str
    constant: bool
    length: Reliability
    baseline: Reliability
    agreement: Reliability

    def verdicts(self) -> list[Verdict]:
        if self.constant:
            text = (
                "raw outputs all have one length "
                f"({short(self.length.bins[0].confidence)} of the targets'): no confidence is stated"
            )
            return [Verdict("calibration", "note", text)]
        confidence = sum(b.windows * b.confidence for b in self.length.bins)
        scored = sum(b.windows * b.cosine.value for b in self.length.bins)
        well = self.length.error <= WELL
        how = "well calibrated" if well else "over-confident" if confidence > scored else "under-confident"
        text = (
            f"{how}: the cosine predicted by the length of the raw output is off by "
            f"{short(self.length.error)} on average (best baseline: {short(self.baseline.error)}); "
            f"rank correlation with the cosine scored {short(self.length.correlation)}"
        )
        return [Verdict("calibration", "ok" if well else "note", text)]

    def lines(self) -> list[str]:
        return [
            "Predicted cosine: length of the raw output over the targets' (of the mean of what may come next "
            "it is the cosine scored).",
            *_reliability_lines("predicted cosine", self.length.bins),
            "",
            "By agreement with the last chunk read (not a predicted cosine; rank correlation "
            f"{short(self.agreement.correlation)}).",
            *_reliability_lines("cosine to the last chunk", self.agreement.bins),
        ]


def find_calibration(context: DiagnosisContext) -> CalibrationSection:
    size = float(np.sqrt(row_dots(context.evaluation_set.targets, context.evaluation_set.targets).mean()))
    length = _lengths(context.scores.raw) / size
    agreement = row_dots(context.scores.unit, context.evaluation_set.last_units)
    return CalibrationSection(
        best=context.best,
        constant=bool(length.std() <= SAME_LENGTH * length.mean()),
        length=_reliability(context, length, context.cosine),
        baseline=_reliability(context, _lengths(context.best_scores.raw) / size, context.best_cosine),
        agreement=_reliability(context, agreement, context.cosine),
    )


def _lengths(raw: FloatArray) -> Values:
    return np.sqrt(row_dots(raw, raw))


def _reliability(context: DiagnosisContext, confidence: Values, cosine: Values) -> Reliability:
    # what differs by rounding alone is one confidence
    rounded = np.round(confidence / SEEN_BEFORE) * SEEN_BEFORE
    bins = []
    for part in quantile_masks(rounded, BINS):
        scored = estimate(context.document[part], cosine[part])
        bins.append(ConfidenceBin(int(part.sum()), float(confidence[part].mean()), scored))
    error = sum(b.windows * abs(b.confidence - b.cosine.value) for b in bins) / len(confidence)
    return Reliability(tuple(bins), spearman(rounded, cosine), error)


def _reliability_lines(what: str, bins: Sequence[ConfidenceBin]) -> list[str]:
    rows = [[short(b.confidence), f"{b.windows:,}", b.cosine.show(4)] for b in bins]
    return table([what, "windows", "cosine scored"], rows)
