"""Judging with queries: what is told is drawn by the window alone, told to those that can use it, and no
candidate for anyone."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextvec.data.gather import gather_queries
from nextvec.data.splits import Split
from nextvec.data.windows import FURTHEST_QUERY, later_rows, make_windows, with_queries
from nextvec.errors import EvaluationError
from nextvec.evaluation.baselines.linear import PositionWeights, WeightsWithQuery
from nextvec.evaluation.harness import EvaluationConfig, FittingData, evaluate
from nextvec.evaluation.metrics import METRICS, Scores
from nextvec.evaluation.predictor_protocol import ask, unit
from nextvec.evaluation.ranking import ranks
from nextvec.evaluation.table import format_report
from nextvec.evaluation.trajectory import STEPS, rollable
from nextvec.experiments.ensemble import Ensemble, fit_mixture
from nextvec.selfcheck.worlds import memory_store

COUNTS = [9, 4, 14, 6, 11]
CONTEXT = 3
SPLIT = Split(tuple(range(24)), tuple(range(24, 30)), tuple(range(30, 40)))
HOW = EvaluationConfig(context=CONTEXT, resamples=50, quiet=True)


class CopyQuery:
    """What it is told, again; the last chunk where it is told nothing."""

    name, kind, context, conditional = "copy-query", "model", 1, True

    def __init__(self) -> None:
        self.queried: list[Any] = []

    def predict(self, contexts: Any, lengths: Any, queries: Any = None) -> tuple[Any, Any]:
        self.queried.append(queries)
        raw = contexts[np.arange(len(lengths)), lengths - 1]
        if queries is not None:
            raw = np.where((queries != 0).any(axis=1, keepdims=True), queries, raw)
        return raw, unit(raw)


class SayQuery(CopyQuery):
    """The same with samples: the query, n times."""

    name, generative = "say-query", True

    def sample(self, contexts: Any, lengths: Any, n: int, seed: int, queries: Any = None) -> Any:
        return np.repeat(self.predict(contexts, lengths, queries)[0][None], n, axis=0)


def made(worlds: SimpleNamespace, kind: str = "split", queries: int | None = 0):
    """An evaluation set with equal texts and vectors in it, predictions, and the texts."""
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((sum(COUNTS), 12)).astype(np.float32)
    texts = [f"t{i}" for i in range(len(vectors))]
    vectors[20], vectors[33] = vectors[5], vectors[5]
    vectors[17] = vectors[16]  # two neighbours: a query that is the target's equal
    vectors[18], vectors[19] = vectors[16], vectors[16]
    texts[8] = texts[25] = texts[40] = "again"
    evaluation_set = worlds.evaluation_set(
        vectors, COUNTS, context=CONTEXT, queries=queries, kind=kind, evaluated=[0, 2, 4], texts=texts
    )
    units = unit(
        evaluation_set.targets + 1.5 * rng.standard_normal(evaluation_set.targets.shape).astype(np.float32)
    )
    return evaluation_set, units, texts


@given(
    counts=st.lists(st.integers(6, 30), min_size=1, max_size=6),
    seed=st.integers(0, 2**63),
    context=st.integers(1, 3),
    horizon=st.integers(1, 2),
)
def test_a_query_is_a_later_chunk_of_the_document_and_depends_on_nothing_but_seed_and_target(
    counts: list[int], seed: int, context: int, horizon: int
) -> None:
    store = memory_store(np.zeros((sum(counts), 2), dtype=np.float32), counts)
    windows = with_queries(make_windows(store, range(len(counts)), context, horizon), seed)
    end = np.cumsum(counts)[windows.document]
    query = windows.query
    assert query is not None
    has = query >= 0
    assert (has == (windows.target + 1 < end)).all()
    ahead = query[has] - windows.target[has]
    assert ((ahead >= 1) & (ahead <= FURTHEST_QUERY)).all()
    assert (query[has] < end[has]).all()
    # the same for any part of the windows, from a longer context, and before more documents
    assert (later_rows(windows.target[::2], end[::2], seed, windows.target[::2]) == query[::2]).all()
    more = memory_store(np.zeros((sum(counts) + 9, 2), dtype=np.float32), [*counts, 9])
    longer = with_queries(make_windows(more, range(len(counts)), context + 1, horizon), seed)
    assert dict(zip(windows.target.tolist(), query.tolist(), strict=True)).items() >= set(
        zip(longer.target.tolist(), longer.query.tolist(), strict=True)
    )


def test_every_distance_is_drawn_equally_often_and_each_seed_draws_its_own() -> None:
    target = np.arange(40_000, dtype=np.int64)
    drawn = later_rows(target, np.full_like(target, 10**6), 3, target) - target
    counts = np.bincount(drawn, minlength=FURTHEST_QUERY + 1)[1:]
    assert (np.abs(counts - 5000) < 5 * np.sqrt(5000)).all()
    other = later_rows(target, np.full_like(target, 10**6), 4, target) - target
    assert np.mean(drawn == other) == pytest.approx(1 / FURTHEST_QUERY, abs=0.01)
    assert np.mean(drawn[1:] == drawn[:-1]) == pytest.approx(1 / FURTHEST_QUERY, abs=0.01)


def test_of_task_middle_the_query_comes_after_what_is_read(worlds: SimpleNamespace) -> None:
    store = memory_store(np.zeros((20, 2), dtype=np.float32), [20])
    windows = with_queries(make_windows(store, [0], 6, task="middle"), 0)
    has = windows.query >= 0
    assert has.tolist() == (windows.target + 3 < 19).tolist()
    assert (windows.query[has] > windows.target[has] + 3).all()


@pytest.mark.parametrize("kind", ["split", "store", "document"])
def test_the_query_is_never_a_candidate(worlds: SimpleNamespace, kind: str) -> None:
    evaluation_set, units, texts = made(worlds, kind)
    directions = unit(evaluation_set.vectors).astype(np.float64)
    windows, pool = evaluation_set.windows, evaluation_set.pool
    # every other prediction is the query itself: were it a candidate, it would come first
    units[::2] = np.where(
        windows.query[::2, None] >= 0, unit(gather_queries(evaluation_set.vectors, windows)[::2]), units[::2]
    )
    expected, eligible = [], []
    for i, (target, first, query) in enumerate(
        zip(windows.target.tolist(), windows.first.tolist(), windows.query.tolist(), strict=True)
    ):
        among = [
            row
            for position, row in enumerate(pool.rows.tolist())
            if pool.low[i] <= position < pool.high[i]
            and not first <= row <= target
            and row != query
            and texts[row] != texts[target]
            and not np.array_equal(evaluation_set.vectors[row], evaluation_set.vectors[target])
        ]
        cosines = directions @ units[i].astype(np.float64)
        expected.append(1 + sum(cosines[row] > cosines[target] for row in among))
        eligible.append(1 + len(among))
        assert query == -1 or pool.rows[pool.query[i]] == query
    assert (windows.query >= 0).sum() == len(windows) - 3
    assert ranks(units, evaluation_set.vectors, pool).tolist() == expected
    assert pool.eligible.tolist() == eligible
    part = evaluation_set.select(slice(3, 9))
    assert part.ranks(units[3:9]).tolist() == expected[3:9]


def test_contrastive_accuracy_leaves_the_query_out(worlds: SimpleNamespace) -> None:
    evaluation_set, units, texts = made(worlds)
    truth, windows = unit(evaluation_set.targets).astype(np.float64), evaluation_set.windows
    found = METRICS["contrastive_accuracy"].values(Scores(evaluation_set, units, units))
    rows = windows.target.tolist()
    for i, row in enumerate(rows):
        others = [
            j
            for j, other in enumerate(rows)
            if not windows.first[i] <= other <= row
            and other != windows.query[i]
            and texts[other] != texts[row]
            and not np.array_equal(evaluation_set.vectors[other], evaluation_set.vectors[row])
        ]
        own = units[i] @ truth[i]
        expected = np.mean([units[i] @ truth[j] < own for j in others]) if others else 1.0
        assert found[i] == pytest.approx(expected)


def test_no_window_is_rolled_out_onto_its_query(worlds: SimpleNamespace) -> None:
    vectors = worlds.noisy(np.random.default_rng(0), 30, 20, 12)
    plain, queried = (worlds.evaluation_set(vectors, context=CONTEXT, queries=seed) for seed in (None, 0))
    kept = queried.windows.select(rollable(queried))
    assert 0 < len(kept) < len(rollable(plain))
    assert ((kept.query < 0) | (kept.query >= kept.target + STEPS)).all()


@pytest.fixture(scope="module")
def store(worlds: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory):
    vectors = worlds.noisy(np.random.default_rng(0), 40, 24, 12)
    return worlds.store(tmp_path_factory.mktemp("stores") / "noisy", vectors)


def test_who_copies_the_query_has_the_cosine_of_query_and_target(store) -> None:
    how = replace(HOW, queries=True)
    report = evaluate(store, SPLIT, "test", [CopyQuery()], how)
    windows = how.windows(store, SPLIT.test)
    assert report.queries == (windows.query >= 0).sum() == len(windows) - len(SPLIT.test)
    output = np.where(windows.query >= 0, windows.query, windows.last)
    cosines = (unit(store.vectors[output]) * unit(store.vectors[windows.target])).sum(axis=1)
    row = report.row("copy-query")
    assert row.values["cosine"] == pytest.approx(cosines, abs=1e-6)
    assert row.figures["energy_score"] == pytest.approx(
        np.linalg.norm(store.vectors[output] - store.vectors[windows.target], axis=1).mean(), abs=1e-5
    )
    without = evaluate(store, SPLIT, "test", [CopyQuery()], HOW)
    assert without.row("copy-query").figures["cosine"] == without.row("copy-last").figures["cosine"]
    assert f"a later chunk given as query in {report.queries} windows" in format_report(report)
    assert "given as query" not in format_report(without).split("\n\n")[0]


def test_samples_are_told_the_query_too(store) -> None:
    report = evaluate(store, SPLIT, "test", [CopyQuery(), SayQuery()], replace(HOW, queries=True))
    copied, output = (report.row(name).figures for name in ("copy-query", "say-query"))
    assert output["energy_score"] == pytest.approx(copied["energy_score"], abs=1e-6)
    assert output["diversity"] == pytest.approx(0, abs=1e-6)


def test_without_queries_nobody_is_told_and_no_figure_is_another(store) -> None:
    queried, without = (evaluate(store, SPLIT, "test", [], replace(HOW, queries=q)) for q in (True, False))
    copier = CopyQuery()
    evaluate(store, SPLIT, "test", [copier], HOW)
    assert all(queries is None for queries in copier.queried)
    assert "weights with query" not in [row.name for row in without.rows]
    assert without.queries is None
    for row in without.rows:
        beside = queried.row(row.name)
        for metric in ("cosine", "mse", "variance_ratio"):
            assert beside.figures[metric] == row.figures[metric]
        # one candidate fewer can only bring the target forward
        assert (beside.values["mrr"] >= row.values["mrr"]).all()
    fewer = without.eligible - queried.eligible
    assert fewer == pytest.approx(queried.queries / queried.windows)


def test_weights_with_query_find_what_the_query_is_worth(worlds: SimpleNamespace) -> None:
    """x[t] = 0.5 x[t - 1] + 0.3 q + noise by construction, whichever later chunk q is."""
    rng = np.random.default_rng(0)
    topics = rng.standard_normal((300, 1, 16))
    vectors = (topics + 0.7 * rng.standard_normal((300, 14, 16))).astype(np.float32)
    evaluation_set = worlds.evaluation_set(vectors, context=2, queries=0)
    queried, plain = WeightsWithQuery(2), PositionWeights(2)
    for baseline in (queried, plain):
        baseline.fit(evaluation_set.vectors, evaluation_set.windows, None)
    # three equally good views of the topic: 1 / (3 + 0.49) each; without a query 1 / (2 + 0.49)
    assert queried.weights_with_query == pytest.approx([1 / 3.49] * 3, abs=0.02)
    assert queried.weights == pytest.approx(plain.weights)
    assert queried.metadata["parameters"] == 2 + 3
    figures = {b.name: Scores.of(b, evaluation_set).cosines for b in (queried, plain)}
    has = evaluation_set.windows.query >= 0
    assert figures[queried.name][has].mean() > figures[plain.name][has].mean() + 0.02
    assert (figures[queried.name][~has] == figures[plain.name][~has]).all()
    again = WeightsWithQuery(2)
    again.restore(queried.state())
    assert (Scores.of(again, evaluation_set).raw == Scores.of(queried, evaluation_set).raw).all()
    without = WeightsWithQuery(2)
    without.fit(evaluation_set.vectors, replace(evaluation_set.windows, query=None), None)
    assert (without.weights_with_query == [*without.weights, 0.0]).all()


def test_an_ensemble_tells_its_members(store) -> None:
    how = replace(HOW, queries=True)
    training = FittingData.of(store, SPLIT, how)
    weights = WeightsWithQuery(CONTEXT)
    weights.fit(training.vectors, training.train, training.validation)
    plain = PositionWeights(CONTEXT)
    plain.fit(training.vectors, training.train, training.validation)
    members = [CopyQuery(), plain]
    mixture = fit_mixture(members, store.vectors, training.validation)
    without = fit_mixture(members, store.vectors, replace(training.validation, query=None))
    assert mixture.unit[0] != without.unit[0]
    mixed = Ensemble("mixed", members, mixture)
    assert mixed.conditional
    assert not Ensemble("plain", [plain, plain], mixture).conditional
    contexts = store.vectors[:6].reshape(2, 3, 12)
    lengths, queries = np.array([3, 3]), store.vectors[8:10]
    raw, _ = ask(mixed, contexts, lengths, queries)
    expected = mixture.raw[0] * queries + mixture.raw[1] * plain.guess(contexts, lengths)
    np.testing.assert_allclose(raw, expected, atol=1e-5)


def test_the_baseline_that_uses_queries_is_known_only_where_there_are_some() -> None:
    with pytest.raises(EvaluationError, match="no baseline 'weights with query' without queries"):
        EvaluationConfig(baselines=("weights with query",))
    assert EvaluationConfig(baselines=("weights with query",), queries=True).known.keys() >= {
        "weights with query"
    }
