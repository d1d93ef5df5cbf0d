"""`nextvec serve` as a process: from the line that says where it listens to exit 0 after SIGTERM."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from nextvec.serving.bodies import npy_bytes

NPY = {"content-type": "application/x-npy"}


@pytest.fixture
def process(trained: Path) -> Iterator[tuple[Any, str]]:
    command = [sys.executable, "-m", "nextvec", "serve", f"a={trained}", f"b={trained}"]
    flags = ["--split", "a=0.5,b=0.5", "--port", "0", "--threads", "1"]
    running = subprocess.Popen(
        [*command, *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # a pipe that nobody reads would fill up, and the server wait for it
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert running.stdout is not None
    line = running.stdout.readline().decode()
    assert line.startswith("serving a, b at http://127.0.0.1:"), line
    yield running, line.split(" at ")[1].strip()
    running.kill()
    running.wait()
    running.stdout.close()


def until_ready(url: str) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        try:
            if httpx.get(f"{url}/health/ready").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise AssertionError("never ready")


def test_every_request_accepted_before_sigterm_is_answered(process: tuple[Any, str]) -> None:
    running, url = process
    until_ready(url)
    body = npy_bytes(np.zeros((64, 5, 16), np.float32))
    answered: list[int] = []
    lost: list[Exception] = []
    stop = threading.Event()

    def send() -> None:
        with httpx.Client(base_url=url, timeout=900) as client:
            while not stop.is_set():
                try:
                    answered.append(client.post("/v1/predict", content=body, headers=NPY).status_code)
                except (httpx.ConnectError, httpx.ReadError, httpx.RemoteProtocolError, httpx.WriteError):
                    return  # the server has ended: nothing of this request was accepted
                except httpx.TransportError as error:
                    lost.append(error)

    clients = [threading.Thread(target=send) for _ in range(6)]
    for client in clients:
        client.start()
    end = time.monotonic() + 120
    while answered.count(200) <= 6 and time.monotonic() < end:
        time.sleep(0.01)
    running.send_signal(signal.SIGTERM)
    assert running.wait(120) == 0
    stop.set()
    for client in clients:
        client.join()
    assert set(answered) <= {200, 503}
    assert answered.count(200) > 6
    assert lost == []


def test_a_taken_port_is_one_line(trained: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "nextvec", "serve", str(trained), "--port", port]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "--port" in done.stderr
