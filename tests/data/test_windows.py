from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nextvec.data.gather import gather_contexts, gather_rows
from nextvec.data.windows import make_windows
from nextvec.errors import WindowError


def fake_store(counts: list[int]) -> Any:
    starts = np.cumsum([0, *counts])
    documents = [SimpleNamespace(first=int(f), count=c) for f, c in zip(starts, counts, strict=False)]
    return SimpleNamespace(documents=documents, path=Path("store"))


counts_strategy = st.lists(st.integers(1, 12), min_size=1, max_size=8)


@settings(max_examples=100, deadline=None)
@given(counts_strategy, st.integers(1, 5), st.integers(1, 3), st.data())
def test_windows_are_those_of_a_plain_loop(counts: list[int], context: int, horizon: int, data: Any) -> None:
    store = fake_store(counts)
    chosen = data.draw(st.lists(st.sampled_from(range(len(counts))), unique=True))
    expected = [
        (d.first + t, d.first, i)
        for i, d in enumerate(store.documents)
        if i in chosen
        for t in range(d.count)
        if t - horizon + 1 >= context
    ]
    if not expected:
        with pytest.raises(WindowError):
            make_windows(store, chosen, context, horizon)
        return
    windows = make_windows(store, chosen, context, horizon)
    assert list(zip(windows.target, windows.first, windows.document, strict=True)) == expected
    assert (windows.read >= context).all()


@settings(max_examples=100, deadline=None)
@given(counts_strategy, st.integers(1, 4), st.integers(1, 2), st.integers(1, 9))
def test_contexts_never_cross_a_document(counts: list[int], context: int, horizon: int, width: int) -> None:
    store = fake_store([*counts, context + horizon])
    total = sum(counts) + context + horizon
    vectors = np.stack([np.arange(total), np.full(total, 7)], axis=1).astype(np.float16)
    windows = make_windows(store, range(len(counts) + 1), context, horizon)
    contexts, lengths = gather_contexts(vectors, windows, width)
    assert contexts.dtype == np.float32
    assert contexts.shape == (len(windows), width, 2)
    for i in range(len(windows)):
        read = np.arange(windows.first[i], windows.target[i] - horizon + 1)[-width:]
        assert lengths[i] == len(read)
        assert contexts[i, : len(read), 0].tolist() == read.tolist()
        assert (contexts[i, len(read) :] == 0).all()


@settings(max_examples=100, deadline=None)
@given(counts_strategy, st.sampled_from([2, 4, 6]))
def test_gaps_have_as_many_chunks_on_either_side(counts: list[int], context: int) -> None:
    store, half = fake_store(counts), context // 2
    expected = [
        (d.first + t, d.first, i) for i, d in enumerate(store.documents) for t in range(half, d.count - half)
    ]
    if not expected:
        with pytest.raises(WindowError, match="one amid them"):
            make_windows(store, range(len(counts)), context, task="middle")
        return
    windows = make_windows(store, range(len(counts)), context, task="middle")
    assert list(zip(windows.target, windows.first, windows.document, strict=True)) == expected
    first, last = windows.read_range
    assert (first == windows.target - half).all()
    assert (last == windows.target + half).all()
    assert {len(block) for block in windows.blocks(1)} == {1}
    assert all(block.task == "middle" for block in windows.blocks(3))


def test_a_context_longer_than_every_document_says_the_longest() -> None:
    with pytest.raises(
        WindowError, match=r"store: .* the longest of 2 documents has 7; use a context of at most 6"
    ):
        make_windows(fake_store([3, 7]), [0, 1], context=7)
    with pytest.raises(WindowError, match="no documents"):
        make_windows(fake_store([3]), [])
    with pytest.raises(WindowError, match="must be at least 1"):
        make_windows(fake_store([3]), [0], context=0)


def test_selecting_and_cutting_into_blocks() -> None:
    windows = make_windows(fake_store([9, 8]), [1, 0], context=3, horizon=2)
    assert windows.target.tolist() == [4, 5, 6, 7, 8, 13, 14, 15, 16]
    assert windows.last.tolist() == [2, 3, 4, 5, 6, 11, 12, 13, 14]
    assert windows.select(windows.document == 1).target.tolist() == [13, 14, 15, 16]
    blocks = list(windows.blocks(4))
    assert [len(b) for b in blocks] == [4, 4, 1]
    assert np.concatenate([b.target for b in blocks]).tolist() == windows.target.tolist()
    assert (blocks[0].context, blocks[0].horizon) == (3, 2)


def test_rows_far_apart_and_close_together_are_the_same() -> None:
    vectors = np.random.default_rng(0).standard_normal((500, 3)).astype(np.float32)
    far, close = np.array([[499, 0], [3, 3]]), np.array([[4, 5], [6, 4]])
    for rows in (far, close, np.zeros((2, 0), dtype=np.int64)):
        assert np.array_equal(gather_rows(vectors, rows), vectors[rows])
