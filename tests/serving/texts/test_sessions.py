"""Sessions are bounded in number, memory, length and time."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from starlette.requests import Request

from nextvec.inference.base import StreamSession
from nextvec.serving.errors import Refusal
from nextvec.serving.request_context import client_of
from nextvec.serving.sessions import MAX_POSITION, Sessions
from nextvec.serving.settings import Settings


class Heavy(StreamSession):
    """Takes a hundred bytes a vector."""

    streaming = "cache"

    @property
    def state_bytes(self) -> int:
        return 100 * self.position

    def _read(self, vectors: np.ndarray) -> np.ndarray:
        return vectors

    def _forget(self) -> None:
        """There is nothing."""


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Held:
    most: int = 2
    each: int = 2
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.sessions = Sessions(self.most, 1000, 10.0, self.clock, self.each)

    def open(self, client: str = "a") -> Any:
        return self.sessions.open(None, Heavy(2), 1, client)  # type: ignore[arg-type]


def refused(status: int, code: str) -> Any:
    return pytest.raises(Refusal, check=lambda error: (error.status, error.code) == (status, code))


def test_one_that_nobody_asks_for_is_forgotten() -> None:
    held = Held()
    first = held.open()
    held.clock.now = 6.0
    second = held.open()
    assert held.sessions.left(first) == 4.0
    held.clock.now = 9.0
    assert held.sessions.find(first.id) is first
    held.clock.now = 17.0
    assert held.sessions.find(first.id) is first
    with refused(404, "session_not_found"):
        held.sessions.find(second.id)
    assert len(held.sessions) == 1


def test_there_are_never_too_many() -> None:
    held = Held()
    first, _ = held.open(), held.open()
    held.clock.now = 3.0
    with refused(429, "too_many_sessions") as caught:
        held.open()
    assert caught.value.retry_after == 8
    held.sessions.close(first.id)
    assert held.open().id != first.id
    with refused(404, "session_not_found"):
        held.sessions.close(first.id)


def test_their_states_are_bounded_together() -> None:
    held = Held()
    first, second = held.open(), held.open()
    with held.sessions.grow(first.id).turn(11) as session:
        session.read(np.zeros((11, 2), np.float32))
    with refused(429, "too_many_sessions"):
        held.sessions.grow(second.id)
    assert held.sessions.find(second.id) is second


def test_one_client_cannot_take_the_sessions_of_all() -> None:
    held = Held(most=4, each=2)
    first, _ = held.open(), held.open()
    held.clock.now = 3.0
    with refused(429, "too_many_sessions") as caught:
        held.open()
    assert "of this client" in str(caught.value)
    assert caught.value.retry_after == 8
    other = held.open("b")
    with held.sessions.grow(first.id).turn(6) as session:
        session.read(np.zeros((6, 2), np.float32))
    with refused(429, "too_many_sessions"):
        held.sessions.grow(first.id)
    assert held.sessions.grow(other.id) is other
    held.sessions.close(first.id)
    assert held.open().client == "a"


@pytest.mark.parametrize(
    ("keys", "one", "same", "another"),
    [
        ((), ("10.0.0.1", ""), ("10.0.0.1", "Bearer x"), ("10.0.0.2", "")),
        ((), ("2001:db8::1", ""), ("2001:db8::ffff:2", ""), ("2001:db8:0:1::1", "")),
        ((), ("fe80::1%eth0", ""), ("fe80::2%eth1", ""), ("testclient", "")),
        (
            ("k" * 16, "l" * 16),
            ("10.0.0.1", "Bearer " + "k" * 16),
            ("::1", "bearer  " + "k" * 16),
            ("10.0.0.1", "Bearer " + "l" * 16),
        ),
    ],
)
def test_a_client_is_a_key_or_without_keys_an_address(keys: Any, one: Any, same: Any, another: Any) -> None:
    app = SimpleNamespace(state=SimpleNamespace(settings=Settings(api_keys=keys)))

    def client(host: str, authorization: str) -> str:
        headers = [(b"authorization", authorization.encode())]
        return client_of(Request({"type": "http", "app": app, "client": (host, 1), "headers": headers}))

    assert client(*one) == client(*same) != client(*another)
    assert not keys or keys[0] not in client(*one)


def test_pushes_take_turns_and_have_an_end() -> None:
    stream = Held().open()
    with stream.turn(1), refused(409, "session_busy"), stream.turn(1):
        pass
    with refused(409, "session_full"), stream.turn(MAX_POSITION + 1):
        pass
    with stream.turn(1) as session:
        assert session.position == 0
