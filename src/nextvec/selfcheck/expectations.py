"""For every metric of the registry: what it must say of every known predictor in every world, and why.

A metric without an entry here fails the oracle suite by name. An entry is a function of a `Case` (a known
predictor in a world) that states the expected value; `oracle` in its decorator is the value at the oracle,
exact in every world, for metrics that have one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from nextvec.evaluation.metrics import KS, skill_over
from nextvec.evaluation.offsets import OFFSETS
from nextvec.evaluation.rollout import STEPS
from nextvec.selfcheck.predictors import Known
from nextvec.selfcheck.theory import A2, B2, Answer, Mixture, Theory, above, chunk, stranger
from nextvec.selfcheck.worlds import World

EXACT = 2e-5
"""Tolerance of what is exact: float32 vectors, sums of 64 products."""

How = Literal["exact", "near", "at least", "at most", "between", "chance"]


@dataclass(frozen=True)
class Expected:
    """A stated value, or the bounds it lies between. `scale` is the size of the metric's unit in this world."""

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
        if self.how == "between":
            return f"{self.low:.4g} .. {self.high:.4g}"
        value = self.low if self.how == "at least" else self.high
        return {"exact": "=", "near": "~", "at least": ">=", "at most": "<=", "chance": "chance"}[
            self.how
        ] + f" {value:.4g}"


def exact(value: float, scale: float = 1.0) -> Expected:
    """Known up to rounding."""
    return Expected("exact", value, value, scale)


def near(value: float, scale: float = 1.0) -> Expected:
    """Known in the mean, for many dimensions."""
    return Expected("near", value, value, scale)


def chance(value: float, scale: float = 1.0) -> Expected:
    """What knowing nothing gives."""
    return Expected("chance", value, value, scale)


def at_least(value: float, scale: float = 1.0) -> Expected:
    """A lower bound."""
    return Expected("at least", value, math.inf, scale)


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
    """

    world: World
    known: Known
    references: dict[str, float]

    @cached_property
    def theory(self) -> Theory:
        return Theory(self.world)

    def answers(self, step: int = 1) -> Mixture:
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

    @cached_property
    def rivals(self) -> float:
        """Mean number of candidates before the target: the sum of the probabilities that each is nearer."""
        pool, theory = self.world.exam.pool, self.theory
        later = pool.end - pool.target - 1
        strangers = len(pool) - (pool.end - pool.read_low)

        def count(answer: Answer) -> float:
            steps = np.array([theory.beats(answer, chunk(k)) for k in range(1, int(later.max()) + 1)])
            within = np.concatenate([[0.0], np.cumsum(steps)])[later]
            return float((within + strangers * theory.beats(answer, stranger())).mean())

        return self.mean(count)

    @cached_property
    def first_rival(self) -> float:
        """Mean over windows of the probability that the next later chunk of the document is nearer."""
        pool = self.world.exam.pool
        followed = float((pool.target + 1 < pool.end).mean())
        return followed * self.mean(lambda answer: self.theory.beats(answer, chunk(1)))


Expectation = Callable[[Case], Expected]
EXPECTATIONS: dict[str, Expectation] = {}


def expects(*names: str, oracle: float | None = None) -> Callable[[Expectation], Expectation]:
    """Register the expectation of metrics; `oracle` is their exact value at the oracle."""

    def register(state: Expectation) -> Expectation:
        def of(case: Case) -> Expected:
            if oracle is not None and case.known.perfect:
                return exact(oracle)
            return state(case)

        for name in names:
            EXPECTATIONS[name] = of
        return state

    return register


@expects("cosine", oracle=1)
def _cosine(case: Case) -> Expected:
    # cos(p, x_t) concentrates at its moments' value; the bias is of order r (1 - r^2) / 2D (Hotelling 1953)
    return case.state(case.toward(0))


@expects("surprise", oracle=0)
def _surprise(case: Case) -> Expected:
    return case.state(1 - case.toward(0))


@expects("cosine_std", oracle=0)
def _cosine_std(case: Case) -> Expected:
    # within one kind of answer the spread of `Theory.spread`, e.g. (1 - r^2) / sqrt(D) without a common mean;
    # between kinds the variance of their means
    theory, centre = case.theory, case.toward(0)
    total = case.mean(
        lambda a: theory.spread(a, chunk(0)) ** 2 + (theory.cosine(a, chunk(0)) - centre) ** 2
    )
    return case.state(math.sqrt(total))


@expects("mse", oracle=0)
def _mse(case: Case) -> Expected:
    # E(p - y)^2 = E p^2 + E y^2 - 2 E p y, and E y^2 = 1; in units of E y^2
    theory = case.theory
    return case.state(case.mean(lambda a: theory.energy(a) + 1 - 2 * theory.product(a, chunk(0))))


@expects("share_above_0.5", oracle=1)
def _share_above_half(case: Case) -> Expected:
    # cosines are nearly normal with the mean and spread above; all on one side where nothing varies
    theory = case.theory

    def share(answer: Answer) -> float:
        return above(theory.cosine(answer, chunk(0)) - 0.5, theory.spread(answer, chunk(0)))

    return case.state(case.mean(share))


def _recall(k: int) -> None:
    @expects(f"recall@{k}", oracle=1)
    def recall(case: Case) -> Expected:
        # Markov: P(rank > k) <= E[rank - 1] / k. For k = 1 the nearest rival alone is enough to lose.
        if case.known.blind:
            return chance(case.world.exam.pool.chance_recall(k))
        return between(max(0.0, 1 - case.rivals / k), 1 - case.first_rival if k == 1 else 1.0)


for _k in KS:
    _recall(_k)


@expects("mrr", oracle=1)
def _mrr(case: Case) -> Expected:
    # Jensen: E[1 / rank] >= 1 / E[rank]; from above, 1 where the target is first and 1/2 at best elsewhere
    if case.known.blind:
        return chance(case.world.exam.pool.chance_mrr())
    return between(1 / (1 + case.rivals), 1 - case.first_rival / 2)


@expects("median_rank", oracle=1)
def _median_rank(case: Case) -> Expected:
    # a blind rank is uniform on 1..eligible; else Markov: P(rank - 1 > 2 E[rank - 1]) < 1/2
    if case.known.blind:
        middle = float(np.median((case.world.exam.pool.eligible + 1) / 2))
        return chance(middle, scale=middle)
    return between(1, 1 + 2 * case.rivals)


@expects("contrastive_accuracy", oracle=1)
def _contrastive_accuracy(case: Case) -> Expected:
    # 1 - the probability that another target is nearer, averaged over the unread targets of the batch: those
    # of other documents, and of the same document those after this one
    if case.known.blind:
        return chance(0.5)
    pool, theory = case.world.exam.pool, case.theory
    later = pool.end - pool.target - 1
    each = float(np.mean(pool.end - pool.read_low)) - case.world.context
    strangers = len(pool.target) - each

    def lost(answer: Answer) -> float:
        steps = np.array([theory.beats(answer, chunk(k)) for k in range(1, int(later.max()) + 1)])
        within = np.concatenate([[0.0], np.cumsum(steps)])[later]
        other = strangers * theory.beats(answer, stranger())
        return float(((within + other) / (later + strangers)).mean())

    return near(1 - case.mean(lost))


@expects("par", oracle=1)
def _par(case: Case) -> Expected:
    # max over the context of the cosine; where cosines vary, E max lies between max E and
    # max E + spread sqrt(2 ln c), the bound for c normal variables
    theory, context = case.theory, range(-case.world.context, 0)

    def bounds(answer: Answer) -> tuple[float, float]:
        middle = max(theory.cosine(answer, chunk(k)) for k in context)
        spread = max(theory.spread(answer, chunk(k)) for k in context)
        return middle, middle + spread * math.sqrt(2 * math.log(len(context)))

    below = bounds(chunk(0))
    low, high = (case.mean(lambda a, end=end: bounds(a)[end]) for end in (0, 1))  # type: ignore[misc]
    return exact(low / below[0]) if case.certain else between(low / below[1], high / below[0])


@expects("forward_margin")
def _forward_margin(case: Case) -> Expected:
    return case.state(case.toward(0) - case.toward(-1))


@expects("offset_margin")
def _offset_margin(case: Case) -> Expected:
    return case.state(case.toward(0) - max(case.toward(k) for k in OFFSETS if k != 0))


@expects("offset_accuracy", oracle=1)
def _offset_accuracy(case: Case) -> Expected:
    # the target must beat each of its neighbours: at most what the strongest leaves, at least what all leave.
    # A blind direction is nearest to any of m alike chunks with probability 1/m; to a middle one less often,
    # which has more neighbours like itself.
    others = [k for k in OFFSETS if k != 0]
    if case.known.blind:
        pool = case.world.exam.pool
        present = [(pool.target + k >= pool.read_low) & (pool.target + k < pool.end) for k in OFFSETS]
        return at_most(float((1 / np.sum(present, axis=0)).mean()))
    beaten = {k: case.mean(lambda a, k=k: case.theory.beats(a, chunk(k))) for k in others}  # type: ignore[misc]
    # later chunks are missing at a document's end; those before the target never are
    high = 1 - max(beaten[k] for k in others if k < 0)
    return between(max(0.0, 1 - sum(beaten.values())), high)


@expects("skill", oracle=1)
def _skill(case: Case) -> Expected:
    reference = case.references["linear average"]
    return case.state(skill_over(case.toward(0), reference), scale=1 / (1 - reference))


@expects("skill_vs_best_baseline", oracle=1)
def _skill_vs_best_baseline(case: Case) -> Expected:
    reference = case.references["best baseline"]
    return case.state(skill_over(case.toward(0), reference), scale=1 / (1 - reference))


def _variance(case: Case) -> float:
    """Variance of a raw prediction over windows, a dimension."""
    return 0.0 if case.known.constant else case.mean(case.theory.variance)


@expects("variance_ratio", oracle=1)
def _variance_ratio(case: Case) -> Expected:
    ratio = _variance(case) / B2
    return exact(0) if case.known.constant else near(ratio, scale=max(1.0, ratio))


@expects("pairwise_cosine")
def _pairwise_cosine(case: Case) -> Expected:
    # predictions of different documents share the common part only; those of one document, a share of the
    # pairs, lie anywhere from that to 1
    if case.known.constant:
        return exact(1)
    common = case.mean(lambda a: math.sqrt(A2) * a.centre / math.sqrt(case.theory.energy(a))) ** 2
    windows = len(case.world.exam)
    same = (windows / len(case.world.judged) - 1) / (windows - 1)
    return between(common, common + same * (1 - common))


@expects("cosine_without_mean", oracle=1)
def _cosine_without_mean(case: Case) -> Expected:
    # the estimated mean is a m + e; e (variance v) goes into both sides, the common part out of both
    if case.known.constant:
        return exact(0)
    theory = case.theory
    v = case.world_mean_error

    def cosine(answer: Answer) -> float:
        prediction = A2 * (answer.centre - 1) ** 2 + theory.variance(answer) + v
        return (theory.moving(answer, chunk(0)) + v) / math.sqrt(prediction * (B2 + v))

    return near(case.mean(cosine))
