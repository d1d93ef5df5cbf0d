"""Maximal marginal relevance: the order given at 1, the most different at 0, by hand in between."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nextvec.errors import RetrievalError
from nextvec.retrieval.strategies import mmr
from nextvec.vectors import unit


def made(seed: int, Q: int, V: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    scores = -np.sort(-rng.uniform(-1, 1, (Q, V)).astype(np.float32), axis=1)
    return scores, unit(rng.standard_normal((Q, V, 5)))


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 1000), Q=st.integers(1, 3), V=st.integers(1, 12), data=st.data())
def test_a_trade_off_of_one_is_the_order_given(seed: int, Q: int, V: int, data: st.DataObject) -> None:
    scores, candidates = made(seed, Q, V)
    scores = np.round(scores, 1)  # with equal ones
    k = data.draw(st.integers(1, V))
    assert mmr(scores, candidates, k, 1.0).tolist() == [list(range(k))] * Q


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 1000), V=st.integers(1, 12), trade_off=st.floats(0, 1))
def test_as_the_formula_says(seed: int, V: int, trade_off: float) -> None:
    scores, candidates = made(seed, 1, V)
    picked = mmr(scores, candidates, V, trade_off)[0].tolist()
    assert sorted(picked) == list(range(V))
    assert picked[0] == 0
    for step in range(1, V):
        worth = {
            i: trade_off * scores[0, i]
            - (1 - trade_off) * max(candidates[0, i] @ candidates[0, j] for j in picked[:step])
            for i in set(range(V)) - set(picked[:step])
        }
        assert worth[picked[step]] == pytest.approx(max(worth.values()), abs=1e-5)


def test_a_copy_comes_last_where_diversity_counts() -> None:
    candidates = unit(np.array([[[1.0, 0.1], [1.0, 0.1], [0.2, 1.0]]]))
    scores = np.array([[0.9, 0.9, 0.5]], dtype=np.float32)
    assert mmr(scores, candidates, 3, 0.5).tolist() == [[0, 2, 1]]
    assert mmr(scores, candidates, 2, 0.99).tolist() == [[0, 1]]


@pytest.mark.parametrize(
    ("k", "trade_off", "says"),
    [(4, 0.5, "4 of 3"), (0, 0.5, "0 of 3"), (1, 1.5, "trade-off of 1.5"), (1, -0.1, "trade-off of -0.1")],
)
def test_bad_input(k: int, trade_off: float, says: str) -> None:
    with pytest.raises(RetrievalError, match=says):
        mmr(*made(0, 1, 3), k, trade_off)
