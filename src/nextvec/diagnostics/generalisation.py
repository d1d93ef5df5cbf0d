"""Train against validation and test, and sources that were trained on against those that were not."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from nextvec.data.gather import VectorSource
from nextvec.data.windows import Windows
from nextvec.diagnostics.groups import WindowGroup, group, group_table
from nextvec.diagnostics.sections import DiagnosisContext, Level, Section, Verdict, sample, score
from nextvec.evaluation.intervals import Estimate, estimate, short
from nextvec.evaluation.metrics import mse as mse_of
from nextvec.text import table

WINDOWS = 2000
TRAIN = "train"


@dataclass(frozen=True)
class SplitScore:
    """One split, by at most 2,000 of its windows.

    Attributes:
        in_sample: the model was trained on these documents.
        cosine, mse: of the model; baseline: cosine of the best baseline; gain: difference in cosine.
    """

    name: str
    in_sample: bool
    windows: int
    documents: int
    cosine: Estimate
    mse: float
    baseline: Estimate
    gain: Estimate


@dataclass(frozen=True)
class GapSection(Section):
    """The same predictor on documents it was trained on and on others.

    Splits differ in difficulty, so the gap is read in the difference to the best baseline, which hardly
    over-fits: a model whose lead is in the training documents only has learned them by heart.
    """

    title: ClassVar[str] = "Train, validation, test"
    best: str
    judged: str
    splits: tuple[SplitScore, ...]

    def find(self, name: str) -> SplitScore | None:
        """One split; None where it has no windows."""
        return next((s for s in self.splits if s.name == name), None)

    def verdicts(self) -> list[Verdict]:
        train = self.find(TRAIN)
        others = [s for s in self.splits if not s.in_sample]
        if train is None or not others:
            return []
        other = next((s for s in others if s.name == self.judged), others[-1])
        gap, lead = train.cosine.value - other.cosine.value, train.gain.value - other.gain.value
        apart = lead > _error(train.gain, other.gain)
        text = (
            f"cosine {short(train.cosine.value)} on train (in-sample) and {short(other.cosine.value)} on "
            f"{other.name}: a gap of {short(gap)}, of the best baseline "
            f"{short(train.baseline.value - other.baseline.value)}"
        )
        if apart:
            text += f"; its lead over the baseline shrinks by {short(lead)}: over-fitted"
            text += ", or the splits differ in more than that"
        return [Verdict("train gap", "warning" if apart else "ok", text)]

    def lines(self) -> list[str]:
        rows = [
            [
                s.name + (" (in-sample)" if s.in_sample else ""),
                f"{s.windows:,}",
                f"{s.documents:,}",
                s.cosine.show(4),
                s.baseline.show(4),
                s.gain.show(4, sign=True),
                f"{s.mse:.6f}",
            ]
            for s in self.splits
        ]
        header = ["split", "windows", "documents", "cosine", self.best, "difference", "mse"]
        return table(header, rows)


@dataclass(frozen=True)
class SourcesSection(Section):
    """Every source of the evaluated documents.

    Attributes:
        sources: one group each, the order of the store's.
        trained: source -> whether the model was trained on documents of it; None where that is not known.
    """

    title: ClassVar[str] = "Sources, in and out of domain"
    best: str
    sources: tuple[WindowGroup, ...]
    trained: dict[str, bool | None]

    def verdicts(self) -> list[Verdict]:
        said = [f"{g.name} {g.gain.show(sign=True)}" for g in self.sources]
        outside = [g for g in self.sources if self.trained[g.name] is False]
        found = []
        if len(said) > 1:
            below = [g for g in self.sources if g.gain.below]
            text = f"by source, against {self.best}: {', '.join(said)}"
            found.append(Verdict("sources", "warning" if below else "ok", text))
        if outside:
            above = [g.name for g in outside if g.gain.above]
            names = ", ".join(g.name for g in outside)
            text = f"({names}): above the best baseline in {len(above)} of {len(outside)} sources"
            level: Level = "ok" if len(above) == len(outside) else "note"
            found.append(Verdict("out of domain", level, f"out of domain {text}"))
        return found

    def lines(self) -> list[str]:
        lines = group_table("source", self.sources, self.best)
        for answer, words in ((True, "Trained on"), (False, "Out of domain"), (None, "Not known")):
            of = [name for name, known in self.trained.items() if known is answer]
            if of:
                lines.append(f"{words}: {', '.join(of)}.")
        return lines


def _error(one: Estimate, other: Estimate) -> float:
    """Half the 95 % interval of the difference of two independent means, by normal approximation."""
    if one.low is None or one.high is None or other.low is None or other.high is None:
        return float("inf")
    return math.hypot(one.high - one.low, other.high - other.low) / 2


def find_gap(
    context: DiagnosisContext,
    judged: str,
    others: Mapping[str, tuple[VectorSource, Windows]],
    *,
    windows: int = WINDOWS,
    seed: int = 0,
) -> GapSection:
    """Score the model and the best baseline on other splits beside the evaluated one.

    Args:
        evaluated: name of the split of the case.
        others: name -> vectors and windows of the other splits.
    """
    found = []
    if judged not in others:
        windows_, squares = context.evaluation_set.windows, mse_of(context.scores)
        found.append(_split(judged, windows_, context.cosine, squares, context.best_cosine))
    for name, (vectors, every) in others.items():
        part = every.select(sample(len(every), windows, seed))
        cosine, mse = score(context.model, vectors, part)
        baseline, _ = score(context.baselines[context.best], vectors, part)
        found.append(_split(name, part, cosine, mse, baseline))
    order = (TRAIN, "validation", "test")
    found.sort(key=lambda s: order.index(s.name) if s.name in order else len(order))
    return GapSection(context.best, judged, tuple(found))


def find_sources(context: DiagnosisContext, trained: Sequence[str] | None) -> SourcesSection:
    """Group the windows by source. `trained`: the sources trained on, None where not known."""
    names = sorted(set(context.source.tolist()))
    known = {name: None if trained is None else name in trained for name in names}
    return SourcesSection(
        context.best, tuple(group(context, name, context.source == name) for name in names), known
    )


def _split(
    name: str, windows: Windows, cosine: np.ndarray, mse: np.ndarray, baseline: np.ndarray
) -> SplitScore:
    documents = windows.document
    return SplitScore(
        name,
        name == TRAIN,
        len(windows),
        len(np.unique(documents)),
        estimate(documents, cosine),
        float(mse.mean()),
        estimate(documents, baseline),
        estimate(documents, cosine, baseline),
    )
