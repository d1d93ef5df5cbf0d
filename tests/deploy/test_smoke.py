"""The image's own entry point, command and health check, run without an engine of containers."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from nextvec.corpus.store import Store

PORT, KEY = "8000", "a-key-made-for-this-test"
PATIENCE = 900


@pytest.fixture
def port() -> int:
    """A free one."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


@pytest.fixture
def environment() -> dict[str, str]:
    """As in the image: the package's commands come first."""
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HF_HUB_OFFLINE": "1",
    }


@pytest.fixture
def server(
    image: Any,
    compose: dict[str, Any],
    port: int,
    environment: dict[str, str],
    text_run: Path,
    text_store: Store,
    tmp_path: Path,
) -> Iterator[subprocess.Popen[bytes]]:
    """What compose starts, in a folder that stands for /data."""
    (tmp_path / "run").symlink_to(text_run)
    (tmp_path / "store").symlink_to(text_store.path)
    (tmp_path / "key").write_text(KEY)
    output = [*image.command("ENTRYPOINT"), *compose["services"]["server"]["command"]]
    named = {
        PORT: str(port),
        "/run/secrets/api_key": str(tmp_path / "key"),
        "${NEXTVEC_INDEX:-exact}": "exact",
    }
    assert set(named) <= set(output)
    command = [named.get(word, word) for word in output]
    with (tmp_path / "log").open("wb") as log:
        started = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
    yield started
    started.kill()
    started.wait()


def healthy(image: Any, port: int, environment: dict[str, str]) -> bool:
    """What the image's HEALTHCHECK says."""
    command = [word.replace(PORT, str(port)) for word in image.command("HEALTHCHECK")]
    return subprocess.run(command, env=environment, capture_output=True, check=False).returncode == 0


def test_it_starts_answers_and_ends(
    server: subprocess.Popen[bytes],
    image: Any,
    prometheus: dict[str, Any],
    port: int,
    environment: dict[str, str],
    tmp_path: Path,
) -> None:
    assert not healthy(image, port, environment)
    end = time.monotonic() + PATIENCE
    while not healthy(image, port, environment):
        assert server.poll() is None, (tmp_path / "log").read_text()
        assert time.monotonic() < end, (tmp_path / "log").read_text()
        time.sleep(0.2)
    url, key = f"http://127.0.0.1:{port}", {"Authorization": f"Bearer {KEY}"}
    text = {"text": "The river is low in summer. Boats stay in the harbour. The mill stands still."}
    assert httpx.post(f"{url}/v1/predict/text", json=text, timeout=900).status_code == 401
    answer = httpx.post(f"{url}/v1/predict/text", json=text, headers=key, timeout=900)
    assert answer.status_code == 200, answer.text
    assert answer.json()["passages"]
    [job] = prometheus["scrape_configs"]
    scraped = httpx.get(url + job.get("metrics_path", "/metrics"), headers=key)
    assert re.search(r"^nextvec_requests_total\{.*\} \d", scraped.text, re.MULTILINE)
    server.send_signal(signal.SIGTERM)
    assert server.wait(timeout=900) == 0, (tmp_path / "log").read_text()
    assert not healthy(image, port, environment)
