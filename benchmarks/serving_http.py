"""A light HTTP/1.1 load generator in a process of its own: one request, sent again and again.

    python benchmarks/serving_http.py PORT REQUEST_FILE --connections 32 --seconds 10     # closed loop
    python benchmarks/serving_http.py PORT REQUEST_FILE --rate 2000 --seconds 10          # open loop

REQUEST_FILE holds the bytes of one request. Closed loop: every connection sends the next request when it
has its answer. Open loop: requests come at random (Poisson) times, whether or not earlier ones were
answered, each on a free connection; latency counts from the time a request was due. Prints JSON; --samples
FILE.npy keeps a row (due, seconds, status) a request, where status 0 is a broken connection. Of an answer
it parses no more than status and length.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np

HOST = "127.0.0.1"
LENGTH = b"content-length:"


class Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self, load: Load) -> None:
        self.load, self.due, self.pending = load, 0.0, False
        self.buffer = bytearray()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.load.free(self)

    def send(self, due: float) -> None:
        self.due, self.pending = due, True
        self.transport.write(self.load.request)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self.buffer[:end]).lower()
        at = head.find(LENGTH)
        length = int(head[at + len(LENGTH) :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        if len(self.buffer) < end + 4 + length:
            return
        status = int(head[9:12])
        self.buffer.clear()
        self.pending = False
        if b"\r\nconnection: close" in head:
            self.transport.close()
        self.load.answered(self, status)

    def connection_lost(self, error: Exception | None) -> None:
        self.load.lost(self)


class Load:
    """A run of the generator."""

    def __init__(self, port: int, request: bytes, most: int) -> None:
        self.port, self.request, self.most = port, request, most
        self.samples: list[tuple[float, float, int]] = []
        self.idle: list[Connection] = []
        self.open = self.opening = 0
        self.waiting: deque[float] = deque()  # open loop: due, without a connection
        self.closed_loop = False
        self.ending = False
        self.tasks: set[asyncio.Task[Any]] = set()

    def connect(self) -> None:
        self.opening += 1
        task = asyncio.ensure_future(self._connect())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _connect(self) -> None:
        try:
            await asyncio.get_running_loop().create_connection(lambda: Connection(self), HOST, self.port)
        except OSError:
            self.opening -= 1
            if self.waiting:
                self.samples.append((self.waiting.popleft(), 0.0, 0))

    def free(self, connection: Connection) -> None:
        """A connection has nothing to do (a new one, too)."""
        if not connection.due:
            self.opening -= 1
            self.open += 1
        if self.ending:
            self.idle.append(connection)
        elif self.closed_loop:
            connection.send(time.perf_counter())
        elif self.waiting:
            connection.send(self.waiting.popleft())
        else:
            self.idle.append(connection)

    def answered(self, connection: Connection, status: int) -> None:
        self.samples.append((connection.due, time.perf_counter() - connection.due, status))
        if not connection.transport.is_closing():
            self.free(connection)

    def lost(self, connection: Connection) -> None:
        self.open -= 1
        if connection in self.idle:
            self.idle.remove(connection)
        if connection.pending:
            self.samples.append((connection.due, time.perf_counter() - connection.due, 0))
        if self.closed_loop and not self.ending:
            self.connect()

    def due(self, at: float) -> None:
        """Open loop: a request is due."""
        while self.idle:
            connection = self.idle.pop()
            if not connection.transport.is_closing():
                connection.send(at)
                return
        self.waiting.append(at)
        if self.open + self.opening < self.most:
            self.connect()

    async def closed(self, connections: int, seconds: float) -> float:
        self.closed_loop = True
        started = time.perf_counter()
        for _ in range(connections):
            self.connect()
        await asyncio.sleep(seconds)
        self.ending = True
        taken = time.perf_counter() - started
        await self._end()
        return taken

    async def opened(self, rate: float, seconds: float, seed: int) -> float:
        draw = random.Random(seed)  # noqa: S311 - arrivals, no secret
        started = now = time.perf_counter()
        at = started + draw.expovariate(rate)
        while now < started + seconds:
            while at <= now:
                self.due(at)
                at += draw.expovariate(rate)
            await asyncio.sleep(max(0.0, min(at - time.perf_counter(), 0.005)))
            now = time.perf_counter()
        await self._end()
        return now - started

    async def _end(self) -> None:
        """Wait a little for the last answers."""
        end = time.perf_counter() + 5
        while (len(self.idle) < self.open or self.waiting) and time.perf_counter() < end:
            await asyncio.sleep(0.01)
        self.ending = True
        self.samples += [(due, 0.0, 0) for due in self.waiting]
        for connection in self.idle:
            connection.transport.close()


def command_of(
    port: int, request: Path, samples: Path, seconds: float, connections: int, rate: float | None = None
) -> list[str]:
    """The generator as a process: closed loop, or open loop at a rate."""
    command = [sys.executable, __file__, str(port), str(request), "--samples", str(samples)]
    command += ["--seconds", str(seconds), "--connections", str(connections)]
    return command if rate is None else [*command, "--rate", str(rate)]


def summary(samples: np.ndarray, seconds: float) -> dict[str, Any]:
    """Figures of samples [N, 3]: due, seconds, status."""
    status = samples[:, 2].astype(int)
    good = 1e3 * samples[status == 200, 1]
    counts = {str(code): int(n) for code, n in zip(*np.unique(status, return_counts=True), strict=True)}
    p50, p99 = np.percentile(good, [50, 99]).tolist() if len(good) else (None, None)
    return {
        "seconds": seconds,
        "answered": len(good),
        "per_second": len(good) / seconds,
        "p50_ms": p50,
        "p99_ms": p99,
        "statuses": counts,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("port", type=int)
    parser.add_argument("request", type=Path)
    parser.add_argument("--connections", type=int, default=32, help="closed loop; open loop: at most")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rate", type=float, help="open loop: requests a second")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--samples", type=Path)
    flags = parser.parse_args()
    import uvloop

    load = Load(flags.port, flags.request.read_bytes(), flags.connections)
    if flags.rate is None:
        taken = uvloop.run(load.closed(flags.connections, flags.seconds))
    else:
        taken = uvloop.run(load.opened(flags.rate, flags.seconds, flags.seed))
    samples = np.array(load.samples, dtype=np.float64).reshape(-1, 3)
    if flags.samples is not None:
        np.save(flags.samples, samples, allow_pickle=False)
    print(json.dumps(summary(samples, taken)))


if __name__ == "__main__":
    main()
