"""Windows with their texts: best, worst and random ones; and exact search for what is nearest to vectors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from nextvec.corpus.store import Document, Store
from nextvec.data.gather import VectorSource, gather_rows
from nextvec.data.windows import FloatArray, IntArray, Windows
from nextvec.diagnostics.sections import DiagnosisContext, Section, Texts, Verdict
from nextvec.evaluation.evaluation_set import EvaluationSet
from nextvec.evaluation.intervals import Values, short
from nextvec.evaluation.metrics import Scores
from nextvec.evaluation.predictor_protocol import NextVectorPredictor, row_dots, unit
from nextvec.evaluation.ranking import make_pool
from nextvec.text import shorten

WORST, RANDOM = 20, 10
SHOWN = 100
BLOCK, SEARCH_BLOCK = 8192, 4096


@dataclass(frozen=True)
class ScoredWindow:
    """One window.

    Attributes:
        position: of the target in its document, from 0.
        last, target, nearest: texts of the last chunk read, of what came next, and of the candidate nearest
            to the prediction.
    """

    title: str
    position: int
    cosine: float
    rank: int
    last: str
    target: str
    nearest: str

    def texts(self) -> list[str]:
        labelled = (("last read", self.last), ("came next", self.target), ("nearest", self.nearest))
        return [f"    {label:<10}{shorten(text, SHOWN)}" for label, text in labelled if text]


@dataclass(frozen=True)
class DiagnosedWindow(ScoredWindow):
    """The same beside the best baseline; `shift` is the target's distance from the mean of the context."""

    document: str
    source: str
    baseline: float
    shift: float


@dataclass(frozen=True)
class ExamplesSection(Section):
    """The windows of the lowest cosine (lowest first), and random ones, which show the usual case."""

    title: ClassVar[str] = "Windows"
    best: str
    worst: tuple[DiagnosedWindow, ...]
    random: tuple[DiagnosedWindow, ...]

    def verdicts(self) -> list[Verdict]:
        return []

    def lines(self) -> list[str]:
        lines = [f"The {len(self.worst)} worst by cosine:"]
        for window in self.worst:
            lines += _show(window, self.best)
        if self.random:
            lines += ["", f"{len(self.random)} others at random:"]
        for window in self.random:
            lines += _show(window, self.best)
        return lines


def find_examples(
    context: DiagnosisContext, *, worst: int = WORST, random: int = RANDOM, seed: int = 0
) -> ExamplesSection:
    """The windows of the lowest cosine, and random others."""
    order = np.argsort(context.cosine, kind="stable").astype(np.int64)
    drawn = np.random.default_rng(seed).permutation(order[worst:])[:random].astype(np.int64)
    made = []
    chosen = np.concatenate([order[:worst], drawn])
    for i, document, window in _scored(context.scores, chosen, context.texts, context.documents):
        baseline, shift = float(context.best_cosine[i]), float(context.shift[i])
        made.append(
            DiagnosedWindow(
                **vars(window),
                document=document.doc_id,
                source=document.source,
                baseline=baseline,
                shift=shift,
            )
        )
    first = len(made) - len(drawn)
    return ExamplesSection(context.best, tuple(made[:first]), tuple(made[first:]))


def best_and_worst(
    store: Store, predictor: NextVectorPredictor, windows: Windows, documents: Sequence[int], count: int
) -> list[tuple[str, list[ScoredWindow]]]:
    """The `count` windows predicted best and worst by cosine, at most one of a document each.

    Args:
        documents: indices of the evaluated documents; their chunks are the candidates.
    Returns: ("Best", windows) and ("Worst", windows).
    """
    ranges = [(store.documents[i].first, store.documents[i].count) for i in documents]
    pool = make_pool(windows, store.vectors, ranges, store.texts, "split")
    scores = Scores.of(predictor, EvaluationSet(store.vectors, windows, pool))
    order = np.argsort(-scores.cosines, kind="stable").astype(np.int64)
    found = []
    for title, ranked in (("Best", order), ("Worst", order[::-1])):
        chosen = one_a_document(windows.document, ranked, count)
        made = _scored(scores, chosen, store.texts, store.documents)
        found.append((title, [window for _, _, window in made]))
    return found


def one_a_document(documents: IntArray, ranked: IntArray, count: int) -> IntArray:
    """The first of `ranked` (indices into `documents` [N]) of each document, at most `count`."""
    _, first = np.unique(documents[ranked], return_index=True)
    return ranked[np.sort(first)[:count]]


def nearest_candidates(evaluation_set: EvaluationSet, units: FloatArray, windows: IntArray) -> IntArray:
    """[n] row of the candidate (not given) nearest to each of `units` [n, D], of these windows [n]."""
    pool = evaluation_set.pool
    best, row = np.full(len(windows), -2.0), np.full(len(windows), -1, dtype=np.int64)
    for start in range(0, len(pool), BLOCK):
        rows = pool.rows[start : start + BLOCK]
        candidates = unit(gather_rows(evaluation_set.vectors, rows))
        place = np.arange(start, start + len(rows))
        for i, window in enumerate(windows):
            similar = row_dots(candidates, np.broadcast_to(units[i], candidates.shape))
            similar[~pool.allowed(window, place)] = -2.0
            top = int(similar.argmax())
            if similar[top] > best[i]:
                best[i], row[i] = similar[top], rows[top]
    return row


def nearest_cosine(units: FloatArray, vectors: VectorSource, rows: IntArray) -> Values:
    """[N] largest cosine of each of `units` [N, D] to any of these rows of `vectors`.

    Exact: float32 products in blocks find the row, float64 gives its cosine.
    """
    return row_dots(units, unit(gather_rows(vectors, nearest_rows(units, vectors, rows))))


def nearest_rows(units: FloatArray, vectors: VectorSource, rows: IntArray) -> IntArray:
    """[N] which of these rows of `vectors` has the largest cosine to each of `units` [N, D], in float32."""
    import torch

    queries = torch.from_numpy(np.ascontiguousarray(units))
    best = torch.full((len(queries),), -2.0)
    which = torch.zeros(len(queries), dtype=torch.int64)
    for start in range(0, len(rows), SEARCH_BLOCK):
        block = torch.from_numpy(unit(gather_rows(vectors, rows[start : start + SEARCH_BLOCK])))
        for a in range(0, len(queries), SEARCH_BLOCK):
            piece = slice(a, a + SEARCH_BLOCK)
            value, place = (queries[piece] @ block.T).max(dim=1)
            better = value > best[piece]
            which[piece] = torch.where(better, place + start, which[piece])
            best[piece] = torch.where(better, value, best[piece])
    return np.asarray(rows[which.numpy()], dtype=np.int64)


def _scored(
    scores: Scores, chosen: IntArray, texts: Texts, documents: Sequence[Document]
) -> Iterator[tuple[int, Document, ScoredWindow]]:
    """Each window chosen, with its document."""
    windows = scores.evaluation_set.windows
    nearest = nearest_candidates(scores.evaluation_set, scores.unit[chosen], chosen)
    for i, near in zip(chosen.tolist(), nearest.tolist(), strict=True):
        document, position = documents[int(windows.document[i])], int(windows.target[i] - windows.first[i])
        context_texts = texts(np.array([windows.last[i], windows.target[i], near], dtype=np.int64))
        figures = float(scores.cosines[i]), int(scores.ranks[i])
        yield i, document, ScoredWindow(document.title, position, *figures, *context_texts)


def _show(window: DiagnosedWindow, best: str) -> list[str]:
    head = (
        f"  {window.title or window.document}, chunk {window.position + 1} ({window.source}): cosine "
        f"{short(window.cosine)}, {best} {short(window.baseline)}, rank {window.rank}, shift "
        f"{short(window.shift)}"
    )
    return [head, *window.texts()]
