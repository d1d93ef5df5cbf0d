"""Does looking ahead help retrieval, where, and by how much: strategies on held-out documents.

Windows, candidates and ranks are the evaluator's own. A strategy with re-rankers reorders the candidates that
its query finds first; what is not among them keeps its place behind.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nextvec.corpus.store import Store
from nextvec.data.windows import FloatArray, IntArray
from nextvec.diagnostics.groups import named_masks
from nextvec.diagnostics.sections import sample
from nextvec.errors import EvaluationError
from nextvec.evaluation.evaluation_set import EvaluationSet, Leaks
from nextvec.evaluation.harness import EvaluationConfig, check_made_for, prepare
from nextvec.evaluation.intervals import Estimate, Values, estimate, short
from nextvec.evaluation.predictor_protocol import one_thread, row_dots
from nextvec.evaluation.ranking import Pool
from nextvec.experiments.evaluating import DocumentSelection, divide, division_of, for_question
from nextvec.inference.base import TrainedPredictor
from nextvec.progress import Progress
from nextvec.retrieval.context import Options, Reading, Reembed, RetrievalContext
from nextvec.retrieval.engine import ExactIndex
from nextvec.retrieval.strategies import Strategy, usual
from nextvec.vectors import UnitVectors

KS = (1, 5, 10, 20)
METRICS = (*(f"recall@{k}" for k in KS), "mrr")
REFERENCES = ("last", "mean")
"""What every strategy is compared with, beside its control."""
UNCONDITIONAL = "predicted"
BLOCK = 64
TIMED, WARM_UP = 50, 3
TERCILES = 3

Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class StrategyScores:
    """One strategy.

    Attributes:
        ranks: [N] of the targets, 1 the best.
        latency_ms: median of finding 20 rows for one reading, on one thread; None where it was not measured.
    """

    strategy: Strategy
    ranks: IntArray
    latency_ms: float | None

    def values(self, metric: str) -> Values:
        """[N] the figure of each window, whose mean is the metric."""
        if metric == "mrr":
            return 1.0 / self.ranks
        return (self.ranks <= int(metric.partition("@")[2])).astype(np.float64)

    def figure(self, metric: str) -> float:
        return float(self.values(metric).mean())


@dataclass(frozen=True)
class GainGroup:
    """Windows that have something in common: the MRR of `last` there, and what others gain over it."""

    name: str
    windows: int
    documents: int
    last: float
    gains: dict[str, Estimate]


@dataclass(frozen=True)
class GainFactor:
    name: str
    groups: tuple[GainGroup, ...]


@dataclass(frozen=True, eq=False)
class StrategyComparison:
    store: Store
    split: str
    evaluation_set: EvaluationSet
    leaks: Leaks | None
    options: Options
    outcomes: tuple[StrategyScores, ...]

    @cached_property
    def chance(self) -> dict[str, float]:
        """Each metric of who knows nothing."""
        return self.evaluation_set.pool.chance(KS)

    def outcome(self, name: str) -> StrategyScores | None:
        return next((outcome for outcome in self.outcomes if outcome.strategy.name == name), None)

    def references(self, outcome: StrategyScores) -> list[StrategyScores]:
        """What a strategy is compared with, of those that were asked; one that is given a query with the
        prediction that is not, too."""
        strategy = outcome.strategy
        names = dict.fromkeys([*REFERENCES, *([strategy.control] if strategy.control else [])])
        if "query" in strategy.needs:
            names |= {UNCONDITIONAL: None}
        others = [self.outcome(name) for name in names]
        return [other for other in others if other is not None and other is not outcome]

    def gain(self, outcome: StrategyScores, other: StrategyScores, metric: str) -> Estimate:
        """How much better than the other, with the paired interval over documents."""
        documents = self.evaluation_set.windows.document
        return estimate(documents, outcome.values(metric), other.values(metric))

    @cached_property
    def where(self) -> tuple[GainFactor, ...]:
        """Where the queries without re-rankers gain and lose against `last`."""
        last = self.outcome("last")
        if last is None:
            return ()
        others = [o for o in self.outcomes if not o.strategy.rerankers and o is not last]
        return tuple(
            GainFactor(name, tuple(self._group(label, which, last, others) for label, which in parts))
            for name, parts in self._factors()
        )

    def _factors(self) -> Iterator[tuple[str, list[tuple[str, Mask]]]]:
        """Properties of the windows, each with masks [N] and their names."""
        evaluation_set, windows = self.evaluation_set, self.evaluation_set.windows
        held = [self.store.documents[i] for i in windows.document.tolist()]
        sources = np.array([document.source for document in held])
        yield (
            "cosine of last and next chunk",
            named_masks(row_dots(evaluation_set.last_units, evaluation_set.target_units), short, TERCILES),
        )
        yield "chunks read", named_masks(windows.read, str, TERCILES)
        yield (
            "chunks of the document",
            named_masks(np.array([document.count for document in held]), str, TERCILES),
        )
        yield "source", [(name, sources == name) for name in np.unique(sources).tolist()]

    def _group(
        self, name: str, which: Mask, last: StrategyScores, others: Sequence[StrategyScores]
    ) -> GainGroup:
        documents, there = self.evaluation_set.windows.document[which], last.values("mrr")[which]
        gains = {o.strategy.name: estimate(documents, o.values("mrr")[which], there) for o in others}
        return GainGroup(name, int(which.sum()), len(np.unique(documents)), float(there.mean()), gains)

    def verdicts(self) -> list[str]:
        """In words: what asks the model against its control; without re-rankers, against the best of all that
        it is compared with; what is given a query, against the prediction that is not."""
        verdicts = []
        for outcome in self.outcomes:
            strategy, others = outcome.strategy, self.references(outcome)
            if strategy.rerankers:
                others = [other for other in others if other.strategy.name == strategy.control]
            if strategy.control is None or not others:
                continue
            best = max(others, key=lambda other: other.figure("mrr"))
            unconditional = [
                o for o in others if "query" in strategy.needs and o.strategy.name == UNCONDITIONAL
            ]
            verdicts += [self._verdict(outcome, other) for other in dict.fromkeys([best, *unconditional])]
        return verdicts

    def _verdict(self, outcome: StrategyScores, other: StrategyScores) -> str:
        gains = [(metric, self.gain(outcome, other, metric)) for metric in METRICS]
        parts = {
            "better": [f"{m} {g.show(4, sign=True)}" for m, g in gains if g.above],
            "worse": [f"{m} {g.show(4, sign=True)}" for m, g in gains if g.below],
        }
        clauses = [f"{how} by {', '.join(some)}" for how, some in parts.items() if some]
        pair = f"{outcome.strategy.name} against {other.strategy.name}"
        return f"{pair}: {'; '.join(clauses) or 'no clear difference'}."

    def to_json(self) -> dict[str, Any]:
        """JSON-ready: what was asked, "chance", "strategies" (figures, intervals), "where", "verdicts"."""
        windows, pool = self.evaluation_set.windows, self.evaluation_set.pool
        return {
            "store": str(self.store.path),
            "encoder": str(self.store.encoder.get("name", "")),
            "split": self.split,
            "context": windows.context,
            "horizon": windows.horizon,
            "windows": len(windows),
            "documents": len(np.unique(windows.document)),
            "queries": None if windows.query is None else int((windows.query >= 0).sum()),
            "dropped": None if self.leaks is None else self.leaks.dropped,
            "candidates": pool.kind,
            "pool": len(pool),
            "eligible": float(pool.eligible.mean()),
            "ties": int((pool.ties > 0).sum()),
            "chance": self.chance,
            "options": asdict(self.options),
            "strategies": [self._row(outcome) for outcome in self.outcomes],
            "where": [asdict(factor) for factor in self.where],
            "verdicts": self.verdicts(),
        }

    def _row(self, outcome: StrategyScores) -> dict[str, Any]:
        return {
            "name": outcome.strategy.name,
            "control": outcome.strategy.control,
            **{metric: outcome.figure(metric) for metric in METRICS},
            "latency_p50_ms": outcome.latency_ms,
            "versus": {
                other.strategy.name: {metric: asdict(self.gain(outcome, other, metric)) for metric in METRICS}
                for other in self.references(outcome)
            },
        }


def compare_strategies(
    store: Store,
    run: TrainedPredictor,
    selection: DocumentSelection,
    how: EvaluationConfig,
    names: Sequence[str] = (),
    *,
    options: Options | None = None,
    reembed: Reembed | None = None,
    most: int | None = None,
) -> StrategyComparison:
    """Compare ways of finding the next chunk on one split of a store.

    Args:
        how: context, horizon, candidates, queries, seed, speed and quiet are taken from here.
        names: of strategies; none are all that the run and `reembed` allow.
        reembed: raw predictions decoded to text and encoded again, for `text`.
        most: so many windows at most, drawn evenly by the seed.
    Raises:
        RetrievalError: an unknown strategy, or one that lacks what it needs.
        EvaluationError: a run that fills gaps, of another horizon; candidates of the own document only.
        SplitError, WindowError, LeakError, EncoderMismatchError, VectorError: as `nextvec evaluate`.
    """
    run = for_question(run, how)
    if how.task != "next" or how.candidates == "document":
        message = "strategies are compared by what comes next, among many documents"
        raise EvaluationError(message, remedy="evaluate task 'next' with candidates 'split' or 'store'")
    check_made_for(run, store)
    evaluated = divide(store, division_of([run], selection), selection.sources, selection.split)
    evaluation_set, leaks, _ = prepare(store, evaluated, selection.split, how, None, run.trained_on)
    if most is not None:
        evaluation_set = evaluation_set.select(sample(len(evaluation_set), most, how.seed))
    index = ExactIndex(store.vectors, evaluation_set.pool.rows, str(store.encoder["fingerprint"]))
    context = RetrievalContext(run, store, index, options or Options(), reembed)
    asked_of = names or usual(context, steered=how.queries)
    strategies = [Strategy.named(name) for name in dict.fromkeys(asked_of)]
    ranker = _Ranker(context, evaluation_set)
    outcomes = []
    with Progress("comparing", len(strategies), "strategies", quiet=how.quiet) as progress:
        for strategy in strategies:
            ranks = ranker.ranks(strategy)
            outcomes.append(StrategyScores(strategy, ranks, ranker.latency(strategy) if how.speed else None))
            progress.advance(note=strategy.name)
    return StrategyComparison(store, selection.split, evaluation_set, leaks, context.options, tuple(outcomes))


class _Ranker:
    """Ranks of the targets by any strategy; the query vectors of a name are made once."""

    def __init__(self, context: RetrievalContext, evaluation_set: EvaluationSet) -> None:
        self._context, self._set = context, evaluation_set
        self._known: dict[str, tuple[FloatArray, IntArray]] = {}

    def ranks(self, strategy: Strategy) -> IntArray:
        """[N], 1 the best."""
        if strategy.base not in self._known:
            blocks = [strategy.units(self._context, reading).values for _, reading in self._readings()]
            units = np.concatenate(blocks)
            self._known[strategy.base] = units, self._set.ranks(units)
        units, plain = self._known[strategy.base]
        if not strategy.rerankers:
            return plain
        ranks = plain.copy()
        for piece, reading in self._readings():
            asked_for = UnitVectors(units[piece], self._context.index.encoder)
            found = strategy.candidates(self._context, reading, asked_for, max(KS))
            rows = strategy.rerank(self._context, reading, found).rows
            ranks[piece] = ranks_among(rows, self._set.pool.select(piece), plain[piece])
        return ranks

    def latency(self, strategy: Strategy) -> float:
        """Median milliseconds of finding for one reading, from the vectors read to the rows."""
        windows = self._set.windows
        chosen = sample(len(windows), TIMED, 0)
        readings = [self._reading(slice(i, i + 1)) for i in chosen.tolist()]
        spent = []
        with one_thread():
            for reading in (*readings[:WARM_UP], *readings):
                started = time.perf_counter()
                strategy.find(self._context, reading, max(KS))
                spent.append(time.perf_counter() - started)
        return round(1e3 * float(np.median(spent[-len(readings) :])), 3)

    def _readings(self) -> Iterator[tuple[slice, Reading]]:
        for start in range(0, len(self._set), BLOCK):
            piece = slice(start, start + BLOCK)
            yield piece, self._reading(piece)

    def _reading(self, piece: slice) -> Reading:
        windows = self._set.windows.select(piece)
        return Reading.of_windows(self._context.store.vectors, windows, self._context.width)


def ranks_among(rows: IntArray, pool: Pool, plain: IntArray) -> IntArray:
    """[N] rank of each target where the candidates `rows` [N, V], the best first, come before all others.

    As in the evaluator's ranks, candidates with the target's own text or vector do not count.

    Args:
        plain: [N] rank without re-ranking, which is that of a target that is not among the candidates.
    """
    target = pool.rows[pool.target]
    there = rows == target[:, None]
    counts = np.ones(rows.shape, dtype=np.int64)
    for i, same in pool.tied.items():
        counts[i] = ~np.isin(rows[i], pool.rows[same])
    before = np.cumsum(counts, axis=1) - counts
    place = there.argmax(axis=1)
    return np.where(there.any(axis=1), 1 + before[np.arange(len(rows)), place], plain)
