"""Windows with their texts: the 20 predicted worst, and 10 drawn at random."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from nextvec.data.gather import gather_rows
from nextvec.data.windows import FloatArray, IntArray
from nextvec.diagnostics.engine import DiagnosisContext, Section, Verdict
from nextvec.evaluation.evaluation_set import EvaluationSet
from nextvec.evaluation.intervals import short
from nextvec.evaluation.predictor import row_dots, unit
from nextvec.text import shorten

WORST, RANDOM = 20, 10
SHOWN = 100
BLOCK = 8192


@dataclass(frozen=True)
class WindowExample:
    """One window.

    Attributes:
        position: of the target in its document, from 0.
        shift: distance of the target from the mean of the context.
        last, target, nearest: texts of the last chunk read, of what came next, and of the candidate nearest
            to the prediction.
    """

    document: str
    title: str
    source: str
    position: int
    cosine: float
    baseline: float
    rank: int
    shift: float
    last: str
    target: str
    nearest: str


@dataclass(frozen=True)
class ExamplesSection(Section):
    """The windows of the lowest cosine (lowest first), and random ones, which show the usual case."""

    title: ClassVar[str] = "Windows"
    best: str
    worst: tuple[WindowExample, ...]
    random: tuple[WindowExample, ...]

    def verdicts(self) -> list[Verdict]:
        return []

    def lines(self) -> list[str]:
        lines = [f"The {len(self.worst)} worst by cosine:"]
        for example in self.worst:
            lines += _show(example, self.best)
        lines += ["", f"{len(self.random)} at random:"]
        for example in self.random:
            lines += _show(example, self.best)
        return lines


def find_examples(
    case: DiagnosisContext, *, worst: int = WORST, random: int = RANDOM, seed: int = 0
) -> ExamplesSection:
    """The windows of the lowest cosine, and random others."""
    order = np.argsort(case.cosine, kind="stable").astype(np.int64)
    rest = order[worst:]
    drawn = np.random.default_rng(seed).permutation(rest)[:random].astype(np.int64)
    chosen = np.concatenate([order[:worst], drawn])
    nearest = nearest_candidates(case.exam, case.judgement.unit[chosen], chosen)
    made = [_example(case, int(i), int(row)) for i, row in zip(chosen, nearest, strict=True)]
    return ExamplesSection(
        case.best, tuple(made[: len(chosen) - len(drawn)]), tuple(made[-len(drawn) or len(made) :])
    )


def nearest_candidates(exam: EvaluationSet, units: FloatArray, windows: IntArray) -> IntArray:
    """[n] row of the candidate (not read) nearest to each of `units` [n, D], of these windows [n]."""
    pool = exam.pool
    best, row = np.full(len(windows), -2.0), np.full(len(windows), -1, dtype=np.int64)
    for start in range(0, len(pool), BLOCK):
        rows = pool.rows[start : start + BLOCK]
        candidates = unit(gather_rows(exam.vectors, rows))
        for i, window in enumerate(windows):
            similar = row_dots(candidates, np.broadcast_to(units[i], candidates.shape))
            place = np.arange(start, start + len(rows))
            outside = (place < pool.low[window]) | (place >= pool.high[window])
            read = (place >= pool.read_low[window]) & (place < pool.read_high[window])
            similar[outside | read] = -2.0
            top = int(similar.argmax())
            if similar[top] > best[i]:
                best[i], row[i] = similar[top], rows[top]
    return row


def _example(case: DiagnosisContext, i: int, nearest: int) -> WindowExample:
    windows = case.exam.windows
    document = case.documents[int(windows.document[i])]
    rows = np.array([windows.last[i], windows.target[i], nearest], dtype=np.int64)
    last, target, near = case.texts(rows)
    return WindowExample(
        document=document.doc_id,
        title=document.title,
        source=document.source,
        position=int(case.position[i]),
        cosine=float(case.cosine[i]),
        baseline=float(case.best_cosine[i]),
        rank=int(case.judgement.ranks[i]),
        shift=float(case.shift[i]),
        last=last,
        target=target,
        nearest=near,
    )


def _show(e: WindowExample, best: str) -> list[str]:
    head = (
        f"  {e.title or e.document}, chunk {e.position} ({e.source}): cosine {short(e.cosine)}, {best} "
        f"{short(e.baseline)}, rank {e.rank}, shift {short(e.shift)}"
    )
    texts = (("last read", e.last), ("came next", e.target), ("nearest", e.nearest))
    return [head, *(f"    {label:<10}{shorten(text, SHOWN)}" for label, text in texts if text)]
