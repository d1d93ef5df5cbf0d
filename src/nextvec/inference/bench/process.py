"""The other end of `worker`: one engine in a process that is asked and answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from types import TracebackType
from typing import Any, Self

from nextvec.inference.bench.worker import COPY

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class EngineError(Exception):
    """An engine that cannot be had or failed; the message is its row's reason."""


class EngineProcess:
    """Start it, ask it, and it ends with the `with` block."""

    def __init__(self, job: dict[str, Any]) -> None:
        environment = {**os.environ, **dict.fromkeys(THREADS, str(job["threads"]))}
        self.job = job
        self._process = subprocess.Popen(
            [sys.executable, "-m", "nextvec.inference.bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            text=True,
        )

    @classmethod
    def copying(cls, device: str, threads: int) -> Self:
        """One that copies memory in place of predicting."""
        return cls({"engine": COPY, "device": device, "threads": threads})

    def start(self) -> dict[str, Any]:
        """Load the engine; what it says of it: "parameters", "bytes". Raises EngineError."""
        found: dict[str, Any] = self._say(self.job)["facts"]
        return found

    def ask(self, what: str, **details: Any) -> dict[str, Any]:
        """A method of the worker by name. Raises EngineError."""
        return self._say({"ask": what, **details})

    def _say(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
            answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        except (BrokenPipeError, ValueError):
            code = self._process.wait()
            raise EngineError(f"its process ended with code {code}") from None
        if "error" in answer:
            raise EngineError(answer["error"])
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
