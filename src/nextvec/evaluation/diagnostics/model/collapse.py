"""Collapse, and the mean vector's share in the score (the brief's task 1.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from nextvec.data.windows import FloatArray
from nextvec.evaluation.diagnostics.model.part import WORTH_NAMING, Estimate, Part, estimate, table
from nextvec.evaluation.diagnostics.verdicts import Verdict, short
from nextvec.evaluation.metrics import METRICS, Judgement, mean_pairwise_cosine
from nextvec.evaluation.predictor import row_dots, unit

LEAST_SPREAD = 0.05
LEFT_WITHOUT_MEAN = 0.02
FEW = 0.25


@dataclass(frozen=True)
class MeanShare:
    """The mean vector m of training, as a direction, against predictions p and targets t.

    Attributes:
        own: mean cos(m, t), what the mean vector itself scores.
        prediction: mean cos(p, m).
        through: mean cos(p, m) cos(m, t): how much of the model's cosine comes through m.
        gain: the model's cosine less the mean vector's.
        without: cosine of p - m and t - m.
    """

    own: float
    prediction: float
    through: float
    gain: Estimate
    without: Estimate

    @property
    def beaten(self) -> bool:
        """Whether the model is clearly better than the mean vector, and has something left without it."""
        low = self.gain.value if self.gain.low is None else self.gain.low
        return low > 0 and self.gain.value >= WORTH_NAMING and self.without.value >= LEFT_WITHOUT_MEAN


@dataclass(frozen=True)
class CollapsePart(Part):
    """Whether the predictions still differ from one another.

    Attributes:
        variance_ratio: total variance of raw predictions over that of targets.
        spread: mean distance 1 - cos of two predictions over that of two targets: the same, but blind to
            the predictions' lengths.
        pairwise, pairwise_targets: mean cosine of two of them.
        dimensions, dimensions_targets, dimensions_baseline: effective number of dimensions that predictions,
            targets and the best baseline's predictions vary in, tr(C)^2 / tr(C^2).
        cosine: the model's.
        mean: None where nothing was trained on.
    """

    title: ClassVar[str] = "Collapse and the mean vector"
    variance_ratio: float
    spread: float
    pairwise: float
    pairwise_targets: float
    dimensions: float
    dimensions_targets: float
    dimensions_baseline: float
    cosine: float
    mean: MeanShare | None

    @property
    def collapsed(self) -> bool:
        """Whether all predictions are nearly one direction."""
        return self.spread < LEAST_SPREAD

    @property
    def few(self) -> bool:
        """Whether they vary in far fewer dimensions than the best baseline's."""
        return self.dimensions < FEW * self.dimensions_baseline

    def verdicts(self) -> list[Verdict]:
        if self.collapsed:
            where = ""
            if self.mean is not None:
                where = f", with a cosine of {short(self.mean.prediction)} to the mean vector"
            text = f"collapsed: predictions are only {short(self.spread)} as far apart as targets{where}"
            found = [Verdict("collapse", "red", text)]
        else:
            text = (
                f"no collapse: predictions are {short(self.spread, 2)} as far apart as targets, their total "
                f"variance is {short(self.variance_ratio)} of theirs"
            )
            found = [Verdict("collapse", "ok", text)]
        if not self.collapsed and self.few:
            text = (
                f"predictions vary in {self.dimensions:.1f} effective dimensions, targets in "
                f"{self.dimensions_targets:.1f}, the best baseline in {self.dimensions_baseline:.1f}: "
                "they point in few directions"
            )
            found.append(Verdict("few directions", "warning", text))
        if self.mean is None:
            return found
        scores = f"{short(self.cosine, 4)} against {short(self.mean.own, 4)}"
        left = f"without it a cosine of {self.mean.without} is left"
        if self.mean.beaten:
            return [*found, Verdict("mean vector", "ok", f"better than the mean vector: {scores}; {left}")]
        return [*found, Verdict("mean vector", "red", f"no better than the mean vector: {scores}; {left}")]

    def lines(self) -> list[str]:
        rows = [
            ["mean cosine of two of them", short(self.pairwise, 4), short(self.pairwise_targets, 4)],
            ["effective dimensions", f"{self.dimensions:.1f}", f"{self.dimensions_targets:.1f}"],
            ["of the best baseline's", f"{self.dimensions_baseline:.1f}", ""],
        ]
        if self.mean is not None:
            rows.append(
                ["cosine with the mean vector", short(self.mean.prediction, 4), short(self.mean.own, 4)]
            )
        lines = [
            *table(["", "predictions", "targets"], rows),
            f"Variance of the raw predictions over the targets': {short(self.variance_ratio, 4)}; "
            f"distance of two predictions over that of two targets: {short(self.spread, 4)}.",
        ]
        if self.mean is None:
            return [*lines, "Nothing was trained on: there is no mean vector to compare with."]
        return [
            *lines,
            f"The mean vector itself scores {short(self.mean.own, 4)}, the model {short(self.cosine, 4)} "
            f"({self.mean.gain.show(4, sign=True)}); {short(self.mean.through, 4)} of that comes through the "
            f"mean vector; cosine after removing it from both: {self.mean.without.show(4)}.",
        ]


def find_collapse(judgement: Judgement, baseline: Judgement) -> CollapsePart:
    """Measure collapse of predictions; of the best baseline's in the same exam, the effective dimensions."""
    exam = judgement.exam
    mean = None if exam.train_mean is None else _mean_share(judgement, exam.train_mean)
    pairwise, of_targets = mean_pairwise_cosine(judgement.unit), mean_pairwise_cosine(exam.target_units)
    spread = (1 - pairwise) / (1 - of_targets) if of_targets < 1 else float("nan")
    return CollapsePart(
        variance_ratio=METRICS["variance_ratio"].figure(judgement),
        spread=spread,
        pairwise=pairwise,
        pairwise_targets=of_targets,
        dimensions=_effective_dimensions(judgement.unit),
        dimensions_targets=_effective_dimensions(exam.target_units),
        dimensions_baseline=_effective_dimensions(baseline.unit),
        cosine=float(judgement.cosines.mean()),
        mean=mean,
    )


def _mean_share(judgement: Judgement, train_mean: FloatArray) -> MeanShare:
    documents = judgement.exam.windows.document
    direction = unit(train_mean)
    of_targets = row_dots(judgement.exam.target_units, np.broadcast_to(direction, judgement.unit.shape))
    of_predictions = row_dots(judgement.unit, np.broadcast_to(direction, judgement.unit.shape))
    without = METRICS["cosine_without_mean"].values
    assert without is not None
    return MeanShare(
        own=float(of_targets.mean()),
        prediction=float(of_predictions.mean()),
        through=float((of_predictions * of_targets).mean()),
        gain=estimate(documents, judgement.cosines, of_targets),
        without=estimate(documents, without(judgement)),
    )


def _effective_dimensions(units: FloatArray) -> float:
    """tr(C)^2 / tr(C^2) of the covariance C of [N, D]: D when all directions vary alike, 1 for a line."""
    centred = units - units.mean(axis=0, dtype=np.float64).astype(np.float32)
    covariance = (centred.T @ centred).astype(np.float64)
    square = float((covariance**2).sum())
    return float(np.trace(covariance)) ** 2 / square if square > 0 else 0.0
