from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nextvec.evaluation import ranking as retrieval
from nextvec.evaluation.predictor_protocol import unit
from nextvec.evaluation.ranking import ranks


def brute_force(evaluation_set, units, texts):
    """Rank by a plain loop over windows and candidates, in float64."""
    vectors, windows, found = evaluation_set.vectors.astype(np.float64), evaluation_set.windows, []
    directions = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for i in range(len(windows)):
        target, first, last = (int(a[i]) for a in (windows.target, windows.first, windows.last))
        cosines = directions @ units[i].astype(np.float64)
        rank = 1
        for position, row in enumerate(evaluation_set.pool.rows.tolist()):
            same = texts[row] == texts[target] or np.array_equal(
                evaluation_set.vectors[row], evaluation_set.vectors[target]
            )
            outside = not evaluation_set.pool.low[i] <= position < evaluation_set.pool.high[i]
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
    evaluation_set = worlds.evaluation_set(
        vectors, counts, horizon=horizon, kind=kind, evaluated=[0, 2, 4], texts=texts
    )
    units = unit(
        evaluation_set.targets + 1.5 * rng.standard_normal(evaluation_set.targets.shape).astype(np.float32)
    )
    assert ranks(units, evaluation_set.vectors, evaluation_set.pool).tolist() == brute_force(
        evaluation_set, units, texts
    )
    assert len(evaluation_set.pool) == (44 if kind == "store" else 34)


def test_five_hundred_windows_of_many_blocks(
    worlds: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrieval, "CANDIDATE_BLOCK", 97)
    monkeypatch.setattr(retrieval, "WINDOW_BLOCK", 31)
    rng = np.random.default_rng(2)
    vectors = worlds.noisy(rng, 20, 28, 16)
    evaluation_set = worlds.evaluation_set(vectors)
    units = unit(
        worlds.kalman(
            evaluation_set.vectors[evaluation_set.windows.last][:, None],
            np.ones(len(evaluation_set), dtype=int),
        )
    )
    texts = [f"text {i}" for i in range(560)]
    assert len(evaluation_set) == 500
    assert ranks(units, evaluation_set.vectors, evaluation_set.pool).tolist() == brute_force(
        evaluation_set, units, texts
    )


def test_candidates_nearer_than_float32_can_tell_are_ranked_right(worlds: SimpleNamespace) -> None:
    rng = np.random.default_rng(3)
    target = unit(rng.standard_normal(64))
    others = unit(
        np.repeat(target[None], 40, axis=0) + 3e-8 * rng.standard_normal((40, 64)).astype(np.float32)
    )
    vectors = np.concatenate([rng.standard_normal((1, 64)), target[None], others]).astype(np.float32)
    evaluation_set = worlds.evaluation_set(vectors, [2, 40], context=1, evaluated=[0, 1])
    units = np.repeat(unit(target + 0.3 * rng.standard_normal(64))[None], len(evaluation_set), axis=0)
    texts = [f"t{i}" for i in range(42)]
    expected = brute_force(evaluation_set, units, texts)
    assert ranks(units, evaluation_set.vectors, evaluation_set.pool).tolist() == expected
    assert len(set(expected)) > 5


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_order_of_the_documents_does_not_change_a_rank(worlds: SimpleNamespace, seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((5, 6, 8)).astype(np.float32)
    vectors[3, 4] = vectors[1, 5]
    order = rng.permutation(5)
    one, other = worlds.evaluation_set(vectors), worlds.evaluation_set(vectors[order])
    guess = unit(one.targets + rng.standard_normal(one.targets.shape).astype(np.float32))
    per_document = guess.reshape(5, -1, 8)
    straight = ranks(guess, one.vectors, one.pool).reshape(5, -1)
    shuffled = ranks(np.concatenate(per_document[order]), other.vectors, other.pool).reshape(5, -1)
    assert np.array_equal(straight[order], shuffled)


def test_what_was_read_is_no_candidate_and_what_comes_later_is(worlds: SimpleNamespace) -> None:
    vectors = np.random.default_rng(0).standard_normal((1, 6, 8)).astype(np.float32)
    evaluation_set = worlds.evaluation_set(vectors, context=3)
    copies = unit(
        evaluation_set.vectors[evaluation_set.windows.last]
    )  # the best match is the last chunk read
    assert evaluation_set.pool.eligible.tolist() == [3, 2, 1]
    assert (ranks(copies, evaluation_set.vectors, evaluation_set.pool) <= evaluation_set.pool.eligible).all()
    ahead = unit(evaluation_set.vectors[np.minimum(evaluation_set.windows.target + 1, 5)])
    assert (ranks(ahead, evaluation_set.vectors, evaluation_set.pool)[:2] > 1).all()


def test_ties_count_for_the_target_and_are_counted(worlds: SimpleNamespace) -> None:
    vectors = np.random.default_rng(0).standard_normal((2, 5, 8)).astype(np.float32)
    vectors[1, :] = vectors[0, :]
    evaluation_set = worlds.evaluation_set(vectors, context=3)
    assert ranks(evaluation_set.target_units, evaluation_set.vectors, evaluation_set.pool).tolist() == [
        1,
        1,
        1,
        1,
    ]
    assert evaluation_set.pool.ties.tolist() == [1, 1, 1, 1]
    # ten candidates, three or four read, one tied
    assert evaluation_set.pool.eligible.tolist() == [6, 5, 6, 5]
    blank = worlds.evaluation_set(
        np.random.default_rng(0).standard_normal((2, 5, 8)).astype(np.float32), texts=[" "] * 10
    )
    assert blank.pool.ties.tolist() == [0, 0, 0, 0]


def test_chance_is_what_a_random_predictor_reaches(worlds: SimpleNamespace) -> None:
    rng = np.random.default_rng(0)
    evaluation_set = worlds.evaluation_set(
        rng.standard_normal((30, 43, 16)).astype(np.float32), kind="document"
    )
    found = ranks(
        unit(rng.standard_normal((len(evaluation_set), 16))), evaluation_set.vectors, evaluation_set.pool
    )
    three_errors = 3 * 0.5 / np.sqrt(len(evaluation_set))
    assert abs((found <= 5).mean() - evaluation_set.pool.chance_recall(5)) < three_errors
    assert abs((1 / found).mean() - evaluation_set.pool.chance_mrr()) < three_errors
    assert evaluation_set.pool.chance_recall(10**6) == 1.0


def test_lower_precision_allowed_elsewhere_is_put_aside_and_given_back(worlds: SimpleNamespace) -> None:
    seen = []
    evaluation_set = worlds.evaluation_set(
        np.random.default_rng(0).standard_normal((1, 6, 8)).astype(np.float32)
    )

    class Watched:
        shape = evaluation_set.vectors.shape

        def __len__(self) -> int:
            return len(evaluation_set.vectors)

        def __getitem__(self, rows: object) -> np.ndarray:
            seen.append(torch.get_float32_matmul_precision())
            return evaluation_set.vectors[rows]

    torch.set_float32_matmul_precision("medium")
    try:
        ranks(evaluation_set.target_units, Watched(), evaluation_set.pool)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert seen[-1] == "highest"
