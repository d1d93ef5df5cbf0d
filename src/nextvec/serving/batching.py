"""Requests of many clients as batches of one model. Shapes: B batch, T time (chunks), D embedding."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np

from nextvec.data.windows import FloatArray, IntArray

PADDING = 1.25  # contexts of a batch differ in length by this factor at most
ENOUGH = 0.75  # share of the expected requests that a free thread waits for
SMOOTHING = 0.1  # weight of the newest batch in the running means

PredictBatch = Callable[[FloatArray, IntArray, FloatArray | None], FloatArray]
"""contexts [B, T, D] padded on the right, lengths [B], queries [B, D] or None -> raw predictions [B, D]."""


@dataclass(eq=False, slots=True)
class _Piece:
    """Windows of one request, few enough for one batch."""

    windows: FloatArray  # [n, T, D]
    queries: FloatArray | None  # [n, D]
    kind: Hashable  # only pieces of one kind go together
    answer: PredictBatch
    future: asyncio.Future[FloatArray]
    rows: int = field(init=False)
    length: int = field(init=False)

    def __post_init__(self) -> None:
        self.rows, self.length = self.windows.shape[:2]


class Batcher:
    """One thread that answers what waits, oldest first and as much together as fits.

    While a batch is worked on the next one gathers; so a lone client never waits for others. Only where
    recent batches let more clients be expected does a free thread wait for them, `wait` seconds at most.
    All methods are called on the event loop.

    Args:
        max_batch: windows of a batch.
        wait: see above.
        observe: called with the windows and the seconds of every batch.
    Attributes:
        waiting: windows that no batch has yet.
    """

    def __init__(
        self, max_batch: int, wait: float, observe: Callable[[int, float], None] = lambda rows, seconds: None
    ) -> None:
        self._max, self._wait, self._observe = max_batch, wait, observe
        self._pieces: deque[_Piece] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="nextvec-batch")
        self._busy = False
        self._timer: asyncio.Handle | None = None
        self._deadline = 0.0
        self._expected = 1.0  # requests under way at a time, of late
        self.waiting = 0

    def submit(
        self,
        windows: FloatArray,
        answer: PredictBatch,
        kind: Hashable = None,
        queries: FloatArray | None = None,
    ) -> asyncio.Future[FloatArray]:
        """Raw predictions [N, D] of windows [N, T, D], made beside those of others of the same kind.

        Cancelling it takes what waits out of the queue; what is worked on is finished and thrown away.
        """
        if len(windows) <= self._max:
            return self._put(windows, answer, kind, queries)
        parts = [slice(start, start + self._max) for start in range(0, len(windows), self._max)]
        put = [self._put(windows[p], answer, kind, None if queries is None else queries[p]) for p in parts]

        async def joined() -> FloatArray:
            return np.concatenate(await asyncio.gather(*put))

        return asyncio.ensure_future(joined())

    def close(self) -> None:
        """Let the thread end; what waits is not answered."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _put(
        self, windows: FloatArray, answer: PredictBatch, kind: Hashable, queries: FloatArray | None
    ) -> asyncio.Future[FloatArray]:
        loop = asyncio.get_running_loop()
        piece = _Piece(windows, queries, kind, answer, loop.create_future())
        self._pieces.append(piece)
        self.waiting += piece.rows
        if not self._busy and self._timer is None:
            self._deadline = loop.time() + self._wait
            self._timer = loop.call_soon(self._consider)
        return piece.future

    def _consider(self) -> None:
        """The thread is free: go, or wait a little for those who came together of late."""
        loop = asyncio.get_running_loop()
        left = self._deadline - loop.time()
        enough = min(ENOUGH * self._expected, self._max)
        if len(self._pieces) < enough and self.waiting < self._max and left > 0:
            self._timer = loop.call_later(min(left, self._wait / 4), self._consider)
            return
        self._timer = None
        batch = self._next()
        if not batch:
            return
        self._busy = True
        started = perf_counter()
        future = loop.run_in_executor(self._thread, _answered, batch)
        future.add_done_callback(lambda done: self._done(batch, started, done))

    def _next(self) -> list[_Piece]:
        """The oldest piece, and those behind it that are of its kind and about its length."""
        batch: list[_Piece] = []
        left: list[_Piece] = []
        rows = low = high = 0
        pieces = self._pieces
        while pieces and rows < self._max:
            piece = pieces.popleft()
            if piece.future.done():  # its client has gone, or lost patience
                self.waiting -= piece.rows
                continue
            low_, high_ = (min(low, piece.length), max(high, piece.length)) if batch else (piece.length,) * 2
            fits = not batch or (
                piece.kind == batch[0].kind
                and (piece.queries is None) == (batch[0].queries is None)
                and rows + piece.rows <= self._max
                and high_ <= PADDING * low_
            )
            if not fits:
                left.append(piece)
                continue
            low, high = low_, high_
            batch.append(piece)
            rows += piece.rows
        pieces.extendleft(reversed(left))
        self.waiting -= rows
        return batch

    def _done(self, batch: list[_Piece], started: float, done: asyncio.Future[FloatArray]) -> None:
        """Hand out, and go on with what came meanwhile."""
        self._busy = False
        error, start = done.exception(), 0
        for piece in batch:
            if not piece.future.done() and error is not None:
                piece.future.set_exception(error)
            elif not piece.future.done():
                piece.future.set_result(done.result()[start : start + piece.rows])
            start += piece.rows
        together = len(batch) + len(self._pieces)
        self._expected += (together - self._expected) * (0.5 if together > self._expected else SMOOTHING)
        self._observe(sum(piece.rows for piece in batch), perf_counter() - started)
        if self._pieces and self._timer is None:
            loop = asyncio.get_running_loop()
            self._deadline = loop.time() + self._wait
            self._timer = loop.call_soon(self._consider)


def _answered(batch: list[_Piece]) -> FloatArray:
    """In the thread: raw predictions [B, D] of all pieces, in their order."""
    first = batch[0]
    if len(batch) == 1:
        lengths = np.full(first.rows, first.length, dtype=np.int64)
        return first.answer(first.windows, lengths, first.queries)
    rows, longest = sum(piece.rows for piece in batch), max(piece.length for piece in batch)
    contexts = np.zeros((rows, longest, first.windows.shape[2]), dtype=np.float32)
    lengths = np.empty(rows, dtype=np.int64)
    start = 0
    for piece in batch:
        part = slice(start, start + piece.rows)
        contexts[part, : piece.length], lengths[part] = piece.windows, piece.length
        start += piece.rows
    queries = [piece.queries for piece in batch if piece.queries is not None]
    return first.answer(contexts, lengths, np.concatenate(queries) if queries else None)
