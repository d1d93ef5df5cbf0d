"""Every figure of the table, in one registry.

A metric is a function of `Scores`: what one predictor answered on one evaluation set. Most give one value a
window (their mean is the figure, and they can be bootstrapped); the others give the figure itself. A metric
says in `needs` what must be known for it, and in `better` which way is up: None where the best possible
predictor is not at an end of the scale.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nextvec.data.windows import FloatArray, IntArray
from nextvec.evaluation.evaluation_set import EvaluationSet, context_blocks
from nextvec.evaluation.predictor_protocol import (
    NextVectorPredictor,
    ask_positions,
    ask_ranking,
    ranks_by_query,
    row_dots,
)
from nextvec.evaluation.trajectory import (
    STEPS,
    Generated,
    Rollout,
    generate,
    offset_cosines,
    offset_profile,
    rollable,
    rollout,
    spread_ratio,
)

Values = NDArray[np.float64]
Better = Literal["higher", "lower"] | None
KS = (1, 5, 10, 20, 50)
LINEAR_AVERAGE, BEST_BASELINE = "linear average", "best baseline"


class Scores:
    """What one predictor answered in one evaluation set.

    Args:
        raw, unit: [N, D] its predictions.
        query: [N, D] of unit length, what it ranks by; None: its unit prediction.
        references: cosine of the linear average and of the best baseline, once they are known.
        predictor: who answered; what asks it further questions (a rollout) needs it.
    """

    def __init__(
        self,
        evaluation_set: EvaluationSet,
        raw: FloatArray,
        unit: FloatArray,
        references: Mapping[str, float] | None = None,
        predictor: NextVectorPredictor | None = None,
        query: FloatArray | None = None,
    ) -> None:
        self.evaluation_set, self.raw, self.unit, self.predictor = evaluation_set, raw, unit, predictor
        self.query = unit if query is None else query
        self.references: Mapping[str, float] = references or {}

    @classmethod
    def of(cls, predictor: NextVectorPredictor, evaluation_set: EvaluationSet) -> Scores:
        """Ask the predictor for every window.

        Raises:
            EvaluationError: NaN, a wrong shape, or unit predictions that are not of unit length.
        """
        shape = (len(evaluation_set), evaluation_set.dimension)
        raw, units = np.empty(shape, dtype=np.float32), np.empty(shape, dtype=np.float32)
        query = np.empty(shape, dtype=np.float32) if ranks_by_query(predictor) else units
        left = np.ones(len(evaluation_set), dtype=np.bool_)
        if evaluation_set.windows.query is None:
            for which, contexts, at in evaluation_set.prefixes(predictor.context):
                found = ask_positions(predictor, contexts, at)
                if found is None:
                    break
                raw[which], units[which], query[which] = found
                left[which] = False
        rest = np.flatnonzero(left)
        windows = evaluation_set.windows.select(rest)
        for piece, contexts, lengths in context_blocks(evaluation_set.vectors, windows, predictor.context):
            some = rest[piece]
            given = evaluation_set.queries(some)
            raw[some], units[some], query[some] = ask_ranking(predictor, contexts, lengths, given)
        return cls(evaluation_set, raw, units, predictor=predictor, query=query)

    def select(self, which: NDArray[np.bool_] | IntArray | slice) -> Scores:
        evaluation_set = self.evaluation_set.select(which)
        query = self.query[which] if self.query is not self.unit else None
        part = Scores(
            evaluation_set, self.raw[which], self.unit[which], self.references, self.predictor, query
        )
        if "generated" in vars(self):
            part.generated = self.generated.select(which)
        return part

    @property
    def has(self) -> frozenset[str]:
        """What is known here, of the things that metrics need."""
        known = set(self.references)
        if self.evaluation_set.train_mean is not None:
            known.add("train_mean")
        if self.evaluation_set.samples:
            known.add("samples")
        if self.predictor is not None and len(rollable(self.evaluation_set)) > 0:
            known.add("rollout")
        return frozenset(known)

    @cached_property
    def cosines(self) -> Values:
        """[N] cosine of prediction and target."""
        return row_dots(self.unit, self.evaluation_set.target_units)

    @cached_property
    def ranks(self) -> IntArray:
        """[N] rank of the target among the candidates by the query, 1 the best."""
        return self.evaluation_set.ranks(self.query)

    @cached_property
    def unit_ranks(self) -> IntArray:
        """[N] the same by the unit prediction."""
        return self.ranks if self.query is self.unit else self.evaluation_set.ranks(self.unit)

    @cached_property
    def offsets(self) -> dict[int, Values]:
        """k -> [N] cosine of prediction and chunk at target + k, see `offset_cosines`."""
        return offset_cosines(self.unit, self.evaluation_set)

    @cached_property
    def generated(self) -> Generated:
        """What the predictor's samples say; one that gives a point has one sample, that point."""
        return generate(self.predictor, self.raw, self.evaluation_set)

    @cached_property
    def rollout(self) -> Rollout:
        """The predictor reading its own predictions for five steps."""
        assert self.predictor is not None
        return rollout(self.predictor, self.evaluation_set)


@dataclass(frozen=True)
class Metric:
    """One entry of the registry.

    Attributes:
        values: one value a window, [N]; None for a figure that is not a mean over windows.
        figure: the figure itself.
        needs: what must be known besides predictions and evaluation set: "train_mean", "linear average",
            "best baseline" (cosines of these), "samples" (more than none are asked for), "rollout" (the
            predictor, and documents long enough).
        says: what it is, in a sentence.
    """

    name: str
    better: Better
    values: Callable[[Scores], Values] | None
    figure: Callable[[Scores], float]
    needs: frozenset[str] = frozenset()
    says: str = ""


SAYS = {
    "cosine": "cos(prediction, target).",
    "cosine_std": "Standard deviation of the cosine over windows.",
    "surprise": "1 - cos(prediction, actual): the mean of `nextvec.evaluation.boundaries` over these "
    "windows.",
    "mse": "Mean over dimensions of the squared error of the raw output.",
    "share_above_0.5": "Share of windows with a cosine above 0.5. Says nothing about ranks.",
    **{f"recall@{k}": f"Share of windows whose target is among the first {k} candidates." for k in KS},
    "mrr": "Mean reciprocal rank.",
    "unit_recall@5": "recall@5 by the unit prediction, where a query decides the others.",
    "unit_mrr": "Mean reciprocal rank by the unit prediction.",
    "median_rank": "Median rank of the target.",
    "contrastive_accuracy": "Share of the batch's other targets that are farther from the prediction than "
    "the true one.",
    "par": "Mean of max over the context of cos(prediction, x_m), divided by the same of the targets.",
    "energy_score": "E|x - y| - 1/2 E|x - x'| of raw samples, |x - y| of a point: see "
    "`nextvec.evaluation.trajectory`.",
    "diversity": "Mean cosine distance of two different samples of a window; 0 of a point.",
    "spread_ratio": "Spread of the samples over the error of their mean; 1 is calibrated, 0 a point, below 1 "
    "too sure.",
    "forward_margin": "cos(prediction, next) - cos(prediction, last). Negative is normal for noisy "
    "processes: never a gate.",
    "offset_margin": "Mean cosine to the target less the largest mean cosine to a chunk 1 to 3 places before "
    "or after it.",
    "offset_accuracy": "Share of windows where no chunk up to 3 places before or after is nearer than the "
    "target.",
    f"rollout@{STEPS}": "cos(prediction, actual) at the fifth step of a rollout, see "
    "`nextvec.evaluation.trajectory`.",
    f"rollout_drift@{STEPS}": "cos(fifth step of a rollout, last chunk read); the text's own value is that "
    "of `offset_profile`.",
    f"rollout_repetition@{STEPS}": "Mean cosine of successive predictions of a rollout; near 1 it stands "
    "still.",
    "skill": "(cosine - cosine of the linear average) / (1 - cosine of the linear average).",
    "skill_vs_best_baseline": "The same against the baseline of the highest cosine.",
    "variance_ratio": "Total variance of the raw predictions divided by that of the targets; near 0 is "
    "collapse.",
    "pairwise_cosine": "Mean cosine of two different predictions; near 1 is collapse. Compare with the "
    "targets' own.",
    "cosine_without_mean": "cos(prediction - m, target - m), m the mean vector of training: what is left "
    "without it.",
    "moments_raw": "Distance between the moments of raw predictions and of raw targets, see "
    "`moments_distance`.",
    "moments_unit": "Distance between the moments of unit predictions and of targets at unit length.",
    "moments_mean_gap": "Difference of the means of raw predictions and of targets over the targets' "
    "standard deviation.",
    "moments_std_ratio": "Median over dimensions of std of raw predictions / std of targets; the best "
    "predictor is below 1.",
}
"""What each figure is, in a sentence."""

METRICS: dict[str, Metric] = {}


def _register(metric: Metric) -> None:
    if not metric.says:
        raise ValueError(f"metric '{metric.name}' is not explained: add a sentence to SAYS")
    METRICS[metric.name] = metric


def per_window(name: str, better: Better, values: Callable[[Scores], Any], *needs: str) -> None:
    """Register a metric by a function that gives one value a window, [N]; the figure is their mean."""

    def mean(scores: Scores) -> float:
        return float(np.mean(values(scores), dtype=np.float64))

    _register(Metric(name, better, values, mean, frozenset(needs), SAYS.get(name, "")))


def over_all(name: str, better: Better, figure: Callable[[Scores], float], *needs: str) -> None:
    """Register a metric by a function that gives the figure over all windows at once."""
    _register(Metric(name, better, None, figure, frozenset(needs), SAYS.get(name, "")))


def mse(j: Scores) -> Values:
    """[N] mean over dimensions of the squared error of the raw output."""
    error = j.raw - j.evaluation_set.targets
    return row_dots(error, error) / j.evaluation_set.dimension


def recall(k: int, j: Scores) -> NDArray[np.bool_]:
    """[N] which targets are among the first k candidates."""
    return j.ranks <= k


def contrastive_accuracy(j: Scores) -> Values:
    """Large Concept Models (Barrault et al. 2024), with the distance of the ranks here: by cosine, which
    orders vectors of unit length as their Euclidean distance does. Batches are random, of 256. As for ranks,
    what was read and equals of the true target are left out; a window without others scores 1.
    """
    pool, windows, targets = j.evaluation_set.pool, j.evaluation_set.windows, j.evaluation_set.target_units
    text, vector = pool.text[pool.target], pool.vector[pool.target]
    share = np.ones(len(j.evaluation_set), dtype=np.float64)
    for batch in j.evaluation_set.batches:
        similar = j.unit[batch].astype(np.float64) @ targets[batch].astype(np.float64).T
        other = ~windows.select(batch).given(windows.target[batch])
        other &= (text[batch][:, None] != text[batch]) & (vector[batch][:, None] != vector[batch])
        farther = other & (similar < np.diag(similar)[:, None])
        count = other.sum(axis=1)
        share[batch] = np.where(count > 0, farther.sum(axis=1) / np.maximum(count, 1), 1.0)
    return share


def paraphrasing(j: Scores) -> float:
    """Of Large Concept Models: 1 is as close to the context as real text. A ratio of means, since a single
    window's denominator can be <= 0."""
    ours = float(j.evaluation_set.nearest_in_context(j.unit).mean(dtype=np.float64))
    return _over(ours, float(j.evaluation_set.target_nearest_in_context.mean(dtype=np.float64)))


def offset_margin(j: Scores) -> float:
    """Above 0 the offset profile has its peak at the target. Below 0 is normal for the best predictor of a
    noisy process, which comes nearest to what it has read."""
    profile = offset_profile(j.offsets)
    return profile[0] - max(value for k, value in profile.items() if k != 0)


def cosine_without_mean(j: Scores) -> Values:
    """[N] the cosine that is left without the mean vector m of training."""
    mean, targets = j.evaluation_set.train_mean, j.evaluation_set.targets
    assert mean is not None
    prediction, target = j.raw - mean, targets - mean
    norms = np.sqrt(row_dots(prediction, prediction) * row_dots(target, target))
    dots = row_dots(prediction, target)
    # What only rounding has left of the mean vector itself has no direction.
    tiny = 1e-6 * np.sqrt(row_dots(j.raw, j.raw) * row_dots(targets, targets))
    return np.divide(dots, norms, out=np.zeros_like(dots), where=norms > tiny)


def skill(reference: str, j: Scores) -> float:
    """Over one of `Scores.references`."""
    return skill_over(float(j.cosines.mean()), j.references[reference])


def variance_ratio(j: Scores) -> float:
    """Near 0 is collapse."""
    ours, theirs = (float(x.var(axis=0, dtype=np.float64).sum()) for x in (j.raw, j.evaluation_set.targets))
    return _over(ours, theirs)


def moments_mean_gap(j: Scores) -> float:
    """Both are root mean squares over the dimensions, so that a dimension that hardly varies does not
    decide."""
    (mean, _), (true, spread) = moments(j.raw), moments(j.evaluation_set.targets)
    return float(np.sqrt(_over(((mean - true) ** 2).sum(), float(spread @ spread))))


def moments_std_ratio(j: Scores) -> float:
    """The best predictor is below 1."""
    made, true = moments(j.raw)[1], moments(j.evaluation_set.targets)[1]
    varies = true > 0
    return float(np.median(made[varies] / true[varies])) if varies.any() else float("nan")


def _over(above: float, below: float) -> float:
    return above / below if below else float("nan")


def mean_pairwise_cosine(units: FloatArray) -> float:
    """Mean cosine over all pairs of different rows of [N, D]; nan for fewer than two rows."""
    n = len(units)
    total = units.sum(axis=0, dtype=np.float64)
    own = float(row_dots(units, units).sum())
    return (float(total @ total) - own) / (n * (n - 1)) if n > 1 else float("nan")


def moments(vectors: FloatArray) -> tuple[Values, Values]:
    """Mean [D] and standard deviation [D] of vectors [N, D], in float64."""
    return vectors.mean(axis=0, dtype=np.float64), vectors.std(axis=0, dtype=np.float64)


def moments_distance(one: tuple[Values, Values], other: tuple[Values, Values]) -> float:
    """Squared Frechet distance of two Gaussians with diagonal covariance: |m - m'|^2 + |s - s'|^2.

    The full distance (Heusel et al. 2017) needs many more windows than dimensions to be estimated.
    """
    return float(((one[0] - other[0]) ** 2).sum() + ((one[1] - other[1]) ** 2).sum())


def skill_over(cosine: float, reference: float) -> float:
    """(cosine - reference) / (1 - reference): the share gained of what the reference leaves."""
    return (cosine - reference) / (1 - reference) if reference < 1 else float("nan")


def moments_apart(vectors: FloatArray, targets: FloatArray) -> float:
    """`moments_distance` of vectors [N, D] and targets [N, D]."""
    return moments_distance(moments(vectors), moments(targets))


per_window("cosine", "higher", lambda j: j.cosines)
over_all("cosine_std", None, lambda j: float(j.cosines.std()))
per_window("surprise", "lower", lambda j: 1.0 - j.cosines)
per_window("mse", "lower", mse)
per_window("share_above_0.5", "higher", lambda j: j.cosines > 0.5)
for _k in KS:
    per_window(f"recall@{_k}", "higher", partial(recall, _k))
per_window("mrr", "higher", lambda j: 1.0 / j.ranks)
per_window("unit_recall@5", "higher", lambda j: j.unit_ranks <= 5)
per_window("unit_mrr", "higher", lambda j: 1.0 / j.unit_ranks)
over_all("median_rank", "lower", lambda j: float(np.median(j.ranks)))
per_window("contrastive_accuracy", "higher", contrastive_accuracy)
over_all("par", None, paraphrasing)
per_window("energy_score", "lower", lambda j: j.generated.energy, "samples")
per_window("diversity", None, lambda j: j.generated.diversity, "samples")
over_all("spread_ratio", None, lambda j: spread_ratio(j.generated), "samples")
per_window("forward_margin", None, lambda j: j.cosines - row_dots(j.unit, j.evaluation_set.last_units))
over_all("offset_margin", None, offset_margin)
per_window("offset_accuracy", None, lambda j: j.offsets[0] >= np.nanmax([*j.offsets.values()], axis=0))
over_all(f"rollout@{STEPS}", "higher", lambda j: float(j.rollout.cosine[:, -1].mean()), "rollout")
over_all(f"rollout_drift@{STEPS}", None, lambda j: float(j.rollout.drift[:, -1].mean()), "rollout")
over_all(f"rollout_repetition@{STEPS}", None, lambda j: float(j.rollout.repetition.mean()), "rollout")
for _name, _of in (("skill", LINEAR_AVERAGE), ("skill_vs_best_baseline", BEST_BASELINE)):
    over_all(_name, "higher", partial(skill, _of), _of)
over_all("variance_ratio", None, variance_ratio)
over_all("pairwise_cosine", None, lambda j: mean_pairwise_cosine(j.unit))
per_window("cosine_without_mean", "higher", cosine_without_mean, "train_mean")
over_all("moments_raw", "lower", lambda j: moments_apart(j.raw, j.evaluation_set.targets))
over_all("moments_unit", "lower", lambda j: moments_apart(j.unit, j.evaluation_set.target_units))
over_all("moments_mean_gap", "lower", moments_mean_gap)
over_all("moments_std_ratio", None, moments_std_ratio)
