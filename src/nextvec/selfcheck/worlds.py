"""Worlds whose truth is known: documents of vectors whose next one can be predicted just so well.

Both worlds look like an encoder's output: vectors of D dimensions with a mean square of 1 each, a quarter of
it in a direction common to all of them, and neighbours closer than strangers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from nextvec.corpus.store import Document, NewDocument, Store, StoreWriter
from nextvec.data.windows import FloatArray, IntArray, Task, make_windows, with_queries
from nextvec.evaluation.baselines import MeanVector
from nextvec.evaluation.evaluation_set import EvaluationSet
from nextvec.evaluation.predictor_protocol import unit
from nextvec.evaluation.ranking import make_pool

Wide = NDArray[np.float64]
COMMON = 0.25
TURN_MEMORY = 0.4
NOISE, MEMORY = 0.7, 0.95
STATE_MEMORY = 0.8


def angles(planes: int) -> Wide:
    """[planes] how far each plane of `rotation` turns in a step.

    Quantiles of the wrapped Cauchy distribution, whose mean of cos(k angle) is TURN_MEMORY^k: chunks k apart
    resemble each other nearly as those of an AR(1) process do.
    """
    share = (np.arange(planes) + 0.5) / planes
    narrow = (1 - TURN_MEMORY) / (1 + TURN_MEMORY)
    return np.asarray(2 * np.arctan(narrow * np.tan(np.pi * share / 2)))


def rotation(rng: np.random.Generator, documents: int, length: int, D: int) -> tuple[FloatArray, Wide]:
    """x' = R x: perfectly predictable. Vectors [documents, length, D] of length sqrt(D), and R [D, D].

    R keeps one axis and turns (D - 1) // 2 planes. A document starts with equal shares in all planes, at
    random angles, so that the cosine of two chunks of a document depends on their distance only, and exactly.
    """
    basis, _ = np.linalg.qr(rng.standard_normal((D, D)))
    return turned(basis, rng, documents, length), _turn(basis)


def turned(basis: Wide, rng: np.random.Generator, documents: int, length: int) -> FloatArray:
    """Documents of the rotation whose axis and planes are the columns of `basis` [D, D]."""
    D = len(basis)
    planes = (D - 1) // 2
    start = rng.uniform(0, 2 * np.pi, size=(documents, 1, planes))
    phase = start + np.arange(length)[:, None] * angles(planes)
    moving = np.sqrt((1 - COMMON) * D / planes)
    x = np.sqrt(COMMON * D) * basis[:, 0] + moving * (
        np.cos(phase) @ basis[:, 1 : 2 * planes : 2].T + np.sin(phase) @ basis[:, 2 : 2 * planes + 1 : 2].T
    )
    return np.asarray(x, dtype=np.float32)


def _turn(basis: Wide) -> Wide:
    """[D, D] the rotation in the coordinates of the vectors."""
    D = len(basis)
    inner = np.eye(D)
    for plane, angle in enumerate(angles((D - 1) // 2)):
        at = slice(1 + 2 * plane, 3 + 2 * plane)
        inner[at, at] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return np.asarray(basis @ inner @ basis.T)


def noisy(
    rng: np.random.Generator, documents: int, length: int, D: int, memory: float = MEMORY
) -> FloatArray:
    """A hidden AR(1) state, h' = memory h + e, seen through noise: [documents, length, D] of variance 1."""
    h = rng.standard_normal((documents, D))
    steps = []
    for _ in range(length):
        steps.append(h + NOISE * rng.standard_normal((documents, D)))
        h = memory * h + np.sqrt(1 - memory**2) * rng.standard_normal((documents, D))
    return np.asarray(np.stack(steps, axis=1) / np.sqrt(1 + NOISE**2), dtype=np.float32)


def kalman(contexts: FloatArray, lengths: IntArray, memory: float = MEMORY) -> FloatArray:
    """The best predictor of `noisy` (Kalman 1960): what the state is expected to be one step on, [B, D]."""
    mean, variance = np.zeros_like(contexts[:, 0]), np.ones(len(contexts))
    for t in range(contexts.shape[1]):
        here = t < lengths
        gain = variance / (variance + NOISE**2)
        seen = mean + gain[:, None] * (contexts[:, t] - mean)
        mean = np.where(here[:, None], memory * seen, mean)
        variance = np.where(here, memory**2 * (1 - gain) * variance + 1 - memory**2, variance)
    return np.asarray(mean, dtype=np.float32)


def kalman_error(lengths: IntArray, memory: float = MEMORY) -> Wide:
    """[B] variance a dimension of the next chunk of `noisy` about what `kalman` says of it."""
    variance = np.ones(int(lengths.max()) + 1)
    for t in range(1, len(variance)):
        left = variance[t - 1] * NOISE**2 / (variance[t - 1] + NOISE**2)
        variance[t] = memory**2 * left + 1 - memory**2
    return np.asarray((variance[lengths] + NOISE**2) / (1 + NOISE**2))


@dataclass(frozen=True)
class MemoryStore:
    """As much of a store as an evaluation set needs, without files."""

    documents: Sequence[Document]
    vectors: FloatArray
    path: Path = Path("memory")


def memory_store(vectors: FloatArray, counts: Sequence[int]) -> MemoryStore:
    """A store of vectors [n, D] cut into documents of these lengths."""
    starts = np.cumsum([0, *counts]).tolist()
    documents = [
        Document(f"doc-{i}", "", "", first, count, "")
        for i, (first, count) in enumerate(zip(starts, counts, strict=False))
    ]
    return MemoryStore(documents, vectors)


def memory_evaluation_set(
    vectors: FloatArray,
    counts: Sequence[int] | None = None,
    *,
    context: int = 3,
    horizon: int = 1,
    task: Task = "next",
    queries: int | None = None,
    kind: str = "split",
    evaluated: Sequence[int] | None = None,
    texts: Sequence[str] | None = None,
    train_mean: FloatArray | None = None,
) -> EvaluationSet:
    """An evaluation set without a store on disk.

    Args:
        vectors: [n, D] with the documents' `counts`, or [documents, length, D].
        queries: seed of what predictors are given to write towards; None gives none.
        evaluated: indices of the evaluated documents; None is all.
        texts: of the chunks; None gives every chunk a text of its own.
    """
    if counts is None:
        counts = [vectors.shape[1]] * vectors.shape[0]
    flat = vectors.reshape(-1, vectors.shape[-1])
    store = memory_store(flat, counts)
    chosen = range(len(counts)) if evaluated is None else evaluated
    windows = make_windows(store, chosen, context, horizon, task)
    if queries is not None:
        windows = with_queries(windows, queries)
    names = [f"text {i}" for i in range(len(flat))] if texts is None else texts
    among = chosen if kind != "store" else range(len(counts))
    ranges = [(store.documents[i].first, store.documents[i].count) for i in among]
    pool = make_pool(windows, flat, ranges, lambda rows: [names[int(r)] for r in rows], kind)
    return EvaluationSet(flat, windows, pool, train_mean)


def make_store(
    path: Path,
    vectors: FloatArray,
    *,
    sources: Sequence[str] | None = None,
    texts: Callable[[int, int], str] = lambda d, p: f"chunk {p} of document {d} says {d * 1000 + p}",
    ids: Callable[[int], str] = lambda d: f"doc-{d}",
    encoder: str = "encoder-a",
) -> Store:
    """A store of [documents, length, D] on disk.

    Args:
        sources: one a document.
        texts: of document d and position p.
        encoder: name and fingerprint of what is said to have made the vectors.
    """
    count, length, D = vectors.shape
    documents = [
        NewDocument.from_chunks(
            ids(d), [texts(d, p) for p in range(length)], source="web" if sources is None else sources[d]
        )
        for d in range(count)
    ]
    described = {"fingerprint": encoder, "name": encoder}
    with StoreWriter(
        path, encoder=described, dimension=D, chunker={"kind": "known"}, dtype="float32"
    ) as writer:
        writer.add_shard(documents, vectors.reshape(-1, D), path="known")
    return Store.open(path)


class World(ABC):
    """A world with an evaluation set in it, everything drawn from one seed.

    A vector is sqrt(COMMON) m + sqrt(1 - COMMON) z: m the same everywhere, z a stationary process of mean 0,
    both with a mean square of 1 a dimension.

    Attributes:
        deterministic: the law gives the next vector without error.
        evaluated, trained: [documents, length, D] what is evaluated, and what the mean vector is taken of.
    """

    name: ClassVar[str]
    deterministic: ClassVar[bool]

    def __init__(
        self, seed: int = 0, *, documents: int = 40, length: int = 20, D: int = 64, context: int = 5
    ) -> None:
        self.seed, self.D, self.context = seed, D, context
        rng = np.random.default_rng(seed)
        self._lay_out(rng)
        self.evaluated, self.trained = (self._draw(rng, documents, length) for _ in range(2))

    @abstractmethod
    def _lay_out(self, rng: np.random.Generator) -> None:
        """Draw what all documents share."""

    @abstractmethod
    def _draw(self, rng: np.random.Generator, documents: int, length: int) -> FloatArray:
        """Documents, [documents, length, D]."""

    @abstractmethod
    def correlation(self, k: int) -> float:
        """Mean product of z of chunks k apart, a dimension: 1 at k = 0."""

    @abstractmethod
    def law(self, contexts: FloatArray, lengths: IntArray) -> FloatArray:
        """The best possible prediction, raw, [B, D]."""

    @cached_property
    def mean_vector(self) -> MeanVector:
        made = MeanVector(self.context)
        evaluation_set = memory_evaluation_set(self.trained, context=self.context)
        made.fit(evaluation_set.vectors, evaluation_set.windows, None)
        return made

    @cached_property
    def evaluation_set(self) -> EvaluationSet:
        """All of `evaluated`, each target among all chunks."""
        return memory_evaluation_set(self.evaluated, context=self.context, train_mean=self.mean_vector.mean)


class Rotation(World):
    """x' = R x, see `rotation`."""

    name = "rotation"
    deterministic = True

    def _lay_out(self, rng: np.random.Generator) -> None:
        self._basis, _ = np.linalg.qr(rng.standard_normal((self.D, self.D)))
        self.turn = _turn(self._basis)

    def _draw(self, rng: np.random.Generator, documents: int, length: int) -> FloatArray:
        return turned(self._basis, rng, documents, length)

    def correlation(self, k: int) -> float:
        return float(np.cos(k * angles((self.D - 1) // 2)).mean())

    def law(self, contexts: FloatArray, lengths: IntArray) -> FloatArray:
        last = contexts[np.arange(len(lengths)), lengths - 1]
        return np.asarray(last @ self.turn.T, dtype=np.float32)


class HiddenState(World):
    """A hidden AR(1) state seen through noise, see `noisy`; its law is the Kalman filter."""

    name = "ar1"
    deterministic = False

    def _lay_out(self, rng: np.random.Generator) -> None:
        direction = unit(rng.standard_normal(self.D))
        self._common = np.asarray(np.sqrt(COMMON * self.D) * direction, dtype=np.float32)

    def _draw(self, rng: np.random.Generator, documents: int, length: int) -> FloatArray:
        moving = noisy(rng, documents, length, self.D, STATE_MEMORY)
        return np.asarray(self._common + np.sqrt(1 - COMMON) * moving, dtype=np.float32)

    def correlation(self, k: int) -> float:
        return 1.0 if k == 0 else STATE_MEMORY ** abs(k) / (1 + NOISE**2)

    def law(self, contexts: FloatArray, lengths: IntArray) -> FloatArray:
        # the filter is linear: it need not know how large the part is that moves
        return self._common + kalman(contexts - self._common, lengths, STATE_MEMORY)

    def error(self, lengths: IntArray) -> Wide:
        """[B] variance a dimension of the next chunk about what `law` says of it."""
        return (1 - COMMON) * kalman_error(lengths, STATE_MEMORY)


WORLDS: dict[str, type[World]] = {cls.name: cls for cls in (Rotation, HiddenState)}
