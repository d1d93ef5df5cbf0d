"""A real `nextvec serve` process over two small models of `text_store`: a GRU and an AMN."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from nextvec.client import Client
from nextvec.corpus.store import Store

STARTED_WITHIN = 120.0
KEY = "a-key-for-the-tests-only"


@pytest.fixture(scope="session")
def amn_run(
    text_store: Store, make_tiny: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of a small AMN trained on `text_store`."""
    from nextvec.training.loop import train

    folder = tmp_path_factory.mktemp("text-runs") / "small-amn"
    train(text_store, make_tiny("amn", "optim.epochs=1", "model.options.width=16"), folder, quiet=True)
    return folder


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
            said = process.stdout.readline()
            assert " at http" in said, "the server did not start"
            url = said.rsplit(maxsplit=1)[-1]
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


@pytest.fixture(scope="session")
def server(text_run: Path, amn_run: Path, text_store: Store) -> Iterator[str]:
    """The address of a server of `gru` (the default) and `amn`, with the store; it asks for KEY."""
    with serving(f"gru={text_run}", f"amn={amn_run}", "--store", str(text_store.path), key=KEY) as url:
        yield url


@pytest.fixture(scope="session")
def key() -> str:
    """That the server asks for."""
    return KEY


@pytest.fixture
def client(server: str) -> Iterator[Client]:
    with Client(server, KEY) as opened:
        yield opened
