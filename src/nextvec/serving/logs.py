"""One line of JSON a request. No texts, no vectors, no keys."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime
from typing import IO, Any

import orjson

FLUSH_SECONDS = 0.2


class RequestLog:
    """Lines are gathered and written a few times a second, and refusals of a crowd are only counted: under
    load the log costs little, and nobody can flood it.

    Args:
        stream: takes bytes; None writes nothing.
    """

    def __init__(self, stream: IO[bytes] | None) -> None:
        self._stream = stream
        self._lines: list[bytes] = []
        self._refused: Counter[str] = Counter()
        self._timer: asyncio.TimerHandle | None = None

    def write(self, event: str, **fields: Any) -> None:
        """One line, with the time."""
        if self._stream is None:
            return
        now = datetime.now(UTC)
        self._lines.append(
            orjson.dumps({"time": now, "event": event, **fields}, option=orjson.OPT_APPEND_NEWLINE)
        )
        self._later()

    def refused(self, code: str) -> None:
        """One more of them; a line tells how many."""
        if self._stream is not None:
            self._refused[code] += 1
            self._later()

    def flush(self) -> None:
        """Write what is there."""
        self._timer = None
        if self._stream is None:
            return
        for code, count in self._refused.items():
            line = {"time": datetime.now(UTC), "event": "refused", "code": code, "count": count}
            self._lines.append(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
        self._refused.clear()
        self._stream.write(b"".join(self._lines))
        self._stream.flush()
        self._lines.clear()

    def _later(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)
