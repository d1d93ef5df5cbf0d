"""Forward margin, offset profile and rollout: where a prediction points, and where it leads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from nextvec.evaluation.baselines import CopyLast
from nextvec.evaluation.diagnostics.model.case import Case
from nextvec.evaluation.diagnostics.model.part import Estimate, Part, estimate, table
from nextvec.evaluation.diagnostics.verdicts import Verdict, short
from nextvec.evaluation.metrics import Judgement
from nextvec.evaluation.offsets import offset_profile
from nextvec.evaluation.rollout import Rollout

ORACLE = "the target itself"
STANDS_STILL = 0.99


@dataclass(frozen=True)
class MarginPart(Part):
    """cos(prediction, next) - cos(prediction, last) of every predictor; normal for noisy text to be < 0."""

    title: ClassVar[str] = "Forward margin"
    model: str
    best: str
    margins: dict[str, Estimate]

    def verdicts(self) -> list[Verdict]:
        own, other = self.margins[self.model], self.margins[self.best]
        text = (
            f"forward margin {own}, of the best baseline {other}; below 0 is normal for the best possible "
            "predictor of noisy text, so it decides nothing"
        )
        return [Verdict("forward margin", "note", text)]

    def lines(self) -> list[str]:
        header = ["cos(prediction, next) - cos(prediction, last)", "95 % over documents"]
        return table(header, [[name, m.show(4, sign=True)] for name, m in self.margins.items()])


@dataclass(frozen=True)
class OffsetPart(Part):
    """Mean cosine of predictions to the chunk at target + k.

    Attributes:
        profiles: predictor (the model, the best baseline, copy-last, and the target itself: what an oracle
            would show) -> k -> mean cosine.
    """

    title: ClassVar[str] = "Offset profile (k = 0 is the target)"
    model: str
    best: str
    horizon: int
    profiles: dict[str, dict[int, float]]

    def peak(self, name: str) -> int:
        """Offset of the largest cosine."""
        profile = self.profiles[name]
        return max(profile, key=lambda k: profile[k])

    def _place(self, k: int) -> str:
        names = {0: "the target", -self.horizon: "the last chunk read", 1: "the chunk after the target"}
        return names.get(k, f"the chunk {abs(k)} {'before' if k < 0 else 'after'} the target")

    def verdicts(self) -> list[Verdict]:
        own, other = self.peak(self.model), self.peak(self.best)
        text = f"predictions are nearest to {self._place(own)}"
        if own == 0:
            return [Verdict("offset profile", "ok", f"{text}; the best baseline to {self._place(other)}")]
        if own > 0:
            return [Verdict("offset profile", "warning", f"{text}: look for an off-by-one, or a leak")]
        text += (
            ", as is the best baseline: usual for text that is predicted from what it resembles"
            if other == own
            else f", the best baseline to {self._place(other)}"
        )
        return [Verdict("offset profile", "note", text)]

    def lines(self) -> list[str]:
        offsets = sorted({k for profile in self.profiles.values() for k in profile})
        rows = [
            [
                name,
                *(short(profile.get(k), 4) for k in offsets),
                f"{self.peak(name):+d}" if self.peak(name) else "0",
            ]
            for name, profile in self.profiles.items()
        ]
        return table(["k", *(f"{k:+d}" if k else "0" for k in offsets), "peak"], rows)


@dataclass(frozen=True)
class Path:
    """Means over windows of a rollout, step by step: cosine and drift [steps], repetition [steps - 1]."""

    cosine: list[float]
    drift: list[float]
    repetition: list[float]

    @classmethod
    def of(cls, rollout: Rollout) -> Path:
        """The means of a rollout."""
        each = (rollout.cosine, rollout.drift, rollout.repetition)
        return cls(*([float(x) for x in values.mean(axis=0)] for values in each))


@dataclass(frozen=True)
class RolloutPart(Part):
    """What becomes of predictors that read their own predictions.

    Attributes:
        windows: rolled out; none where no document goes on for so many steps (or the horizon is above 1).
        paths: predictor -> means.
        gain: cosine at the last step less that of the baseline that is best there (`best`).
    """

    title: ClassVar[str] = "Rollout"
    model: str
    windows: int
    paths: dict[str, Path]
    best: str
    gain: Estimate | None

    def verdicts(self) -> list[Verdict]:
        if self.gain is None:
            return []
        path = self.paths[self.model]
        text = (
            f"rollout: cosine {short(path.cosine[0])} at the first step and {short(path.cosine[-1])} at the "
            f"{len(path.cosine)}th, {self.gain.show(sign=True)} to {self.best}, which is best there"
        )
        still = path.repetition[-1] > STANDS_STILL
        if still:
            text += (
                f"; it stands still (a step repeats the one before at {short(path.repetition[-1])}, that of "
                f"{self.best} at {short(self.paths[self.best].repetition[-1])})"
            )
        worse = self.gain.clear and self.gain.value < 0
        return [Verdict("rollout", "note" if still or worse else "ok", text)]

    def lines(self) -> list[str]:
        if not self.paths:
            return ["No document goes on for long enough, or the horizon is above 1."]
        steps = len(self.paths[self.model].cosine)
        rows = [
            [
                name,
                *(short(x, 4) for x in path.cosine),
                short(path.drift[-1], 4),
                short(float(np.mean(path.repetition)), 4),
            ]
            for name, path in self.paths.items()
        ]
        header = [f"cosine at step ({self.windows:,} windows)", *map(str, range(1, steps + 1))]
        note = (
            "Drift: cosine of the last step to the last chunk really read. Repetition: mean cosine of a step "
            "to the one before."
        )
        return [*table([*header, "drift", "repetition"], rows), note]


def find_margin(case: Case) -> MarginPart:
    """The forward margin of every predictor of the case."""
    margins = {name: estimate(case.document, a.margin) for name, a in case.answers.items()}
    return MarginPart(case.model.name, case.best, margins)


def find_offsets(case: Case) -> OffsetPart:
    """Offset profiles of the model and, to read it by, of the best baseline, copy-last and the targets."""
    oracle = Judgement(case.exam, case.exam.targets, case.exam.target_units)
    shown = [name for name in (case.best, CopyLast.name) if name in case.answers]
    profiles = {name: case.answers[name].offsets for name in dict.fromkeys((case.model.name, *shown))}
    profiles[ORACLE] = offset_profile(oracle.offsets)
    return OffsetPart(case.model.name, case.best, case.exam.windows.horizon, profiles)


def find_rollout(case: Case) -> RolloutPart:
    """Five steps of every predictor, each reading its own predictions."""
    rolled = {name: a.rollout for name, a in case.answers.items() if a.rollout is not None}
    model = case.model.name
    if model not in rolled:
        return RolloutPart(model, 0, {}, case.best, None)
    last = {name: r.cosine[:, -1] for name, r in rolled.items()}
    best = max((name for name in last if name != model), key=lambda name: float(last[name].mean()))
    documents = rolled[model].windows.document
    gain = estimate(documents, last[model], last[best])
    paths = {name: Path.of(r) for name, r in rolled.items()}
    return RolloutPart(model, len(documents), paths, best, gain)
