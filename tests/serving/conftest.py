"""Applications over a small trained run, asked in this process or over real sockets."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

import httpx
import numpy as np
import pytest

from nextvec.inference.predictor import RunPredictor
from nextvec.serving.app import Server, create_app
from nextvec.serving.lifecycle import DrainingServer, configured, listen
from nextvec.serving.served_models import ServedModel, ServedModels
from nextvec.serving.settings import Settings

R = TypeVar("R")
Work = Callable[[httpx.AsyncClient], Awaitable[R]]


class Turnstile:
    """An engine that answers with the last vectors, and only while it is open."""

    name = "turnstile"

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()
        self.entered = threading.Event()
        self.seen: list[int] = []
        self.broken = False

    def __call__(self, contexts: Any, lengths: Any, queries: Any = None, head: int = 0) -> Any:
        self.entered.set()
        self.open.wait(900)
        if self.broken:
            raise ZeroDivisionError("/a/path/of/this/machine")
        self.seen.append(len(contexts))
        return contexts[np.arange(len(contexts)), lengths - 1].astype(np.float32)


@pytest.fixture(scope="session")
def run(trained: Path) -> RunPredictor:
    """The small LSTM, D = 16."""
    return RunPredictor(trained)


@pytest.fixture
def turnstile() -> Iterator[Turnstile]:
    """An engine that tests hold up; it is open again at the end, so that no thread is left waiting."""
    found = Turnstile()
    yield found
    found.open.set()


@pytest.fixture
def make_app(trained: Path) -> Callable[..., Server]:
    """make_app(max_batch=.., names=("a",), split={..}, engine=.., log=..): other arguments are settings."""

    def make(
        names: tuple[str, ...] = ("small",),
        split: dict[str, float] | None = None,
        engine: Turnstile | None = None,
        log: IO[bytes] | None = None,
        **settings: Any,
    ) -> Server:
        served = []
        for name in names:
            predictor = RunPredictor(trained, name)
            if engine is not None:
                predictor.engine = engine
            served.append(ServedModel(name, predictor))
        return create_app(Settings(**settings), ServedModels(served, split=split), log)

    return make


async def _until_ready(app: Server) -> None:
    while app.state.state.phase == "loading":
        await asyncio.sleep(0.002)


@pytest.fixture
def within() -> Callable[[Server, Work[Any]], Any]:
    """within(app, work): start the application, give `work` a client of it, stop; what `work` returned."""

    def run_(app: Server, work: Work[R]) -> R:
        async def main() -> R:
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            async with app.router.lifespan_context(app):
                await _until_ready(app)
                async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                    return await work(client)

        return asyncio.run(main())

    return run_


@contextmanager
def listening(app: Server) -> Iterator[int]:
    """The application on a free port of this machine, in a thread of this process."""
    opened = listen(app.state.settings)
    server = DrainingServer(configured(app), app)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]}, daemon=True)
    thread.start()
    try:
        end = time.monotonic() + 120
        while not (server.started and app.state.state.phase == "ready"):
            assert time.monotonic() < end, "the server did not start"
            time.sleep(0.005)
        yield opened.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(60)
        opened.close()
    assert not thread.is_alive()


class Wire:
    """A raw connection."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=900)

    def send(self, data: bytes) -> bool:
        """Whether the other side still took it."""
        try:
            self.socket.sendall(data)
        except OSError:
            return False
        return True

    def answer(self) -> tuple[int, bytes]:
        """Status and all that came until the other side closed."""
        data = b""
        try:
            while part := self.socket.recv(65536):
                data += part
        except ConnectionResetError:
            pass
        return (int(data.split(b" ", 2)[1]) if data else 0), data


@pytest.fixture
def live(make_app: Callable[..., Server]) -> Iterator[Callable[..., Any]]:
    """connect = live(max_body=..): a server with these settings; connect() is a Wire to it."""
    held: list[Any] = []

    def start(**options: Any) -> Callable[[], Wire]:
        context = listening(make_app(port=0, **options))
        port = context.__enter__()
        held.append(context)
        return lambda: Wire(port)

    yield start
    for context in held:
        context.__exit__(None, None, None)
