"""Strategies compared: the judge's own ranks, re-rankers counted by hand, gains where they are."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nextvec.corpus.store import NewDocument, Store, StoreWriter
from nextvec.errors import EncoderMismatchError, EvaluationError, LeakError, RetrievalError, SplitError
from nextvec.evaluation.harness import EvaluationConfig
from nextvec.experiments.evaluating import DocumentSelection, evaluate_runs
from nextvec.experiments.lookahead import METRICS, StrategyComparison, compare_strategies, ranks_among
from nextvec.inference.predictor import RunPredictor
from nextvec.retrieval.context import QUERIES, RERANKERS, Options
from nextvec.vectors import RawVectors

HOW = EvaluationConfig(resamples=100, quiet=True)


def turned_round(raw: RawVectors) -> RawVectors:
    return RawVectors(-raw.values, raw.encoder)


@pytest.fixture(scope="module")
def output(
    world: Store, make_tiny: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> RunPredictor:
    """A run trained with queries."""
    from nextvec.training.loop import train

    folder = tmp_path_factory.mktemp("told") / "run"
    train(world, make_tiny("lstm", "data.conditional=0.5"), folder, quiet=True)
    return RunPredictor(folder)


@pytest.fixture(scope="module")
def everything(world: Store, output: RunPredictor) -> StrategyComparison:
    """All strategies there are."""
    return compare_strategies(
        world,
        output,
        DocumentSelection(),
        replace(HOW, queries=True, speed=True),
        reembed=turned_round,
        options=Options(pool=20),
    )


def test_every_strategy_is_compared(everything: StrategyComparison) -> None:
    names = [outcome.strategy.name for outcome in everything.outcomes]
    assert {*QUERIES} - {"ranked"} <= {*names}  # the run has no query for ranking
    assert {name.partition("+")[2] for name in names} == {"", *RERANKERS}
    for outcome in everything.outcomes:
        assert outcome.ranks.shape == (len(everything.evaluation_set),)
        assert outcome.ranks.min() >= 1
        assert (outcome.ranks <= everything.evaluation_set.pool.eligible).all()
        assert outcome.latency_ms > 0
    output = json.loads(json.dumps(everything.to_json(), allow_nan=False))
    assert [row["name"] for row in output["strategies"]] == names
    for row in output["strategies"]:
        assert all(0 <= row[metric] <= 1 for metric in METRICS)
        controls = {row["control"]} - {None}
        controls |= {"predicted"} if row["name"] in ("steered", "query", "last-query") else set()
        assert set(row["versus"]) == ({"last", "mean"} | controls) - {row["name"]}
        assert all(set(gains) == set(METRICS) for gains in row["versus"].values())
    lines = [line.partition(":")[0] for line in output["verdicts"]]
    assert {"steered against predicted", "query against predicted"} <= set(lines)
    assert len(lines) == len(set(lines))
    assert output["queries"] == output["windows"] - output["documents"]


def test_queries_have_the_ranks_of_the_judge(world: Store, trained: Path) -> None:
    run = RunPredictor(trained)
    found = compare_strategies(world, run, DocumentSelection(), HOW)
    report = evaluate_runs(world, [run], DocumentSelection(), HOW)
    assert found.chance["mrr"] == report.chance["mrr"]
    assert (len(found.evaluation_set), len(found.evaluation_set.pool)) == (report.windows, report.pool)
    for name, row in (("last", "copy-last"), ("mean", "linear average"), ("predicted", run.name)):
        outcome = found.outcome(name)
        for metric in METRICS:
            assert outcome.figure(metric) == report.row(row).figures[metric]
    gain = found.gain(found.outcome("last"), found.outcome("mean"), "mrr")
    values = [report.row(row).values["mrr"] for row in ("copy-last", "linear average")]
    assert gain.value == pytest.approx((values[0] - values[1]).mean())
    assert gain.low < gain.value < gain.high


def test_a_re_ranker_that_changes_nothing_changes_no_rank(world: Store, trained: Path) -> None:
    options = Options(document=0.0, recency=0.0, trade_off=1.0, refine=0.0, pool=9)
    found = compare_strategies(world, RunPredictor(trained), DocumentSelection(), HOW, options=options)
    for outcome in found.outcomes:
        plain = found.outcome(outcome.strategy.base)
        assert outcome.ranks.tolist() == plain.ranks.tolist()


def test_ranks_are_those_of_the_reordered_list(everything: StrategyComparison) -> None:
    """Recency is sure of the next chunk: it comes first wherever it is among the candidates."""
    plain, near = everything.outcome("last"), everything.outcome("last+recency")
    assert (near.ranks[plain.ranks > 20] == plain.ranks[plain.ranks > 20]).all()
    assert (near.ranks[plain.ranks <= 20] <= 20).all()
    assert near.figure("mrr") > plain.figure("mrr")


def test_equals_of_the_target_do_not_count(tmp_path: Path, trained: Path) -> None:
    """Candidates with the target's text or vector, and a target that is not among the candidates."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((40, 16)).astype(np.float32)
    vectors[30] = vectors[8]
    texts = [f"text {i}" for i in range(40)]
    texts[35] = texts[8]
    documents = [NewDocument.from_chunks(f"d{i}", texts[10 * i : 10 * i + 10]) for i in range(4)]
    with StoreWriter(
        tmp_path / "s", encoder={"name": "world", "fingerprint": "world"}, dimension=16,
        chunker={"kind": "sentences"}, dtype="float32",
    ) as writer:  # fmt: skip
        writer.add_shard(documents, vectors, path="test")
    store = Store.open(tmp_path / "s")
    found = compare_strategies(store, RunPredictor(trained), DocumentSelection(split="all"), HOW, ["last"])
    pool, windows = found.evaluation_set.pool, found.evaluation_set.windows
    at = windows.target.tolist().index(8)
    rows = np.array([[30, 3 + 10, 35, 8, 20]])
    one = pool.select(slice(at, at + 1))
    assert ranks_among(rows, one, np.array([17])).tolist() == [2]
    assert ranks_among(rows[:, :3], one, np.array([17])).tolist() == [17]
    assert ranks_among(rows[:, 3:], one, np.array([17])).tolist() == [1]


def test_where_it_helps(world: Store, trained: Path) -> None:
    """Groups share the windows out, and their gains add up to the whole."""
    found = compare_strategies(world, RunPredictor(trained), DocumentSelection(), HOW)
    assert [factor.name for factor in found.where] == [
        "cosine of last and next chunk", "chunks read", "chunks of the document", "source"
    ]  # fmt: skip
    whole = found.gain(found.outcome("predicted"), found.outcome("last"), "mrr").value
    for factor in found.where:
        assert sum(group.windows for group in factor.groups) == len(found.evaluation_set)
        parts = [group.windows * group.gains["predicted"].value for group in factor.groups]
        assert sum(parts) / len(found.evaluation_set) == pytest.approx(whole)
        assert set(factor.groups[0].gains) == {"mean", "predicted", "blend", "last-mean"}
    assert [group.name for group in found.where[-1].groups] == ["books", "web"]
    assert compare_strategies(world, RunPredictor(trained), DocumentSelection(), HOW, ["mean"]).where == ()


def test_the_verdicts_say_what_the_figures_say(world: Store, trained: Path) -> None:
    found = compare_strategies(
        world, RunPredictor(trained), DocumentSelection(), HOW, ["last", "last+recency", "predicted+recency"]
    )
    output = found.verdicts()
    assert [line.partition(":")[0] for line in output] == ["predicted+recency against last+recency"]
    better = {}
    for metric in METRICS:
        gain = found.gain(found.outcome("predicted+recency"), found.outcome("last+recency"), metric)
        better[metric] = gain.clear and gain.value > 0
    assert all(
        (f"{metric} +" in output[0].partition("worse")[0]) == clear for metric, clear in better.items()
    )


def test_fewer_windows_and_some_strategies(world: Store, trained: Path) -> None:
    found = compare_strategies(
        world, RunPredictor(trained), DocumentSelection(), HOW, ["blend", "last", "blend"], most=9
    )
    assert [outcome.strategy.name for outcome in found.outcomes] == ["blend", "last"]
    assert len(found.evaluation_set) == 9
    assert found.outcomes[0].latency_ms is None
    whole = compare_strategies(world, RunPredictor(trained), DocumentSelection(), HOW, ["last"])
    rows = whole.evaluation_set.windows.target.tolist()
    chosen = [rows.index(row) for row in found.evaluation_set.windows.target.tolist()]
    assert found.outcomes[1].ranks.tolist() == whole.outcomes[0].ranks[chosen].tolist()


def test_the_store_as_candidates(world: Store, trained: Path) -> None:
    found = compare_strategies(
        world,
        RunPredictor(trained),
        DocumentSelection(),
        replace(HOW, candidates="store"),
        ["last", "last+document"],
    )
    assert len(found.evaluation_set.pool) == len(world)
    assert found.outcomes[1].figure("mrr") > found.outcomes[0].figure("mrr")


def test_bad_input(world: Store, trained: Path, make_world: Callable[..., Store], tmp_path: Path) -> None:
    run = RunPredictor(trained)
    with pytest.raises(EvaluationError, match="evaluated at 2"):
        compare_strategies(world, run, DocumentSelection(), replace(HOW, horizon=2))
    with pytest.raises(EvaluationError, match="among many documents"):
        compare_strategies(world, run, DocumentSelection(), replace(HOW, candidates="document"))
    with pytest.raises(RetrievalError, match="no query 'best'"):
        compare_strategies(world, run, DocumentSelection(), HOW, ["best"])
    with pytest.raises(RetrievalError, match="there is no query; give a query"):
        compare_strategies(world, run, DocumentSelection(), HOW, ["query"])
    with pytest.raises(RetrievalError, match="there is no decoder"):
        compare_strategies(world, run, DocumentSelection(), HOW, ["text"])
    with pytest.raises(SplitError, match="no document of source 'nowhere'"):
        compare_strategies(world, run, DocumentSelection(sources=("nowhere",)), HOW)
    with pytest.raises(LeakError, match="stand in training"):
        compare_strategies(world, run, DocumentSelection(split="all"), HOW)
    with pytest.raises(EncoderMismatchError, match="another encoder"):
        compare_strategies(make_world(tmp_path / "other", encoder="another"), run, DocumentSelection(), HOW)
