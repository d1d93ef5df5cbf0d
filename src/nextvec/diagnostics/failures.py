"""Where a model fails: targets that are not among the first 20 candidates, and what may be the cause; on
splits and in sources that it was not trained on.

A cause is a property that can be computed; a failure may have several or none. Where a property also occurs
among successes, its share there stands beside: a cause no more common among failures explains nothing.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from nextvec.data.gather import VectorSource, gather_rows
from nextvec.data.windows import FloatArray, Windows
from nextvec.diagnostics.groups import WindowGroup, group, group_table, quantile_masks
from nextvec.diagnostics.sections import DiagnosisContext, Level, Section, Verdict, sample, score
from nextvec.evaluation.evaluation_set import EvaluationSet
from nextvec.evaluation.intervals import Estimate, estimate, short
from nextvec.evaluation.metrics import mean_pairwise_cosine
from nextvec.evaluation.metrics import mse as mse_of
from nextvec.evaluation.predictor_protocol import row_dots, unit
from nextvec.text import table

TOP = 20
NEAR = 0.1
SHORT = 1 / 3
LETTERS = 0.7
MARKED, LEAST = 1.5, 0.01
BLOCK = 4096

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Cause:
    """One possible cause.

    Attributes:
        failures: windows of failure that have it; share: of all failures.
        share_of_successes: of the other windows; None where the property is defined for failures only.
    """

    name: str
    meaning: str
    failures: int
    share: float
    share_of_successes: float | None

    @property
    def marked(self) -> bool:
        """Whether it is clearly more common among failures (or defined for these alone)."""
        other = self.share_of_successes
        return self.share >= LEAST and (other is None or self.share >= MARKED * other)


@dataclass(frozen=True)
class FailuresSection(Section):
    """Targets not in the top 20 by cause.

    Attributes:
        possible: False where there are not more than 20 candidates.
        chance: number of failures of a predictor that knows nothing.
        baseline_failures: of the best baseline; shared: of both.
        unexplained: failures with none of the causes.
        left_out: causes that cannot be computed here, and why.
    """

    title: ClassVar[str] = f"Failures: target not in the top {TOP}"
    possible: bool
    windows: int
    failures: int
    chance: float
    best: str
    baseline_failures: int
    shared: int
    causes: tuple[Cause, ...]
    unexplained: int
    left_out: tuple[str, ...]

    def verdicts(self) -> list[Verdict]:
        if not self.possible:
            return []
        if not self.failures:
            return [Verdict("failures", "ok", f"no failure: every target is in the top {TOP}")]
        marked = [
            f"{c.name} {100 * c.share:.0f} %"
            + ("" if c.share_of_successes is None else f" (successes {100 * c.share_of_successes:.0f} %)")
            for c in sorted(self.causes, key=lambda c: -c.share)
            if c.marked
        ]
        text = (
            f"{self.failures:,} of {self.windows:,} targets ({100 * self.failures / self.windows:.0f} %) are "
            f"not in the top {TOP}; of the best baseline's {self.baseline_failures:,}, of both "
            f"{self.shared:,}; "
            + (f"marked by {', '.join(marked)}" if marked else "no cause stands out")
            + f"; {100 * self.unexplained / self.failures:.0f} % by none of the causes"
        )
        return [Verdict("failures", "note", text)]

    def lines(self) -> list[str]:
        if not self.possible:
            return [f"There are at most {TOP} candidates: every target is among them."]
        found: list[tuple[str, int, float, float | None]] = [
            (c.name, c.failures, c.share, c.share_of_successes) for c in self.causes
        ]
        if self.failures:
            found.append(("none of these", self.unexplained, self.unexplained / self.failures, None))
        rows = [
            [n, f"{c:,}", *("" if s is None else f"{100 * s:.1f} %" for s in both)] for n, c, *both in found
        ]
        return [
            f"{self.failures:,} of {self.windows:,} windows fail; by chance {self.chance:,.0f} would. "
            f"The best baseline ({self.best}) fails in {self.baseline_failures:,}, both in {self.shared:,}.",
            *table(["cause (a failure may have several)", "failures", "share", "of successes"], rows),
            *(f"{c.name}: {c.meaning}." for c in self.causes),
            *(f"Left out: {why}." for why in self.left_out),
        ]


def find_failures(context: DiagnosisContext) -> FailuresSection:
    """Find the windows whose target ranks below 20, and the causes that each has."""
    failed = context.scores.ranks > TOP
    others = context.best_scores.ranks > TOP
    causes, masks, left_out = [], [], []
    for name, meaning, mask, for_all in _causes(context, failed):
        if mask is None:
            left_out.append(f"{name} ({meaning})")
            continue
        masks.append(mask & failed)
        share = float(mask[failed].mean()) if failed.any() else 0.0
        rest = float(mask[~failed].mean()) if for_all and not failed.all() else None
        causes.append(Cause(name, meaning, int(masks[-1].sum()), share, rest))
    explained = np.logical_or.reduce(masks)
    return FailuresSection(
        possible=int(context.evaluation_set.pool.eligible.max()) > TOP,
        windows=len(failed),
        failures=int(failed.sum()),
        chance=(1 - context.evaluation_set.pool.chance_recall(TOP)) * len(failed),
        best=context.best,
        baseline_failures=int(others.sum()),
        shared=int((failed & others).sum()),
        causes=tuple(causes),
        unexplained=int((failed & ~explained).sum()),
        left_out=tuple(left_out),
    )


def _causes(context: DiagnosisContext, failed: Mask) -> list[tuple[str, str, Mask | None, bool]]:
    """Name, meaning (or why it cannot be computed), mask [N], and whether it is defined for successes too."""
    evaluation_set = context.evaluation_set
    parts = quantile_masks(context.shift, 3)
    shifted = parts[-1] if len(parts) > 1 else np.zeros_like(failed)
    texts = context.texts(evaluation_set.windows.target)
    odd, spelled = odd_texts(texts)
    near = 1 - NEAR * (1 - mean_pairwise_cosine(evaluation_set.target_units))
    mean = None
    if evaluation_set.train_mean is not None:
        direction = np.broadcast_to(unit(evaluation_set.train_mean), context.scores.unit.shape)
        mean = row_dots(context.scores.unit, direction) > context.cosine
    crowded = crowded_out(evaluation_set, context.scores.unit, failed, near)
    far = "the target is in the third that is farthest from the mean of its context"
    alike = (
        f"a candidate that ranks above the target has a cosine to it of {short(near)} or more (a tenth of "
        "the distance of two chunks)"
    )
    meaning = "the prediction is nearer to the mean vector of training than to the target"
    return [
        ("topic shift", far, shifted, True),
        ("near-duplicates above", alike, crowded, False),
        ("short or odd text", spelled, odd, True),
        ("near the mean vector", "nothing was trained on" if mean is None else meaning, mean, True),
    ]


def odd_texts(texts: Sequence[str]) -> tuple[Mask | None, str]:
    """Which texts are short (a third of the median number of words) or odd (under 70 % letters and spaces).

    Returns: mask [N] and what it means; None and why, where most chunks have no text.
    """
    there = np.array([bool(t.strip()) for t in texts])
    if there.mean() < 0.5:
        return None, "the store holds no texts"
    words = np.array([len(t.split()) for t in texts])
    least = SHORT * float(np.median(words[there]))
    letters = np.array([_letters(t) for t in texts])
    meaning = (
        f"fewer than {least:.0f} words (a third of the median), or under {100 * LETTERS:.0f} % letters "
        "and spaces"
    )
    return (words < least) | (letters < LETTERS), meaning


def _letters(text: str) -> float:
    """Share of letters, their marks (accents, vowel signs) and spaces, in any script."""
    if not text:
        return 0.0
    return sum(c.isspace() or unicodedata.category(c)[0] in "LM" for c in text) / len(text)


def crowded_out(evaluation_set: EvaluationSet, units: FloatArray, failed: Mask, near: float) -> Mask:
    """[N] failures that have a candidate above the target with a cosine of `near` or more to it."""
    import torch

    which = np.flatnonzero(failed).astype(np.int64)
    found = np.zeros(len(failed), dtype=np.bool_)
    predictions, truths = (torch.from_numpy(x[which]) for x in (units, evaluation_set.target_units))
    truth = (predictions * truths).sum(dim=1)
    for start in range(0, len(evaluation_set.pool), BLOCK):
        block = gather_rows(evaluation_set.vectors, evaluation_set.pool.rows[start : start + BLOCK])
        candidates = torch.from_numpy(unit(block))
        positions = np.arange(start, start + len(block))
        for a in range(0, len(which), BLOCK):
            piece = slice(a, a + BLOCK)
            above = predictions[piece] @ candidates.T > truth[piece, None]
            alike = truths[piece] @ candidates.T >= near
            eligible = evaluation_set.pool.allowed(which[piece], positions)
            eligible &= positions != evaluation_set.pool.target[which[piece]][:, None]
            both = (above & alike).numpy() & eligible
            found[which[piece]] |= both.any(axis=1)
    return found


# Train against validation and test, and sources that were trained on against those that were not.

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
    evaluated: str
    splits: tuple[SplitScore, ...]

    def find(self, name: str) -> SplitScore | None:
        """One split; None where it has no windows."""
        return next((s for s in self.splits if s.name == name), None)

    def verdicts(self) -> list[Verdict]:
        train = self.find(TRAIN)
        others = [s for s in self.splits if not s.in_sample]
        if train is None or not others:
            return []
        other = next((s for s in others if s.name == self.evaluated), others[-1])
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
                *(f"{count:,}" for count in (s.windows, s.documents)),
                *(s.cosine.show(4), s.baseline.show(4), s.gain.show(4, sign=True), f"{s.mse:.6f}"),
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
        gains = [f"{g.name} {g.gain.show(sign=True)}" for g in self.sources]
        outside = [g for g in self.sources if self.trained[g.name] is False]
        found = []
        if len(gains) > 1:
            below = [g for g in self.sources if g.gain.below]
            text = f"by source, against {self.best}: {', '.join(gains)}"
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
    evaluated: str,
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
    if evaluated not in others:
        windows_, squares = context.evaluation_set.windows, mse_of(context.scores)
        found.append(_split(evaluated, windows_, context.cosine, squares, context.best_cosine))
    for name, (vectors, every) in others.items():
        part = every.select(sample(len(every), windows, seed))
        cosine, mse = score(context.model, vectors, part)
        baseline, _ = score(context.baselines[context.best], vectors, part)
        found.append(_split(name, part, cosine, mse, baseline))
    order = (TRAIN, "validation", "test")
    found.sort(key=lambda s: order.index(s.name) if s.name in order else len(order))
    return GapSection(context.best, evaluated, tuple(found))


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
