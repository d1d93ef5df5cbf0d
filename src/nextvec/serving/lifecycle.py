"""From listening to the last answer."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from nextvec.errors import ConfigError
from nextvec.serving.app import Server
from nextvec.serving.errors import Refusal
from nextvec.serving.settings import Settings

TICK, BACKLOG = 0.02, 1024
SWITCH = 0.00005
"""Seconds that a thread keeps the interpreter from others. A model in torch gives it up at every operation;
with Python's 5 ms, a loop that is busy refusing requests would let it do 200 operations a second."""


class DrainingServer(uvicorn.Server):
    """uvicorn, except that a signal first stops requests from being taken and only then the server.

    While requests are finished it goes on listening, so that a balancer reads 503 from `/health/ready`
    and not a refused connection.
    """

    def __init__(self, config: uvicorn.Config, app: Server) -> None:
        super().__init__(config)
        self._app, self._grace = app, app.state.settings.grace
        self._draining: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal lets what was accepted be finished, the second does not."""
        if self._draining is not None or self._loop is None:
            self.should_exit = self.force_exit = True
            return
        self._loop.call_soon_threadsafe(self._drain)

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or self._app.state.state.failure is not None

    def _drain(self) -> None:
        if self._draining is None:
            self._draining = asyncio.ensure_future(self._drained())

    async def _drained(self) -> None:
        self._app.state.state.enter("draining")
        end = asyncio.get_running_loop().time() + self._grace
        queues = self._app.state.queues.values()
        while any(queue.under_way for queue in queues) and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(TICK)
        self.should_exit = True


def listen(settings: Settings) -> socket.socket:
    """The socket it will answer on. Raises ConfigError: the address is taken, or is none of this machine."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((settings.host, settings.port))
    except OSError as error:
        found.close()
        message, where = f"cannot listen there: {error.strerror or error}", f"{settings.host}:{settings.port}"
        raise ConfigError(message, where=where, remedy="give another --port or --host") from None
    return found


def configured(app: Server) -> uvicorn.Config:
    settings: Settings = app.state.settings

    class Bounded(Protocol):
        header_timeout = settings.header_timeout

    return uvicorn.Config(
        app,
        http=Bounded,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=int(settings.idle_timeout),
        timeout_graceful_shutdown=max(1, int(settings.grace)),
        backlog=BACKLOG,
    )


def serve(app: Server, opened: socket.socket, announce: Callable[[str], None] = print) -> None:
    """Answer until SIGTERM or SIGINT, then finish what was accepted and return.

    Args:
        app: what answers.
        opened: where, from `listen`.
        announce: called with the address once it can be used.
    Raises whatever kept a model from its first answer.
    """
    server = DrainingServer(configured(app), app)
    host, port = opened.getsockname()[:2]
    opened.listen(BACKLOG)
    sys.setswitchinterval(SWITCH)
    announce(f"http://{f'[{host}]' if ':' in host else host}:{port}")
    server.run(sockets=[opened])
    if app.state.state.failure is not None:
        raise app.state.state.failure


MAX_HEAD = 64 * 1024

INVALID = Refusal(400, "this is not an HTTP request", code="invalid_http")
TOO_LARGE = Refusal(431, f"the head of the request has more than {MAX_HEAD} bytes", code="head_too_large")
TOO_SLOW = Refusal(408, "the head of the request came too slowly", code="head_too_slow")


class Protocol(HttpToolsProtocol):
    """One connection, with bounds that uvicorn does not have: on the time and the size of a request's head.

    Subclass it to set `header_timeout`: uvicorn makes the instances."""

    header_timeout = 5.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_timer: asyncio.TimerHandle | None = None
        self._head_size = 0
        self._refusal = INVALID

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client that opens a connection has something to say."""
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_came()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Whatever came between two requests is the beginning of the next one."""
        super().data_received(data)
        if self.cycle is None or self.cycle.response_complete:
            self._expect_head()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._expect_head()

    def on_url(self, url: bytes) -> None:
        self._grow(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._grow(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is there; the gateway bounds the body."""
        self._head_came()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """What cannot be parsed, or should not be: in the shape of all other refusals."""
        self._refuse(self._refusal)

    def _grow(self, size: int) -> None:
        self._head_size += size
        if self._head_size > MAX_HEAD:
            self._refusal = TOO_LARGE
            raise ValueError(TOO_LARGE.message)  # the parser makes a parser's error of it

    def _expect_head(self) -> None:
        if self._head_timer is None and not self.transport.is_closing():
            self._head_timer = self.loop.call_later(self.header_timeout, self._head_is_late)

    def _head_came(self) -> None:
        self._head_size = 0
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self._head_size:
            self._refuse(TOO_SLOW)
        else:
            self.transport.close()

    def _refuse(self, refusal: Refusal) -> None:
        if self.transport.is_closing():
            return
        body = refusal.body()
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        self.transport.write(STATUS_LINE[refusal.status] + head % len(body) + body)
        self.transport.close()
