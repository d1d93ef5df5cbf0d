"""Predictors whose truth is known, each with what theory says of its answers."""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from nextvec.data.windows import FloatArray, IntArray
from nextvec.evaluation.baselines import CopyLast, LastAndMean, LinearAverage, Random
from nextvec.evaluation.predictor_protocol import Kind, NextVectorPredictor, unit
from nextvec.evaluation.trajectory import STEPS
from nextvec.selfcheck.theory import (
    AnswerMixture,
    LinearAnswer,
    Theory,
    best_weights,
    chunk,
    mean_error,
    stranger,
)
from nextvec.selfcheck.worlds import HiddenState, World

Guess = Callable[[FloatArray, IntArray], Any]


@dataclass
class FunctionPredictor:
    """A predictor made from a function of contexts [B, T, D] and lengths [B], giving raw [B, D]."""

    guess: Guess
    name: str = "told"
    context: int = 64
    kind: Kind = "model"
    metadata: dict[str, Any] = field(default_factory=dict)

    def predict(self, contexts: FloatArray, lengths: IntArray) -> tuple[FloatArray, FloatArray]:
        raw = np.asarray(self.guess(contexts, lengths), dtype=np.float32)
        return raw, unit(raw)


@dataclass
class SamplingPredictor(FunctionPredictor):
    """The same with samples: Gaussian about `centre`, whose variance a dimension is `noise`, both [B,
    ...]."""

    centre: Guess = lambda contexts, lengths: np.zeros_like(contexts[:, 0])
    noise: Guess = lambda contexts, lengths: np.ones(len(lengths))
    generative: ClassVar[bool] = True

    def sample(self, contexts: FloatArray, lengths: IntArray, n: int, seed: int) -> FloatArray:
        """[n, B, D]."""
        drawn = np.random.default_rng(seed).standard_normal((n, *contexts[:, 0].shape))
        spread = np.sqrt(self.noise(contexts, lengths))[:, None]
        return np.asarray(self.centre(contexts, lengths) + spread * drawn, dtype=np.float32)


Samples = Sequence[tuple[float, LinearAnswer, float]]
"""What samples are: shares of the windows, what the samples of a window have in common, and the variance a
dimension of what each has of its own."""


@dataclass(frozen=True)
class KnownPredictor:
    """A predictor and the truth about it.

    Attributes:
        answers: its answers at step 1, 2, ... of a rollout; None where only bounds are known beyond step 1.
        drawn: what it is known to draw; None for one that gives a point.
        perfect: it returns the target.
        blind: it knows nothing of the context, so that its ranks are chance.
        constant: it always says the same.
    """

    predictor: NextVectorPredictor
    answers: Callable[[int], AnswerMixture | None]
    drawn: Samples | None = None
    perfect: bool = False
    blind: bool = False
    constant: bool = False

    @property
    def name(self) -> str:
        return self.predictor.name

    @property
    def samples(self) -> Samples:
        """What it draws; a point is all in common."""
        return self.drawn or [(share, answer, 0.0) for share, answer in self.answers(1) or ()]


def oracle(world: World) -> KnownPredictor:
    """Returns what comes next, by looking the last vector up."""
    return KnownPredictor(look_up(world.evaluated), lambda step: [(1.0, chunk(step - 1))], perfect=True)


def look_up(documents: FloatArray) -> FunctionPredictor:
    """The oracle of [documents, length, D]; after a document's end it repeats the last vector."""
    after = {
        row.tobytes(): document[min(i + 1, len(document) - 1)]
        for document in documents
        for i, row in enumerate(document)
    }

    def look(contexts: FloatArray, lengths: IntArray) -> FloatArray:
        return np.stack([after[c[n - 1].tobytes()] for c, n in zip(contexts, lengths, strict=True)])

    return FunctionPredictor(look, name="oracle", context=1)


def _averages(world: World, share: float) -> Callable[[int], AnswerMixture]:
    """The answers at each step: `share` of the last vector, the rest of the mean of the context; in a rollout
    that is the last predictions and what is left of the context."""

    def answers(step: int) -> AnswerMixture:
        read = [chunk(-k) for k in range(world.context, 0, -1)]
        for _ in range(step):
            recent = read[-world.context :]
            counts = [(1 - share) / len(recent)] * len(recent)
            counts[-1] += share
            offsets = sorted({k for one in recent for k in one.weights})
            parts = list(zip(counts, recent, strict=True))
            mixed = {k: sum(c * one.weights.get(k, 0.0) for c, one in parts) for k in offsets}
            read.append(LinearAnswer(1.0, mixed))
        return [(1.0, read[-1])]

    return answers


def mean_vector(world: World) -> KnownPredictor:
    """The mean of other documents of the same world: the common part, and what did not cancel."""
    answer = LinearAnswer(1.0, {}, mean_error(world))
    return KnownPredictor(world.mean_vector, lambda step: [(1.0, answer)], blind=True, constant=True)


def random(world: World) -> KnownPredictor:
    """A random direction of a chunk's length."""
    answer, nothing = LinearAnswer(0.0, {}, 1.0), LinearAnswer(0.0)
    predictor = Random(world.context, world.seed)
    return KnownPredictor(predictor, lambda step: [(1.0, answer)], drawn=[(1.0, nothing, 1.0)], blind=True)


def shuffled(world: World) -> KnownPredictor:
    """The world's law, told the context in a random order.

    The order is a function of the last vector, so that batching changes nothing.
    """

    def guess(contexts: FloatArray, lengths: IntArray) -> FloatArray:
        mixed = np.zeros_like(contexts)
        for i, n in enumerate(lengths.tolist()):
            order = zlib.crc32(contexts[i, n - 1].tobytes())
            rng = np.random.Generator(np.random.Philox(key=[world.seed, order]))
            mixed[i, :n] = contexts[i, rng.permutation(n)]
        return world.law(mixed, lengths)

    def answers(step: int) -> AnswerMixture | None:
        if step > 1:
            return None
        return _law_of_some_order(world)

    return KnownPredictor(FunctionPredictor(guess, name="shuffled context", context=world.context), answers)


def _law_of_some_order(world: World) -> AnswerMixture:
    """In the rotation world R x_{t-i} = x_{t-i+1}, i = 1..c; else the best weights, in each of c! orders."""
    c = world.context
    if world.deterministic:
        return [(1 / c, chunk(1 - i)) for i in range(1, c + 1)]
    weights = best_weights(world, c)
    orders = list(itertools.permutations(weights.values()))
    return [(1 / len(orders), LinearAnswer(1.0, dict(zip(weights, order, strict=True)))) for order in orders]


def kalman(world: HiddenState) -> KnownPredictor:
    """The best predictor where there is noise; it reads the whole document.

    Reading its own prediction tells it nothing new, so that step n is the best prediction n ahead.
    """
    reads, counts = np.unique(world.evaluation_set.windows.read, return_counts=True)

    def answers(step: int) -> AnswerMixture:
        shares = (counts / counts.sum()).tolist()
        return [
            (share, LinearAnswer(1.0, best_weights(world, int(read), step)))
            for share, read in zip(shares, reads, strict=True)
        ]

    longest = world.evaluated.shape[1] + STEPS
    return KnownPredictor(FunctionPredictor(world.law, name="kalman filter", context=longest), answers)


def kalman_samples(world: HiddenState) -> KnownPredictor:
    """The best distribution there: about the best point, as wide as that errs."""
    point = kalman(world)
    predictor = SamplingPredictor(
        world.law,
        name="kalman samples",
        context=point.predictor.context,
        centre=world.law,
        noise=lambda contexts, lengths: world.error(lengths),
    )
    theory = Theory(world)
    drawn = [(share, answer, theory.error(answer)) for share, answer in point.answers(1) or ()]
    return KnownPredictor(predictor, point.answers, drawn)


def known_predictors(world: World) -> list[KnownPredictor]:
    known = [
        oracle(world),
        KnownPredictor(
            CopyLast(world.context), lambda step: [(1.0, chunk(-1))]
        ),  # at every step of a rollout
        KnownPredictor(LinearAverage(world.context), _averages(world, 0.0)),
        KnownPredictor(LastAndMean(world.context), _averages(world, 0.5)),
        *(make(world) for make in (mean_vector, shuffled, random)),
    ]
    if isinstance(world, HiddenState):
        known += [kalman(world), kalman_samples(world)]
    return known


# What is expected of an instrument: a stated value, its tolerance, and what it is derived from.

EXACT = 2e-5
"""Tolerance of what is exact: float32 vectors, sums of 64 products."""

How = Literal["exact", "near", "at most", "between", "chance"]
SIGNS = {"exact": "=", "near": "~", "at most": "<=", "chance": "chance"}


@dataclass(frozen=True)
class Expected:
    """A stated value, or the bounds it lies between.

    Attributes:
        scale: the size of the metric's unit in this world.
    """

    how: How
    low: float
    high: float
    scale: float = 1.0

    def tolerance(self, error: float, D: int) -> float:
        """3 standard errors + 2/D, in the metric's unit; rounding only for what is exact."""
        return EXACT * self.scale if self.how == "exact" else 3 * error + 2 / D * self.scale

    def holds(self, measured: float, tolerance: float) -> bool:
        """Whether a measured value is the stated one; nan never is."""
        return self.low - tolerance <= measured <= self.high + tolerance

    def __str__(self) -> str:
        low, high = (f"{round(value, 6) + 0.0:.4g}" for value in (self.low, self.high))
        return f"{low} .. {high}" if self.how == "between" else f"{SIGNS[self.how]} {high}"


def exact(value: float, scale: float = 1.0) -> Expected:
    return Expected("exact", value, value, scale)


def near(value: float, scale: float = 1.0) -> Expected:
    """Known in the mean, for many dimensions."""
    return Expected("near", value, value, scale)


def chance(value: float, scale: float = 1.0) -> Expected:
    return Expected("chance", value, value, scale)


def at_most(value: float, scale: float = 1.0) -> Expected:
    return Expected("at most", -math.inf, value, scale)


def between(low: float, high: float, scale: float = 1.0) -> Expected:
    return Expected("between", low, high, scale)


@dataclass(frozen=True)
class OracleContext:
    """One known predictor in one world.

    Attributes:
        references: cosine of the linear average and of the best baseline, by theory.
        units: [N, D] its predictions at unit length, document by document.
    """

    world: World
    known: KnownPredictor
    references: Mapping[str, float]
    units: FloatArray

    @cached_property
    def theory(self) -> Theory:
        return Theory(self.world)

    def answers(self, step: int = 1) -> AnswerMixture:
        """What it answers at a step of a rollout; only for steps of which that is known."""
        found = self.known.answers(step)
        assert found is not None
        return found

    def mean(self, of: Callable[[LinearAnswer], float], step: int = 1) -> float:
        """Mean over the windows of a function of the answer."""
        return sum(share * of(answer) for share, answer in self.answers(step))

    def toward(self, k: int, step: int = 1) -> float:
        """Mean cosine to the chunk k after the target."""
        return self.mean(lambda answer: self.theory.cosine(answer, chunk(k)), step)

    @property
    def certain(self) -> bool:
        """A single answer in a world without chance: every cosine is the same in all windows."""
        answers = self.answers()
        return self.world.deterministic and len(answers) == 1 and answers[0][1].own == 0

    def state(self, value: float, scale: float = 1.0) -> Expected:
        """Exact where nothing is left to chance, else near."""
        return exact(value, scale) if self.certain else near(value, scale)

    def nearer(self, answer: LinearAnswer, strangers: NDArray[np.int64] | float) -> NDArray[np.float64]:
        """[N] expected number of chunks nearer than the target: later ones of its document, and strangers."""
        steps = [self.theory.beats(answer, chunk(k)) for k in range(1, int(self.later.max()) + 1)]
        within = np.concatenate([[0.0], np.cumsum(steps)])[self.later]
        return np.asarray(within + strangers * self.theory.beats(answer, stranger()))

    @property
    def later(self) -> NDArray[np.int64]:
        """[N] chunks of the document after the target."""
        pool = self.world.evaluation_set.pool
        return pool.end - pool.target - 1

    @cached_property
    def ranks(self) -> NDArray[np.int64]:
        """[N] rank of the target, counted plainly: all chunks but those read, one matrix in float64."""
        documents, length, D = self.world.evaluated.shape
        chunks = self.world.evaluated.reshape(-1, D).astype(np.float64)
        chunks /= np.linalg.norm(chunks, axis=1, keepdims=True)
        target = np.arange(documents * length).reshape(documents, length)[:, self.world.context :].ravel()
        cosines = self.units.astype(np.float64) @ chunks.T
        truth = cosines[np.arange(len(target)), target]
        for row, at in enumerate(target):
            cosines[row, at - at % length : at + 1] = -2.0
        return np.asarray(1 + (cosines > truth[:, None]).sum(axis=1))
