"""Reading the body of a request, in bounded time and memory."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, MutableMapping
from typing import Any

from starlette.types import Receive

from nextvec.serving.errors import Refusal
from nextvec.serving.settings import Settings
from nextvec.serving.work import ClientGone

LINGER_SECONDS, LINGER_BYTES = 0.5, 64 * 2**20
"""How long and how much of a refused body is still taken, so that its sender comes to read the refusal."""


def declared_length(headers: Iterable[tuple[bytes, bytes]], limit: int) -> int | None:
    """Bytes that the body is said to have, 0 for no body; None where it comes in pieces of unknown number.

    Raises Refusal: 413 for more than the limit, 400 for a length that is no number.
    """
    length: int | None = 0
    for name, value in headers:
        if name == b"transfer-encoding":
            return None
        if name == b"content-length":
            if not value.isdigit():
                raise Refusal(400, "Content-Length is no number", code="bad_length", close=True)
            length = int(value)
    if length is not None and length > limit:
        raise _too_long(limit)
    return length


async def read_body(receive: Receive, settings: Settings) -> bytes:
    """The whole body.

    Raises:
        Refusal: 413 longer than allowed, 408 a pause too long, a pace too slow, or too long in all.
        ClientGone: the client closed the connection.
    """
    loop = asyncio.get_running_loop()
    started = loop.time()
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(settings.body_pause) as patience:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                part = message.get("body", b"")
                size += len(part)
                if size > settings.max_body:
                    raise _too_long(settings.max_body)
                if not message.get("more_body", False):
                    return part if not parts else b"".join([*parts, part])
                parts.append(part)
                now = loop.time()
                _check_pace(size, now - started, settings)
                # An empty piece is no progress: the old deadline stands.
                if part:
                    patience.reschedule(now + settings.body_pause)
    except TimeoutError:
        raise _too_slow(f"nothing came for {settings.body_pause:g} seconds") from None


async def drain(receive: Receive) -> None:
    """Take what is still coming, for a moment."""
    left = LINGER_BYTES
    try:
        async with asyncio.timeout(LINGER_SECONDS):
            while left > 0:
                message: MutableMapping[str, Any] = await receive()
                if message["type"] == "http.disconnect" or not message.get("more_body", False):
                    return
                left -= len(message.get("body", b""))
    except TimeoutError:
        return


def _check_pace(size: int, seconds: float, settings: Settings) -> None:
    if seconds > settings.body_timeout:
        raise _too_slow(f"it was not complete after {settings.body_timeout:g} seconds")
    if seconds > settings.body_pause and size < settings.body_rate * seconds:
        raise _too_slow(f"it came with less than {settings.body_rate} bytes a second")


def _too_slow(why: str) -> Refusal:
    return Refusal(
        408, f"the body came too slowly: {why}", code="body_too_slow", remedy="send it at once", close=True
    )


def _too_long(limit: int) -> Refusal:
    return Refusal(
        413,
        f"the body has more than {limit} bytes",
        code="body_too_large",
        remedy="send fewer vectors a request, or as application/x-npy",
        close=True,
    )
