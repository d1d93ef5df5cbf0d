"""Many clients at once over real connections, each with something else: everybody gets its own answer."""

from __future__ import annotations

import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np

THREADS, ROUNDS = 32, 3
NPY = {"content-type": "application/x-npy", "accept": "application/x-npy"}


def npy(values: np.ndarray[Any, Any]) -> bytes:
    held = io.BytesIO()
    np.save(held, values)
    return held.getvalue()


def test_32_threads_get_their_own_answers_and_sessions(live: Callable[..., Any], run: Any) -> None:
    connection = live(queue=200, max_wait=60.0)()
    address = f"http://localhost:{connection.socket.getpeername()[1]}"
    rng = np.random.default_rng(0)
    requested = rng.standard_normal((THREADS, ROUNDS, 6, 16)).astype(np.float32)
    expected = np.stack([run.predict(windows, np.full(ROUNDS, 6))[0] for windows in requested])

    def client(windows: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        with httpx.Client(base_url=address, timeout=900) as http:
            opened = http.post("/v1/sessions", json={})
            opened.raise_for_status()
            output, pushed = [], []
            for window in windows:
                answer = http.post("/v1/predict", content=npy(window[None]), headers=NPY)
                output.append(np.load(io.BytesIO(answer.raise_for_status().content))[0])
            place = f"/v1/sessions/{opened.json()['id']}/vectors"
            for vector in windows[0]:
                answer = http.post(place, content=npy(vector[None]), headers=NPY)
                pushed.append(np.load(io.BytesIO(answer.raise_for_status().content))[0])
            return np.stack(output), pushed[-1]

    with ThreadPoolExecutor(THREADS) as threads:
        answers = list(threads.map(client, requested))
    np.testing.assert_allclose([output for output, _ in answers], expected, atol=1e-5)
    np.testing.assert_allclose([last for _, last in answers], expected[:, 0], atol=1e-5)
