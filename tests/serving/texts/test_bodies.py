"""Bodies that no client should send: refused in words, soon, and the server goes on."""

from __future__ import annotations

import io
import json
import socket
import time
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import numpy as np
import pytest

from nextvec.client import Client

D, SOON = 384, 30.0  # the server's own bound is 0.8 s; a slow machine may take longer, never for ever
JSON, NPY = "application/json", "application/x-npy"
ROW = ",".join(["0.1"] * D)


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def lying() -> bytes:
    """The header of an array that is far larger than its body."""
    true = npy(np.zeros((1, D), np.float32))
    return true.replace(b"(1, 384)", b"(9, 384)")


def pickled() -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([{}], dtype=object), allow_pickle=True)
    return file.getvalue()


def ask(server: str, head: str, pieces: Iterator[bytes]) -> tuple[int, dict[str, str], float]:
    """Status, error and seconds of a request whose body comes piece by piece until the server answers."""
    at = urlsplit(server)
    started = time.monotonic()
    with socket.create_connection((at.hostname, at.port), timeout=900) as connection:
        connection.sendall(head.encode())
        connection.setblocking(False)
        received = bytearray()
        pending, alive = b"", True
        while not complete(received):
            pending = pending or next(pieces, b"")
            try:
                if pending and alive:
                    pending = pending[connection.send(pending) :]
            except BlockingIOError:
                pass
            except OSError:
                alive = False  # it has closed its ear; what it said can still be read
            try:
                part = connection.recv(65536)
                if not part:
                    break
                received += part
            except BlockingIOError:
                time.sleep(0.001)
    seconds = time.monotonic() - started
    assert received, "the connection was closed without a word"
    status = int(received.split(b" ", 2)[1])
    return status, json.loads(received.partition(b"\r\n\r\n")[2])["error"], seconds


def complete(received: bytearray) -> bool:
    head, found, body = bytes(received).partition(b"\r\n\r\n")
    if not found:
        return False
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return bool(lengths) and len(body) >= int(lengths[0].split(b":")[1])


def head(path: str, key: str, kind: str, *more: str) -> str:
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: x",
        f"Authorization: Bearer {key}",
        f"Content-Type: {kind}",
        *more,
    ]
    return "\r\n".join([*lines, "", ""])


BAD = {
    "NaN": (JSON, f'{{"input": [[NaN,{ROW[4:]}]]}}'.encode(), {400}),
    "more than a float holds": (JSON, f'{{"input": [[1e999,{ROW[4:]}]]}}'.encode(), {400, 422}),
    "NaN in npy": (NPY, npy(np.full((2, D), np.nan, np.float32)), {422}),
    "ragged": (JSON, f'{{"input": [[{ROW}],[{ROW},1]]}}'.encode(), {422}),
    "wrong dimension": (JSON, b'{"input": [[1,2,3]]}', {422}),
    "wrong dimension in npy": (NPY, npy(np.zeros((2, D + 1), np.float32)), {422}),
    "nothing": (JSON, b"", {400, 422}),
    "no field": (JSON, b"{}", {422}),
    "no vector": (JSON, b'{"input": []}', {422}),
    "no vector in npy": (NPY, npy(np.zeros((0, D), np.float32)), {422}),
    "deeply nested": (JSON, b'{"input": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", {400, 422}),
    "words for numbers": (JSON, f'{{"input": [["a",{ROW[4:]}]]}}'.encode(), {422}),
    "not base64": (JSON, b'{"input": "%%%"}', {422}),
    "pickled": (NPY, pickled(), {400}),
    "a lying header": (NPY, lying(), {400}),
    "not UTF-8": (JSON, b'{"input": "\xff\xfe"}', {400}),
    "another type": ("text/csv", b"1,2,3", {415, 422}),
}


@pytest.mark.parametrize("path", ["/v1/predict", "session"])
@pytest.mark.parametrize("case", BAD)
def test_a_bad_body_is_refused_in_words(server: str, key: str, client: Client, path: str, case: str) -> None:
    kind, body, statuses = BAD[case]
    with client.session() as session:
        path = f"/v1/sessions/{session.id}/vectors" if path == "session" else path
        start = head(path, key, kind, f"Content-Length: {len(body)}")
        status, error, seconds = ask(server, start, iter([body]))
        assert status in statuses
        assert error["message"]
        assert error["code"]
        assert seconds < SOON
        assert session.describe()["position"] == 0


BAD_TEXTS = {
    "nothing": (b"", {400, 422}),
    "no text": (b"{}", {422}),
    "white space": (b'{"text": " \\n "}', {422}),
    "a number": (b'{"text": 5}', {422}),
    "an unknown field": (b'{"text": "A sentence.", "temperature": 1}', {422}),
    "half a character": (b'{"text": "\\ud800 is none."}', {400, 422}),
    "deeply nested": (b'{"text": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", {400, 422}),
    "too long": (json.dumps({"text": "word " * 300_000}).encode(), {422}),
}


@pytest.mark.parametrize("path", ["predict/text", "surprise", "retrieve", "rollout"])
@pytest.mark.parametrize("case", BAD_TEXTS)
def test_so_is_a_bad_text(server: str, key: str, path: str, case: str) -> None:
    body, statuses = BAD_TEXTS[case]
    start = head(f"/v1/{path}", key, JSON, f"Content-Length: {len(body)}")
    status, error, seconds = ask(server, start, iter([body]))
    assert status in statuses
    assert error["message"]
    assert seconds < SOON


def once(piece: bytes) -> Iterator[bytes]:
    yield piece


def drops() -> Iterator[bytes]:
    """A byte now and then."""
    while True:
        time.sleep(0.05)
        yield b"1\r\n \r\n"


def flood() -> Iterator[bytes]:
    """As much as goes through."""
    piece = b"10000\r\n" + b" " * 65536 + b"\r\n"
    while True:
        yield piece


ENDLESS: dict[str, tuple[str, Callable[[], Iterator[bytes]], int]] = {
    "declared too long": (f"Content-Length: {17 * 2**20}", lambda: once(b"{"), 413),
    "never ends, fast": ("Transfer-Encoding: chunked", flood, 413),
    "never ends, slow": ("Transfer-Encoding: chunked", drops, 408),
    "stops": ("Content-Length: 1000", lambda: once(b'{"input": '), 408),
    "never begins": ("Content-Length: 1000", lambda: once(b""), 408),
}


@pytest.mark.parametrize("path", ["/v1/predict", "/v1/predict/text"])
@pytest.mark.parametrize("case", ENDLESS)
def test_a_body_without_end_is_cut_off(server: str, key: str, client: Client, path: str, case: str) -> None:
    output, pieces, expected = ENDLESS[case]
    status, error, seconds = ask(server, head(path, key, JSON, output), pieces())
    assert status == expected
    assert error["remedy"]
    assert seconds < SOON
    assert client.ready()
