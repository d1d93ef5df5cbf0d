"""The exact index finds what sorting all cosines finds, whatever the blocks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nextvec.corpus.store import Store
from nextvec.errors import EncoderMismatchError, RetrievalError, VectorError
from nextvec.retrieval import engine as exact
from nextvec.retrieval import index as index_module
from nextvec.retrieval.engine import ExactIndex
from nextvec.vectors import RawVectors, UnitVectors, unit


def sorted_by_cosine(queries: np.ndarray, vectors: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """[Q, n] rows by falling float64 cosine; of equal ones the lower first."""
    cosines = np.einsum("qd,nd->qn", queries.astype(np.float64), unit(vectors[rows]).astype(np.float64))
    return rows[np.lexsort((np.broadcast_to(rows, cosines.shape), -cosines), axis=1)]


@settings(deadline=None, max_examples=50)
@given(
    seed=st.integers(0, 10**6),
    size=st.integers(2, 60),
    distinct=st.integers(1, 60),
    queries=st.integers(1, 5),
    block=st.integers(1, 70),
    held=st.booleans(),
    data=st.data(),
)
def test_as_sorting_all_cosines(
    seed: int, size: int, distinct: int, queries: int, block: int, held: bool, data: st.DataObject
) -> None:
    """With many equal rows, few rows a block, rows left out, and fewer spare ones than there are equals."""
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((distinct, 7)).astype(np.float32)[rng.integers(0, distinct, 2 * size)]
    rows = np.sort(rng.choice(2 * size, size, replace=False))
    sought = unit(rng.standard_normal((queries, 7)).astype(np.float32))
    k = data.draw(st.integers(1, size))
    without = [rng.choice(2 * size, rng.integers(0, 2 * size), replace=False) for _ in range(queries)]
    left = [rows[~np.isin(rows, out)] for out in without]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_module, "ROW_BLOCK", block)
        patch.setattr(index_module, "QUERY_BLOCK", 2)
        patch.setattr(exact, "SPARE", 2)
        patch.setattr(exact, "HELD_BYTES", 2**30 if held else 0)
        index = ExactIndex(vectors, rows, "e")
        found = index.search(UnitVectors(sought, "e"), k)
        np.testing.assert_array_equal(found.rows, sorted_by_cosine(sought, vectors, rows)[:, :k])
        np.testing.assert_allclose(
            found.scores, np.einsum("qd,qkd->qk", sought, unit(vectors[found.rows])), atol=1e-6
        )
        if k > min(map(len, left)):
            with pytest.raises(RetrievalError, match=f"{k} rows wanted of {size}"):
                index.search(UnitVectors(sought, "e"), k, without)
            return
        fewer = index.search(UnitVectors(sought, "e"), k, without).rows
    for query, out, got in zip(sought, left, fewer, strict=True):
        np.testing.assert_array_equal(got, sorted_by_cosine(query[None], vectors, out)[0, :k])


def test_a_query_of_zeros_finds_the_lowest_rows(world: Store) -> None:
    index = ExactIndex.of(world)
    found = index.search(UnitVectors(np.zeros((1, world.dimension), dtype=np.float32), "world"), 3)
    assert found.rows.tolist() == [[0, 1, 2]]
    assert found.scores.tolist() == [[0.0, 0.0, 0.0]]


def test_documents_are_chosen(world: Store) -> None:
    index = ExactIndex.of(world, documents=[5, 2])
    assert index.rows.tolist() == [*range(24, 36), *range(60, 72)]
    assert index.size == 24
    queries = UnitVectors(unit(world.vectors[30:31]), "world")
    assert index.search(queries, 1).rows.tolist() == [[30]]
    assert set(index.search(queries, 24).rows[0].tolist()) == set(index.rows.tolist())
    assert ExactIndex.of(world).size == len(world)
    # rows that are not held do not count as left out
    assert index.search(queries, 24, [np.arange(0, 20)]).rows.shape == (1, 24)


def test_bad_input(world: Store, make_world: Callable[..., Store]) -> None:
    index = ExactIndex.of(world)
    good = unit(world.vectors[:2])
    with pytest.raises(VectorError, match=r"take \.unit"):
        index.search(RawVectors(world.vectors[:2], "world"), 1)
    with pytest.raises(EncoderMismatchError, match="encoder another"):
        index.search(UnitVectors(good, "another"), 1)
    with pytest.raises(RetrievalError, match=r"shape \[2, 15\]"):
        index.search(UnitVectors(unit(good[:, :15]), "world"), 1)
    with pytest.raises(RetrievalError, match=r"shape \[16\]"):
        index.search(UnitVectors(good[0], "world"), 1)
    for k in (0, len(world) + 1):
        with pytest.raises(RetrievalError, match=f"{k} rows wanted of 480; request 1 to 480"):
            index.search(UnitVectors(good, "world"), k)
    with pytest.raises(RetrievalError, match="1 queries, 2 queries"):
        index.search(UnitVectors(good, "world"), 1, [np.arange(3)])
    with pytest.raises(RetrievalError, match="480 of them left out; search a larger store"):
        index.search(UnitVectors(good, "world"), 1, [np.arange(480), np.arange(3)])
    with pytest.raises(RetrievalError, match="no rows to search"):
        ExactIndex.of(world, documents=[])
