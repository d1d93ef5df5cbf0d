from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nextvec.evaluation import ranking as retrieval
from nextvec.evaluation.predictor import unit
from nextvec.evaluation.ranking import ranks


def brute_force(exam, units, texts):
    """Rank by a plain loop over windows and candidates, in float64."""
    vectors, windows, found = exam.vectors.astype(np.float64), exam.windows, []
    directions = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for i in range(len(windows)):
        target, first, last = (int(a[i]) for a in (windows.target, windows.first, windows.last))
        cosines = directions @ units[i].astype(np.float64)
        rank = 1
        for position, row in enumerate(exam.pool.rows.tolist()):
            same = texts[row] == texts[target] or np.array_equal(exam.vectors[row], exam.vectors[target])
            outside = not exam.pool.low[i] <= position < exam.pool.high[i]
            if not (first <= row <= last or same or outside):
                rank += cosines[row] > cosines[target]
        found.append(rank)
    return found


@pytest.mark.parametrize("kind", ["split", "store", "document"])
@pytest.mark.parametrize("horizon", [1, 2])
def test_ranks_are_those_of_a_brute_force_loop(worlds: SimpleNamespace, kind: str, horizon: int) -> None:
    rng = np.random.default_rng(1)
    counts = [9, 4, 14, 6, 11]
    vectors = rng.standard_normal((sum(counts), 12)).astype(np.float32)
    texts = [f"t{i}" for i in range(len(vectors))]
    vectors[20], vectors[33] = vectors[5], vectors[5]  # equal vectors, other texts
    texts[8] = texts[25] = texts[40] = "again"  # equal texts, other vectors
    exam = worlds.exam(vectors, counts, horizon=horizon, kind=kind, judged=[0, 2, 4], texts=texts)
    units = unit(exam.targets + 1.5 * rng.standard_normal(exam.targets.shape).astype(np.float32))
    assert ranks(units, exam.vectors, exam.pool).tolist() == brute_force(exam, units, texts)
    assert len(exam.pool) == (44 if kind == "store" else 34)


def test_five_hundred_windows_of_many_blocks(
    worlds: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrieval, "CANDIDATE_BLOCK", 97)
    monkeypatch.setattr(retrieval, "WINDOW_BLOCK", 31)
    rng = np.random.default_rng(2)
    vectors = worlds.noisy(rng, 20, 28, 16)
    exam = worlds.exam(vectors)
    units = unit(worlds.kalman(exam.vectors[exam.windows.last][:, None], np.ones(len(exam), dtype=int)))
    texts = [f"text {i}" for i in range(560)]
    assert len(exam) == 500
    assert ranks(units, exam.vectors, exam.pool).tolist() == brute_force(exam, units, texts)


def test_candidates_nearer_than_float32_can_tell_are_ranked_right(worlds: SimpleNamespace) -> None:
    rng = np.random.default_rng(3)
    target = unit(rng.standard_normal(64))
    others = unit(
        np.repeat(target[None], 40, axis=0) + 3e-8 * rng.standard_normal((40, 64)).astype(np.float32)
    )
    vectors = np.concatenate([rng.standard_normal((1, 64)), target[None], others]).astype(np.float32)
    exam = worlds.exam(vectors, [2, 40], context=1, judged=[0, 1])
    units = np.repeat(unit(target + 0.3 * rng.standard_normal(64))[None], len(exam), axis=0)
    texts = [f"t{i}" for i in range(42)]
    expected = brute_force(exam, units, texts)
    assert ranks(units, exam.vectors, exam.pool).tolist() == expected
    assert len(set(expected)) > 5


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_order_of_the_documents_does_not_change_a_rank(worlds: SimpleNamespace, seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((5, 6, 8)).astype(np.float32)
    vectors[3, 4] = vectors[1, 5]
    order = rng.permutation(5)
    one, other = worlds.exam(vectors), worlds.exam(vectors[order])
    guess = unit(one.targets + rng.standard_normal(one.targets.shape).astype(np.float32))
    per_document = guess.reshape(5, -1, 8)
    straight = ranks(guess, one.vectors, one.pool).reshape(5, -1)
    shuffled = ranks(np.concatenate(per_document[order]), other.vectors, other.pool).reshape(5, -1)
    assert np.array_equal(straight[order], shuffled)


def test_what_was_read_is_no_candidate_and_what_comes_later_is(worlds: SimpleNamespace) -> None:
    vectors = np.random.default_rng(0).standard_normal((1, 6, 8)).astype(np.float32)
    exam = worlds.exam(vectors, context=3)
    copies = unit(exam.vectors[exam.windows.last])  # the best match is the last chunk read
    assert exam.pool.eligible.tolist() == [3, 2, 1]
    assert (ranks(copies, exam.vectors, exam.pool) <= exam.pool.eligible).all()
    ahead = unit(exam.vectors[np.minimum(exam.windows.target + 1, 5)])
    assert (ranks(ahead, exam.vectors, exam.pool)[:2] > 1).all()


def test_ties_count_for_the_target_and_are_counted(worlds: SimpleNamespace) -> None:
    vectors = np.random.default_rng(0).standard_normal((2, 5, 8)).astype(np.float32)
    vectors[1, :] = vectors[0, :]
    exam = worlds.exam(vectors, context=3)
    assert ranks(exam.target_units, exam.vectors, exam.pool).tolist() == [1, 1, 1, 1]
    assert exam.pool.ties.tolist() == [1, 1, 1, 1]
    # ten candidates, three or four read, one tied
    assert exam.pool.eligible.tolist() == [6, 5, 6, 5]
    blank = worlds.exam(
        np.random.default_rng(0).standard_normal((2, 5, 8)).astype(np.float32), texts=[" "] * 10
    )
    assert blank.pool.ties.tolist() == [0, 0, 0, 0]


def test_chance_is_what_a_random_predictor_reaches(worlds: SimpleNamespace) -> None:
    rng = np.random.default_rng(0)
    exam = worlds.exam(rng.standard_normal((30, 43, 16)).astype(np.float32), kind="document")
    found = ranks(unit(rng.standard_normal((len(exam), 16))), exam.vectors, exam.pool)
    three_errors = 3 * 0.5 / np.sqrt(len(exam))
    assert abs((found <= 5).mean() - exam.pool.chance_recall(5)) < three_errors
    assert abs((1 / found).mean() - exam.pool.chance_mrr()) < three_errors
    assert exam.pool.chance_recall(10**6) == 1.0


def test_lower_precision_allowed_elsewhere_is_put_aside_and_given_back(worlds: SimpleNamespace) -> None:
    seen = []
    exam = worlds.exam(np.random.default_rng(0).standard_normal((1, 6, 8)).astype(np.float32))

    class Watched:
        shape = exam.vectors.shape

        def __len__(self) -> int:
            return len(exam.vectors)

        def __getitem__(self, rows: object) -> np.ndarray:
            seen.append(torch.get_float32_matmul_precision())
            return exam.vectors[rows]

    torch.set_float32_matmul_precision("medium")
    try:
        ranks(exam.target_units, Watched(), exam.pool)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert seen[-1] == "highest"
