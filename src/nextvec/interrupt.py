"""Ctrl-C and SIGTERM during a training: the update is finished, everything is saved, then the run stops."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

from nextvec.errors import NextvecError


class TrainingInterrupted(NextvecError):  # noqa: N818 - nothing went wrong
    """A signal stopped the run after everything was saved. `exit_code` is 128 + the signal: 130 or 143."""

    def __init__(self, signum: int, run: Path, update: int) -> None:
        super().__init__(
            f"stopped by {signal.Signals(signum).name} after update {update}, everything is saved",
            where=run,
            remedy="go on with --resume",
        )
        self.exit_code = 128 + signum


class StopSignals:
    """While entered, SIGINT and SIGTERM set `received` instead of killing; the second one kills as usual.

    Outside of the main thread, where Python cannot handle signals, this does nothing.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGINT, signal.SIGTERM):
                self._previous[signum] = signal.signal(signum, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.received = signum
        self._restore()

    def _restore(self) -> None:
        while self._previous:
            signum, handler = self._previous.popitem()
            signal.signal(signum, handler)
