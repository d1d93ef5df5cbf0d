"""Where the model stands: against every baseline by cosine, and against the best of them by rank."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from nextvec.diagnostics.sections import DiagnosisContext, Section, Verdict
from nextvec.evaluation.baselines import CopyLast
from nextvec.evaluation.intervals import STANDING, Estimate, estimate, short
from nextvec.evaluation.metrics import METRICS, Scores, skill_over
from nextvec.evaluation.trajectory import Rollout, offset_profile
from nextvec.text import table

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
BY_RANK = ("recall@1", "recall@5", "recall@20", "mrr")


@dataclass(frozen=True)
class StandingRow:
    """One predictor: its figures, and the model's cosine less its own (None for the model itself)."""

    cosine: float
    mse: float
    ahead: Estimate | None


@dataclass(frozen=True)
class ByRank:
    """One metric of ranks: the model's figure, that of the best baseline by cosine, and their difference."""

    model: float
    baseline: float
    ahead: Estimate


@dataclass(frozen=True)
class StandingSection(Section):
    """The model among the baselines.

    Attributes:
        skill: share gained of what the best baseline leaves.
        quantiles: of the cosine over windows, at 5, 25, 50, 75 and 95 %, of the model and the best baseline.
    """

    title: ClassVar[str] = "Standing"
    model: str
    best: str
    skill: float
    rows: dict[str, StandingRow]
    quantiles: dict[str, list[float]]
    by_rank: dict[str, ByRank]

    @property
    def ahead(self) -> Estimate:
        """The model's cosine less that of the best baseline."""
        found = self.rows[self.best].ahead
        assert found is not None
        return found

    @property
    def where(self) -> str:
        """In the words of `STANDING`."""
        return STANDING[self.ahead.better()]

    def verdicts(self) -> list[Verdict]:
        own, best = self.rows[self.model].cosine, self.rows[self.best].cosine
        text = (
            f"{self.where} the best baseline ({self.best}) by cosine: {short(own, 4)} against "
            f"{short(best, 4)}, {self.ahead.show(4, sign=True)}"
        )
        found = [Verdict("standing", "ok" if self.ahead.better() else "warning", text)]
        rank = self.by_rank["recall@5"]
        text = (
            f"{STANDING[rank.ahead.better()]} {self.best} by recall@5: {short(rank.model, 4)} "
            f"against {short(rank.baseline, 4)}, {rank.ahead.show(4, sign=True)}"
        )
        worse = rank.ahead.better() is False
        return [*found, Verdict("standing by rank", "warning" if worse else "ok", text)]

    def lines(self) -> list[str]:
        rows = [
            [n, short(r.cosine, 4), f"{r.mse:.6f}", "" if r.ahead is None else r.ahead.show(4, sign=True)]
            for n, r in self.rows.items()
        ]
        ranked = [
            [name, short(r.model, 4), short(r.baseline, 4), r.ahead.show(4, sign=True)]
            for name, r in self.by_rank.items()
        ]
        spread = [[name, *(short(x, 4) for x in own)] for name, own in self.quantiles.items()]
        return [
            *table(["predictor", "cosine", "mse", f"{self.model} is ahead by"], rows),
            f"Skill against the best baseline: {short(self.skill)} of what it leaves to be gained.",
            "",
            *table(["cosine over windows", *(f"{q:.0%}" for q in QUANTILES)], spread),
            "",
            *table(["by rank", self.model, self.best, "ahead by"], ranked),
        ]


def find_standing(context: DiagnosisContext) -> StandingSection:
    """Compare the model with every baseline, window by window."""
    rows = {}
    for name, summaries in context.summaries.items():
        ahead = None
        if name != context.model.name:
            ahead = estimate(context.document, context.cosine, summaries.cosine)
        rows[name] = StandingRow(float(summaries.cosine.mean()), summaries.mse, ahead)
    by_rank = {}
    for name in BY_RANK:
        values = METRICS[name].values
        assert values is not None
        own, other = values(context.scores), values(context.best_scores)
        ahead = estimate(context.document, own, other)
        by_rank[name] = ByRank(float(own.mean()), float(other.mean()), ahead)
    best = rows[context.best].cosine
    skill = skill_over(rows[context.model.name].cosine, best)
    both = ((context.model.name, context.cosine), (context.best, context.best_cosine))
    quantiles = {name: [float(x) for x in np.quantile(own, QUANTILES)] for name, own in both}
    return StandingSection(context.model.name, context.best, skill, rows, quantiles, by_rank)


# Forward margin, offset profile and rollout: where a prediction points, and where it leads.

ORACLE = "the target itself"
STANDS_STILL = 0.99


@dataclass(frozen=True)
class MarginSection(Section):
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
class OffsetSection(Section):
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
            [name, *(short(profile.get(k), 4) for k in offsets), _signed(self.peak(name))]
            for name, profile in self.profiles.items()
        ]
        return table(["k", *map(_signed, offsets), "peak"], rows)


def _signed(offset: int) -> str:
    return f"{offset:+d}" if offset else "0"


@dataclass(frozen=True)
class RolloutMeans:
    """Means over windows of a rollout, step by step: cosine and drift [steps], repetition [steps - 1]."""

    cosine: list[float]
    drift: list[float]
    repetition: list[float]

    @classmethod
    def of(cls, rollout: Rollout) -> RolloutMeans:
        each = (rollout.cosine, rollout.drift, rollout.repetition)
        return cls(*([float(x) for x in values.mean(axis=0)] for values in each))


@dataclass(frozen=True)
class RolloutSection(Section):
    """What becomes of predictors that read their own predictions.

    Attributes:
        windows: rolled out; none where no document goes on for so many steps (or the horizon is above 1).
        paths: predictor -> means.
        gain: cosine at the last step less that of the baseline that is best there (`best`).
    """

    title: ClassVar[str] = "Rollout"
    model: str
    windows: int
    paths: dict[str, RolloutMeans]
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
        worse = self.gain.below
        return [Verdict("rollout", "note" if still or worse else "ok", text)]

    def lines(self) -> list[str]:
        if not self.paths:
            return ["No document goes on for long enough, or the horizon is above 1."]
        steps = len(self.paths[self.model].cosine)
        rows = [
            [name, *(short(x, 4) for x in (*p.cosine, p.drift[-1], float(np.mean(p.repetition))))]
            for name, p in self.paths.items()
        ]
        header = [f"cosine at step ({self.windows:,} windows)", *map(str, range(1, steps + 1))]
        note = (
            "Drift: cosine of the last step to the last chunk really read. Repetition: mean cosine of a step "
            "to the one before."
        )
        return [*table([*header, "drift", "repetition"], rows), note]


def find_margin(context: DiagnosisContext) -> MarginSection:
    margins = {name: estimate(context.document, a.margin) for name, a in context.summaries.items()}
    return MarginSection(context.model.name, context.best, margins)


def find_offsets(context: DiagnosisContext) -> OffsetSection:
    """Offset profiles of the model and, to read it by, of the best baseline, copy-last and the targets."""
    here, model = context.evaluation_set, context.model.name
    shown = [name for name in (context.best, CopyLast.name) if name in context.summaries]
    profiles = {name: context.summaries[name].offsets for name in dict.fromkeys((model, *shown))}
    profiles[ORACLE] = offset_profile(Scores(here, here.targets, here.target_units).offsets)
    return OffsetSection(model, context.best, here.windows.horizon, profiles)


def find_rollout(context: DiagnosisContext) -> RolloutSection:
    """Five steps of every predictor, each reading its own predictions."""
    rolled = {name: a.rollout for name, a in context.summaries.items() if a.rollout is not None}
    model = context.model.name
    if model not in rolled:
        return RolloutSection(model, 0, {}, context.best, None)
    last = {name: r.cosine[:, -1] for name, r in rolled.items()}
    best = max((name for name in last if name != model), key=lambda name: float(last[name].mean()))
    documents = rolled[model].windows.document
    gain = estimate(documents, last[model], last[best])
    paths = {name: RolloutMeans.of(r) for name, r in rolled.items()}
    return RolloutSection(model, len(documents), paths, best, gain)
