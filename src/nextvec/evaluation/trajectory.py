"""More than one vector of a predictor: which chunk it is nearest to, what becomes of it when it reads its own
predictions, and what its samples say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from nextvec.data.gather import gather_rows, read_on
from nextvec.data.windows import FloatArray, IntArray, Windows
from nextvec.errors import EvaluationError
from nextvec.evaluation.evaluation_set import EvaluationSet
from nextvec.evaluation.predictor_protocol import NextVectorPredictor, ask, refuse_unsound, row_dots, unit

# Which chunk a prediction is nearest to: the one it should be, one before, one after?

OFFSETS = (-3, -2, -1, 0, 1, 2, 3)


def offset_cosines(
    units: FloatArray, evaluation_set: EvaluationSet, offsets: Sequence[int] = OFFSETS
) -> dict[int, NDArray[np.float64]]:
    """k -> [N] cosine of each prediction to the chunk k after the target (k = 0 is the target itself).

    Where that chunk would lie outside the target's document the value is nan.
    """
    pool, windows = evaluation_set.pool, evaluation_set.windows
    found = {}
    for k in offsets:
        inside = (pool.target + k >= pool.begin) & (pool.target + k < pool.end)
        cosines = np.full(len(evaluation_set), np.nan)
        chunks = unit(gather_rows(evaluation_set.vectors, windows.target[inside] + k))
        cosines[inside] = row_dots(units[inside], chunks)
        found[k] = cosines
    return found


def offset_profile(cosines: dict[int, NDArray[np.float64]]) -> dict[int, float]:
    """k -> mean of the cosines of `offset_cosines` over the windows that have such a chunk.

    An offset that no window has is left out.
    """
    return {k: float(np.nanmean(values)) for k, values in cosines.items() if not np.isnan(values).all()}


STEPS = 5
MOST_WINDOWS = 500


@dataclass(frozen=True)
class Rollout:
    """So many predictions in a row from each of N windows, each reading those before it as if they were text.

    Attributes:
        windows: those rolled out; step 1 predicts their targets.
        cosine: [N, steps] to the true chunk of that step.
        drift: [N, steps] cosine to the last chunk that was really read: how far it has come.
        repetition: [N, steps - 1] cosine of each prediction to the one before it: 1 is standing still.
    """

    windows: Windows
    cosine: NDArray[np.float64]
    drift: NDArray[np.float64]
    repetition: NDArray[np.float64]


def rollable(evaluation_set: EvaluationSet, steps: int = STEPS) -> IntArray:
    """Windows whose document goes on for all steps, so that every step is a mean over the same windows.

    At a horizon above 1, or of task middle, there are none: the prediction does not follow what was read. Nor
    is a window one whose query is the truth of a later step.
    """
    windows, pool = evaluation_set.windows, evaluation_set.pool
    if windows.horizon > 1 or windows.task != "next":
        return np.zeros(0, dtype=np.int64)
    able = pool.target + steps - 1 < pool.end
    if windows.query is not None:
        able &= (windows.query < 0) | (windows.query > windows.target + steps - 1)
    return np.flatnonzero(able).astype(np.int64)


def rollout(
    predictor: NextVectorPredictor,
    evaluation_set: EvaluationSet,
    steps: int = STEPS,
    most: int = MOST_WINDOWS,
) -> Rollout:
    """Roll a predictor out from at most `most` windows, evenly spaced among those that can be.

    Raw predictions are fed back, since raw vectors are what it reads.

    Raises:
        EvaluationError: no document goes on for so many steps, or NaN predictions.
    """
    able = rollable(evaluation_set, steps)
    if len(able) == 0:
        message = f"no window of horizon 1 has {steps} chunks after what was read"
        raise EvaluationError(message, remedy="roll out fewer steps, or evaluate longer documents")
    chosen = able[np.unique(np.linspace(0, len(able) - 1, min(most, len(able))).round().astype(np.int64))]
    part = evaluation_set.select(chosen)
    cosine, drift = np.empty((2, len(part), steps))
    repetition = np.empty((len(part), steps - 1))
    for piece, contexts, lengths in part.blocks(predictor.context):
        last, target = (rows[piece] for rows in (part.windows.last, part.windows.target))
        start, before = unit(gather_rows(evaluation_set.vectors, last)), None
        queries = part.queries(piece)
        for step in range(steps):
            raw, units = ask(predictor, contexts, lengths, queries)
            cosine[piece, step] = row_dots(units, unit(gather_rows(evaluation_set.vectors, target + step)))
            drift[piece, step] = row_dots(units, start)
            if before is not None:
                repetition[piece, step - 1] = row_dots(units, before)
            before = units
            contexts, lengths = read_on(contexts, lengths, raw, predictor.context)
    return Rollout(part.windows, cosine, drift, repetition)


# What the samples of a generative predictor say: of the truth, of each other, and of their own error.
#
# A predictor whose attribute `generative` is true has `sample(contexts, lengths, n, seed)`, giving n raw
# vectors [n, B, D] a window; one that is conditional too is given `queries` [B, D] there. Any other is taken
# at its word: one sample, its raw prediction. So every predictor has every figure, and a distribution is
# worth what it gains over the point.

Values = NDArray[np.float64]
SAMPLE_BYTES = 2**28
PER_WINDOW = ("energy", "diversity", "variance", "error")


@runtime_checkable
class GenerativePredictor(NextVectorPredictor, Protocol):
    """A predictor that can be asked for several vectors that may come next."""

    generative: bool

    def sample(self, contexts: FloatArray, lengths: IntArray, n: int, seed: int) -> FloatArray:
        """n raw vectors [n, B, D] a context, independent, from contexts [B, T, D] padded on the right."""
        ...


@runtime_checkable
class Resampling(Protocol):
    """A predictor whose samples, where `resamples`, are its point and something beside it."""

    resamples: bool

    def around(
        self, raw: FloatArray, contexts: FloatArray, lengths: IntArray, n: int, seed: int
    ) -> FloatArray:
        """What `sample` gives for contexts whose raw predictions [B, D] are known."""
        ...


@dataclass(frozen=True)
class Generated:
    """What n samples x_i say of each of N windows, y the true next vector.

    Attributes:
        energy: [N] mean |x_i - y| - 1/2 mean of |x_i - x_j| over i != j, see `energy_score`.
        diversity: [N] mean of 1 - cos(x_i, x_j) over i != j.
        variance: [N] of the samples about their mean, summed over the dimensions, divided by n - 1.
        error: [N] squared distance of the samples' mean from y.
        n: samples a window; 1 for a predictor that gives a point.
    """

    energy: Values
    diversity: Values
    variance: Values
    error: Values
    n: int

    def select(self, which: Any) -> Generated:
        return replace(self, **{name: getattr(self, name)[which] for name in PER_WINDOW})


def generate(
    predictor: NextVectorPredictor | None, raw: FloatArray, evaluation_set: EvaluationSet
) -> Generated:
    """Ask a generative predictor for `samples` vectors a window; any other is scored by its `raw` [N, D].

    Samples are scored block by block and not kept. The noise is a function of the evaluation set's seed and
    of the block's first window.

    Raises:
        EvaluationError: samples of another shape than asked for, or with NaN.
    """
    if not isinstance(predictor, GenerativePredictor) or not predictor.generative:
        return score_samples(raw[None], evaluation_set.targets)
    n, parts, rows = evaluation_set.samples, [], []
    most = max(1, SAMPLE_BYTES // (4 * n * evaluation_set.dimension))
    for piece, contexts, lengths in evaluation_set.blocks(predictor.context):
        queries = evaluation_set.queries(piece) if getattr(predictor, "conditional", False) else None
        for start in range(0, len(lengths), most):
            some = slice(start, start + most)
            which = piece[some]
            seed = evaluation_set.seed + 7919 * int(which[0])
            if isinstance(predictor, Resampling) and predictor.resamples:  # nothing is predicted again
                drawn = predictor.around(raw[which], contexts[some], lengths[some], n, seed)
            else:
                given: dict[str, Any] = {} if queries is None else {"queries": queries[some]}
                drawn = predictor.sample(contexts[some], lengths[some], n, seed, **given)
            refuse_unsound(predictor, "samples", drawn, (n, len(which), evaluation_set.dimension))
            parts.append(score_samples(drawn, evaluation_set.targets[which]))
            rows.append(which)
    order = np.argsort(np.concatenate(rows))
    both: dict[str, Any] = {
        name: np.concatenate([getattr(part, name) for part in parts])[order] for name in PER_WINDOW
    }
    return replace(parts[0], **both)


def score_samples(samples: FloatArray, targets: FloatArray) -> Generated:
    """Samples [n, N, D] of N windows with targets [N, D]."""
    n = len(samples)
    mean = samples.mean(axis=0, dtype=np.float64)
    variance = np.zeros(len(targets))
    for x in samples:
        variance += row_dots(x - mean, x - mean) / max(n - 1, 1)
    error = row_dots(mean - targets, mean - targets)
    return Generated(energy_score(samples, targets), diversity(samples), variance, error, n)


def energy_score(samples: FloatArray, targets: FloatArray) -> Values:
    """E|x - y| - 1/2 E|x - x'| of samples [n, N, D] and targets [N, D]: [N], in units of the vectors.

    Gneiting and Raftery, Strictly Proper Scoring Rules, Prediction, and Estimation, 2007, equation 22, with
    beta = 1: in the mean nothing scores lower than the true distribution. Pairs of different samples only, so
    that the mean does not depend on n (Ferro, Fair scores for ensemble forecasts, 2014). One sample scores
    its distance. CALM's loss (arXiv 2510.27688) is twice this.
    """
    near = np.mean([_distance(x, targets) for x in samples], axis=0)
    if len(samples) == 1:
        return np.asarray(near)
    apart = np.mean([_distance(a, b) for a, b in combinations(samples, 2)], axis=0)
    return np.asarray(near - apart / 2)


def diversity(samples: FloatArray) -> Values:
    """Mean cosine distance 1 - cos(x, x') of different samples [n, N, D] of a window: [N]; 0 for one
    sample."""
    if len(samples) == 1:
        return np.zeros(samples.shape[1])
    lengths = np.sqrt(np.einsum("ind,ind->in", samples, samples, dtype=np.float64))
    total = np.zeros(samples.shape[1])
    for i, j in combinations(range(len(samples)), 2):
        below = lengths[i] * lengths[j]
        total += 1 - np.divide(
            row_dots(samples[i], samples[j]), below, out=np.zeros_like(below), where=below > 0
        )
    return total * 2 / (len(samples) * (len(samples) - 1))


def spread_ratio(generated: Generated) -> float:
    """Spread of the samples over the error of their mean: 1 where the one tells of the other; 0 for a point.

    sqrt(mean variance) / sqrt(mean squared error x n / (n + 1)). The factor takes out what the mean of n
    samples errs more than the true mean (Fortin et al., Why Should Ensemble Spread Match the RMSE of the
    Ensemble Mean?, 2014). Below 1 the predictor is surer than it may be.
    """
    variance = float(generated.variance.mean())
    error = float(generated.error.mean()) * generated.n / (generated.n + 1)
    if variance == 0:
        return 0.0
    return float(np.sqrt(variance / error)) if error else float("nan")


def _distance(a: FloatArray, b: FloatArray) -> Values:
    return np.asarray(np.sqrt(row_dots(a - b, a - b)))
