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
        def of(case: OracleContext) -> Expected:
            if oracle is not None and case.known.perfect:
                return exact(oracle)
            return state(case)

        for name in names:
            EXPECTATIONS[name] = of
        return state

    return register


@expects("cosine", oracle=1)
def _cosine(case: OracleContext) -> Expected:
    # cos(p, x_t) concentrates at its moments' value; the bias is of order r (1 - r^2) / 2D (Hotelling 1953)
    return case.state(case.toward(0))


@expects("surprise", oracle=0)
def _surprise(case: OracleContext) -> Expected:
    return case.state(1 - case.toward(0))


@expects("cosine_std", oracle=0)
def _cosine_std(case: OracleContext) -> Expected:
    # within one kind of answer the spread of `Theory.spread`, e.g. (1 - r^2) / sqrt(D) without a common mean;
    # between kinds the variance of their means
    theory, centre = case.theory, case.toward(0)
    total = case.mean(lambda a: theory.spread(a, chunk(0)) ** 2 + (theory.cosine(a, chunk(0)) - centre) ** 2)
    return case.state(math.sqrt(total))


@expects("mse", oracle=0)
def _mse(case: OracleContext) -> Expected:
    # in units of E y^2 = 1
    return case.state(case.mean(case.theory.error))


@expects("energy_score", oracle=0)
def _energy_score(case: OracleContext) -> Expected:
    # a sample is p + s e: |x - y|^2 concentrates at D (E(p - y)^2 + s^2), |x - x'|^2 at 2 D s^2; what is left
    # of the square root's curvature is of order 1/D of it. A point has s = 0. The best is at 1/sqrt(2) of its
    # point's: s^2 = E(p - y)^2.
    scale = math.sqrt(case.world.D)
    score = sum(
        share * (math.sqrt(case.theory.error(common) + own) - math.sqrt(own / 2))
        for share, common, own in case.known.samples
    )
    return case.state(scale * score, scale)


@expects("diversity")
def _diversity(case: OracleContext) -> Expected:
    # cos(x, x') = E p^2 / (E p^2 + s^2)
    if case.known.drawn is None:
        return exact(0)
    return near(sum(share * own / (case.theory.energy(p) + own) for share, p, own in case.known.drawn))


@expects("spread_ratio")
def _spread_ratio(case: OracleContext) -> Expected:
    # the mean of n samples errs by E(p - y)^2 + s^2 / n
    if case.known.drawn is None:
        return exact(0)
    n, error = case.world.exam.samples, case.theory.error
    spread = sum(share * own for share, _, own in case.known.drawn)
    missed = sum(share * (error(p) + own / n) for share, p, own in case.known.drawn)
    return near(math.sqrt(spread / (missed * n / (n + 1))))


@expects("share_above_0.5", oracle=1)
def _share_above_half(case: OracleContext) -> Expected:
    # cosines are nearly normal with the mean and spread above; all on one side where nothing varies
    theory = case.theory

    def share(answer: LinearAnswer) -> float:
        return above(theory.cosine(answer, chunk(0)) - 0.5, theory.spread(answer, chunk(0)))

    return case.state(case.mean(share))


def _recall(k: int) -> None:
    @expects(f"recall@{k}", oracle=1)
    def recall(case: OracleContext) -> Expected:
        # knowing something: no closed form, but a plain count on the same vectors
        if case.known.blind:
            return chance(case.world.exam.pool.chance_recall(k))
        return exact(float((case.ranks <= k).mean()))


for _k in KS:
    _recall(_k)


@expects("mrr", oracle=1)
def _mrr(case: OracleContext) -> Expected:
    if case.known.blind:
        return chance(case.world.exam.pool.chance_mrr())
    return exact(float((1 / case.ranks).mean()))


@expects("median_rank", oracle=1)
def _median_rank(case: OracleContext) -> Expected:
    # a blind rank is uniform on 1..eligible
    if case.known.blind:
        middle = float(np.median((case.world.exam.pool.eligible + 1) / 2))
        return chance(middle, scale=middle)
    return exact(float(np.median(case.ranks)))


@expects("contrastive_accuracy", oracle=1)
def _contrastive_accuracy(case: OracleContext) -> Expected:
    # 1 - the probability that another target is nearer, averaged over the unread targets of the batch: those
    # of other documents, and of the same document those after this one
    if case.known.blind:
        return chance(0.5)
    windows = len(case.world.exam)
    strangers = windows - windows / len(case.world.judged)
    return near(1 - case.mean(lambda a: float((case.nearer(a, strangers) / (case.later + strangers)).mean())))


@expects("par", oracle=1)
def _par(case: OracleContext) -> Expected:
    # max over the context of the cosine; where cosines vary, E max lies between max E and
    # max E + spread sqrt(2 ln c), the bound for c normal variables
    theory, context = case.theory, range(-case.world.context, 0)

    def low(answer: LinearAnswer) -> float:
        return max(theory.cosine(answer, chunk(k)) for k in context)

    def high(answer: LinearAnswer) -> float:
        spread = max(theory.spread(answer, chunk(k)) for k in context)
        return low(answer) + spread * math.sqrt(2 * math.log(len(context)))

    truth = chunk(0)
    if case.certain:
        return exact(case.mean(low) / low(truth))
    return between(case.mean(low) / high(truth), case.mean(high) / low(truth))


@expects("forward_margin")
def _forward_margin(case: OracleContext) -> Expected:
    return case.state(case.toward(0) - case.toward(-1))


@expects("offset_margin")
def _offset_margin(case: OracleContext) -> Expected:
    return case.state(case.toward(0) - max(case.toward(k) for k in OFFSETS if k != 0))


@expects("offset_accuracy", oracle=1)
def _offset_accuracy(case: OracleContext) -> Expected:
    # the target must beat each of its neighbours: at most what the strongest leaves, at least what all leave.
    # A blind direction is nearest to any of m alike chunks with probability 1/m; to a middle one less often,
    # which has more neighbours like itself.
    others = [k for k in OFFSETS if k != 0]
    if case.known.blind:
        pool = case.world.exam.pool
        present = [(pool.target + k >= pool.begin) & (pool.target + k < pool.end) for k in OFFSETS]
        return at_most(float((1 / np.sum(present, axis=0)).mean()))

    def nearer(k: int) -> float:
        return case.mean(lambda answer: case.theory.beats(answer, chunk(k)))

    # later chunks are missing at a document's end; those before the target never are
    high = 1 - max(nearer(k) for k in others if k < 0)
    return exact(0) if high < 1e-9 else between(max(0.0, 1 - sum(map(nearer, others))), high)


@expects("skill", oracle=1)
def _skill(case: OracleContext) -> Expected:
    reference = case.references[LINEAR_AVERAGE]
    return case.state(skill_over(case.toward(0), reference), scale=1 / (1 - reference))


@expects("skill_vs_best_baseline", oracle=1)
def _skill_vs_best_baseline(case: OracleContext) -> Expected:
    reference = case.references[BEST_BASELINE]
    return case.state(skill_over(case.toward(0), reference), scale=1 / (1 - reference))


def _variance(case: OracleContext) -> float:
    """Variance of a raw prediction over windows, a dimension."""
    return 0.0 if case.known.constant else case.mean(case.theory.variance)


def _unit_variance(case: OracleContext) -> float:
    """The same of a unit prediction, over all dimensions."""
    theory = case.theory
    return 0.0 if case.known.constant else case.mean(lambda a: theory.variance(a) / theory.energy(a))


@expects("variance_ratio", oracle=1)
def _variance_ratio(case: OracleContext) -> Expected:
    ratio = _variance(case) / B2
    return exact(0) if case.known.constant else near(ratio, scale=max(1.0, ratio))


@expects("pairwise_cosine")
def _pairwise_cosine(case: OracleContext) -> Expected:
    # predictions of different documents share the common part only; those of one document, a share of the
    # pairs, lie anywhere from that to 1
    if case.known.constant:
        return exact(1)
    common = case.mean(lambda a: math.sqrt(A2) * a.centre / math.sqrt(case.theory.energy(a))) ** 2
    windows = len(case.world.exam)
    same = (windows / len(case.world.judged) - 1) / (windows - 1)
    return between(common, common + same * (1 - common))


@expects("cosine_without_mean", oracle=1)
def _cosine_without_mean(case: OracleContext) -> Expected:
    # the estimated mean is a m + e; e (variance v) goes into both sides, the common part out of both
    if case.known.constant:
        return exact(0)
    theory = case.theory
    v = mean_error(case.world)

    def cosine(answer: LinearAnswer) -> float:
        prediction = A2 * (answer.centre - 1) ** 2 + theory.variance(answer) + v
        return (theory.moving(answer, chunk(0)) + v) / math.sqrt(prediction * (B2 + v))

    return near(case.mean(cosine))


def _mean_gap(case: OracleContext) -> float:
    """Difference of the means of predictions and targets, in units of m."""
    return case.mean(lambda answer: answer.centre) - 1


@expects("moments_raw", oracle=0)
def _moments_raw(case: OracleContext) -> Expected:
    # summed over D dimensions: (difference of the means)^2 + (difference of the standard deviations)^2
    gap = A2 * _mean_gap(case) ** 2 + (math.sqrt(_variance(case)) - math.sqrt(B2)) ** 2
    return near(case.world.D * gap, scale=case.world.D)


@expects("moments_unit", oracle=0)
def _moments_unit(case: OracleContext) -> Expected:
    # the same after division by the length sqrt(D E p^2)
    mean = case.mean(lambda a: a.centre / math.sqrt(case.theory.energy(a)))
    return near(A2 * (mean - 1) ** 2 + (math.sqrt(_unit_variance(case)) - math.sqrt(B2)) ** 2)


@expects("moments_mean_gap", oracle=0)
def _moments_mean_gap(case: OracleContext) -> Expected:
    # both means are of finitely many documents, each with the variance of `mean_error`; their difference has
    # at most four times that, whatever their correlation
    gap = A2 * _mean_gap(case) ** 2
    return between(math.sqrt(gap / B2), math.sqrt((gap + 4 * mean_error(case.world)) / B2))


@expects("moments_std_ratio", oracle=1)
def _moments_std_ratio(case: OracleContext) -> Expected:
    return exact(0) if case.known.constant else near(math.sqrt(_variance(case) / B2))


@expects(f"rollout@{STEPS}", oracle=1)
def _rollout(case: OracleContext) -> Expected:
    # every answer holds the common part, and none is better than the best
    if case.known.answers(STEPS) is None:
        return between(A2, best_cosine(case.world, STEPS))
    return case.state(case.toward(STEPS - 1, STEPS))


@expects(f"rollout_drift@{STEPS}")
def _rollout_drift(case: OracleContext) -> Expected:
    if case.known.answers(STEPS) is None:
        return between(A2, 1)
    value = case.toward(-1, STEPS)
    return exact(1) if value > 1 - 1e-9 else case.state(value)


@expects(f"rollout_repetition@{STEPS}")
def _rollout_repetition(case: OracleContext) -> Expected:
    if case.known.answers(STEPS) is None:
        return between(A2, 1)
    if case.known.constant:
        return exact(1)
    pairs = [zip(case.answers(s), case.answers(s - 1), strict=True) for s in range(2, STEPS + 1)]
    cosines = [sum(share * case.theory.cosine(a, b) for (share, a), (_, b) in pair) for pair in pairs]
    value = float(np.mean(cosines))
    return exact(1) if value > 1 - 1e-9 else case.state(value)
