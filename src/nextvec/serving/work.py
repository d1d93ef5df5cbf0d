"""Work, bounded in number and time: which requests are admitted, and threads for what blocks (texts are cut,
encoded, decoded). A request that cannot be answered soon is refused before its body is read: that costs next
to nothing, and the requests that were admitted keep their speed."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from math import ceil
from statistics import median
from typing import ParamSpec, TypeVar

from starlette.requests import Request

from nextvec.serving.errors import LATER, Refusal
from nextvec.serving.request_context import context_of_request

P = ParamSpec("P")
R = TypeVar("R")

WATCH_AFTER = 0.05
"""Seconds after which a request that still waits is watched: has its client gone? Most are answered then."""


class ClientGone(Exception):  # noqa: N818 - no client is there to read it
    """The client closed the connection before its answer."""


async def run_blocking(request: Request, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """What a route's blocking work returns or raises, done in the threads of its server. Raises Refusal 504
    when it takes too long."""
    state = request.scope["app"].state
    work = partial(function, *args, **kwargs)
    future = asyncio.get_running_loop().run_in_executor(state.workers, work)
    return await patiently(request, future, state.settings.work_timeout)


async def patiently(request: Request, future: asyncio.Future[R], timeout: float) -> R:
    """What the future gives, as long as somebody waits for it and not longer than the time-out.

    Raises:
        Refusal: 504, it took too long.
        ClientGone: the client has closed the connection.
    """
    watch: list[asyncio.Task[None]] = []
    receive = context_of_request(request).receive
    timer = asyncio.get_running_loop().call_later(
        WATCH_AFTER, lambda: watch.append(asyncio.ensure_future(_watched(receive, future, timeout)))
    )
    try:
        return await future
    except asyncio.CancelledError:
        if watch and watch[0].done() and (error := watch[0].exception()) is not None:
            raise error from None
        raise
    finally:
        timer.cancel()
        for task in watch:
            task.cancel()


async def _watched(
    receive: Callable[[], Awaitable[dict[str, object]]], future: asyncio.Future[R], timeout: float
) -> None:
    """Cancels the future when the client goes or the time is over, and raises what happened."""
    error: Exception = ClientGone()
    try:
        async with asyncio.timeout(max(timeout - WATCH_AFTER, 0)):
            # The body was read: all that can come is that the client has gone.
            if (await receive())["type"] != "http.disconnect":
                await asyncio.Event().wait()
    except TimeoutError:
        message = f"no answer within {timeout:g} seconds"
        error = Refusal(504, message, code="work_timeout", remedy="send less, or try later")
    future.cancel()
    raise error


SLICE = 0.05  # seconds of work that a pace is measured over
TOGETHER = 0.001  # seconds between two answers of one batch at most
SLICES = 5  # of the last ones


class AdmissionQueue:
    """The requests of one kind that are under way.

    A newcomer's wait is expected from those before it: how many they are, times the seconds between two
    answers while anybody waited (Little's law; the median of some slices of work, so that one stall is no
    reason to refuse anybody). A crowd is answered faster than a few, since it is answered
    together; so what was measured of a few says nothing of more than twice as many.

    Args:
        limit: requests under way at most.
        max_wait: seconds that a newcomer may be expected to wait.
    Attributes:
        under_way: admitted and not yet answered.
    """

    def __init__(self, limit: int, max_wait: float) -> None:
        self._limit, self._max_wait = limit, max_wait
        self.under_way = 0
        self._paces: deque[float] = deque(maxlen=SLICES)  # seconds between two answers, by slice
        self._seconds = 0.0  # their median; 0 before there are some
        self._crowd = 0  # under way at most in the last of them
        self._busy, self._answers, self._most, self._since = 0.0, 0, 0, 0.0

    @property
    def expected_wait(self) -> float:
        """Seconds; 0 as long as nothing was measured."""
        return self.under_way * self._seconds

    def enter(self, now: float) -> None:
        """Let one in. Raises Refusal 429, which says when to try again.

        Args:
            now: on the clock of `time.perf_counter`, as in `leave`.
        """
        wait = self.expected_wait
        too_long = wait > self._max_wait and 0 < self.under_way <= 2 * self._crowd
        if too_long or self.under_way >= self._limit:
            again = max(1, ceil(wait))
            message = "too many requests are under way"
            raise Refusal(429, message, code="overloaded", remedy=LATER, retry_after=again)
        if self.under_way == 0:
            self._since = now  # a pause of the clients is not our slowness
        self.under_way += 1
        self._most = max(self._most, self.under_way)

    def leave(self, now: float, answered: bool) -> None:
        """One is done. `answered` is false for one that took no work: refused, broken off."""
        self.under_way -= 1
        took, self._since = now - self._since, now
        if took > TOGETHER and self._busy >= SLICE and self._answers:
            self._measure()
        self._busy += took
        self._answers += answered

    def _measure(self) -> None:
        """A slice is over: between batches, for the answers of one leave at the same instant."""
        self._paces.append(self._busy / self._answers)
        if len(self._paces) > SLICES // 2:
            self._seconds = median(self._paces)
        self._busy, self._answers = 0.0, 0
        self._crowd, self._most = self._most, self.under_way
