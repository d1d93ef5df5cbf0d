"""Clients that are slow, endless, or gone, on real sockets."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import orjson
import pytest

from nextvec.serving.settings import Settings

HEAD = b"POST /v1/predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/x-npy\r\n"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"


def npy(values: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values, allow_pickle=False)
    return stream.getvalue()


def whole(n: int = 1) -> bytes:
    body = npy(np.zeros((n, 5, 16), np.float32))
    return HEAD + b"content-length: %d\r\n\r\n" % len(body) + body


def code_of(data: bytes) -> str:
    return str(orjson.loads(data.partition(b"\r\n\r\n")[2])["error"]["code"])


def until_under_way(connect: Callable[[], Any], count: int) -> None:
    """Wait until the server has so many requests on vectors."""
    end = time.monotonic() + 60
    while True:
        wire = connect()
        wire.send(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        if b'nextvec_queue_depth{lane="vectors"} %d.0' % count in wire.answer()[1]:
            return
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_body_that_stops_coming_is_a_408_within_a_second(live: Callable[..., Any]) -> None:
    assert Settings().body_pause < 1.0
    wire = live()()
    wire.send(HEAD + b"content-length: 100\r\n\r\nabc")
    status, data = wire.answer()
    assert (status, code_of(data)) == (408, "body_too_slow")


def test_a_body_that_drips_is_a_408_as_well(live: Callable[..., Any]) -> None:
    wire = live(body_pause=0.2)()
    wire.send(HEAD + b"content-length: 100000\r\n\r\n")
    for _ in range(8):
        wire.send(b"x")
        time.sleep(0.05)
    status, data = wire.answer()
    assert (status, code_of(data)) == (408, "body_too_slow")


def test_empty_chunk_extensions_do_not_keep_a_body_alive(live: Callable[..., Any]) -> None:
    wire = live(body_pause=0.2, body_rate=0, body_timeout=0.5)()
    wire.send(CHUNKED)
    for _ in range(14):
        wire.send(b"1\r\nx\r\n")
        time.sleep(0.05)
    status, data = wire.answer()
    assert (status, code_of(data)) == (408, "body_too_slow")


def test_a_body_declared_too_long_is_refused_at_once(live: Callable[..., Any]) -> None:
    wire = live(max_body=4096, body_pause=3600.0)()  # it would wait for the body for an hour
    wire.send(HEAD + b"content-length: 999999999999\r\n\r\n")
    data = wire.socket.recv(65536)
    assert b" 413 " in data.split(b"\r\n")[0]
    assert b"connection: close" in data


def test_a_body_without_end_is_refused_when_it_passes_the_limit(live: Callable[..., Any]) -> None:
    wire = live(max_body=4096, body_pause=3600.0, body_timeout=3600.0)()
    wire.send(CHUNKED)
    started = time.monotonic()
    piece = b"400\r\n" + bytes(1024) + b"\r\n"
    data = b""
    wire.socket.settimeout(0.01)
    while b"\r\n\r\n" not in data and time.monotonic() - started < 60:
        wire.send(piece)
        try:
            data += wire.socket.recv(65536)
        except TimeoutError:
            continue
    assert b" 413 " in data.split(b"\r\n")[0]
    assert code_of(data) == "body_too_large"


def test_a_refusal_reaches_a_client_that_sends_on(live: Callable[..., Any]) -> None:
    wire = live(max_body=4096)()
    wire.send(HEAD + b"content-length: 3000000\r\n\r\n" + bytes(3000000))
    status, data = wire.answer()
    assert (status, code_of(data)) == (413, "body_too_large")


@pytest.mark.parametrize("length", [b"-1", b"x", b"1e3", b"0x10"])
def test_a_length_that_is_no_number_is_refused(live: Callable[..., Any], length: bytes) -> None:
    wire = live()()
    wire.send(HEAD + b"content-length: " + length + b"\r\n\r\n")
    status, data = wire.answer()
    assert (status, code_of(data)) == (400, "invalid_http")


def test_a_head_that_drips_is_a_408(live: Callable[..., Any]) -> None:
    wire = live(header_timeout=0.2)()
    wire.send(b"POST /v1/predict HTTP/1.1\r\n")
    for _ in range(5):
        wire.send(b"x-a: b\r\n")
        time.sleep(0.06)
    status, data = wire.answer()
    assert (status, code_of(data)) == (408, "head_too_slow")


def test_a_connection_that_says_nothing_is_closed(live: Callable[..., Any]) -> None:
    connect = live(header_timeout=1.0)
    assert connect().answer() == (0, b"")
    blank = connect()
    blank.send(b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n")
    assert b"live" in blank.socket.recv(65536)
    blank.send(b"\r\n")  # a new line, and then nothing
    assert blank.answer()[1] == b""


def test_a_head_without_end_is_a_431(live: Callable[..., Any]) -> None:
    wire = live()()
    wire.send(b"GET / HTTP/1.1\r\n" + b"x-filler: " + b"y" * 70000 + b"\r\n\r\n")
    status, data = wire.answer()
    assert (status, code_of(data)) == (431, "head_too_large")


@pytest.mark.parametrize(
    "garbage", [b"\x16\x03\x01\x02\x00\x01\x00", b"HELLO\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"]
)
def test_what_is_no_http_is_a_400(live: Callable[..., Any], garbage: bytes) -> None:
    wire = live()()
    wire.send(garbage)
    status, data = wire.answer()
    assert (status, code_of(data)) == (400, "invalid_http")


def test_a_refusal_leaves_the_connection_usable(live: Callable[..., Any], turnstile: Any) -> None:
    connect = live(engine=turnstile, queue=1)
    busy, other = connect(), connect()
    turnstile.open.clear()
    turnstile.entered.clear()
    busy.send(whole())
    assert turnstile.entered.wait(900)
    other.send(whole())
    assert b" 429 " in other.socket.recv(65536).split(b"\r\n")[0]
    turnstile.open.set()
    assert b" 200 " in busy.socket.recv(65536).split(b"\r\n")[0]
    other.send(whole())
    assert b" 200 " in other.socket.recv(65536).split(b"\r\n")[0]


def test_the_work_of_a_client_that_has_gone_is_not_done(live: Callable[..., Any], turnstile: Any) -> None:
    connect = live(engine=turnstile)
    holding, gone, patient = connect(), connect(), connect()
    turnstile.open.clear()
    turnstile.entered.clear()
    turnstile.seen.clear()
    holding.send(whole(1))
    assert turnstile.entered.wait(900)
    gone.send(whole(7))
    patient.send(whole(2))
    until_under_way(connect, 3)
    gone.socket.close()
    until_under_way(connect, 2)
    turnstile.open.set()
    assert b" 200 " in patient.socket.recv(65536).split(b"\r\n")[0]
    assert turnstile.seen == [1, 2]


def test_requests_sent_at_once_are_answered_in_order(live: Callable[..., Any]) -> None:
    wire = live()()
    wire.send(whole() * 2 + whole().replace(b"host: localhost", b"host: localhost\r\nconnection: close"))
    _, data = wire.answer()
    assert data.count(b"HTTP/1.1 200") == 3
