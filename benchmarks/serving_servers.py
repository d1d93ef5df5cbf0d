"""The servers that the serving benchmarks measure, each in a process of its own, one thread for the model.

    python benchmarks/serving_servers.py RUN PORT       # the naive one: what one writes first

Ours is `nextvec serve`, LitServe's is `serving_litserve.py`. Other benchmarks import `Server`.
"""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

import httpx
import numpy as np

HERE = Path(__file__).resolve()
SCRIPTS = {"naive": HERE, "litserve": HERE.with_name("serving_litserve.py")}
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


def naive(run: Path, port: int) -> None:
    """FastAPI with a pydantic list of lists and the eager model, a request at a time."""
    import torch
    import uvicorn
    from fastapi import FastAPI
    from pydantic import BaseModel

    import nextvec

    torch.set_num_threads(1)
    model = nextvec.load(run)
    app = FastAPI()

    class Ask(BaseModel):
        input: list[list[float]]

    class Told(BaseModel):
        embedding: list[float]

    def predict(ask: Ask) -> Told:
        with torch.inference_mode():
            raw = model(torch.tensor([ask.input])).raw[0, -1]
        return Told(embedding=raw.tolist())

    # The annotations are local names, which FastAPI cannot look up as text.
    predict.__annotations__ = {"ask": Ask, "return": Told}
    app.post("/predict")(predict)
    uvicorn.run(app, port=port, log_level="warning")


class Server:
    """One server process (and its children), stopped in the end."""

    def __init__(
        self,
        kind: str,
        run: Path,
        port: int | None = None,
        flags: tuple[str, ...] = (),
        log: Path | None = None,
    ) -> None:
        self.kind, self.port = kind, port or free_port()
        if kind in SCRIPTS:
            command = [sys.executable, str(SCRIPTS[kind]), str(run), str(self.port)]
        else:
            command = [sys.executable, "-m", "nextvec", "serve", f"model={run}", "--port", str(self.port)]
            command += flags if log is not None else ("--no-log", *flags)
        environment = {**os.environ, **ONE_THREAD, "NEXTVEC_API_KEY": ""}
        output = None if log is None else log.open("wb")
        self.process = subprocess.Popen(
            command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=output
        )
        if output is not None:
            output.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.proceed()
        self.signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.signal(signal.SIGKILL)
            self.process.wait()

    def ready(self, request: bytes, within: float = 120) -> np.ndarray:
        """The answer [D] to a request, once there is one."""
        end = time.monotonic() + within
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise SystemExit(f"{self.kind} ended with {self.process.returncode}")
            try:
                return answer_of(raw(self.port, request))
            except (OSError, ValueError, KeyError, httpx.HTTPError):
                time.sleep(0.2)
        raise SystemExit(f"{self.kind} is not ready after {within:g} seconds")

    def pause(self) -> None:
        """It takes no processor time until `proceed`."""
        self.signal(signal.SIGSTOP)

    def proceed(self) -> None:
        self.signal(signal.SIGCONT)

    def signal(self, number: int) -> None:
        """To all of its processes."""
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            return


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


def context(dimension: int, length: int) -> np.ndarray:
    """[T, D] vectors of about unit length."""
    found: np.ndarray = np.random.default_rng(0).standard_normal((length, dimension)).astype(np.float32)
    return found / np.sqrt(dimension, dtype=np.float32)


def request_of(kind: str, vectors: np.ndarray) -> bytes:
    """The bytes of one request: "naive", "litserve", "json" or "npy"."""
    path, content = ("/predict" if kind in ("naive", "litserve") else "/v1/predict"), "application/json"
    body = json.dumps({"input": vectors.tolist()}).encode()
    if kind == "npy":
        file = io.BytesIO()
        np.save(file, vectors, allow_pickle=False)
        body, content = file.getvalue(), "application/x-npy"
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {content}\r\nContent-Length: {len(body)}"
    )
    return head.encode() + b"\r\n\r\n" + body


def raw(port: int, request: bytes) -> bytes:
    """The body of the answer to one request. Raises ValueError: not answered with 200."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as opened:
        opened.sendall(request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1))
        received = b""
        while part := opened.recv(65536):
            received += part
    head, _, body = received.partition(b"\r\n\r\n")
    if b" 200 " not in head.split(b"\r\n")[0]:
        raise ValueError(head.split(b"\r\n")[0])
    return body


def answer_of(body: bytes) -> np.ndarray:
    """[D] of an answer of any of the servers."""
    if body.startswith(b"\x93NUMPY"):
        return np.asarray(np.load(io.BytesIO(body), allow_pickle=False)[0])
    message = json.loads(body)
    embedding = message["embedding"] if "embedding" in message else message["data"][0]["embedding"]
    if isinstance(embedding, str):
        return np.frombuffer(base64.b64decode(embedding), "<f4")
    return np.asarray(embedding, dtype=np.float32)


def dimension_of(run: Path) -> int:
    """D of a run, or of an export."""
    exported = run / "export.json"
    if exported.is_file():
        return int(json.loads(exported.read_text())["dimension"])
    return int(json.loads((run / "config.json").read_text())["config"]["d_embed"])


if __name__ == "__main__":
    naive(Path(sys.argv[1]), int(sys.argv[2]))
