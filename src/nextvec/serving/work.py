"""Work that takes a thread: texts are cut, encoded, decoded. Bounded in number and time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from starlette.requests import Request

from nextvec.serving.errors import Refusal
from nextvec.serving.request_context import context_of_request

P = ParamSpec("P")
R = TypeVar("R")

WATCH_AFTER = 0.05
"""Seconds after which a request that still waits is watched: has its client gone? Most are answered then."""


class ClientGone(Exception):  # noqa: N818 - nobody is there to be told
    """The client closed the connection before its answer."""


class Workers:
    """Threads for blocking work.

    Args:
        threads: how many pieces of work are done at once.
        timeout: seconds that a client waits for an answer.
    """

    def __init__(self, threads: int, timeout: float) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="nextvec-work")
        self._timeout = timeout

    async def run(self, request: Request, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """What the function returns or raises. Raises Refusal 504 when it takes too long."""
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._pool, lambda: function(*args, **kwargs))
        return await patiently(request, future, self._timeout)

    def close(self) -> None:
        """Let the threads end."""
        self._pool.shutdown(wait=False, cancel_futures=True)


async def run_blocking(request: Request, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """A route's blocking work, in the threads of its server. Raises as `Workers.run`."""
    workers: Workers = request.scope["app"].state.workers
    return await workers.run(request, function, *args, **kwargs)


async def patiently(request: Request, future: asyncio.Future[R], timeout: float) -> R:
    """What the future gives, as long as somebody waits for it and not longer than the time-out.

    Raises:
        Refusal: 504, it took too long.
        ClientGone: nobody waits any more.
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
        error = Refusal(
            504, f"no answer within {timeout:g} seconds", code="work_timeout", remedy="ask for less, or later"
        )
    future.cancel()
    raise error
