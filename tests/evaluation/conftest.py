"""Worlds whose truth is known, and predictors that know it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from nextvec.corpus.store import NewDocument, Store, StoreWriter
from nextvec.data.windows import make_windows
from nextvec.evaluation.exam import Exam
from nextvec.evaluation.predictor import unit
from nextvec.evaluation.retrieval import make_pool

NOISE, MEMORY = 0.7, 0.95


def rotation(rng: np.random.Generator, documents: int, length: int, D: int) -> tuple[np.ndarray, np.ndarray]:
    """x' = R x: perfectly predictable. Vectors [documents, length, D] and R."""
    turn, _ = np.linalg.qr(rng.standard_normal((D, D)))
    x = unit(rng.standard_normal((documents, D)))
    steps = [x]
    for _ in range(length - 1):
        x = x @ turn.T
        steps.append(x)
    return np.stack(steps, axis=1).astype(np.float32), turn


def noisy(rng: np.random.Generator, documents: int, length: int, D: int) -> np.ndarray:
    """A hidden AR(1) state seen through noise, [documents, length, D]."""
    h = rng.standard_normal((documents, D))
    steps = []
    for _ in range(length):
        steps.append(h + NOISE * rng.standard_normal((documents, D)))
        h = MEMORY * h + np.sqrt(1 - MEMORY**2) * rng.standard_normal((documents, D))
    return (np.stack(steps, axis=1) / np.sqrt(D * (1 + NOISE**2))).astype(np.float32)


@dataclass
class Told:
    """A predictor made from a function of contexts and lengths."""

    guess: Callable[[np.ndarray, np.ndarray], np.ndarray]
    name: str = "told"
    context: int = 64
    kind: str = "model"
    facts: dict[str, Any] = field(default_factory=dict)

    def predict(self, contexts: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        raw = np.asarray(self.guess(contexts, lengths), dtype=np.float32)
        return raw, unit(raw)


def kalman(contexts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The best predictor of `noisy`: what the state is expected to be one step on."""
    mean, variance = np.zeros_like(contexts[:, 0]), np.ones(len(contexts))
    for t in range(contexts.shape[1]):
        here = t < lengths
        gain = variance / (variance + NOISE**2)
        seen = mean + gain[:, None] * (contexts[:, t] - mean)
        mean = np.where(here[:, None], MEMORY * seen, mean)
        after = MEMORY**2 * (1 - gain) * variance + 1 - MEMORY**2
        variance = np.where(here, after, variance)
    return mean


def make_exam(
    vectors: np.ndarray,
    counts: Sequence[int] | None = None,
    *,
    context: int = 3,
    horizon: int = 1,
    kind: str = "split",
    judged: Sequence[int] | None = None,
    texts: Sequence[str] | None = None,
    train_mean: np.ndarray | None = None,
) -> Exam:
    """An exam on vectors [n, D] with document lengths, or [documents, length, D]."""
    if counts is None:
        counts = [vectors.shape[1]] * vectors.shape[0]
    flat = vectors.reshape(-1, vectors.shape[-1])
    starts = np.cumsum([0, *counts])
    documents = [SimpleNamespace(first=int(f), count=c) for f, c in zip(starts, counts, strict=False)]
    chosen = range(len(counts)) if judged is None else judged
    windows = make_windows(SimpleNamespace(documents=documents, path=Path("s")), chosen, context, horizon)
    names = [f"text {i}" for i in range(len(flat))] if texts is None else texts
    ranges = [
        (documents[i].first, documents[i].count) for i in (chosen if kind != "store" else range(len(counts)))
    ]
    pool = make_pool(windows, flat, ranges, lambda rows: [names[int(r)] for r in rows], kind)
    return Exam(flat, windows, pool, train_mean)


def make_store(
    path: Path,
    vectors: np.ndarray,
    *,
    sources: Sequence[str] | None = None,
    texts: Callable[[int, int], str] = lambda d, p: f"chunk {p} of document {d} says {d * 1000 + p}",
    ids: Callable[[int], str] = lambda d: f"doc-{d}",
    encoder: str = "encoder-a",
) -> Store:
    """A store of [documents, length, D] on disk."""
    documents = [
        NewDocument.from_chunks(
            ids(d),
            [texts(d, p) for p in range(vectors.shape[1])],
            source="web" if sources is None else sources[d],
        )
        for d in range(len(vectors))
    ]
    chunker = {"kind": "test"}
    with StoreWriter(
        path,
        encoder={"fingerprint": encoder, "name": encoder},
        dimension=vectors.shape[2],
        chunker=chunker,
        dtype="float32",
    ) as writer:
        writer.add_shard(documents, vectors.reshape(-1, vectors.shape[2]), path="test")
    return Store.open(path)


@pytest.fixture(scope="session")
def worlds() -> SimpleNamespace:
    """The makers above, for tests."""
    return SimpleNamespace(
        rotation=rotation, noisy=noisy, kalman=kalman, Told=Told, exam=make_exam, store=make_store
    )
