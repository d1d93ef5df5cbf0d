"""Streaming sessions: a model's state kept between requests. Bounded in number, memory and time."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from nextvec.inference.base import StreamSession
from nextvec.serving.errors import Refusal
from nextvec.serving.served_models import ServedModel

MOST, MOST_BYTES, IDLE_SECONDS = 256, 2**30, 600.0
EACH = 64
"""Sessions of one client."""
MAX_POSITION = 65536


@dataclass(eq=False)
class Stream:
    """One session.

    Attributes:
        id: cannot be guessed; whoever knows it may go on with the session.
        horizon: its predictions are so many vectors ahead.
        client: whose it is.
        used: when it was used last, on the clock of `Sessions`.
    """

    id: str
    model: ServedModel
    session: StreamSession
    horizon: int
    client: str
    used: float
    _turn: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def turn(self, vectors: int) -> Iterator[StreamSession]:
        """The session, for one push of so many vectors at a time: their order would be anybody's guess.

        Raises Refusal 409: another push is under way, or it has read as much as one session may.
        """
        if not self._turn.acquire(blocking=False):
            message = "another push of this session is under way"
            remedy = "wait for its answer, then send the next"
            raise Refusal(409, message, code="session_busy", remedy=remedy)
        try:
            if self.session.position + vectors > MAX_POSITION:
                message = f"a session reads {MAX_POSITION} vectors at most"
                raise Refusal(409, message, code="session_full", remedy="open another one")
            yield self.session
        finally:
            self._turn.release()


class Sessions:
    """All sessions of a server. Its methods are called on the event loop.

    Args:
        most: sessions at a time.
        most_bytes: of their states together, before a push.
        idle: seconds after which one that is not used is forgotten.
        clock: gives seconds.
        each: sessions of one client, whose states may take the same share of the memory.
    """

    def __init__(
        self,
        most: int = MOST,
        most_bytes: int = MOST_BYTES,
        idle: float = IDLE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        each: int = EACH,
    ) -> None:
        self._streams: dict[str, Stream] = {}  # the longest unused first
        self._most, self._most_bytes, self.idle, self._clock = most, most_bytes, idle, clock
        self._each, self._each_bytes = min(each, most), most_bytes * min(each, most) // most

    def __len__(self) -> int:
        return len(self._streams)

    def open(self, model: ServedModel, session: StreamSession, horizon: int, client: str) -> Stream:
        """A new one of this client. Raises Refusal 429: there are too many, or too many of its own."""
        self._forget()
        own = self._of(client)
        if len(own) >= self._each:
            raise self._full(f"{self._each} sessions of this client are open", own)
        if len(self._streams) >= self._most:
            raise self._full(f"{self._most} sessions are open", self._of())
        stream = Stream(secrets.token_urlsafe(24), model, session, horizon, client, self._clock())
        self._streams[stream.id] = stream
        return stream

    def find(self, identity: str) -> Stream:
        """The one of this id, which is used now. Raises Refusal 404."""
        self._forget()
        stream = self._streams.pop(identity, None)
        if stream is None:
            raise _unknown()
        stream.used = self._clock()
        self._streams[identity] = stream
        return stream

    def grow(self, identity: str) -> Stream:
        """As `find`, for a push. Raises Refusal 429: the states of all sessions, or of the client's own, take
        too much memory."""
        stream = self.find(identity)
        for held, limit in ((self._of(stream.client), self._each_bytes), (self._of(), self._most_bytes)):
            if sum(other.session.state_bytes for other in held) > limit:
                raise self._full("the sessions' states take all the memory that they may", held)
        return stream

    def _of(self, client: str | None = None) -> list[Stream]:
        """The sessions of a client, or of all, the longest unused first."""
        return [stream for stream in self._streams.values() if client in (None, stream.client)]

    def close(self, identity: str) -> None:
        """Forget one. Raises Refusal 404."""
        self._forget()
        if self._streams.pop(identity, None) is None:
            raise _unknown()

    def left(self, stream: Stream) -> float:
        """Seconds until it is forgotten, if it is not used."""
        return max(0.0, stream.used + self.idle - self._clock())

    def _forget(self) -> None:
        now = self._clock()
        while self._streams:
            oldest = next(iter(self._streams.values()))
            if now - oldest.used <= self.idle:
                return
            del self._streams[oldest.id]

    def _full(self, why: str, held: list[Stream]) -> Refusal:
        again, remedy = max(1, int(self.left(held[0])) + 1), "delete sessions that are not needed any more"
        return Refusal(429, why, code="too_many_sessions", remedy=remedy, retry_after=again)


def _unknown() -> Refusal:
    message = "no such session: it was deleted, or it was not used for too long"
    return Refusal(404, message, code="session_not_found", remedy="open another one: POST /v1/sessions")
