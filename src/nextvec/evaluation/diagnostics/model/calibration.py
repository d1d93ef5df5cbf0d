"""Calibration of cosine: does the predictor know how near it will be?

The best prediction by squared error is the mean of what may come next. Of unit vectors this mean has as its
length the cosine that its direction will score on average: E cos(t, m/|m|) = |m| for m = E[t]. So the length
of the raw output, in units of the targets' length, is a predicted cosine, defined for every predictor. A copy
of a chunk claims 1; a model that normalises its output says nothing. A second table shows the cosine by how
much the prediction agrees with the last chunk read, which is no predicted cosine but defined as generally.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from nextvec.data.windows import FloatArray
from nextvec.evaluation.diagnostics.model.case import Case
from nextvec.evaluation.diagnostics.model.groups import quantile_parts
from nextvec.evaluation.diagnostics.model.part import Estimate, Part, Values, estimate, spearman, table
from nextvec.evaluation.diagnostics.verdicts import Verdict, short
from nextvec.evaluation.predictor import row_dots

BINS = 10
SAME_LENGTH = 1e-3
WELL = 0.05
SEEN_BEFORE = 1e-6


@dataclass(frozen=True)
class Bin:
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

    bins: tuple[Bin, ...]
    correlation: float | None
    error: float


@dataclass(frozen=True)
class CalibrationPart(Part):
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
            *_table("predicted cosine", self.length.bins),
            "",
            "By agreement with the last chunk read (not a predicted cosine; rank correlation "
            f"{short(self.agreement.correlation)}).",
            *_table("cosine to the last chunk", self.agreement.bins),
        ]


def find_calibration(case: Case) -> CalibrationPart:
    """Bin the windows by confidence, in tenths."""
    size = float(np.sqrt(row_dots(case.exam.targets, case.exam.targets).mean()))
    length = _lengths(case.judgement.raw) / size
    agreement = row_dots(case.judgement.unit, case.exam.last_units)
    return CalibrationPart(
        best=case.best,
        constant=bool(length.std() <= SAME_LENGTH * length.mean()),
        length=_reliability(case, length, case.cosine),
        baseline=_reliability(case, _lengths(case.best_judgement.raw) / size, case.best_cosine),
        agreement=_reliability(case, agreement, case.cosine),
    )


def _lengths(raw: FloatArray) -> Values:
    return np.sqrt(row_dots(raw, raw))


def _reliability(case: Case, confidence: Values, cosine: Values) -> Reliability:
    # what differs by rounding alone is one confidence
    rounded = np.round(confidence / SEEN_BEFORE) * SEEN_BEFORE
    bins = []
    for part in quantile_parts(rounded, BINS):
        scored = estimate(case.document[part], cosine[part])
        bins.append(Bin(int(part.sum()), float(confidence[part].mean()), scored))
    error = sum(b.windows * abs(b.confidence - b.cosine.value) for b in bins) / len(confidence)
    return Reliability(tuple(bins), spearman(rounded, cosine), error)


def _table(what: str, bins: Sequence[Bin]) -> list[str]:
    rows = [[short(b.confidence), f"{b.windows:,}", b.cosine.show(4)] for b in bins]
    return table([what, "windows", "cosine scored"], rows)
