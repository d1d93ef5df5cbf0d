"""What bounds the server, and the keys that open it."""

from __future__ import annotations

import hmac
import os
from collections.abc import Iterable
from dataclasses import dataclass, fields
from math import inf
from pathlib import Path

from nextvec.config import number
from nextvec.errors import ConfigError
from nextvec.serving.errors import Refusal

MIB = 2**20


@dataclass(frozen=True)
class Settings:
    """Every limit in one place. Sizes in bytes, times in seconds.

    Attributes:
        host, port: where it listens; port 0 takes a free one.
        api_keys: any of them opens `/v1` and `/metrics`; none leaves them open.
        allowed_hosts: names that a request may call the server by (its Host header); by default, a server of
            this machine only, without keys, answers to this machine's names and any other to all. Otherwise
            a page could have its own name resolve to this machine and ask in its visitor's place.
        cors_origins: pages of other origins that may ask; none by default.
        max_body: of a request.
        max_vectors: T, vectors of a context. Models read the last of them.
        max_windows: N, contexts of a request.
        max_text: characters of a text.
        queue: requests on vectors under way at most, waiting or worked on.
        max_wait: a request is refused when it would wait longer, by recent work.
        max_batch: windows that a model answers together.
        batch_wait: how long a free model waits for requests that recent ones let it expect.
        text_queue, text_threads: the same bound for requests on texts, and how many are worked on at once.
        client_sessions: streaming sessions that one client (an API key, else an address) may have open.
        work_timeout: for an answer, once a request is read.
        body_pause: between two pieces of a body.
        body_rate: bytes a second that a body must have come with, once `body_pause` is over.
        body_timeout: for a whole body.
        header_timeout: for the head of a request, from its first byte (or the connection's opening).
        idle_timeout: of a connection between two requests.
        grace: at the end, for what was accepted.
    Raises:
        ConfigError: a value that bounds nothing, or everything away.
    """

    host: str = "127.0.0.1"
    port: int = number(8000, least=0, most=65535)
    api_keys: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    max_body: int = number(16 * MIB, least=1024, most=1024 * MIB)
    max_vectors: int = number(4096, least=1, most=1_000_000)
    max_windows: int = number(4096, least=1, most=1_000_000)
    max_text: int = number(1_000_000, least=1, most=100_000_000)
    queue: int = number(64, least=1, most=100_000)
    max_wait: float = number(0.5, least=0.001, most=3600)
    max_batch: int = number(64, least=1, most=65536)
    batch_wait: float = number(0.001, least=0, most=1)
    text_queue: int = number(32, least=1, most=100_000)
    text_threads: int = number(2, least=1, most=256)
    client_sessions: int = number(64, least=1, most=256)
    work_timeout: float = number(30.0, least=0.01, most=3600)
    body_pause: float = number(0.8, least=0.01, most=3600)
    body_rate: int = number(8192, least=0, most=inf)
    body_timeout: float = number(30.0, least=0.01, most=3600)
    header_timeout: float = number(5.0, least=0.1, most=3600)
    idle_timeout: float = number(30.0, least=1, most=3600)
    grace: float = number(30.0, least=0, most=3600)

    def __post_init__(self) -> None:
        for field in fields(self):
            bounds, value = field.metadata.get("bounds"), getattr(self, field.name)
            if bounds is not None and not bounds.hold(value):
                remedy = f"give {bounds.least:g} to {bounds.most:g}"
                raise ConfigError(f"{field.name} is {value:g}", remedy=remedy)
        if not self.host:
            raise ConfigError("host is empty", remedy="give 127.0.0.1, or 0.0.0.0 for every network")
        if any(len(key) < MIN_KEY or not key.isascii() or not key.isprintable() for key in self.api_keys):
            message = f"an API key is shorter than {MIN_KEY} characters, or not ASCII"
            raise ConfigError(message, remedy="make a long random one")
        if "*" in self.cors_origins:
            raise ConfigError("cors_origins allows every page", remedy="name the origins")


MIN_KEY = 16
VARIABLE = "NEXTVEC_API_KEY"
MAX_KEY_FILE = 64 * 1024
GUARDED = ("/v1/", "/metrics")
"""What a key opens. The health checks, the page and the description of the routes stay open."""


def api_keys(file: Path | None) -> tuple[str, ...]:
    """The keys of a file, one a line, and of the environment variable NEXTVEC_API_KEY.

    Raises:
        ConfigError: a file without keys, or too large to be one.
    """
    found = [os.environ.get(VARIABLE, "").strip()]
    if file is not None:
        if file.stat().st_size > MAX_KEY_FILE:
            raise ConfigError("is too large for a file of keys", where=file, remedy="write one key a line")
        lines = [line.strip() for line in file.read_text("utf-8", errors="replace").splitlines()]
        if not any(lines):
            raise ConfigError("holds no key", where=file, remedy="write one key a line")
        found += lines
    return tuple(key for key in found if key)


LOCAL = ("localhost", "127.0.0.1", "::1")
Headers = Iterable[tuple[bytes, bytes]]


def header(headers: Headers, name: bytes) -> bytes | None:
    """The first header of this name, in lower case; None where there is none."""
    return next((value for key, value in headers if key == name), None)


class AllowedHosts:
    """The names that the server answers to; without any it answers to all."""

    def __init__(self, settings: Settings) -> None:
        names = settings.allowed_hosts
        if not names and not settings.api_keys and settings.host in LOCAL:
            names = LOCAL
        self._names = frozenset(name.lower().strip("[]") for name in names)

    def check(self, headers: Headers) -> None:
        """Raises Refusal 421 for a request to a name that is not the server's."""
        if not self._names:
            return
        given = (header(headers, b"host") or b"").decode("latin-1")
        # Without the port; an IPv6 address stands in brackets.
        host = given[1:].partition("]")[0] if given.startswith("[") else given.partition(":")[0]
        if host.lower() not in self._names:
            raise Refusal(
                421,
                "the Host header does not name this server",
                code="host_not_allowed",
                remedy="name it in --allowed-hosts when the server is started",
                close=True,
            )


class ApiKeys:
    """The keys that open the server; without any it is open.

    Not FastAPI's HTTPBearer, which runs behind the router: the gateway refuses before it reads a body, and
    answers /v1/predict without the router.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._keys = [key.encode("ascii") for key in keys]

    def check(self, path: str, headers: Headers) -> None:
        """Raises Refusal 401 for a guarded path without a right key."""
        if not self._keys or not path.startswith(GUARDED):
            return
        scheme, _, key = (header(headers, b"authorization") or b"").partition(b" ")
        # Every key is compared, so that the time does not reveal which one came close.
        right = [hmac.compare_digest(key.strip(), known) for known in self._keys]
        if scheme.lower() != b"bearer" or not any(right):
            remedy = "send the header Authorization: Bearer KEY"
            raise Refusal(401, "no valid API key", code="invalid_api_key", remedy=remedy)
