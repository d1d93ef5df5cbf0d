"""Predictions with their texts: where a model does best and where it does worst."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nextvec.corpus.store import Store
from nextvec.data.windows import Windows
from nextvec.evaluation.evaluation_set import EvaluationSet
from nextvec.evaluation.metrics import Scores
from nextvec.evaluation.predictor import NextVectorPredictor, unit
from nextvec.evaluation.ranking import make_pool


@dataclass(frozen=True)
class WindowTexts:
    """One window: the last chunk read, what came next, and the candidate nearest to the prediction."""

    title: str
    position: int
    cosine: float
    rank: int
    last: str
    target: str
    nearest: str


def best_and_worst(
    store: Store, predictor: NextVectorPredictor, windows: Windows, documents: Sequence[int], count: int
) -> list[tuple[str, list[WindowTexts]]]:
    """The `count` windows predicted best and worst by cosine, at most one of a document each.

    Args:
        documents: indices of the judged documents; their chunks are the candidates.
    Returns: ("Best", examples) and ("Worst", examples).
    """
    ranges = [(store.documents[i].first, store.documents[i].count) for i in documents]
    pool = make_pool(windows, store.vectors, ranges, store.texts, "split")
    judgement = Scores.of(predictor, EvaluationSet(store.vectors, windows, pool))
    order = np.argsort(-judgement.cosines, kind="stable")
    rows = np.concatenate([np.arange(first, first + n, dtype=np.int64) for first, n in ranges])
    candidates = unit(store.vectors[rows])
    found = []
    for title, ranked in (("Best", order), ("Worst", order[::-1])):
        chosen = _one_a_document(windows, ranked, count)
        examples = [_example(store, windows, judgement, int(i), rows, candidates) for i in chosen]
        found.append((title, examples))
    return found


def _one_a_document(windows: Windows, ranked: np.ndarray, count: int) -> list[int]:
    seen: dict[int, int] = {}
    for i in ranked:
        seen.setdefault(int(windows.document[i]), int(i))
        if len(seen) == count:
            break
    return list(seen.values())


def _example(
    store: Store, windows: Windows, judgement: Scores, i: int, rows: np.ndarray, candidates: np.ndarray
) -> WindowTexts:
    scores = candidates @ judgement.unit[i]
    scores[windows.select(np.array([i])).given(rows)[0]] = -np.inf
    nearest = int(rows[int(scores.argmax())])
    last, target, near = store.texts([int(windows.last[i]), int(windows.target[i]), nearest])
    return WindowTexts(
        title=store.documents[int(windows.document[i])].title,
        position=int(windows.target[i] - windows.first[i]),
        cosine=float(judgement.cosines[i]),
        rank=int(judgement.ranks[i]),
        last=last,
        target=target,
        nearest=near,
    )
