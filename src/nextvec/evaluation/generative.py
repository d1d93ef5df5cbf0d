"""What the samples of a generative predictor say: of the truth, of each other, and of their own error.

A predictor whose attribute `generative` is true has `sample(contexts, lengths, n, seed)`, giving n raw
vectors [n, B, D] a window; one that is conditional too is given `queries` [B, D] there. Any other is taken at
its word: one sample, its raw prediction. So every predictor has every figure, and a distribution is worth
what it gains over the point.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from nextvec.data.windows import FloatArray, IntArray
from nextvec.evaluation.evaluation_set import EvaluationSet
from nextvec.evaluation.predictor import NextVectorPredictor, refuse_unsound, row_dots

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
    n, parts, asked = evaluation_set.samples, [], []
    most = max(1, SAMPLE_BYTES // (4 * n * evaluation_set.dimension))
    for piece, contexts, lengths in evaluation_set.blocks(predictor.context):
        queries = evaluation_set.queries(piece) if getattr(predictor, "conditional", False) else None
        for start in range(0, len(lengths), most):
            some = slice(start, start + most)
            which = piece[some]
            told: dict[str, Any] = {} if queries is None else {"queries": queries[some]}
            drawn = predictor.sample(
                contexts[some], lengths[some], n, evaluation_set.seed + 7919 * int(which[0]), **told
            )
            refuse_unsound(predictor, "samples", drawn, (n, len(which), evaluation_set.dimension))
            parts.append(score_samples(drawn, evaluation_set.targets[which]))
            asked.append(which)
    order = np.argsort(np.concatenate(asked))
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
