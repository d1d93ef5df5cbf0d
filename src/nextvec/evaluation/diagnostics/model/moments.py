"""Mean and standard deviation of every dimension: encoder, raw output, unit output (the brief's task 1.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from nextvec.data.windows import FloatArray, IntArray
from nextvec.evaluation.diagnostics.model.part import Part, Values, table
from nextvec.evaluation.diagnostics.verdicts import Verdict, short
from nextvec.evaluation.metrics import Judgement, moments, moments_distance
from nextvec.evaluation.predictor import unit

STD_FLOOR = 0.01
"""The brief's threshold. Unit vectors have a std near 1/sqrt(D) a dimension, and published encoders have
dimensions that hardly vary, so it is read beside the encoder's own share."""
MATCHED = 0.01
"""Relative distance below which moments count as matched: errors of mean and std of a tenth of the std."""


@dataclass(frozen=True)
class Moments:
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
class MomentsPart(Part):
    """Moments of the targets as stored and at unit length, and of the predictions raw and at unit length.

    Attributes:
        floor: relative distance of two halves of the documents: what sampling alone leaves.
    """

    title: ClassVar[str] = "Moments per dimension"
    encoder: Moments
    encoder_unit: Moments
    raw: Moments
    unit: Moments
    floor: float | None

    @property
    def matched(self) -> bool:
        """Whether the raw output has the encoder's moments, as far as can be told here."""
        return self.raw.relative_distance <= max(MATCHED, 2 * (self.floor or 0.0))

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


def find_moments(judgement: Judgement, documents: IntArray, seed: int = 0) -> MomentsPart:
    """Compare the moments of predictions [N, D] with those of the targets of the same windows."""
    return compare_moments(judgement.raw, judgement.unit, judgement.exam.targets, documents, seed)


def compare_moments(
    raw: FloatArray, units: FloatArray, targets: FloatArray, documents: IntArray, seed: int = 0
) -> MomentsPart:
    """Compare raw and unit predictions [N, D] with the encoder's vectors [N, D], of these documents [N]."""
    target_units = unit(targets)
    return MomentsPart(
        encoder=_moments("encoder", targets, targets),
        encoder_unit=_moments("encoder, unit", target_units, target_units),
        raw=_moments("raw output", raw, targets),
        unit=_moments("unit output", units, target_units),
        floor=_halves(targets, documents, seed),
    )


def _moments(name: str, vectors: FloatArray, encoder: FloatArray) -> Moments:
    (mean, std), (its_mean, its_std) = moments(vectors), moments(encoder)
    size = float(np.sqrt((its_std**2).sum())) or float("nan")
    distance = moments_distance((mean, std), (its_mean, its_std))
    return Moments(
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
