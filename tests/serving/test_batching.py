"""Many requests as batches: the same answers, together where that pays."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextvec.serving.batching import Batcher


def summed(contexts: Any, lengths: Any, queries: Any) -> Any:
    """A model that reads what it should: the sum of the real vectors, and the query."""
    real = np.arange(contexts.shape[1])[None, :] < np.asarray(lengths)[:, None]
    found = (contexts * real[..., None]).sum(1)
    return found if queries is None else found + queries


def during(work: Callable[[Batcher], Awaitable[Any]], max_batch: int = 8, wait: float = 0.0) -> list[int]:
    """Sizes of the batches that the work made."""
    sizes: list[int] = []

    async def main() -> None:
        batcher = Batcher(max_batch, wait, lambda rows, seconds: sizes.append(rows))
        try:
            await work(batcher)
        finally:
            batcher.close()

    asyncio.run(main())
    return sizes


class Gate:
    """`summed`, held up until it is opened; what it was given."""

    def __init__(self) -> None:
        self.entered, self.opened = threading.Event(), threading.Event()
        self.given: list[tuple[int, int]] = []

    def __call__(self, contexts: Any, lengths: Any, queries: Any) -> Any:
        self.entered.set()
        self.opened.wait(60)
        self.given.append(contexts.shape[:2])
        return summed(contexts, lengths, queries)


@given(st.lists(st.tuples(st.integers(1, 20), st.integers(1, 9), st.booleans()), min_size=1, max_size=20))
def test_everybody_gets_the_answer_to_its_own_windows(shapes: list[tuple[int, int, bool]]) -> None:
    rng = np.random.default_rng(0)
    requested = [rng.integers(0, 9, (n, t, 2)).astype(np.float32) for n, t, _ in shapes]
    given_queries = [rng.integers(0, 9, (n, 2)).astype(np.float32) if q else None for n, _, q in shapes]

    async def work(batcher: Batcher) -> None:
        futures = [
            batcher.submit(windows, summed, None, queries)
            for windows, queries in zip(requested, given_queries, strict=True)
        ]
        for windows, queries, future in zip(requested, given_queries, futures, strict=True):
            expected = windows.sum(1) if queries is None else windows.sum(1) + queries
            np.testing.assert_array_equal(await future, expected)

    assert max(during(work)) <= 8


def test_what_comes_while_a_batch_is_worked_on_goes_together() -> None:
    gate = Gate()

    async def work(batcher: Batcher) -> None:
        first = batcher.submit(np.ones((1, 3, 2), np.float32), gate)
        await asyncio.to_thread(gate.entered.wait, 900)
        rest = [batcher.submit(np.ones((1, 3, 2), np.float32), gate) for _ in range(5)]
        gate.opened.set()
        await asyncio.gather(first, *rest)

    assert during(work) == [1, 5]


def test_padding_is_bounded_and_kinds_are_not_mixed() -> None:
    gate = Gate()

    async def work(batcher: Batcher) -> None:
        first = batcher.submit(np.ones((1, 1, 2), np.float32), gate)
        await asyncio.to_thread(gate.entered.wait, 900)
        lengths = [(8, "a"), (10, "a"), (4, "a"), (8, "b"), (9, "a")]
        rest = [batcher.submit(np.ones((1, t, 2), np.float32), gate, kind) for t, kind in lengths]
        gate.opened.set()
        await asyncio.gather(first, *rest)

    during(work)
    assert gate.given == [(1, 1), (3, 10), (1, 4), (1, 8)]


def test_nobody_waits_behind_those_who_have_gone() -> None:
    gate = Gate()

    async def work(batcher: Batcher) -> None:
        first = batcher.submit(np.ones((1, 3, 2), np.float32), gate)
        await asyncio.to_thread(gate.entered.wait, 900)
        gone = [batcher.submit(np.ones((4, 3, 2), np.float32), gate) for _ in range(3)]
        last = batcher.submit(np.ones((1, 3, 2), np.float32), gate)
        assert batcher.waiting == 13
        for future in gone:
            future.cancel()
        gate.opened.set()
        await asyncio.gather(first, last)
        assert batcher.waiting == 0

    assert during(work) == [1, 1]


def test_a_failure_is_told_to_all_it_concerns_and_to_no_other() -> None:
    def failing(contexts: Any, lengths: Any, queries: Any) -> Any:
        raise ArithmeticError("no")

    async def work(batcher: Batcher) -> None:
        bad = [batcher.submit(np.ones((1, 3, 2), np.float32), failing, "bad") for _ in range(2)]
        good = batcher.submit(np.ones((1, 3, 2), np.float32), summed, "good")
        for future in bad:
            with pytest.raises(ArithmeticError):
                await future
        np.testing.assert_array_equal(await good, [[3, 3]])

    during(work)


def test_a_lone_client_never_waits_for_others() -> None:
    async def work(batcher: Batcher) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(3):
            started = loop.time()
            await batcher.submit(np.ones((1, 3, 2), np.float32), summed)
            assert loop.time() - started < 60.0

    during(work, wait=120.0)


def test_after_a_crowd_a_free_thread_waits_for_it_but_not_for_long() -> None:
    gate = Gate()

    async def work(batcher: Batcher) -> None:
        first = batcher.submit(np.ones((1, 3, 2), np.float32), gate)
        await asyncio.to_thread(gate.entered.wait, 900)
        crowd = [batcher.submit(np.ones((1, 3, 2), np.float32), gate) for _ in range(7)]
        gate.opened.set()
        await asyncio.gather(first, *crowd)
        again = [batcher.submit(np.ones((1, 3, 2), np.float32), gate) for _ in range(2)]
        await asyncio.sleep(0)
        again += [batcher.submit(np.ones((1, 3, 2), np.float32), gate) for _ in range(6)]
        await asyncio.gather(*again)
        await asyncio.wait_for(batcher.submit(np.ones((1, 3, 2), np.float32), gate), 60)

    assert during(work, wait=0.2) == [1, 7, 8, 1]
