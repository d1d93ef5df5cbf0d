"""Free running: a predictor goes on from what was read, reading its own predictions as if they were text.

Every step is asked as the evaluator asks (the last `context` vectors, nothing before them), so that a step is
worth what `nextvec evaluate` says of its horizon.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count

import numpy as np

from nextvec.data.gather import read_on
from nextvec.data.windows import FloatArray, IntArray
from nextvec.errors import ConfigError, ModelError
from nextvec.inference.base import VectorPredictor
from nextvec.vectors import RawVectors, UnitVectors, unit

SEEDS_PER_ROLLOUT = 2**20


@dataclass(frozen=True)
class Guard:
    """When a rollout has left what the model knows, and what is repaired on the way.

    Attributes:
        min_cosine: it stops at a step whose cosine to the last chunk really read is below: it has drifted.
        max_repetition: it stops at a step whose cosine to the step before is above: it stands still.
        rescale: a prediction is brought to the mean length of the chunks read before it is used; what is
            predicted under squared error is shorter than any text's vector.
    Raises:
        ConfigError: a bound that is no cosine.
    """

    min_cosine: float | None = None
    max_repetition: float | None = 0.999
    rescale: bool = True

    def __post_init__(self) -> None:
        for name in ("min_cosine", "max_repetition"):
            _check_between(name, getattr(self, name), -1.0)

    def objection(self, drift: float, repetition: float | None) -> str | None:
        if self.min_cosine is not None and drift < self.min_cosine:
            return f"drifted: cosine {drift:.3f} to the last chunk read, below {self.min_cosine:g}"
        if self.max_repetition is not None and repetition is not None and repetition > self.max_repetition:
            return f"stands still: cosine {repetition:.4f} to the step before, above {self.max_repetition:g}"
        return None


@dataclass(frozen=True, eq=False)
class NearestHit:
    """A real chunk near a prediction: its row, its cosine to the prediction, its vector [D] as stored."""

    row: int
    cosine: float
    vector: FloatArray


Find = Callable[[UnitVectors, IntArray], NearestHit | None]
"""The real chunk nearest to a vector [1, D], none of the given rows; None where there is no other."""


@dataclass(frozen=True)
class SnapToCorpus:
    """How predictions are pulled to real chunks, none of them twice.

    Attributes:
        threshold: a prediction whose cosine to the nearest one is below stays as it is.
        blend: share of the chunk in what is read next: 1 is the chunk itself, 0 the prediction.
    Raises:
        ConfigError: a threshold that is no cosine, a share outside [0, 1].
    """

    threshold: float = 0.6
    blend: float = 0.5

    def __post_init__(self) -> None:
        _check_between("threshold", self.threshold, -1.0)
        _check_between("blend", self.blend, 0.0)


@dataclass(frozen=True, eq=False)
class RolloutStep:
    """One prediction of a rollout.

    Attributes:
        raw: [D] the prediction, rescaled where the guard says so. Decoders take it.
        read: [D] what the next step reads: `raw`, or its blend with a real chunk.
        length: of the prediction before it was rescaled.
        drift: cosine of `raw` to the last chunk that was really read.
        repetition: cosine of `raw` to that of the step before; None at the first.
        snapped_to: the real chunk it was pulled to, if it was.
    """

    raw: FloatArray
    read: FloatArray
    length: float
    drift: float
    repetition: float | None
    snapped_to: NearestHit | None


@dataclass(frozen=True)
class RolloutResult:
    """A rollout.

    Attributes:
        steps: as many as asked for, or fewer.
        objection: the guard's to the last step; None where it has none.
        length: mean length of the chunks read.
    """

    steps: tuple[RolloutStep, ...]
    objection: str | None
    length: float


@dataclass(frozen=True)
class RolloutSettings:
    """What steers a rollout.

    Attributes:
        guard, snap: see there; by default nothing is pulled to real chunks.
        query: [D] what a conditional model writes towards.
        seed: a generative model's steps are drawn with it; None takes its point prediction.
    Raises:
        ConfigError: a seed below 0 or of more than 32 bits.
    """

    guard: Guard = field(default_factory=Guard)
    snap: SnapToCorpus | None = None
    query: FloatArray | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.seed is not None and not 0 <= self.seed < 2**32:
            raise ConfigError(f"seed is {self.seed}", remedy="give 0 to 4294967295")


def roll(
    predictor: VectorPredictor,
    vectors: RawVectors,
    steps: int,
    settings: RolloutSettings | None = None,
    find: Find | None = None,
) -> RolloutResult:
    """Go on for so many steps, or until the guard objects, from vectors [T, D] in the order they are read.

    The step that the guard objects to is the last one.

    Args:
        find: finds the real chunks that predictions are pulled to.
    Raises:
        ConfigError: no step asked for; settings that snap with nothing to find chunks by.
        ModelError: no vector to go on from; a seed for a model that only has a point prediction; a query for
            one that takes none.
        EncoderMismatchError: vectors of another encoder than the predictor's.
    """
    if steps < 1:
        raise ConfigError(f"a rollout of {steps} steps", remedy="request 1 or more")
    read = vectors.values if predictor.encoder is None else vectors.of(predictor.encoder).values
    if read.ndim != 2 or len(read) == 0:
        raise ModelError(f"nothing to go on from in {list(read.shape)}", remedy="give vectors [T, D]")
    settings = settings or RolloutSettings()
    if settings.snap is not None and find is None:
        raise ConfigError("no chunks to snap to", where="snap", remedy="name a store")
    length = float(np.linalg.norm(read, axis=1).mean())
    made: list[RolloutStep] = []
    given = RawVectors(read, vectors.encoder, vectors.normalised)
    for step in _steps(predictor, given, settings, find, length):
        made.append(step)
        objection = settings.guard.objection(step.drift, step.repetition)
        if len(made) == steps or objection:
            break
    return RolloutResult(tuple(made), objection, length)


def _steps(
    predictor: VectorPredictor,
    vectors: RawVectors,
    settings: RolloutSettings,
    find: Find | None,
    length: float,
) -> Iterator[RolloutStep]:
    width = predictor.context
    contexts = np.array(vectors.values[None, -width:])
    lengths = np.array([contexts.shape[1]], dtype=np.int64)
    start, before, used = unit(vectors.values[-1]), None, np.zeros(0, dtype=np.int64)
    for number in count():
        raw = _predicted(predictor, contexts, lengths, settings, number)
        norm = float(np.linalg.norm(raw))
        if settings.guard.rescale and norm > 0:
            raw = raw * np.float32(length / norm)
        direction, read, snapped_to = unit(raw), raw, None
        if settings.snap is not None and find is not None:
            nearest = find(UnitVectors(direction[None], vectors.encoder), used)
            if nearest is not None and nearest.cosine >= settings.snap.threshold:
                share = np.float32(settings.snap.blend)
                read, snapped_to = share * nearest.vector + (1 - share) * raw, nearest
                used = np.append(used, nearest.row)
        repetition = None if before is None else _cosine(direction, before)
        yield RolloutStep(raw, read, norm, _cosine(direction, start), repetition, snapped_to)
        before = direction
        contexts, lengths = read_on(contexts, lengths, read[None], width)


def _predicted(
    predictor: VectorPredictor,
    contexts: FloatArray,
    lengths: IntArray,
    settings: RolloutSettings,
    number: int,
) -> FloatArray:
    """[D] the point prediction, or a draw that is the same for the same seed and step."""
    queries = None if settings.query is None else settings.query[None]
    if settings.seed is None:
        raw: FloatArray = predictor.predict(contexts, lengths, queries)[0][0]
    else:
        seed = settings.seed * SEEDS_PER_ROLLOUT + number
        raw = predictor.sample(contexts, lengths, 1, seed, queries)[0, 0]
    return raw


def _cosine(a: FloatArray, b: FloatArray) -> float:
    """Of unit vectors [D]; what is above 1 by rounding is 1."""
    return min(1.0, float(a @ b))


def _check_between(name: str, value: float | None, low: float) -> None:
    if value is not None and not low <= value <= 1.0:
        raise ConfigError(f"{name} is {value:g}", remedy=f"give {low:g} to 1")
