"""The oracle suite: every metric x known predictor x world, measured beside what is expected."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nextvec.evaluation.baselines import BASELINES
from nextvec.evaluation.metrics import BEST_BASELINE, LINEAR_AVERAGE, METRICS, Metric, Scores
from nextvec.evaluation.predictor_protocol import one_thread
from nextvec.progress import Progress
from nextvec.selfcheck.expectations import EXPECTATIONS
from nextvec.selfcheck.predictors import KnownPredictor, OracleContext, known_predictors
from nextvec.selfcheck.theory import Theory, chunk
from nextvec.selfcheck.worlds import WORLDS, World

PARTS = 10


@dataclass(frozen=True)
class OracleRow:
    """One line of the table; `expected` is in words, `tolerance` 3 standard errors + 2/D or rounding."""

    metric: str
    predictor: str
    world: str
    expected: str
    measured: float
    tolerance: float
    ok: bool

    @property
    def name(self) -> str:
        return f"{self.metric} of {self.predictor} in {self.world}"

    def __str__(self) -> str:
        return (
            f"{self.name}: expected {self.expected} within {self.tolerance:.2g}, measured {self.measured:.5g}"
        )

    def to_json(self) -> dict[str, Any]:
        """JSON-ready; what could not be measured is null."""
        figures = {"measured": self.measured, "tolerance": self.tolerance}
        known = {name: value if math.isfinite(value) else None for name, value in figures.items()}
        names = {"metric": self.metric, "predictor": self.predictor, "world": self.world}
        return names | {"expected": self.expected} | known | {"ok": self.ok}


def run_oracle(
    seed: int = 0, metrics: Collection[str] | None = None, *, quiet: bool = True
) -> list[OracleRow]:
    """All rows: expectations, then for each metric and world whether it tells the oracle from random.

    Args:
        seed: of the worlds.
        metrics: names of the registry; None is all of them.
        quiet: no progress lines.
    """
    tried = [metric for name, metric in METRICS.items() if metrics is None or name in metrics]
    rows = [_without_expectation(metric.name) for metric in tried if metric.name not in EXPECTATIONS]
    stated = [metric for metric in tried if metric.name in EXPECTATIONS]
    with one_thread(), Progress("oracle suite", len(WORLDS), "worlds", quiet=quiet) as progress:
        for name, make in WORLDS.items():
            rows += _trial(make(seed), stated)
            progress.advance(note=name)
    return rows


def _without_expectation(metric: str) -> OracleRow:
    missing = "a stated value (there is none in selfcheck/expectations.py)"
    return OracleRow(metric, "every predictor", "every world", missing, math.nan, 0.0, ok=False)


def _trial(world: World, metrics: Sequence[Metric]) -> list[OracleRow]:
    known = known_predictors(world)
    expected_references, measured_references = _references(world, known)
    found: dict[tuple[str, str], tuple[float, float]] = {}
    rows = []
    for one in known:
        scores = Scores.of(one.predictor, world.evaluation_set)
        scores.references = measured_references
        context = OracleContext(world, one, expected_references, scores.unit)
        documents, which = np.unique(world.evaluation_set.windows.document, return_inverse=True)
        part = which * PARTS // len(documents)
        parts = [scores.select(part != left_out) for left_out in range(PARTS)]  # each without a tenth of them
        for metric in metrics:
            row = _row(metric, scores, parts, context)
            found[metric.name, one.name] = row.measured, row.tolerance
            rows.append(row)
    names = [metric.name for metric in metrics]
    return rows + [_told_apart(name, world, found[name, "oracle"], found[name, "random"]) for name in names]


def _row(metric: Metric, scores: Scores, parts: list[Scores], context: OracleContext) -> OracleRow:
    expected = EXPECTATIONS[metric.name](context)
    known = metric.needs <= scores.has
    measured = metric.figure(scores) if known else math.nan
    error = standard_error(metric, scores, parts) if known and expected.how != "exact" else 0.0
    tolerance = expected.tolerance(error, context.world.D)
    ok = expected.holds(measured, tolerance)
    names = (metric.name, context.known.name, context.world.name)
    return OracleRow(*names, str(expected), measured, tolerance, ok)


def _told_apart(
    metric: str, world: World, oracle: tuple[float, float], random: tuple[float, float]
) -> OracleRow:
    """A metric that cannot tell the oracle from random does not ship."""
    apart = abs(oracle[0] - random[0])
    needed = oracle[1] + random[1]
    return OracleRow(metric, "oracle - random", world.name, "apart", apart, needed, ok=apart > needed)


def _references(world: World, known: list[KnownPredictor]) -> tuple[dict[str, float], dict[str, float]]:
    """Cosine of the linear average and of the best baseline: by theory, and measured."""
    theory = Theory(world)
    expected, measured = {}, {}
    for one in known:
        if one.name not in BASELINES:
            continue
        answers = one.answers(1)
        assert answers is not None
        expected[one.name] = sum(share * theory.cosine(answer, chunk(0)) for share, answer in answers)
        measured[one.name] = float(Scores.of(one.predictor, world.evaluation_set).cosines.mean())
    return _named(expected), _named(measured)


def _named(cosines: Mapping[str, float]) -> dict[str, float]:
    return {LINEAR_AVERAGE: cosines[LINEAR_AVERAGE], BEST_BASELINE: max(cosines.values())}


def standard_error(metric: Metric, scores: Scores, parts: list[Scores]) -> float:
    """Standard error of a figure over documents.

    Of a mean over windows from the documents' means (all documents here have as many windows); of any other
    figure by the jackknife over ten parts (Efron 1982).
    """
    if metric.values is not None:
        _, which = np.unique(scores.evaluation_set.windows.document, return_inverse=True)
        means = np.bincount(which, metric.values(scores)) / np.bincount(which)
        return float(means.std(ddof=1) / np.sqrt(len(means)))
    figures = np.array([metric.figure(part) for part in parts])
    return float(np.sqrt((PARTS - 1) * figures.var()))
