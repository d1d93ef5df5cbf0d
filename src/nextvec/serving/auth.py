"""Who may ask: a key that is compared without telling how much of it was right."""

from __future__ import annotations

import hmac
import os
from collections.abc import Iterable
from pathlib import Path

from nextvec.errors import ConfigError
from nextvec.serving.errors import Refusal

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


class ApiKeys:
    """The keys that open the server; without any it is open."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._keys = [key.encode("ascii") for key in keys]

    def check(self, path: str, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Raises Refusal 401 for a guarded path without a right key."""
        if not self._keys or not path.startswith(GUARDED):
            return
        given = next((value for name, value in headers if name == b"authorization"), b"")
        scheme, _, key = given.partition(b" ")
        # Every key is compared, so that the time does not tell which one came close.
        right = [hmac.compare_digest(key.strip(), known) for known in self._keys]
        if scheme.lower() != b"bearer" or not any(right):
            raise Refusal(
                401,
                "no valid API key",
                code="invalid_api_key",
                remedy="send the header Authorization: Bearer KEY",
            )
