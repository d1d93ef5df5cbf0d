"""The door: every request passes it first and every answer last.

It names the request, asks for its key, lets it in or refuses it, and reads its body, so that nothing behind
it ever waits for the network. What is on the hot path goes straight to its endpoint, not through the router.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from time import perf_counter
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nextvec.serving.admission import AdmissionQueue
from nextvec.serving.auth import ApiKeys
from nextvec.serving.errors import UNFORESEEN, Refusal, refusal_of
from nextvec.serving.health import ServerState
from nextvec.serving.logs import RequestLog
from nextvec.serving.metrics import Metrics
from nextvec.serving.reading import declared_length, drain, read_body
from nextvec.serving.request_context import KEY, RequestContext
from nextvec.serving.settings import Settings
from nextvec.serving.work import ClientGone

Endpoint = Callable[[Request], Awaitable[Response]]

log = logging.getLogger("nextvec.serving")
SANE_ID = re.compile(rb"[A-Za-z0-9._:-]{1,64}")
WITH_BODY = frozenset({"POST", "PUT", "PATCH", "DELETE"})
WORK, FREE = "/v1/", frozenset({"/v1/outcomes"})  # what needs a place in a lane, and what costs nothing
DROPPED = 64 * 1024  # bytes
PAUSE = 0.02
"""Seconds before a refusal for load is told: who asks again at once, whatever Retry-After says, would
otherwise keep the loop so busy with refusals that a model in torch hardly gets the interpreter."""
GONE = 499  # as other servers note a client that did not wait


class Gateway:
    """ASGI, around the whole application.

    Args:
        app: what is behind it.
        settings: the limits.
        keys: who may ask.
        state: whether requests are taken.
        lanes: by path; "" is the lane of all other work.
        direct: endpoints by path that a POST goes straight to.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        *,
        keys: ApiKeys,
        state: ServerState,
        lanes: Mapping[str, AdmissionQueue],
        direct: Mapping[str, Endpoint],
        metrics: Metrics,
        requests: RequestLog,
    ) -> None:
        self._app, self._settings, self._keys, self._state = app, settings, keys, state
        self._lanes, self._direct, self._metrics, self._requests = lanes, direct, metrics, requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request (or the application's life)."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = scope[KEY] = RequestContext(_request_id(scope["headers"]), perf_counter(), receive)
        sent = _Sent(send, exchange)
        try:
            await self._admitted(scope, receive, sent, exchange)
        except ClientGone:
            exchange.status = GONE
        except Exception as error:  # noqa: BLE001 - nothing is outside that could catch it
            await self._failed(error, scope, receive, sent)
        self._note(scope, exchange)

    async def _admitted(self, scope: Scope, receive: Receive, send: _Sent, exchange: RequestContext) -> None:
        path, headers = scope["path"], scope["headers"]
        self._keys.check(path, headers)
        if scope["method"] not in WITH_BODY:
            await self._app(scope, receive, send)
            return
        length = declared_length(headers, self._settings.max_body)
        lane = self._lane(scope["method"], path)
        if lane is None:
            await self._behind(scope, receive, send, exchange, length)
            return
        self._state.check()
        lane.enter(exchange.started)
        try:
            await self._behind(scope, receive, send, exchange, length)
        finally:
            lane.leave(perf_counter(), answered=exchange.status == 200)

    async def _behind(
        self, scope: Scope, receive: Receive, send: _Sent, exchange: RequestContext, length: int | None
    ) -> None:
        """Read the body and go through."""
        if length != 0:
            exchange.body = await read_body(receive, self._settings)
        exchange.read = True
        endpoint = self._direct.get(scope["path"]) if scope["method"] == "POST" else None
        if endpoint is not None:
            exchange.route = scope["path"]
            response = await endpoint(Request(scope, receive, send))
            await response(scope, receive, send)
        else:
            await self._app(scope, _replayed(exchange.body, receive), send)

    def _lane(self, method: str, path: str) -> AdmissionQueue | None:
        if method != "POST" or not path.startswith(WORK) or path in FREE:
            return None
        return self._lanes.get(path) or self._lanes[""]

    async def _failed(self, error: Exception, scope: Scope, receive: Receive, send: _Sent) -> None:
        """Tell the client; where an answer has begun, the connection breaks off, which it notices too."""
        refusal, exchange = refusal_of(error), scope[KEY]
        if refusal.code == UNFORESEEN:
            log.error("request %s failed", exchange.request_id, exc_info=error)
        if send.begun:
            if not send.complete:
                raise error
            return
        exchange.code = refusal.code
        if refusal.status in (429, 503):
            self._metrics.rejected.labels(refusal.code).inc()
        if refusal.status == 429:
            await asyncio.sleep(PAUSE)
        await _refuse(
            send, receive, refusal, linger=refusal.close or _leaves_much(scope["headers"], exchange)
        )

    def _note(self, scope: Scope, exchange: RequestContext) -> None:
        """Metrics and the log."""
        seconds = perf_counter() - exchange.started
        route = exchange.route if exchange.route != "other" else _route(scope)
        model, arm = exchange.model or "", exchange.arm or ""
        self._metrics.count(route, model, arm, exchange.status, seconds)
        if exchange.status in (429, 503):
            self._requests.refused(exchange.code or "")
            return
        self._requests.write(
            "request",
            id=exchange.request_id,
            method=scope["method"],
            route=route,
            status=exchange.status,
            ms=round(1000 * seconds, 3),
            model=exchange.model,
            arm=exchange.arm,
            vectors=exchange.vectors,
            code=exchange.code,
        )


class _Sent:
    """`send`, with the headers that every answer has."""

    __slots__ = ("_exchange", "_send", "begun", "complete")

    def __init__(self, send: Send, exchange: RequestContext) -> None:
        self._send, self._exchange = send, exchange
        self.begun = self.complete = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            exchange, self.begun = self._exchange, True
            exchange.status = message["status"]
            headers = message["headers"] = list(message.get("headers", ()))
            headers.append((b"x-request-id", exchange.request_id.encode("ascii")))
            if exchange.model is not None:
                headers.append((b"x-nextvec-model", exchange.model.encode("ascii")))
            if exchange.arm is not None:
                headers.append((b"x-nextvec-arm", exchange.arm.encode("ascii")))
        elif not message.get("more_body", False):
            self.complete = True
        await self._send(message)


async def _refuse(send: _Sent, receive: Receive, refusal: Refusal, *, linger: bool) -> None:
    """Say so. A body that is not read to its end ends the connection; some of it is taken first, since one
    that is closed on unread data is reset, and the refusal would be lost."""
    body = refusal.body()
    headers = [*refusal.headers(), (b"content-length", b"%d" % len(body))]
    if linger:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": linger})
    if linger:
        await drain(receive)
        await send({"type": "http.response.body", "body": b""})


def _leaves_much(headers: list[tuple[bytes, bytes]], exchange: RequestContext) -> bool:
    """Whether so much of the body was not read that the connection had better end. A little is dropped."""
    if exchange.read:
        return False
    for name, value in headers:
        if name == b"content-length":
            return not value.isdigit() or int(value) > DROPPED
        if name == b"transfer-encoding":
            return True
    return False


def _request_id(headers: list[tuple[bytes, bytes]]) -> str:
    for name, value in headers:
        if name == b"x-request-id" and SANE_ID.fullmatch(value):
            return value.decode("ascii")
    return os.urandom(12).hex()


def _route(scope: MutableMapping[str, Any]) -> str:
    """The pattern that matched; never the path itself, of which there are as many as clients like."""
    return str(getattr(scope.get("route"), "path", "other"))


def _replayed(body: bytes, receive: Receive) -> Receive:
    """`receive` for what is behind: the body in one piece, then what the server tells."""
    told = False

    async def replayed() -> Message:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed
