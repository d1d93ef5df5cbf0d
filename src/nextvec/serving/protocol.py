"""HTTP on a socket, with bounds that uvicorn does not have: on the time and the size of a request's head."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from nextvec.serving.errors import Refusal

MAX_HEAD = 64 * 1024

INVALID = Refusal(400, "this is no HTTP request", code="invalid_http")
TOO_LARGE = Refusal(431, f"the head of the request has more than {MAX_HEAD} bytes", code="head_too_large")
TOO_SLOW = Refusal(408, "the head of the request came too slowly", code="head_too_slow")


class Protocol(HttpToolsProtocol):
    """One connection. Subclass it to set `header_timeout`: uvicorn makes the instances."""

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
        """Nothing is waited for any more."""
        self._head_came()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Whatever came between two requests is the beginning of the next one."""
        super().data_received(data)
        if self.cycle is None or self.cycle.response_complete:
            self._expect_head()

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self._expect_head()

    def on_url(self, url: bytes) -> None:
        """A piece of it."""
        self._grow(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        self._grow(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is there; bodies are the door's business."""
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
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(
            body
        )
        self.transport.write(STATUS_LINE[refusal.status] + head + body)
        self.transport.close()
