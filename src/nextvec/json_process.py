"""A worker process that answers lines of JSON: an engine that is measured, a decoder of other packages.

It is started when it is first needed, told apart from a hung one by a time-out, and never outlives its
owner: closing, an exception, garbage collection and the end of the program all stop it."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import tempfile
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Literal, Self

MAX_LINE = 64 * 2**20
Problem = Literal["late", "ended", "invalid", "refused"]
"""It was silent for too long, it ended, its line is no JSON object, or it answers with an error."""
_GRACE_S = 5.0
_TAIL = 4096


class JsonProcess:
    """One process, one question at a time.

    Args:
        command: what to run. It says hello with one line of JSON, then answers each line with one.
        name: whose process it is, for errors.
        error: makes the exception that is raised, from the problem and a sentence on it.
        timeout: seconds that it may take to say hello, or to answer; None waits for ever.
        environment: variables beside those of this process.
        folder: where it runs; None is a temporary folder.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        name: str,
        error: Callable[[Problem, str], Exception],
        timeout: float | None = None,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        self.command, self.name, self.timeout = list(command), name, timeout
        self._error, self._environment, self._folder = error, dict(environment or {}), folder
        self._lock = threading.Lock()
        self._running: _Running | None = None
        self._hello: dict[str, Any] = {}

    @property
    def pid(self) -> int | None:
        """Of the process; None while there is none."""
        return None if self._running is None else self._running.process.pid

    def start(self) -> dict[str, Any]:
        """Start it unless it runs; returns its hello. Raises what `error` makes."""
        with self._lock:
            return self._start()

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Its answer to one question. A process that does not answer is stopped, and the next question starts
        another.

        Raises what `error` makes: it refuses, ends, is silent for too long, or answers what is not JSON.
        """
        with self._lock:
            self._start()
            return self._hear(json.dumps(request))

    def close(self) -> None:
        """Stop the process, if one runs."""
        with self._lock:
            self._stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> dict[str, Any]:
        if self._running is None:
            self._running = _Running(self.command, self._environment, self._folder)
            try:
                self._hello = self._hear(None)
            except BaseException:
                self._stop()
                raise
        return self._hello

    def _stop(self) -> None:
        if self._running is not None:
            self._running.stop()
            self._running = None

    def _hear(self, request: str | None) -> dict[str, Any]:
        """The next line, after a request if there is one. Whatever interrupts the wait stops the process: its
        next line would answer another question."""
        assert self._running is not None
        try:
            line = self._running.exchange(request, self.timeout)
        except queue.Empty:
            self._stop()
            message = f"{self.name} gave no answer within {self.timeout:g} s; its process was stopped"
            raise self._error("late", message) from None
        except EOFError:
            last_line = self._running.last_words()
            self._stop()
            raise self._error("ended", f"{self.name}'s process ended ({last_line})") from None
        except BaseException:
            self._stop()
            raise
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            self._stop()
            message = f"{self.name}'s process wrote {line[:80]!r}, which is not a JSON object"
            raise self._error("invalid", message)
        if "error" in answer:
            raise self._error("refused", f"{self.name}: {answer['error']}")
        return answer


class _Running:
    """A started process, with what it needs while it runs: a thread that reads, a place to write to."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], folder: Path | None) -> None:
        self.scratch = tempfile.TemporaryDirectory(prefix="nextvec-process-", ignore_cleanup_errors=True)
        self.errors = (Path(self.scratch.name) / "stderr").open("w+b")
        self.process = subprocess.Popen(  # noqa: S603 - our own interpreter and script
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            cwd=folder or self.scratch.name,
            env={**os.environ, **environment},
            start_new_session=True,  # Ctrl-C is its owner's, who stops it
        )
        self.lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        assert self.process.stdout is not None
        threading.Thread(target=_read, args=(self.process.stdout, self.lines), daemon=True).start()
        self.stop = weakref.finalize(self, _stop, self.process, self.errors, self.scratch)

    def exchange(self, request: str | None, timeout: float | None) -> bytes:
        """Send a line, if there is one, and wait for one. Raises queue.Empty late, EOFError at its end."""
        if request is not None:
            # In a thread: a process that hangs does not empty its pipe either.
            threading.Thread(target=_write, args=(self.process.stdin, request), daemon=True).start()
        line = self.lines.get(timeout=timeout)
        if not line:
            raise EOFError
        return line

    def last_words(self) -> str:
        """The last line that it wrote to standard error, or how it ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(_GRACE_S)
        self.errors.flush()
        size = self.errors.seek(0, os.SEEK_END)
        self.errors.seek(max(0, size - _TAIL))
        lines = self.errors.read().decode("utf-8", "replace").strip().splitlines()
        return lines[-1].strip() if lines else f"exit code {self.process.returncode}, no word on it"


def _read(stream: IO[bytes], lines: queue.SimpleQueue[bytes]) -> None:
    """Lines until the end, which is an empty one. A line that is too long counts as the end."""
    while True:
        line = stream.readline(MAX_LINE)
        whole = line if line.endswith(b"\n") else b""
        lines.put(whole)
        if not whole:
            return


def _write(stream: IO[bytes], request: str) -> None:
    """One line. A pipe that breaks, or is closed, shows as the end of what is read."""
    with contextlib.suppress(BrokenPipeError, ValueError):
        stream.write(request.encode() + b"\n")
        stream.flush()


def _stop(
    process: subprocess.Popen[bytes], errors: IO[bytes], scratch: tempfile.TemporaryDirectory[str]
) -> None:
    """End the process for good, and clear up."""
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(BrokenPipeError):
                stream.close()
    errors.close()
    scratch.cleanup()
