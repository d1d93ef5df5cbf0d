"""Collapse, the mean vector's share in the score (the brief's task 1.2); moments per dimension (1.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from nextvec.data.windows import FloatArray, IntArray
from nextvec.diagnostics.sections import Section, Verdict
from nextvec.evaluation.intervals import WORTH_NAMING, Estimate, Values, estimate, short
from nextvec.evaluation.metrics import (
    METRICS,
    Scores,
    cosine_without_mean,
    mean_pairwise_cosine,
    moments,
    moments_distance,
)
from nextvec.evaluation.predictor_protocol import row_dots, unit
from nextvec.text import table

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
class CollapseSection(Section):
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
        text = (
            f"no collapse: predictions are {short(self.spread, 2)} as far apart as targets, their total "
            f"variance is {short(self.variance_ratio)} of theirs"
        )
        if self.collapsed:
            text = f"collapsed: predictions are only {short(self.spread)} as far apart as targets"
            if self.mean is not None:
                text += f", with a cosine of {short(self.mean.prediction)} to the mean vector"
        found = [Verdict("collapse", "red" if self.collapsed else "ok", text)]
        if not self.collapsed and self.few:
            text = (
                f"predictions vary in {self.dimensions:.1f} effective dimensions, targets in "
                f"{self.dimensions_targets:.1f}, the best baseline in {self.dimensions_baseline:.1f}: "
                "they point in few directions"
            )
            found.append(Verdict("few directions", "warning", text))
        if self.mean is None:
            return found
        text = (
            f"{'' if self.mean.beaten else 'no '}better than the mean vector: {short(self.cosine, 4)} "
            f"against {short(self.mean.own, 4)}; without it a cosine of {self.mean.without} is left"
        )
        return [*found, Verdict("mean vector", "ok" if self.mean.beaten else "red", text)]

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


def find_collapse(scores: Scores, baseline: Scores) -> CollapseSection:
    """Measure collapse of predictions; of the best baseline's too, the effective dimensions."""
    evaluation_set = scores.evaluation_set
    mean = None if evaluation_set.train_mean is None else _mean_share(scores, evaluation_set.train_mean)
    pairwise = mean_pairwise_cosine(scores.unit)
    of_targets = mean_pairwise_cosine(evaluation_set.target_units)
    return CollapseSection(
        variance_ratio=METRICS["variance_ratio"].figure(scores),
        spread=(1 - pairwise) / (1 - of_targets) if of_targets < 1 else float("nan"),
        pairwise=pairwise,
        pairwise_targets=of_targets,
        dimensions=_effective_dimensions(scores.unit),
        dimensions_targets=_effective_dimensions(evaluation_set.target_units),
        dimensions_baseline=_effective_dimensions(baseline.unit),
        cosine=float(scores.cosines.mean()),
        mean=mean,
    )


def _mean_share(scores: Scores, train_mean: FloatArray) -> MeanShare:
    documents = scores.evaluation_set.windows.document
    direction = np.broadcast_to(unit(train_mean), scores.unit.shape)
    of_targets = row_dots(scores.evaluation_set.target_units, direction)
    of_predictions = row_dots(scores.unit, direction)
    return MeanShare(
        own=float(of_targets.mean()),
        prediction=float(of_predictions.mean()),
        through=float((of_predictions * of_targets).mean()),
        gain=estimate(documents, scores.cosines, of_targets),
        without=estimate(documents, cosine_without_mean(scores)),
    )


def _effective_dimensions(units: FloatArray) -> float:
    """tr(C)^2 / tr(C^2) of the covariance C of [N, D]: D when all directions vary alike, 1 for a line."""
    centred = units - units.mean(axis=0, dtype=np.float64).astype(np.float32)
    covariance = (centred.T @ centred).astype(np.float64)
    square = float((covariance**2).sum())
    return float(np.trace(covariance)) ** 2 / square if square > 0 else 0.0


# Mean and standard deviation of every dimension: encoder, raw output, unit output (the brief's task 1.1).

STD_FLOOR = 0.01
"""The brief's threshold. Unit vectors have a std near 1/sqrt(D) a dimension, and published encoders have
dimensions that hardly vary, so it is read beside the encoder's own share."""
MATCHED = 0.01
"""Relative distance below which moments count as matched: errors of mean and std of a tenth of the std."""

SPREAD = 0.1
"""Relative difference of the mean std over dimensions above which they do not match, however few documents
there are: an average over D dimensions is known well where single means are not."""


@dataclass(frozen=True)
class MomentComparison:
    """Per-dimension moments of one set of vectors [N, D].

    Attributes:
        mean, std: [D].
        above_floor: share of dimensions with a std above 0.01.
        std_ratio: mean std over dimensions, divided by the encoder's.
        mean_error, std_error: |m - m'| / |s'| and |s - s'| / |s'|, m' and s' being the encoder's.
        distance: |m - m'|^2 + |s - s'|^2, the squared Frechet distance of diagonal Gaussians.
        relative_distance: that, over |s'|^2: 1 is what a constant at the encoder's mean has.
    """

    name: str
    mean: Values
    std: Values
    above_floor: float
    std_ratio: float
    mean_error: float
    std_error: float
    distance: float
    relative_distance: float


@dataclass(frozen=True)
class MomentsSection(Section):
    """Moments of the targets as stored and at unit length, and of the predictions raw and at unit length.

    Attributes:
        floor: relative distance of two halves of the documents: what sampling alone leaves.
    """

    title: ClassVar[str] = "Moments per dimension"
    encoder: MomentComparison
    encoder_unit: MomentComparison
    raw: MomentComparison
    unit: MomentComparison
    floor: float | None

    @property
    def matched(self) -> bool:
        """Whether the raw output has the encoder's moments, as far as can be told here."""
        wide = abs(self.raw.std_ratio - 1) <= SPREAD
        return wide and self.raw.relative_distance <= max(MATCHED, 2 * (self.floor or 0.0))

    def verdicts(self) -> list[Verdict]:
        raw = self.raw
        match = "match the encoder's" if self.matched else "do not match the encoder's"
        halves = "" if self.floor is None else f", two halves of the documents {short(self.floor)}"
        text = (
            f"moments of the raw output {match}: std {short(raw.std_ratio, 2)} of the encoder's, Frechet "
            f"distance {short(raw.relative_distance)} of its variance{halves}"
        )
        if not self.matched and raw.std_ratio < 1:
            text += "; a mean over what may come next is narrower than what comes, by nature"
        above, own = self.unit.above_floor, self.encoder_unit.above_floor
        short_of = f"{100 * above:.1f} % of dimensions have sigma > .01 (encoder: {100 * own:.1f} %)"
        return [
            Verdict("moments", "ok" if self.matched else "note", text),
            Verdict("sigma", "ok" if above >= own else "note", short_of),
        ]

    def lines(self) -> list[str]:
        rows = [
            [
                m.name,
                *(f"{x:+.4f}" for x in (m.mean.min(), np.median(m.mean), m.mean.max())),
                *(f"{x:.4f}" for x in (m.std.min(), np.median(m.std), m.std.max())),
                f"{100 * m.above_floor:.1f} %",
                f"{m.std_ratio:.3f}",
                f"{m.mean_error:.3f}",
                f"{m.std_error:.3f}",
                f"{m.relative_distance:.4f}",
            ]
            for m in (self.encoder, self.raw, self.encoder_unit, self.unit)
        ]
        header = [
            *("vectors", "mean min", "median", "max", "std min", "median", "max"),
            *("std > .01", "std ratio", "mean error", "std error", "distance"),
        ]
        note = (
            "Ratio, errors and distance against the encoder's vectors of the same kind, in units of their "
            "std (errors) and variance (squared Frechet distance, diagonal)."
        )
        return [*table(header, rows), note]


def find_moments(scores: Scores, documents: IntArray, seed: int = 0) -> MomentsSection:
    """Compare the moments of predictions [N, D] with those of the targets of the same windows."""
    return compare_moments(scores.raw, scores.unit, scores.evaluation_set.targets, documents, seed)


def compare_moments(
    raw: FloatArray, units: FloatArray, targets: FloatArray, documents: IntArray, seed: int = 0
) -> MomentsSection:
    """Compare raw and unit predictions [N, D] with the encoder's vectors [N, D], of these documents [N]."""
    target_units = unit(targets)
    return MomentsSection(
        encoder=_moments("encoder", targets, targets),
        encoder_unit=_moments("encoder, unit", target_units, target_units),
        raw=_moments("raw output", raw, targets),
        unit=_moments("unit output", units, target_units),
        floor=_halves(targets, documents, seed),
    )


def _moments(name: str, vectors: FloatArray, encoder: FloatArray) -> MomentComparison:
    (mean, std), (its_mean, its_std) = moments(vectors), moments(encoder)
    size = float(np.sqrt((its_std**2).sum())) or float("nan")
    distance = moments_distance((mean, std), (its_mean, its_std))
    return MomentComparison(
        name,
        mean,
        std,
        above_floor=float((std > STD_FLOOR).mean()),
        std_ratio=float(std.mean() / (its_std.mean() or float("nan"))),
        mean_error=float(np.sqrt(((mean - its_mean) ** 2).sum())) / size,
        std_error=float(np.sqrt(((std - its_std) ** 2).sum())) / size,
        distance=distance,
        relative_distance=distance / size**2,
    )


def _halves(targets: FloatArray, documents: IntArray, seed: int) -> float | None:
    """Relative distance between the targets of two random halves of the documents."""
    names = np.random.default_rng(seed).permutation(np.unique(documents))
    half = np.isin(documents, names[: len(names) // 2])
    if len(names) < 2:
        return None
    return _moments("half", targets[half], targets[~half]).relative_distance
