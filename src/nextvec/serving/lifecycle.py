"""From listening to the last answer."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable
from types import FrameType

import uvicorn

from nextvec.errors import ConfigError
from nextvec.serving.app import Server
from nextvec.serving.protocol import Protocol
from nextvec.serving.settings import Settings

TICK, BACKLOG = 0.02, 1024
SWITCH = 0.00005
"""Seconds that a thread keeps the interpreter from others. A model in torch gives it up at every operation;
with Python's 5 ms, a loop that is busy refusing requests would let it do 200 operations a second."""


class DrainingServer(uvicorn.Server):
    """uvicorn, except that a signal first stops requests from being taken and only then the server.

    While requests are finished it goes on listening, so that a balancer reads 503 from `/health/ready` and
    does not find nobody.
    """

    def __init__(self, config: uvicorn.Config, app: Server) -> None:
        super().__init__(config)
        self._app, self._grace = app, app.state.settings.grace
        self._draining: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Remembers the loop, for signals."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal lets what was accepted be finished, the second does not."""
        if self._draining is not None or self._loop is None:
            self.should_exit = self.force_exit = True
            return
        self._loop.call_soon_threadsafe(self._drain)

    async def on_tick(self, counter: int) -> bool:
        """A server whose models cannot answer ends."""
        return await super().on_tick(counter) or self._app.state.state.failure is not None

    def _drain(self) -> None:
        if self._draining is None:
            self._draining = asyncio.ensure_future(self._drained())

    async def _drained(self) -> None:
        self._app.state.state.enter("draining")
        end = asyncio.get_running_loop().time() + self._grace
        while self._under_way() and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(TICK)
        self.should_exit = True

    def _under_way(self) -> int:
        return sum(lane.under_way for lane in self._app.state.lanes.values())


def listen(settings: Settings) -> socket.socket:
    """The socket it will answer on. Raises ConfigError: the address is taken, or is none of this machine."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((settings.host, settings.port))
    except OSError as error:
        found.close()
        raise ConfigError(
            f"cannot listen there: {error.strerror or error}",
            where=f"{settings.host}:{settings.port}",
            remedy="give another --port or --host",
        ) from None
    return found


def configured(app: Server) -> uvicorn.Config:
    """How uvicorn runs it."""
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


def serve(app: Server, opened: socket.socket, said: Callable[[str], None] = print) -> None:
    """Answer until SIGTERM or SIGINT, then finish what was accepted and return.

    Args:
        app: what answers.
        opened: where, from `listen`.
        said: told the address when it can be asked.
    Raises whatever kept a model from its first answer.
    """
    server = DrainingServer(configured(app), app)
    host, port = opened.getsockname()[:2]
    opened.listen(BACKLOG)
    sys.setswitchinterval(SWITCH)
    said(f"http://{f'[{host}]' if ':' in host else host}:{port}")
    server.run(sockets=[opened])
    if app.state.state.failure is not None:
        raise app.state.state.failure
