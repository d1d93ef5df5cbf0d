"""For every metric of the registry: what it must say of every known predictor in every world, and why.

A metric without an entry here fails the oracle suite by name. An entry is a function of an `OracleContext`
(a known predictor in a world) that states the expected value; `oracle` in its decorator is the value at the
oracle, exact in every world, for metrics that have one.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from nextvec.evaluation.metrics import BEST_BASELINE, KS, LINEAR_AVERAGE, skill_over
from nextvec.evaluation.trajectory import OFFSETS, STEPS
from nextvec.selfcheck.predictors import Expected, OracleContext, at_most, between, chance, exact, near
from nextvec.selfcheck.theory import A2, B2, LinearAnswer, above, best_cosine, chunk, mean_error

Expectation = Callable[[OracleContext], Expected]
EXPECTATIONS: dict[str, Expectation] = {}


def expects(*names: str, oracle: float | None = None) -> Callable[[Expectation], Expectation]:
    """Register the expectation of metrics; `oracle` is their exact value at the oracle."""

    def register(state: Expectation) -> Expectation:
        def of(context: OracleContext) -> Expected:
            if oracle is not None and context.known.perfect:
                return exact(oracle)
            return state(context)

        for name in names:
            EXPECTATIONS[name] = of
        return state

    return register


# cos(p, x_t) concentrates at its moments' value; the bias is of order r (1 - r^2) / 2D (Hotelling 1953)
expects("cosine", oracle=1)(lambda context: context.state(context.toward(0)))
expects("surprise", oracle=0)(lambda context: context.state(1 - context.toward(0)))
expects("forward_margin")(lambda context: context.state(context.toward(0) - context.toward(-1)))
# in units of E y^2 = 1
expects("mse", oracle=0)(lambda context: context.state(context.mean(context.theory.error)))


@expects("cosine_std", oracle=0)
def _cosine_std(context: OracleContext) -> Expected:
    # within one kind of answer the spread of `Theory.spread`, e.g. (1 - r^2) / sqrt(D) without a common mean;
    # between kinds the variance of their means
    theory, centre = context.theory, context.toward(0)
    total = context.mean(
        lambda a: theory.spread(a, chunk(0)) ** 2 + (theory.cosine(a, chunk(0)) - centre) ** 2
    )
    return context.state(math.sqrt(total))


@expects("energy_score", oracle=0)
def _energy_score(context: OracleContext) -> Expected:
    # a sample is p + s e: |x - y|^2 concentrates at D (E(p - y)^2 + s^2), |x - x'|^2 at 2 D s^2; what is left
    # of the square root's curvature is of order 1/D of it. A point has s = 0. The best is at 1/sqrt(2) of its
    # point's: s^2 = E(p - y)^2.
    scale = math.sqrt(context.world.D)
    score = sum(
        share * (math.sqrt(context.theory.error(common) + own) - math.sqrt(own / 2))
        for share, common, own in context.known.samples
    )
    return context.state(scale * score, scale)


@expects("diversity")
def _diversity(context: OracleContext) -> Expected:
    # cos(x, x') = E p^2 / (E p^2 + s^2)
    if context.known.drawn is None:
        return exact(0)
    return near(sum(share * own / (context.theory.energy(p) + own) for share, p, own in context.known.drawn))


@expects("spread_ratio")
def _spread_ratio(context: OracleContext) -> Expected:
    # the mean of n samples errs by E(p - y)^2 + s^2 / n
    if context.known.drawn is None:
        return exact(0)
    n, error = context.world.evaluation_set.samples, context.theory.error
    spread = sum(share * own for share, _, own in context.known.drawn)
    missed = sum(share * (error(p) + own / n) for share, p, own in context.known.drawn)
    return near(math.sqrt(spread / (missed * n / (n + 1))))


@expects("share_above_0.5", oracle=1)
def _share_above_half(context: OracleContext) -> Expected:
    # cosines are nearly normal with the mean and spread above; all on one side where nothing varies
    theory = context.theory

    def share(answer: LinearAnswer) -> float:
        return above(theory.cosine(answer, chunk(0)) - 0.5, theory.spread(answer, chunk(0)))

    return context.state(context.mean(share))


def _recall(k: int) -> None:
    @expects(f"recall@{k}", *([f"unit_recall@{k}"] if k == 5 else []), oracle=1)
    def recall(context: OracleContext) -> Expected:
        # knowing something: no closed form, but a plain count on the same vectors
        if context.known.blind:
            return chance(context.world.evaluation_set.pool.chance_recall(k))
        return exact(float((context.ranks <= k).mean()))


for _k in KS:
    _recall(_k)


@expects("mrr", "unit_mrr", oracle=1)
def _mrr(context: OracleContext) -> Expected:
    if context.known.blind:
        return chance(context.world.evaluation_set.pool.chance_mrr())
    return exact(float((1 / context.ranks).mean()))


@expects("median_rank", oracle=1)
def _median_rank(context: OracleContext) -> Expected:
    # a blind rank is uniform on 1..eligible
    if context.known.blind:
        middle = float(np.median((context.world.evaluation_set.pool.eligible + 1) / 2))
        return chance(middle, scale=middle)
    return exact(float(np.median(context.ranks)))


@expects("contrastive_accuracy", oracle=1)
def _contrastive_accuracy(context: OracleContext) -> Expected:
    # 1 - the probability that another target is nearer, averaged over the unread targets of the batch: those
    # of other documents, and of the same document those after this one
    if context.known.blind:
        return chance(0.5)
    windows = len(context.world.evaluation_set)
    strangers = windows - windows / len(context.world.evaluated)
    return near(
        1 - context.mean(lambda a: float((context.nearer(a, strangers) / (context.later + strangers)).mean()))
    )


@expects("par", oracle=1)
def _par(context: OracleContext) -> Expected:
    # max over the context of the cosine; where cosines vary, E max lies between max E and
    # max E + spread sqrt(2 ln c), the bound for c normal variables
    theory, read = context.theory, range(-context.world.context, 0)

    def low(answer: LinearAnswer) -> float:
        return max(theory.cosine(answer, chunk(k)) for k in read)

    def high(answer: LinearAnswer) -> float:
        spread = max(theory.spread(answer, chunk(k)) for k in read)
        return low(answer) + spread * math.sqrt(2 * math.log(len(read)))

    truth = chunk(0)
    if context.certain:
        return exact(context.mean(low) / low(truth))
    return between(context.mean(low) / high(truth), context.mean(high) / low(truth))


@expects("offset_margin")
def _offset_margin(context: OracleContext) -> Expected:
    return context.state(context.toward(0) - max(context.toward(k) for k in OFFSETS if k != 0))


@expects("offset_accuracy", oracle=1)
def _offset_accuracy(context: OracleContext) -> Expected:
    # the target must beat each of its neighbours: at most what the strongest leaves, at least what all leave.
    # A blind direction is nearest to any of m alike chunks with probability 1/m; to a middle one less often,
    # which has more neighbours like itself.
    others = [k for k in OFFSETS if k != 0]
    if context.known.blind:
        pool = context.world.evaluation_set.pool
        present = [(pool.target + k >= pool.begin) & (pool.target + k < pool.end) for k in OFFSETS]
        return at_most(float((1 / np.sum(present, axis=0)).mean()))

    def nearer(k: int) -> float:
        return context.mean(lambda answer: context.theory.beats(answer, chunk(k)))

    # later chunks are missing at a document's end; those before the target never are
    high = 1 - max(nearer(k) for k in others if k < 0)
    return exact(0) if high < 1e-9 else between(max(0.0, 1 - sum(map(nearer, others))), high)


def _skill(name: str, baseline: str) -> None:
    @expects(name, oracle=1)
    def skill(context: OracleContext) -> Expected:
        reference = context.references[baseline]
        return context.state(skill_over(context.toward(0), reference), scale=1 / (1 - reference))


_skill("skill", LINEAR_AVERAGE)
_skill("skill_vs_best_baseline", BEST_BASELINE)


def _variance(context: OracleContext) -> float:
    """Variance of a raw prediction over windows, a dimension."""
    return 0.0 if context.known.constant else context.mean(context.theory.variance)


def _unit_variance(context: OracleContext) -> float:
    """The same of a unit prediction, over all dimensions."""
    theory = context.theory
    return 0.0 if context.known.constant else context.mean(lambda a: theory.variance(a) / theory.energy(a))


@expects("variance_ratio", oracle=1)
def _variance_ratio(context: OracleContext) -> Expected:
    ratio = _variance(context) / B2
    return exact(0) if context.known.constant else near(ratio, scale=max(1.0, ratio))


@expects("pairwise_cosine")
def _pairwise_cosine(context: OracleContext) -> Expected:
    # predictions of different documents share the common part only; those of one document, a share of the
    # pairs, lie anywhere from that to 1
    if context.known.constant:
        return exact(1)
    common = context.mean(lambda a: math.sqrt(A2) * a.centre / math.sqrt(context.theory.energy(a))) ** 2
    windows = len(context.world.evaluation_set)
    same = (windows / len(context.world.evaluated) - 1) / (windows - 1)
    return between(common, common + same * (1 - common))


@expects("cosine_without_mean", oracle=1)
def _cosine_without_mean(context: OracleContext) -> Expected:
    # the estimated mean is a m + e; e (variance v) goes into both sides, the common part out of both
    if context.known.constant:
        return exact(0)
    theory = context.theory
    v = mean_error(context.world)

    def cosine(answer: LinearAnswer) -> float:
        prediction = A2 * (answer.centre - 1) ** 2 + theory.variance(answer) + v
        return (theory.moving(answer, chunk(0)) + v) / math.sqrt(prediction * (B2 + v))

    return near(context.mean(cosine))


def _mean_gap(context: OracleContext) -> float:
    """Difference of the means of predictions and targets, in units of m."""
    return context.mean(lambda answer: answer.centre) - 1


@expects("moments_raw", oracle=0)
def _moments_raw(context: OracleContext) -> Expected:
    # summed over D dimensions: (difference of the means)^2 + (difference of the standard deviations)^2
    gap = A2 * _mean_gap(context) ** 2 + (math.sqrt(_variance(context)) - math.sqrt(B2)) ** 2
    return near(context.world.D * gap, scale=context.world.D)


@expects("moments_unit", oracle=0)
def _moments_unit(context: OracleContext) -> Expected:
    # the same after division by the length sqrt(D E p^2)
    mean = context.mean(lambda a: a.centre / math.sqrt(context.theory.energy(a)))
    return near(A2 * (mean - 1) ** 2 + (math.sqrt(_unit_variance(context)) - math.sqrt(B2)) ** 2)


@expects("moments_mean_gap", oracle=0)
def _moments_mean_gap(context: OracleContext) -> Expected:
    # both means are of finitely many documents, each with the variance of `mean_error`; their difference has
    # at most four times that, whatever their correlation
    gap = A2 * _mean_gap(context) ** 2
    return between(math.sqrt(gap / B2), math.sqrt((gap + 4 * mean_error(context.world)) / B2))


@expects("moments_std_ratio", oracle=1)
def _moments_std_ratio(context: OracleContext) -> Expected:
    return exact(0) if context.known.constant else near(math.sqrt(_variance(context) / B2))


@expects(f"rollout@{STEPS}", oracle=1)
def _rollout(context: OracleContext) -> Expected:
    # every answer holds the common part, and none is better than the best
    if context.known.answers(STEPS) is None:
        return between(A2, best_cosine(context.world, STEPS))
    return context.state(context.toward(STEPS - 1, STEPS))


@expects(f"rollout_drift@{STEPS}")
def _rollout_drift(context: OracleContext) -> Expected:
    if context.known.answers(STEPS) is None:
        return between(A2, 1)
    value = context.toward(-1, STEPS)
    return exact(1) if value > 1 - 1e-9 else context.state(value)


@expects(f"rollout_repetition@{STEPS}")
def _rollout_repetition(context: OracleContext) -> Expected:
    if context.known.answers(STEPS) is None:
        return between(A2, 1)
    if context.known.constant:
        return exact(1)
    pairs = [zip(context.answers(s), context.answers(s - 1), strict=True) for s in range(2, STEPS + 1)]
    cosines = [sum(share * context.theory.cosine(a, b) for (share, a), (_, b) in pair) for pair in pairs]
    value = float(np.mean(cosines))
    return exact(1) if value > 1 - 1e-9 else context.state(value)
