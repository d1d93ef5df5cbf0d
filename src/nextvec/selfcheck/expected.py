"""What is expected of an instrument: a stated value, its tolerance, and what it is derived from."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nextvec.data.windows import FloatArray
from nextvec.selfcheck.predictors import Known
from nextvec.selfcheck.theory import Answer, Mixture, Theory, chunk, stranger
from nextvec.selfcheck.worlds import World

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
    """Known up to rounding."""
    return Expected("exact", value, value, scale)


def near(value: float, scale: float = 1.0) -> Expected:
    """Known in the mean, for many dimensions."""
    return Expected("near", value, value, scale)


def chance(value: float, scale: float = 1.0) -> Expected:
    """What knowing nothing gives."""
    return Expected("chance", value, value, scale)


def at_most(value: float, scale: float = 1.0) -> Expected:
    """An upper bound."""
    return Expected("at most", -math.inf, value, scale)


def between(low: float, high: float, scale: float = 1.0) -> Expected:
    """Two bounds."""
    return Expected("between", low, high, scale)


@dataclass(frozen=True)
class Case:
    """One known predictor in one world.

    Attributes:
        references: cosine of the linear average and of the best baseline, by theory.
        units: [N, D] its predictions at unit length, document by document.
    """

    world: World
    known: Known
    references: Mapping[str, float]
    units: FloatArray

    @cached_property
    def theory(self) -> Theory:
        """What probability theory says in this world."""
        return Theory(self.world)

    def answers(self, step: int = 1) -> Mixture:
        """What it answers at a step of a rollout; only for steps of which that is known."""
        found = self.known.answers(step)
        assert found is not None
        return found

    def mean(self, of: Callable[[Answer], float], step: int = 1) -> float:
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

    def nearer(self, answer: Answer, strangers: NDArray[np.int64] | float) -> NDArray[np.float64]:
        """[N] expected number of chunks nearer than the target: later ones of its document, and strangers."""
        steps = [self.theory.beats(answer, chunk(k)) for k in range(1, int(self.later.max()) + 1)]
        within = np.concatenate([[0.0], np.cumsum(steps)])[self.later]
        return np.asarray(within + strangers * self.theory.beats(answer, stranger()))

    @property
    def later(self) -> NDArray[np.int64]:
        """[N] chunks of the document after the target."""
        pool = self.world.exam.pool
        return pool.end - pool.target - 1

    @cached_property
    def ranks(self) -> NDArray[np.int64]:
        """[N] rank of the target, counted plainly: all chunks but those read, one matrix in float64."""
        documents, length, D = self.world.judged.shape
        chunks = self.world.judged.reshape(-1, D).astype(np.float64)
        chunks /= np.linalg.norm(chunks, axis=1, keepdims=True)
        target = np.arange(documents * length).reshape(documents, length)[:, self.world.context :].ravel()
        cosines = self.units.astype(np.float64) @ chunks.T
        truth = cosines[np.arange(len(target)), target]
        for row, at in enumerate(target):
            cosines[row, at - at % length : at + 1] = -2.0
        return np.asarray(1 + (cosines > truth[:, None]).sum(axis=1))
