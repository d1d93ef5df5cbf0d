"""The computing pieces of the diagnosis against plain loops, and their laws."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextvec.diagnostics.ablations import _lengths, _of_other_documents
from nextvec.diagnostics.examples import find_examples, nearest_candidates, nearest_cosine
from nextvec.diagnostics.failures import crowded_out, find_failures, odd_texts
from nextvec.diagnostics.groups import _unrest, quantile_masks
from nextvec.diagnostics.sections import prepare, sample, score, spearman
from nextvec.evaluation.baselines import LinearAverage
from nextvec.evaluation.intervals import Estimate, estimate
from nextvec.evaluation.predictor_protocol import unit
from nextvec.text import table

D = 8


def case_of(worlds: SimpleNamespace, evaluation_set, guess, texts=None):
    documents = [
        SimpleNamespace(doc_id=f"d{i}", title="", source="s", count=int(c))
        for i, c in enumerate(np.bincount(evaluation_set.windows.document) + evaluation_set.windows.context)
    ]
    output = worlds.FunctionPredictor(guess)
    read = texts or (lambda rows: [f"text {int(r)}" for r in rows])
    return prepare(evaluation_set, output, [LinearAverage(3)], documents, read)


def eligible(evaluation_set, i: int) -> list[int]:
    """Rows that window i may choose, by a loop."""
    w = evaluation_set.windows
    return [r for r in evaluation_set.pool.rows.tolist() if not w.first[i] <= r <= w.last[i]]


@pytest.fixture(scope="module")
def evaluation_set(worlds: SimpleNamespace):
    return worlds.evaluation_set(worlds.noisy(np.random.default_rng(0), 9, 12, D), context=3)


def test_nearest_cosine_is_that_of_a_loop() -> None:
    rng = np.random.default_rng(1)
    queries, rows = unit(rng.standard_normal((30, D))), rng.standard_normal((50, D)).astype(np.float32)
    among = np.arange(5, 45)
    expected = [max(float(q @ unit(rows[r])) for r in among) for q in queries]
    assert nearest_cosine(queries, rows, among) == pytest.approx(expected, abs=1e-6)


def test_nearest_candidates_leave_out_what_was_read(evaluation_set) -> None:
    windows = np.arange(0, len(evaluation_set), 7)
    copied = evaluation_set.last_units[windows]
    found = nearest_candidates(evaluation_set, copied, windows)
    vectors = unit(evaluation_set.vectors)
    expected = [
        max(eligible(evaluation_set, i), key=lambda r: float(u @ vectors[r]))
        for i, u in zip(windows, copied, strict=True)
    ]
    assert found.tolist() == expected


def test_near_duplicates_above_the_target_are_those_of_a_loop(worlds: SimpleNamespace) -> None:
    rng = np.random.default_rng(2)
    vectors = worlds.noisy(rng, 8, 12, D)
    vectors[3, 8] = vectors[2, 8] + 0.05 * rng.standard_normal(D)  # distractors
    vectors[5, 5] = vectors[4, 5] + 0.05 * rng.standard_normal(D)
    evaluation_set = worlds.evaluation_set(vectors, context=3)
    units = unit(rng.standard_normal((len(evaluation_set), D)))
    failed = np.ones(len(evaluation_set), dtype=bool)
    failed[::3] = False
    directions, near = unit(evaluation_set.vectors), 0.9
    expected = []
    for i in range(len(evaluation_set)):
        target = directions[evaluation_set.windows.target[i]]
        above = [
            r
            for r in eligible(evaluation_set, i)
            if r != evaluation_set.windows.target[i] and units[i] @ directions[r] > units[i] @ target
        ]
        expected.append(bool(failed[i]) and any(directions[r] @ target >= near for r in above))
    assert crowded_out(evaluation_set, units, failed, near).tolist() == expected
    assert 0 < sum(expected) < failed.sum()


def test_every_failure_has_its_causes(worlds: SimpleNamespace, evaluation_set) -> None:
    def texts(rows):
        return ["tiny" if r % 5 == 0 else "a chunk of a good many words in one row" for r in rows]

    case = case_of(worlds, evaluation_set, lambda c, n: -c[:, 0], texts)
    found = find_failures(case)
    failed = case.scores.ranks > 20
    assert found.possible
    assert found.failures == failed.sum() > 0
    assert found.baseline_failures == (case.best_scores.ranks > 20).sum()
    assert found.shared == (failed & (case.best_scores.ranks > 20)).sum()
    causes = {c.name: c for c in found.causes}
    short = evaluation_set.windows.target % 5 == 0
    assert causes["short or odd text"].failures == (short & failed).sum()
    assert causes["short or odd text"].share_of_successes == pytest.approx(
        (short & ~failed).sum() / (~failed).sum()
    )
    shifted = case.shift > np.quantile(case.shift, 2 / 3)
    assert causes["topic shift"].failures == (shifted & failed).sum()
    assert found.left_out == ("near the mean vector (nothing was trained on)",)
    assert found.unexplained <= (failed & ~shifted & ~short).sum()
    assert "none of these" in "\n".join(found.lines())


def test_a_pool_of_twenty_has_no_failures(worlds: SimpleNamespace) -> None:
    few = worlds.evaluation_set(worlds.noisy(np.random.default_rng(0), 2, 9, D), context=3)
    found = find_failures(case_of(worlds, few, lambda c, n: c[:, 0]))
    assert not found.possible
    assert found.verdicts() == []


def test_odd_texts() -> None:
    usual = ["The cat sat on the mat and looked at all of us."] * 6
    hindi = "बिल्ली चटाई पर बैठी और हम सब को देखती रही थी जी"
    mask, meaning = odd_texts(
        [*usual, "Yes.", "{[0x3f] = 1 << 2; /* 7 */ a[3] += 99; } // 0101 0110 1001", hindi, ""]
    )
    assert mask.tolist() == [False] * 6 + [True, True, False, True]
    assert "fewer than 4 words" in meaning
    assert odd_texts(["", "", "one text"])[0] is None


def test_examples_are_the_worst_and_seeded_others(worlds: SimpleNamespace, evaluation_set) -> None:
    case = case_of(worlds, evaluation_set, lambda c, n: c[:, 0])
    found = find_examples(case, worst=5, random=4)
    assert [e.cosine for e in found.worst] == sorted(case.cosine)[:5]
    assert len({(e.document, e.position) for e in (*found.worst, *found.random)}) == 9
    first = found.worst[0]
    i = int(case.cosine.argmin())
    assert first.target == f"text {evaluation_set.windows.target[i]}"
    assert first.last == f"text {evaluation_set.windows.last[i]}"
    assert first.rank == case.scores.ranks[i]
    everything = find_examples(case, worst=10**6, random=4)
    assert (len(everything.worst), len(everything.random)) == (len(evaluation_set), 0)
    assert "4 others at random:" in found.lines()
    assert not [line for line in everything.lines() if "at random" in line]


def test_score_agrees_with_the_judgement(worlds: SimpleNamespace, evaluation_set) -> None:
    case = case_of(worlds, evaluation_set, lambda c, n: c.sum(1) / n[:, None])
    cosine, mse = score(case.model, evaluation_set.vectors, evaluation_set.windows)
    assert cosine == pytest.approx(case.cosine)
    assert mse.mean() == pytest.approx(((case.scores.raw - evaluation_set.targets) ** 2).mean(), rel=1e-5)


def test_unrest_is_the_last_chunk_against_those_before_it(worlds: SimpleNamespace, evaluation_set) -> None:
    case = case_of(worlds, evaluation_set, lambda c, n: c[:, 0])
    vectors = evaluation_set.vectors
    expected = [
        1 - float(unit(vectors[r]) @ unit((vectors[r - 1] + vectors[r - 2]) / 2))
        for r in evaluation_set.windows.last
    ]
    assert _unrest(case) == pytest.approx(expected, abs=1e-6)
    alone = worlds.evaluation_set(vectors.reshape(9, 12, D), context=1)
    assert _unrest(case_of(worlds, alone, lambda c, n: c[:, 0])) is None


def test_estimates() -> None:
    documents = np.repeat(np.arange(6), 4)
    values = np.linspace(0, 1, 24)
    same = estimate(documents, values, values)
    assert (same.value, same.low, same.high, same.clear) == (0, 0, 0, False)
    up = estimate(documents, values + 0.5, values)
    assert up.clear
    assert up.show(sign=True) == "+.500 [.500, .500]"
    alone = estimate(np.zeros(24, dtype=np.int64), values)
    assert (alone.low, alone.clear) == (None, False)
    assert str(alone) == ".500"
    assert not Estimate(0.0005, 0.0004, 0.0006).clear, "sure, but not worth naming"
    assert not Estimate(0.1, -0.05, 0.25).negligible, "unknown, not nothing"
    assert Estimate(0.0001, -0.0001, 0.0003).negligible
    assert not alone.negligible
    assert str(Estimate(-0.00001, -0.00002, 0.00001)) == ".000 [.000, .000]"


def test_spearman() -> None:
    x = np.array([3.0, 1, 2, 5, 4])
    assert spearman(x, x**3) == pytest.approx(1)
    assert spearman(x, -x) == pytest.approx(-1)
    assert spearman(x, np.ones(5)) is None
    # ties at their mean rank: ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4
    assert spearman(np.array([1, 2, 2, 3]), np.arange(4)) == pytest.approx(4.5 / np.sqrt(4.5 * 5))


@given(st.lists(st.integers(0, 9), min_size=1, max_size=60), st.integers(2, 10))
def test_quantile_parts_divide_and_never_part_equals(values: list[int], count: int) -> None:
    array = np.array(values)
    parts = quantile_masks(array, count)
    assert 1 <= len(parts) <= count
    assert np.array_equal(np.sum(parts, axis=0), np.ones(len(values)))
    tops = [array[p].max() for p in parts]
    bottoms = [array[p].min() for p in parts]
    assert all(top < bottom for top, bottom in zip(tops, bottoms[1:], strict=False))


@given(st.lists(st.integers(0, 5), min_size=1, max_size=50), st.integers(0, 3))
def test_donors_are_of_other_documents(documents: list[int], seed: int) -> None:
    array = np.array(documents)
    donor = _of_other_documents(array, np.random.default_rng(seed))
    if len(set(documents)) == 1:
        assert donor is None
    else:
        assert (array[donor] != array).all()
        if np.bincount(array).max() * 2 <= len(array):
            assert sorted(donor) == list(range(len(array)))


def test_lengths_and_samples() -> None:
    assert _lengths(32) == [1, 2, 3, 5, 8, 13, 21]
    assert _lengths(2) == [1]
    assert _lengths(1) == []
    assert sample(5, 10, 0).tolist() == [0, 1, 2, 3, 4]
    drawn = sample(100, 10, 0)
    assert len(set(drawn)) == 10
    assert (np.diff(drawn) > 0).all()
    assert drawn.tolist() == sample(100, 10, 0).tolist() != sample(100, 10, 1).tolist()


def test_table() -> None:
    assert table(["a", "bb"], [["long", "1"]]) == ["a     bb", "----  --", "long   1"]
