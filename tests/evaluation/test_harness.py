from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from nextvec.data.splits import Split
from nextvec.disk import write_json
from nextvec.errors import (
    EncoderMismatchError,
    EvaluationError,
    LeakError,
    NextvecWarning,
    SplitError,
    VectorError,
    WindowError,
)
from nextvec.evaluation import harness
from nextvec.evaluation.baselines import BASELINES
from nextvec.evaluation.harness import (
    LEAST_TO_CHOOSE_ON,
    EvaluationConfig,
    FittingData,
    evaluate,
    prepare,
)
from nextvec.evaluation.metrics import METRICS
from nextvec.evaluation.ranking import Pool
from nextvec.evaluation.table import format_report

D = 12
HOW = EvaluationConfig(resamples=200, quiet=True)
FREE = [name for name, made in BASELINES.items() if not made.needs_training]
SPLIT = Split(tuple(range(20)), tuple(range(20, 24)), tuple(range(24, 36)))


@pytest.fixture(scope="module")
def store(worlds: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory):
    vectors = worlds.noisy(np.random.default_rng(0), 36, 20, D)
    sources = ["a" if d % 2 else "b" for d in range(36)]
    return worlds.store(tmp_path_factory.mktemp("stores") / "noisy", vectors, sources=sources)


@pytest.fixture(scope="module")
def oracle(store, worlds: SimpleNamespace):
    """Looks the answer up."""
    made = worlds.look_up(store.vectors[:].reshape(36, 20, D))
    made.metadata = {"parameters": 3, "seconds": 0.5}
    return made


@pytest.fixture(scope="module")
def report(store, oracle, worlds: SimpleNamespace):
    worst = worlds.FunctionPredictor(lambda c, n: -c[:, 0], name="backwards")
    return evaluate(store, SPLIT, "test", [oracle, worst], HOW)


def test_all_baselines_and_the_predictors_are_in_the_table(report) -> None:
    assert [row.name for row in report.rows] == [*BASELINES, "oracle", "backwards"]
    assert (report.windows, report.documents, report.pool) == (12 * 15, 12, 240)
    for row in report.rows:
        assert set(row.figures) == set(METRICS)
        assert all(value is not None for value in row.figures.values())
    assert report.row("oracle").figures["recall@1"] == 1
    assert report.chance["recall@1"] == pytest.approx(1 / report.eligible, rel=0.01)


def test_the_best_baseline_is_found_and_compared_with(report) -> None:
    baselines = [row for row in report.rows if row.kind == "baseline"]
    for metric, name in report.best.items():
        pick = max if METRICS[metric].better == "higher" else min
        assert report.row(name).figures[metric] == pick(row.figures[metric] for row in baselines)
        for row in report.rows:
            if row.name != name:
                versus = row.versus[metric]
                difference = row.figures[metric] - report.row(name).figures[metric]
                assert versus.value == pytest.approx(difference, abs=1e-9)
                assert versus.low <= versus.value <= versus.high
    linear = report.row("linear average").figures
    backwards = report.row("backwards").figures
    assert backwards["skill"] == pytest.approx(
        (backwards["cosine"] - linear["cosine"]) / (1 - linear["cosine"])
    )
    assert linear["skill"] == 0
    assert report.row(report.best["cosine"]).figures["skill_vs_best_baseline"] == 0
    assert report.row("oracle").figures["skill_vs_best_baseline"] == pytest.approx(1)
    assert report.row("backwards").better("cosine") is False
    assert report.row("oracle").better("mse") is True


def test_a_model_below_the_best_baseline_is_called_so(report) -> None:
    message = " ".join(report.notes())
    assert "backwards is worse than the best baseline by cosine" in message
    assert "oracle is better than the best baseline by cosine" in message


def test_the_targets_length_is_in_the_json(report, store) -> None:
    rows = np.concatenate([np.arange(20 * d + 5, 20 * d + 20) for d in SPLIT.test])
    length = np.square(np.asarray(store.vectors)[rows].astype(np.float64)).sum(axis=1).mean()
    assert report.to_json()["mean_squared_length"] == pytest.approx(length, rel=1e-5)


def test_the_json_is_what_others_rely_on(report, store, tmp_path: Path) -> None:
    write_json(tmp_path / "r.json", report.to_json())
    content = json.loads((tmp_path / "r.json").read_text())
    assert {"store", "split", "context", "windows", "documents", "pool", "rows"} <= set(content)
    assert content["store"] == str(store.path)
    row = content["rows"][-2]
    assert (row["name"], row["kind"], row["parameters"], row["seconds"]) == ("oracle", "model", 3, 0.5)
    assert {"cosine", "cosine_std", "mse", "recall@1", "recall@5", "recall@10", "recall@20", "mrr"} <= set(
        row
    )
    assert set(row["versus_best_baseline"]["cosine"]) == {"difference", "low", "high", "better"}


def test_the_table_shows_it_all(report) -> None:
    plain = format_report(report).splitlines()
    assert plain[0].startswith("Split test of encoder-a vectors: 180 windows of 12 documents, context 5")
    assert "240 chunks of the split's documents" in plain[1]
    assert "Chance: R@1 0.00" in plain[1]
    head, rule = plain[3:5]
    body = plain[5 : 5 + len(report.rows)]
    assert head.split()[:4] == ["predictor", "cosine", "std", "mse"]
    assert set(rule) == {"-", " "}
    starred = [line for line in body if "*" in line]
    assert {line.split("  ")[0].strip() for line in starred} == set(report.best.values())
    assert f"{report.row('backwards').figures['cosine']:.4f}-" in body[-1]
    markdown = format_report(report, markdown=True).splitlines()
    assert markdown[4].startswith("| ---")
    assert all(line.count("|") == markdown[3].count("|") for line in markdown[3 : 5 + len(report.rows)])


def test_the_same_evaluation_twice_is_the_same(store, report, oracle) -> None:
    again = evaluate(store, SPLIT, "test", [oracle], HOW)
    for row in again.rows:
        assert row.figures == report.row(row.name).figures
        assert row.versus == report.row(row.name).versus


def test_with_all_only_baselines_without_parameters_run_and_it_says_so(store) -> None:
    report = evaluate(store, SPLIT, "all", config=HOW)
    assert [row.name for row in report.rows] == FREE
    assert any(note.startswith("Nothing to fit on (no train split)") for note in report.notes())
    assert "Nothing to fit on" in format_report(report)
    assert report.row("random").figures["cosine_without_mean"] is None
    untrained = evaluate(store, Split((), (), tuple(range(36))), "test", config=HOW)
    assert [row.name for row in untrained.rows] == FREE


def test_in_sample_figures_are_labelled(store) -> None:
    report = evaluate(store, SPLIT, "train", config=replace(HOW, baselines=("copy-last",)))
    assert report.in_sample
    assert report.to_json()["in_sample"] is True
    assert "(in-sample)" in format_report(report).splitlines()[0]
    assert any("were trained on" in note for note in report.notes())


def test_limited_to_sources_but_fitted_on_everything(store) -> None:
    training = FittingData.of(store, SPLIT, EvaluationConfig(context=5))
    some = Split((), (20, 22), tuple(range(24, 36, 2)))
    report = evaluate(store, some, "test", config=HOW, training=training)
    assert (report.documents, len(report.rows)) == (6, len(BASELINES))
    everything = evaluate(store, SPLIT, "test", config=HOW)
    weights = [r.row("position weights").metadata["weights"] for r in (report, everything)]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("own", [LEAST_TO_CHOOSE_ON - 1, LEAST_TO_CHOOSE_ON])
def test_a_variant_is_chosen_on_the_sources_where_they_have_documents_enough(store, own: int) -> None:
    split = Split(tuple(range(12)), tuple(range(12, 28)), tuple(range(28, 36)))
    training = FittingData.of(store, split, HOW)
    limited = Split((), split.validation[: 2 * own : 2], split.test[::2])
    chosen_on = prepare(store, limited, "test", HOW, training, None)[2].validation
    expected = limited.validation if own >= LEAST_TO_CHOOSE_ON else split.validation
    assert set(chosen_on.document.tolist()) == set(expected)


def test_training_documents_are_refused(store) -> None:
    leaking = Split(SPLIT.train, (), (*SPLIT.test, 0, 1))
    with pytest.raises(LeakError, match=r"30 of 210 windows stand in training \(30 by document id"):
        evaluate(store, leaking, "test", config=HOW)
    training = FittingData.of(store, SPLIT, EvaluationConfig(context=5))
    with pytest.raises(LeakError):
        evaluate(store, SPLIT, "all", config=HOW, training=training)
    with pytest.raises(LeakError):
        evaluate(store, Split((), (), (0, 1)), "test", config=HOW, seen=training.seen)


def test_leaking_windows_are_dropped_and_counted(store) -> None:
    leaking = Split(SPLIT.train, (), (*SPLIT.test, 0))
    report = evaluate(store, leaking, "test", config=replace(HOW, baselines=("copy-last",)))
    assert (report.windows, report.leaks.dropped) == (180, 15)
    assert report.to_json()["dropped"]["windows"] == 15
    assert any(note.startswith("15 of 195 windows dropped") for note in report.notes())
    with pytest.raises(EvaluationError, match="no window is left"):
        evaluate(store, Split((0,), (), (0,)), "test", config=replace(HOW, leak_limit=1.0))


@pytest.mark.parametrize("candidates", ["split", "store", "document"])
def test_candidate_sets(store, candidates: str) -> None:
    report = evaluate(
        store, SPLIT, "test", config=replace(HOW, candidates=candidates, baselines=("copy-last",))
    )
    assert report.pool == {"split": 240, "store": 720, "document": 15}[candidates]
    figures = report.row("copy-last").figures
    known = [k for k in (1, 5, 10, 20, 50) if figures[f"recall@{k}"] is not None]
    assert known == ([1, 5, 10] if candidates == "document" else [1, 5, 10, 20, 50])
    format_report(report)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"candidates": "document", "ks": (1, 20)}, EvaluationError, "recall@20 among 15 candidates"),
        ({"context": 20}, WindowError, "the longest of 12 documents has 20"),
    ],
)
def test_evaluations_that_would_mean_nothing_are_refused(store, change, error, message: str) -> None:
    with pytest.raises(error, match=message):
        evaluate(store, SPLIT, "test", config=replace(HOW, **change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"candidates": "bank"}, "no candidate set 'bank'; choose one of: split, store, document"),
        ({"ks": (3,)}, "no recall@3; choose of: 1, 5, 10, 20, 50"),
        ({"baselines": ("magic",)}, "no baseline 'magic'"),
        ({"samples": 1}, "1 samples do not make a distribution; request 0, or 2 or more"),
    ],
)
def test_unknown_choices_are_named(change, message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        EvaluationConfig(**change)


def test_an_empty_split_is_named(store) -> None:
    with pytest.raises(SplitError, match="split 'test' has no documents"):
        evaluate(store, Split((0, 1), (), ()), "test", config=HOW)


def test_a_predictor_of_another_encoder_or_dimension_is_refused(store, worlds: SimpleNamespace) -> None:
    foreign = worlds.FunctionPredictor(worlds.kalman, name="foreign")
    foreign.encoder = "encoder-b"
    with pytest.raises(EncoderMismatchError, match="foreign was trained on vectors of another encoder"):
        evaluate(store, SPLIT, "test", [foreign], HOW)
    foreign.encoder, foreign.dimension = "encoder-a", 768
    with pytest.raises(VectorError, match="foreign takes vectors of 768 dimensions, the store has 12"):
        evaluate(store, SPLIT, "test", [foreign], HOW)


def test_two_rows_of_one_name_are_refused(store, worlds: SimpleNamespace) -> None:
    twins = [worlds.FunctionPredictor(worlds.kalman), worlds.FunctionPredictor(worlds.kalman)]
    with pytest.raises(EvaluationError, match="two predictors are called 'told'"):
        evaluate(store, SPLIT, "test", twins, HOW)


def test_context_left_among_the_candidates_is_noticed(store, monkeypatch: pytest.MonkeyPatch) -> None:
    how = replace(HOW, baselines=("copy-last",))
    with warnings.catch_warnings():
        warnings.simplefilter("error", NextvecWarning)
        evaluate(store, SPLIT, "test", config=how)

    def unmasked(*args: object, **kwargs: object) -> Pool:
        pool = made(*args, **kwargs)
        return replace(pool, read_high=pool.read_low)

    made = harness.make_pool
    monkeypatch.setattr(harness, "make_pool", unmasked)
    with pytest.warns(NextvecWarning, match="copy-last: recall@5 .* is more than 10 x recall@1"):
        evaluate(store, SPLIT, "test", config=how)


def test_speed_is_measured_when_asked_for(store) -> None:
    report = evaluate(store, SPLIT, "test", config=replace(HOW, speed=True, baselines=("copy-last",)))
    metadata = report.row("copy-last").metadata
    assert 0 < metadata["latency_p50_ms"] <= metadata["latency_p95_ms"] <= metadata["latency_p99_ms"]
    assert metadata["throughput"] > 0
    assert "p50 ms" in format_report(report)


def test_one_document_has_no_interval_and_it_says_so(store) -> None:
    report = evaluate(store, Split(SPLIT.train, (), (30,)), "test", config=HOW)
    assert all(not row.versus for row in report.rows)
    assert "One document only: no interval can be given." in report.notes()


@pytest.mark.parametrize(("documents", "few"), [(2, True), (9, True), (10, False)])
def test_an_interval_over_few_documents_is_called_worth_little(store, documents: int, few: bool) -> None:
    split = Split(SPLIT.train, (), SPLIT.test[:documents])
    report = evaluate(store, split, "test", config=replace(HOW, baselines=("copy-last", "mean vector")))
    message = f"Only {documents} documents ({report.windows} windows), over which no interval says much"
    assert any(note.startswith(message) for note in report.notes()) is few


def test_without_an_interval_nothing_is_claimed(store, oracle) -> None:
    report = evaluate(store, Split(SPLIT.train, (), (30,)), "test", [oracle], config=HOW)
    message = " ".join(report.notes())
    assert "oracle is not distinguishable from the best baseline by cosine: 1.0000, " in message
    assert "better than" not in message
