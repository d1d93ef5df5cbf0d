"""What bounds the server."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from nextvec.errors import ConfigError

MIB = 2**20


@dataclass(frozen=True)
class Settings:
    """Every limit in one place. Sizes in bytes, times in seconds.

    Attributes:
        host, port: where it listens; port 0 takes a free one.
        api_keys: any of them opens `/v1` and `/metrics`; none leaves them open.
        cors_origins: pages of other origins that may ask; none by default.
        max_body: of a request.
        max_vectors: T, vectors of a context. Models read the last of them.
        max_windows: N, contexts of a request.
        max_text: characters of a text.
        queue: requests on vectors under way at most, waiting or worked on.
        max_wait: a request is refused when it would wait longer, as far as recent work tells.
        max_batch: windows that a model answers together.
        batch_wait: how long a free model waits for requests that recent ones let it expect.
        text_queue, text_threads: the same bound for requests on texts, and how many are worked on at once.
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
    port: int = 8000
    api_keys: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    max_body: int = 16 * MIB
    max_vectors: int = 4096
    max_windows: int = 4096
    max_text: int = 1_000_000
    queue: int = 64
    max_wait: float = 0.5
    max_batch: int = 64
    batch_wait: float = 0.001
    text_queue: int = 32
    text_threads: int = 2
    work_timeout: float = 30.0
    body_pause: float = 0.8
    body_rate: int = 8192
    body_timeout: float = 30.0
    header_timeout: float = 5.0
    idle_timeout: float = 30.0
    grace: float = 30.0

    def __post_init__(self) -> None:
        for name, low, high in _BOUNDS:
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError(f"{name} is {value:g}", remedy=f"give {low:g} to {high:g}")
        if not self.host:
            raise ConfigError("host is empty", remedy="give 127.0.0.1, or 0.0.0.0 for every network")
        if any(len(key) < MIN_KEY or not key.isascii() or not key.isprintable() for key in self.api_keys):
            raise ConfigError(
                f"an API key is shorter than {MIN_KEY} characters, or not ASCII",
                remedy="make a long random one",
            )
        if "*" in self.cors_origins:
            raise ConfigError("cors_origins allows every page", remedy="name the origins")


MIN_KEY = 16
_BOUNDS: tuple[tuple[str, float, float], ...] = (
    ("port", 0, 65535),
    ("max_body", 1024, 1024 * MIB),
    ("max_vectors", 1, 1_000_000),
    ("max_windows", 1, 1_000_000),
    ("max_text", 1, 100_000_000),
    ("queue", 1, 100_000),
    ("max_wait", 0.001, 3600),
    ("max_batch", 1, 65536),
    ("batch_wait", 0, 1),
    ("text_queue", 1, 100_000),
    ("text_threads", 1, 256),
    ("work_timeout", 0.01, 3600),
    ("body_pause", 0.01, 3600),
    ("body_rate", 0, inf),
    ("body_timeout", 0.01, 3600),
    ("header_timeout", 0.1, 3600),
    ("idle_timeout", 1, 3600),
    ("grace", 0, 3600),
)
