"""Progress of long work: a bar with rate and time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

PLAIN_INTERVAL_S = 15.0
LEVELS = "▁▂▃▄▅▆▇█"
ASCII = str.maketrans(LEVELS, "_.-:=+*#")
"""For a terminal that has no blocks."""


def sparkline(values: Sequence[float], width: int = 16) -> str:
    """The last `width` values as blocks, from the lowest of them to the highest; equal ones stand low."""
    shown = values[-width:]
    low, high = min(shown, default=0.0), max(shown, default=0.0)
    step = (high - low) / (len(LEVELS) - 1) or 1.0
    return "".join(LEVELS[round((value - low) / step)] for value in shown)


class Progress:
    """Counts `total` units of work.

    On a terminal this is a tqdm bar on standard error. Elsewhere (a log, CI) a plain line at most every
    15 seconds and one at the end, so that standard output stays free for results.
    """

    def __init__(
        self, what: str, total: int | None, unit: str, *, initial: int = 0, quiet: bool = False
    ) -> None:
        self.what, self.total, self.unit, self.quiet = what, total, unit, quiet
        self.done = self.initial = initial
        self.started = self.last_line = time.monotonic()
        self.note = ""
        self.bar = None
        if not quiet and sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(desc=what, total=total, unit=f" {unit}", initial=initial, dynamic_ncols=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.close()
        elif not self.quiet and kind is None:
            self._line()

    def advance(self, n: int = 1, note: str | None = None, live: str | None = None) -> None:
        """Count `n` more units; `note` is a short text shown behind the rate, `live` what a terminal shows in
        its place."""
        self.done += n
        if note is not None:
            self.note = note
        if self.bar is not None:
            if (shown := live or note) is not None:
                self.bar.set_postfix_str(_encodable(shown), refresh=n == 0)
            self.bar.update(n)
        elif not self.quiet and time.monotonic() - self.last_line >= PLAIN_INTERVAL_S:
            self._line()

    def _line(self) -> None:
        now = time.monotonic()
        self.last_line = now
        rate = (self.done - self.initial) / max(now - self.started, 1e-9)
        total = "" if self.total is None else f"/{self.total}"
        left = ""
        if self.total is not None and rate > 0 and self.done < self.total:
            left = f", {(self.total - self.done) / rate:.0f} s left"
        note = f"  {self.note}" if self.note else ""
        sys.stderr.write(f"{self.what}: {self.done}{total} {self.unit}, {rate:.1f}/s{left}{note}\n")
        sys.stderr.flush()


def _encodable(text: str) -> str:
    """`text` as standard error can show it."""
    try:
        text.encode(sys.stderr.encoding or "ascii")
    except UnicodeEncodeError:
        return text.translate(ASCII)
    return text
