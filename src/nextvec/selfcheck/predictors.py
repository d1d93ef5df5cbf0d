"""Predictors whose truth is known, each with what theory says of its answers."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from nextvec.data.windows import FloatArray, IntArray
from nextvec.evaluation.baselines import CopyLast, LinearAverage, Random
from nextvec.evaluation.predictor import Kind, Predictor, unit
from nextvec.evaluation.rollout import STEPS
from nextvec.selfcheck.theory import Answer, Mixture, Theory, best_weights, chunk, mean_error
from nextvec.selfcheck.worlds import HiddenState, World

Guess = Callable[[FloatArray, IntArray], Any]


@dataclass
class Told:
    """A predictor made from a function of contexts [B, T, D] and lengths [B], giving raw [B, D]."""

    guess: Guess
    name: str = "told"
    context: int = 64
    kind: Kind = "model"
    facts: dict[str, Any] = field(default_factory=dict)

    def predict(self, contexts: FloatArray, lengths: IntArray) -> tuple[FloatArray, FloatArray]:
        """Raw and unit prediction, both [B, D]."""
        raw = np.asarray(self.guess(contexts, lengths), dtype=np.float32)
        return raw, unit(raw)


@dataclass
class Drawing(Told):
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


Samples = Sequence[tuple[float, Answer, float]]
"""What samples are: shares of the windows, what the samples of a window have in common, and the variance a
dimension of what each has of its own."""


@dataclass(frozen=True)
class Known:
    """A predictor and the truth about it.

    Attributes:
        answers: its answers at step 1, 2, ... of a rollout; None where only bounds are known beyond step 1.
        drawn: what it is known to draw; None for one that gives a point.
        perfect: it returns the target.
        blind: it knows nothing of the context, so that its ranks are chance.
        constant: it always says the same.
    """

    predictor: Predictor
    answers: Callable[[int], Mixture | None]
    drawn: Samples | None = None
    perfect: bool = False
    blind: bool = False
    constant: bool = False

    @property
    def name(self) -> str:
        """Its name in the tables."""
        return self.predictor.name

    @property
    def samples(self) -> Samples:
        """What it draws; a point is all in common."""
        return self.drawn or [(share, answer, 0.0) for share, answer in self.answers(1) or ()]


def oracle(world: World) -> Known:
    """Returns what comes next, by looking the last vector up."""
    return Known(look_up(world.judged), lambda step: [(1.0, chunk(step - 1))], perfect=True)


def look_up(documents: FloatArray) -> Told:
    """The oracle of [documents, length, D]; after a document's end it repeats the last vector."""
    after = {
        row.tobytes(): document[min(i + 1, len(document) - 1)]
        for document in documents
        for i, row in enumerate(document)
    }

    def look(contexts: FloatArray, lengths: IntArray) -> FloatArray:
        return np.stack([after[c[n - 1].tobytes()] for c, n in zip(contexts, lengths, strict=True)])

    return Told(look, name="oracle", context=1)


def copy_last(world: World) -> Known:
    """The last chunk, at every step of a rollout."""
    return Known(CopyLast(world.context), lambda step: [(1.0, chunk(-1))])


def linear_average(world: World) -> Known:
    """The mean of the context; in a rollout of the last predictions and what is left of the context."""

    def answers(step: int) -> Mixture:
        read = [chunk(-k) for k in range(world.context, 0, -1)]
        for _ in range(step):
            recent = read[-world.context :]
            offsets = sorted({k for one in recent for k in one.weights})
            mean = {k: sum(one.weights.get(k, 0.0) for one in recent) / len(recent) for k in offsets}
            read.append(Answer(1.0, mean))
        return [(1.0, read[-1])]

    return Known(LinearAverage(world.context), answers)


def mean_vector(world: World) -> Known:
    """The mean of other documents of the same world: the common part, and what did not cancel."""
    answer = Answer(1.0, {}, mean_error(world))
    return Known(world.mean_vector, lambda step: [(1.0, answer)], blind=True, constant=True)


def random(world: World) -> Known:
    """A random direction of a chunk's length."""
    answer, nothing = Answer(0.0, {}, 1.0), Answer(0.0)
    predictor = Random(world.context, world.seed)
    return Known(predictor, lambda step: [(1.0, answer)], drawn=[(1.0, nothing, 1.0)], blind=True)


def shuffled(world: World) -> Known:
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

    def answers(step: int) -> Mixture | None:
        if step > 1:
            return None
        return _law_of_some_order(world)

    return Known(Told(guess, name="shuffled context", context=world.context), answers)


def _law_of_some_order(world: World) -> Mixture:
    """In the rotation world R x_{t-i} = x_{t-i+1}, i = 1..c; else the best weights, in each of c! orders."""
    c = world.context
    if world.deterministic:
        return [(1 / c, chunk(1 - i)) for i in range(1, c + 1)]
    weights = best_weights(world, c)
    orders = list(itertools.permutations(weights.values()))
    return [(1 / len(orders), Answer(1.0, dict(zip(weights, order, strict=True)))) for order in orders]


def kalman(world: HiddenState) -> Known:
    """The best predictor where there is noise; it reads the whole document.

    Reading its own prediction tells it nothing new, so that step n is the best prediction n ahead.
    """
    reads, counts = np.unique(world.exam.windows.read, return_counts=True)

    def answers(step: int) -> Mixture:
        shares = (counts / counts.sum()).tolist()
        return [
            (share, Answer(1.0, best_weights(world, int(read), step)))
            for share, read in zip(shares, reads, strict=True)
        ]

    longest = world.judged.shape[1] + STEPS
    return Known(Told(world.law, name="kalman filter", context=longest), answers)


def kalman_samples(world: HiddenState) -> Known:
    """The best distribution there: about the best point, as wide as that errs."""
    point = kalman(world)
    predictor = Drawing(
        world.law,
        name="kalman samples",
        context=point.predictor.context,
        centre=world.law,
        noise=lambda contexts, lengths: world.error(lengths),
    )
    theory = Theory(world)
    drawn = [(share, answer, theory.error(answer)) for share, answer in point.answers(1) or ()]
    return Known(predictor, point.answers, drawn)


def known_predictors(world: World) -> list[Known]:
    """All that stand trial in a world."""
    known = [make(world) for make in (oracle, copy_last, linear_average, mean_vector, shuffled, random)]
    if isinstance(world, HiddenState):
        known += [kalman(world), kalman_samples(world)]
    return known
