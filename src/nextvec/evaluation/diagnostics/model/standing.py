"""Where the model stands: against every baseline by cosine, and against the best of them by rank."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from nextvec.evaluation.diagnostics.model.case import Case
from nextvec.evaluation.diagnostics.model.part import Estimate, Part, estimate, table
from nextvec.evaluation.diagnostics.verdicts import Verdict, short
from nextvec.evaluation.metrics import METRICS, skill_over

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
BY_RANK = ("recall@1", "recall@5", "recall@20", "mrr")


@dataclass(frozen=True)
class Row:
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
class StandingPart(Part):
    """The model among the baselines.

    Attributes:
        skill: share gained of what the best baseline leaves.
        quantiles: of the cosine over windows, at 5, 25, 50, 75 and 95 %, of the model and the best baseline.
    """

    title: ClassVar[str] = "Standing"
    model: str
    best: str
    skill: float
    rows: dict[str, Row]
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
        """above, level with or below; level with when the interval says no more."""
        if not self.ahead.clear:
            return "level with"
        return "above" if self.ahead.value > 0 else "below"

    def verdicts(self) -> list[Verdict]:
        own, best = self.rows[self.model].cosine, self.rows[self.best].cosine
        text = (
            f"{self.where} the best baseline ({self.best}) by cosine: {short(own, 4)} against "
            f"{short(best, 4)}, {self.ahead.show(4, sign=True)}"
        )
        found = [Verdict("standing", "ok" if self.where == "above" else "warning", text)]
        rank = self.by_rank["recall@5"]
        verb = "above" if rank.ahead.value > 0 else "below"
        text = (
            f"{verb if rank.ahead.clear else 'level with'} {self.best} by recall@5: {short(rank.model, 4)} "
            f"against {short(rank.baseline, 4)}, {rank.ahead.show(4, sign=True)}"
        )
        worse = rank.ahead.clear and rank.ahead.value < 0
        return [*found, Verdict("standing by rank", "warning" if worse else "ok", text)]

    def lines(self) -> list[str]:
        rows = [
            [
                name,
                short(row.cosine, 4),
                f"{row.mse:.6f}",
                "" if row.ahead is None else row.ahead.show(4, sign=True),
            ]
            for name, row in self.rows.items()
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


def find_standing(case: Case) -> StandingPart:
    """Compare the model with every baseline, window by window."""
    rows = {}
    for name, answers in case.answers.items():
        ahead = None
        if name != case.model.name:
            ahead = estimate(case.document, case.cosine, answers.cosine)
        rows[name] = Row(float(answers.cosine.mean()), answers.mse, ahead)
    by_rank = {}
    for name in BY_RANK:
        values = METRICS[name].values
        assert values is not None
        own, other = values(case.judgement), values(case.best_judgement)
        ahead = estimate(case.document, own, other)
        by_rank[name] = ByRank(float(own.mean()), float(other.mean()), ahead)
    best = rows[case.best].cosine
    skill = skill_over(rows[case.model.name].cosine, best)
    both = ((case.model.name, case.cosine), (case.best, case.best_cosine))
    quantiles = {name: [float(x) for x in np.quantile(own, QUANTILES)] for name, own in both}
    return StandingPart(case.model.name, case.best, skill, rows, quantiles, by_rank)
