"""`nextvec serve` as a process, for tests that ask it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from nextvec.client import Client

STARTED_WITHIN = 120.0


@contextmanager
def serving(*arguments: str, key: str | None = None) -> Iterator[str]:
    """The address of a server, which is told to end afterwards and has to do so without an error."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NEXTVEC_API_KEY": key or ""}
    command = [sys.executable, "-m", "nextvec", "serve", *arguments, "--port", "0", "--no-log"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        watchdog = threading.Timer(STARTED_WITHIN, process.kill)
        watchdog.start()
        try:
            assert process.stdout is not None
            output = process.stdout.readline()
            assert " at http" in output, "the server did not start"
            url = output.rsplit(maxsplit=1)[-1]
            with Client(url, key, retries=10) as client:
                client.models()
                while not client.ready():
                    assert process.poll() is None
            watchdog.cancel()
            yield url
            process.terminate()
            assert process.wait(30) == 0
        finally:
            watchdog.cancel()
            process.kill()
