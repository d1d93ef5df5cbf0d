"""The gateway: every request passes it first and every answer last.

It names the request, checks its key, lets it in or refuses it, and reads its body, so that nothing behind
it ever waits for the network. What is on the hot path goes straight to its endpoint, not through the router.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import traceback
from collections.abc import Awaitable, Callable, Mapping
from time import perf_counter

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nextvec.serving.errors import UNFORESEEN, Refusal, refusal_of
from nextvec.serving.operation import Metrics, RequestLog, ServerState
from nextvec.serving.request_context import KEY, RequestContext
from nextvec.serving.settings import AllowedHosts, ApiKeys, Headers, Settings, header
from nextvec.serving.work import AdmissionQueue, ClientGone

Endpoint = Callable[[Request], Awaitable[Response]]

log = logging.getLogger("nextvec.serving")
SANE_ID = re.compile(rb"[A-Za-z0-9._:-]{1,64}")
WITH_BODY = frozenset({"POST", "PUT", "PATCH", "DELETE"})
WORK, FREE = "/v1/", frozenset({"/v1/outcomes"})  # what needs a place in a queue, and what costs nothing
ALSO = {"/predict": "/v1/predict"}
"""The product brief's path of a route: checked, queued and answered as that route."""
DROPPED = 64 * 1024  # bytes
PAUSE = 0.02
"""Seconds before a refusal for load is sent: clients that try again at once, against Retry-After, would
otherwise keep the loop so busy with refusals that a model in torch hardly gets the interpreter."""
OURS = (b"x-request-id", b"x-nextvec-model", b"x-nextvec-arm")
GONE = 499  # as other servers note a client that did not wait


class Gateway:
    """ASGI, around the whole application.

    Args:
        app: what is behind it.
        settings: the limits.
        state: whether requests are taken.
        queues: by path; "" is the queue of all other work.
        direct: endpoints by path that a POST goes straight to.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        *,
        state: ServerState,
        queues: Mapping[str, AdmissionQueue],
        direct: Mapping[str, Endpoint],
        metrics: Metrics,
        requests: RequestLog,
    ) -> None:
        self._app, self._settings, self._state = app, settings, state
        self._hosts, self._keys = AllowedHosts(settings), ApiKeys(settings.api_keys)
        self._queues, self._direct, self._metrics, self._requests = queues, direct, metrics, requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope["path"] = ALSO.get(scope["path"], scope["path"])
        given = header(scope["headers"], b"x-request-id") or b""
        named = given.decode("ascii") if SANE_ID.fullmatch(given) else os.urandom(12).hex()
        context = scope[KEY] = RequestContext(named, perf_counter(), receive)
        sent = _Sent(send, context)
        try:
            await self._admitted(scope, receive, sent, context)
        except ClientGone:
            context.status = GONE
        except Exception as error:  # noqa: BLE001 - nothing is outside that could catch it
            await self._failed(error, scope, receive, sent)
        self._note(scope, context)

    async def _admitted(self, scope: Scope, receive: Receive, send: _Sent, context: RequestContext) -> None:
        path, headers = scope["path"], scope["headers"]
        self._hosts.check(headers)
        self._keys.check(path, headers)
        if scope["method"] not in WITH_BODY:
            await self._app(scope, receive, send)
            return
        length = declared_length(headers, self._settings.max_body)
        queue = self._queue(scope["method"], path)
        if queue is None:
            await self._behind(scope, receive, send, context, length)
            return
        self._state.check()
        queue.enter(context.started)
        try:
            await self._behind(scope, receive, send, context, length)
        finally:
            queue.leave(perf_counter(), answered=context.status == 200)

    async def _behind(
        self, scope: Scope, receive: Receive, send: _Sent, context: RequestContext, length: int | None
    ) -> None:
        """Read the body and go through."""
        if length != 0:
            context.body = await read_body(receive, self._settings)
        context.read = True
        endpoint = self._direct.get(scope["path"]) if scope["method"] == "POST" else None
        if endpoint is not None:
            context.route = scope["path"]
            response = await endpoint(Request(scope, receive, send))
            await response(scope, receive, send)
        else:
            await self._app(scope, _replayed(context.body, receive), send)

    def _queue(self, method: str, path: str) -> AdmissionQueue | None:
        if method != "POST" or not path.startswith(WORK) or path in FREE:
            return None
        return self._queues.get(path) or self._queues[""]

    async def _failed(self, error: Exception, scope: Scope, receive: Receive, send: _Sent) -> None:
        """Send a refusal; where an answer has begun, the connection breaks off, which it notices too."""
        refusal, context = refusal_of(error), scope[KEY]
        if refusal.code == UNFORESEEN:
            log.error("request %s failed: %s", context.request_id, _place_of(error))
        if send.begun:
            if not send.complete:
                raise error
            return
        context.code = refusal.code
        if refusal.status in (429, 503):
            self._metrics.rejected.labels(refusal.code).inc()
        if refusal.status == 429:
            await asyncio.sleep(PAUSE)
        await _refuse(send, receive, refusal, linger=refusal.close or _leaves_much(scope["headers"], context))

    def _note(self, scope: Scope, context: RequestContext) -> None:
        seconds = perf_counter() - context.started
        route = context.route
        if route == "other":
            # The pattern that matched; never the path itself, of which there are as many as clients like.
            route = str(getattr(scope.get("route"), "path", route))
        model, variant = context.model or "", context.variant or ""
        self._metrics.count(route, model, variant, context.status, seconds)
        if context.status in (429, 503):
            self._requests.refused(context.code or "")
            return
        what = {"id": context.request_id, "method": scope["method"], "route": route, "status": context.status}
        which = {"model": context.model, "arm": context.variant, "vectors": context.vectors}
        self._requests.write("request", **what, ms=round(1000 * seconds, 3), **which, code=context.code)


class _Sent:
    """`send`, with the headers that every answer has."""

    __slots__ = ("_context", "_send", "begun", "complete")

    def __init__(self, send: Send, context: RequestContext) -> None:
        self._send, self._context = send, context
        self.begun = self.complete = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            context, self.begun = self._context, True
            context.status = message["status"]
            headers = zip(OURS, (context.request_id, context.model, context.variant), strict=True)
            ours = [(name, value.encode("ascii")) for name, value in headers if value is not None]
            message["headers"] = [*message.get("headers", ()), *ours]
        elif not message.get("more_body", False):
            self.complete = True
        await self._send(message)


async def _refuse(send: _Sent, receive: Receive, refusal: Refusal, *, linger: bool) -> None:
    """Send a refusal. A body that is not read to its end ends the connection; some of it is read first, since
    one that is closed on unread data is reset, and the refusal would be lost."""
    body = refusal.body()
    headers = [*refusal.headers(), (b"content-length", b"%d" % len(body))]
    if linger:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": linger})
    if linger:
        await drain(receive)
        await send({"type": "http.response.body", "body": b""})


def _leaves_much(headers: Headers, context: RequestContext) -> bool:
    """Whether so much of the body was not read that the connection had better end. A little is dropped."""
    if context.read or (length := header(headers, b"content-length")) is None:
        return not context.read and header(headers, b"transfer-encoding") is not None
    return not length.isdigit() or int(length) > DROPPED


def _place_of(error: BaseException) -> str:
    """The kind of an error and the lines that it passed; not its message, which may repeat what the client
    sent."""
    passed = traceback.extract_tb(error.__traceback__)
    return type(error).__name__ + "".join(f"\n  {at.filename}:{at.lineno} in {at.name}" for at in passed)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """`receive` for what is behind: the body in one piece, then what the server receives."""
    sent = False

    async def replayed() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed


LINGER_SECONDS, LINGER_BYTES = 0.5, 64 * 2**20
"""How long and how much of a refused body is still taken, so that its sender comes to read the refusal."""


def declared_length(headers: Headers, limit: int) -> int | None:
    """Length of the body by its headers, 0 for no body; None where it comes in pieces of unknown number.

    Raises Refusal: 413 for more than the limit, 400 for a length that is no number.
    """
    if header(headers, b"transfer-encoding") is not None:
        return None
    length = header(headers, b"content-length") or b"0"
    if not length.isdigit():
        raise Refusal(400, "Content-Length is not a number", code="bad_length", close=True)
    if int(length) > limit:
        raise _too_long(limit)
    return int(length)


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
                message = await receive()
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
