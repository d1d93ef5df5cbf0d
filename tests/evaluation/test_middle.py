"""Task middle: what is missing between the chunks read, by the same judge as what comes next."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from nextvec.data.gather import gather_contexts
from nextvec.data.splits import Split
from nextvec.data.windows import reading_order
from nextvec.diagnostics.examples import best_and_worst
from nextvec.errors import EvaluationError, WindowError
from nextvec.evaluation.baselines.linear import PositionWeights
from nextvec.evaluation.baselines.simple import window_mean
from nextvec.evaluation.harness import EvaluationConfig, evaluate
from nextvec.evaluation.metrics import METRICS, Scores
from nextvec.evaluation.predictor_protocol import unit
from nextvec.evaluation.ranking import ranks
from nextvec.evaluation.table import format_report
from nextvec.evaluation.trajectory import OFFSETS, offset_cosines, rollable
from nextvec.selfcheck.predictors import FunctionPredictor

COUNTS = [9, 4, 14, 6, 11]
CONTEXT = 4
SPLIT = Split(tuple(range(24)), tuple(range(24, 30)), tuple(range(30, 40)))


def made(worlds: SimpleNamespace, kind: str = "split", **options):
    """An evaluation set with equal texts and vectors in it, predictions, and the texts."""
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((sum(COUNTS), 12)).astype(np.float32)
    texts = [f"t{i}" for i in range(len(vectors))]
    vectors[20], vectors[33] = vectors[5], vectors[5]
    vectors[16] = vectors[17]  # of one document, both within reach of a gap
    texts[8] = texts[25] = texts[40] = "again"
    evaluation_set = worlds.evaluation_set(
        vectors,
        COUNTS,
        context=CONTEXT,
        task="middle",
        kind=kind,
        evaluated=[0, 2, 4],
        texts=texts,
        **options,
    )
    units = unit(
        evaluation_set.targets + 1.5 * rng.standard_normal(evaluation_set.targets.shape).astype(np.float32)
    )
    return evaluation_set, units, texts


def may_be_chosen(evaluation_set, texts: list[str], i: int) -> list[int]:
    """Rows that can come before the target of window i, by a plain loop: all but what was read, the target
    and its equals."""
    vectors, target = evaluation_set.vectors, int(evaluation_set.windows.target[i])
    read = {target + int(step) for step in reading_order(CONTEXT)}
    return [
        row
        for position, row in enumerate(evaluation_set.pool.rows.tolist())
        if evaluation_set.pool.low[i] <= position < evaluation_set.pool.high[i]
        and row not in read
        and texts[row] != texts[target]
        and not np.array_equal(vectors[row], vectors[target])
    ]


@pytest.mark.parametrize("kind", ["split", "store", "document"])
def test_ranks_leave_out_just_the_chunks_read(worlds: SimpleNamespace, kind: str) -> None:
    evaluation_set, units, texts = made(worlds, kind)
    directions = unit(evaluation_set.vectors).astype(np.float64)
    expected, eligible = [], []
    for i, target in enumerate(evaluation_set.windows.target.tolist()):
        among = may_be_chosen(evaluation_set, texts, i)
        cosines = directions @ units[i].astype(np.float64)
        expected.append(1 + sum(cosines[row] > cosines[target] for row in among))
        eligible.append(1 + len(among))
    assert evaluation_set.windows.target.tolist() == [*range(2, 7), *range(15, 25), *range(35, 42)]
    assert ranks(units, evaluation_set.vectors, evaluation_set.pool).tolist() == expected
    assert evaluation_set.pool.eligible.tolist() == eligible
    assert evaluation_set.pool.chance_recall(1) == pytest.approx(np.mean(1 / np.array(eligible)))
    part = evaluation_set.select(slice(3, 9))
    assert part.ranks(units[3:9]).tolist() == expected[3:9]


def test_contrastive_accuracy_leaves_out_what_was_read_and_nothing_else(worlds: SimpleNamespace) -> None:
    evaluation_set, units, texts = made(worlds)
    truth = unit(evaluation_set.targets).astype(np.float64)
    found = METRICS["contrastive_accuracy"].values(Scores(evaluation_set, units, units, {}, None))
    rows = evaluation_set.windows.target.tolist()
    for i in range(len(evaluation_set)):
        others = [j for j in range(len(evaluation_set)) if rows[j] in may_be_chosen(evaluation_set, texts, i)]
        own = units[i] @ truth[i]
        assert found[i] == pytest.approx(np.mean([units[i] @ truth[j] < own for j in others]))


def test_contexts_are_both_sides_of_the_gap_the_nearest_last(worlds: SimpleNamespace) -> None:
    evaluation_set, _, _ = made(worlds)
    for width in (1, 2, 3, 4, 9):
        contexts, lengths = gather_contexts(evaluation_set.vectors, evaluation_set.windows, width)
        assert contexts.shape == (len(evaluation_set), width, 12)
        assert set(lengths.tolist()) == {min(width, CONTEXT)}
        for i, target in enumerate(evaluation_set.windows.target.tolist()):
            rows = target + reading_order(CONTEXT)[-width:]
            assert (contexts[i, : len(rows)] == evaluation_set.vectors[rows]).all()
            assert (contexts[i, len(rows) :] == 0).all()
    assert (evaluation_set.windows.last == evaluation_set.windows.target + 1).all()
    assert (evaluation_set.windows.read == CONTEXT).all()


def test_the_mean_of_the_training_windows_counts_every_chunk_in_one_once(worlds: SimpleNamespace) -> None:
    evaluation_set, _, _ = made(worlds)
    used = [*range(9), *range(13, 27), *range(33, 44)]
    assert window_mean(evaluation_set.vectors, evaluation_set.windows) == pytest.approx(
        evaluation_set.vectors[used].mean(0), abs=1e-6
    )


def test_offsets_stay_in_the_document_and_nothing_is_rolled_out(worlds: SimpleNamespace) -> None:
    evaluation_set, units, _ = made(worlds)
    found = offset_cosines(units, evaluation_set)
    starts = np.cumsum([0, *COUNTS])
    for i, (target, document) in enumerate(
        zip(evaluation_set.windows.target, evaluation_set.windows.document, strict=True)
    ):
        for k in OFFSETS:
            inside = starts[document] <= target + k < starts[document + 1]
            assert np.isnan(found[k][i]) != inside
    assert len(rollable(evaluation_set, 1)) == 0


@pytest.fixture(scope="module")
def store(worlds: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory):
    vectors = worlds.noisy(np.random.default_rng(0), 40, 24, 12)
    return worlds.store(tmp_path_factory.mktemp("stores") / "noisy", vectors)


def test_models_and_baselines_are_evaluated_by_the_same_harness(store, worlds: SimpleNamespace) -> None:
    both_sides = FunctionPredictor(lambda c, n: c[:, -2:].mean(axis=1), name="neighbours", context=CONTEXT)
    gaps = np.concatenate([np.arange(24 * d + 2, 24 * d + 22) for d in SPLIT.test])
    known = {store.vectors[row + 1].tobytes(): store.vectors[row] for row in gaps.tolist()}
    oracle = FunctionPredictor(
        lambda c, n: np.stack([known[last.tobytes()] for last in c[:, -1]]), name="oracle", context=CONTEXT
    )
    how = EvaluationConfig(context=CONTEXT, task="middle", resamples=50, quiet=True)
    report = evaluate(store, SPLIT, "test", [both_sides, oracle], how)
    assert (report.windows, report.task, report.horizon) == (10 * 20, "middle", 1)
    assert report.row("oracle").figures["recall@1"] == 1.0
    assert report.row("oracle").figures["cosine"] == pytest.approx(1.0, abs=1e-6)
    figures = {row.name: row.figures["cosine"] for row in report.rows}
    # a hidden state seen with noise is told better from both sides than from one
    assert figures["neighbours"] > figures["copy-last"] + 0.02
    ahead = evaluate(store, SPLIT, "test", [], EvaluationConfig(context=CONTEXT, resamples=50, quiet=True))
    for name in ("position weights", "exponential averages"):
        assert figures[name] > ahead.row(name).figures["cosine"] + 0.02
        assert figures[name] >= figures["neighbours"] - 0.002
    assert report.to_json()["task"] == "middle"
    assert "context 4, task middle (half of it on either side of the target)." in format_report(report)


def test_position_weights_see_that_both_sides_are_worth_the_same(worlds: SimpleNamespace) -> None:
    vectors = worlds.noisy(np.random.default_rng(0), 200, 20, 12)
    evaluation_set = worlds.evaluation_set(vectors, context=CONTEXT, task="middle")
    fitted = PositionWeights(CONTEXT)
    fitted.fit(evaluation_set.vectors, evaluation_set.windows, None)
    outer_left, outer_right, left, right = fitted.weights
    assert left == pytest.approx(right, abs=0.03)
    assert outer_left == pytest.approx(outer_right, abs=0.03)
    assert left > outer_left > 0


def test_examples_do_not_offer_what_was_read(store, worlds: SimpleNamespace) -> None:
    how = EvaluationConfig(context=CONTEXT, task="middle")
    windows = how.windows(store, SPLIT.test)
    copy = FunctionPredictor(lambda c, n: c[:, -1], name="copy", context=CONTEXT)
    texts = store.texts(np.arange(len(store.vectors)))
    for _, examples in best_and_worst(store, copy, windows, SPLIT.test, 3):
        assert len(examples) == 3
        for example in examples:
            target = texts.index(example.target)
            assert texts.index(example.last) == target + 1
            assert texts.index(example.nearest) not in (target + reading_order(CONTEXT)).tolist()


def test_what_cannot_be_asked_is_refused(store) -> None:
    with pytest.raises(EvaluationError, match=r"no task 'last'; .*next, middle|no task 'last'"):
        EvaluationConfig(task="last")
    for wrong in ({"context": 5}, {"context": 4, "horizon": 2}):
        with pytest.raises(WindowError, match=r"task middle with context .* even context"):
            evaluate(store, SPLIT, "test", [], EvaluationConfig(**wrong, task="middle", quiet=True))
    with pytest.raises(WindowError, match=r"one amid them: .* has 24; use a context of at most 22"):
        evaluate(store, SPLIT, "test", [], EvaluationConfig(context=24, task="middle", quiet=True))
