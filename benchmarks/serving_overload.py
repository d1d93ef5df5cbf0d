"""What happens at four times the capacity, and when the server is told to end amid that.

    python benchmarks/serving_overload.py RUN
    python benchmarks/serving_overload.py RUN --seconds 4        # a try

In this order, on one server and one model, npy bodies: latency unloaded (one connection; then arrivals at
half the capacity), capacity (the best of 4 to 32 connections, closed loop), a burst of random arrivals at
four times that rate while liveness is asked every 50 ms, then single requests until all is as before, then
another burst with SIGTERM in its middle. A request is lost when the server's own log says that it was
accepted, and no answer came.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from nextvec.disk import write_json
from serving_http import command_of, summary
from serving_servers import Server, context, dimension_of, raw, request_of

TIMES, MOST, EVERY, SLOW = 4, 2048, 0.05, 2.0
CONNECTIONS = (
    4,
    8,
    16,
    32,
)  # the most is the capacity; with more of them requests are refused, which costs too
LAST, REFUSED = "last-burst", (429, 503)


class Bench:
    """The parts of the measurement, on one server."""

    def __init__(self, server: Server, request: bytes, folder: Path, seconds: float) -> None:
        self.server, self.request, self.seconds = server, request, seconds
        self.file, self.samples, self.log = folder / "request", folder / "samples.npy", folder / "log"
        self.file.write_bytes(request)

    def start(self, seconds: float, connections: int, rate: float | None = None) -> subprocess.Popen[str]:
        command = command_of(self.server.port, self.file, self.samples, seconds, connections, rate)
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def finish(self, load: subprocess.Popen[str]) -> tuple[dict[str, Any], np.ndarray]:
        message, _ = load.communicate()
        return json.loads(message), np.load(self.samples, allow_pickle=False)

    def load(self, connections: int, rate: float | None = None) -> tuple[dict[str, Any], np.ndarray]:
        return self.finish(self.start(self.seconds, connections, rate))

    def burst(self, rate: float) -> dict[str, Any]:
        """Arrivals at a rate, with liveness beside them, and how soon all is as before."""
        live: list[float] = []
        over = threading.Event()
        watch = threading.Thread(target=self._watch, args=(over, live))
        watch.start()
        message, samples = self.load(MOST, rate)
        over.set()
        watch.join()
        refused = samples[np.isin(samples[:, 2], REFUSED)]
        broken = int((samples[:, 2] == 0).sum())
        return {
            **message,
            "offered_per_second": rate,
            "refused_share": len(refused) / max(len(samples), 1),
            "refused_p50_ms": _percentile(refused[:, 1], 50),
            "refused_p99_ms": _percentile(refused[:, 1], 99),
            "broken": broken,
            "live_worst_ms": 1e3 * max(live),
            "live_p99_ms": _percentile(np.array(live), 99),
        }

    def recovery(self, usual_ms: float, seconds: float = 6.0) -> float:
        """Seconds until the last request that is refused, or slower than twice the usual."""
        started, last = time.monotonic(), 0.0
        while (now := time.monotonic() - started) < seconds:
            try:
                begun = time.perf_counter()
                raw(self.server.port, self.request)
                slow = 1e3 * (time.perf_counter() - begun) > SLOW * usual_ms
            except (OSError, ValueError):
                slow = True
            if slow:
                last = time.monotonic() - started
            time.sleep(max(0.0, 0.02 - (time.monotonic() - started - now)))
        return last

    def ended(self, rate: float) -> dict[str, Any]:
        """SIGTERM in the middle of a burst."""
        self.file.write_bytes(self.request.replace(b"\r\n", b"\r\nX-Request-Id: %s\r\n" % LAST.encode(), 1))
        load = self.start(self.seconds, MOST, rate)
        time.sleep(self.seconds / 2 + 0.5)  # the generator takes a moment to start
        at = time.perf_counter()  # one clock for all processes of a machine
        self.server.process.send_signal(signal.SIGTERM)
        code = self.server.process.wait(60)
        took = time.perf_counter() - at
        _, samples = self.finish(load)
        before = samples[samples[:, 0] < at]
        accepted, received = self._accepted(), int((samples[:, 2] == 200).sum())
        return {
            "due_before": len(before),
            "accepted": len(accepted),
            "received": received,
            "lost": len(accepted) - received,
            "exit_code": code,
            "seconds_to_end": took,
        }

    def _accepted(self) -> list[int]:
        """Statuses of the requests of the last burst that the server took, by its own log."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [
            line["status"] for line in lines if line.get("id") == LAST and line.get("status") not in REFUSED
        ]

    def _watch(self, over: threading.Event, live: list[float]) -> None:
        with httpx.Client(base_url=self.server.url, timeout=10, trust_env=False) as client:
            while not over.is_set():
                begun = time.perf_counter()
                client.get("/health/live").raise_for_status()
                live.append(time.perf_counter() - begun)
                over.wait(EVERY)


def _percentile(seconds: np.ndarray, q: float) -> float | None:
    return 1e3 * float(np.percentile(seconds, q)) if len(seconds) else None


def measure(
    run: Path, seconds: float, length: int, flags: tuple[str, ...], rate: float | None = None
) -> dict[str, Any]:
    """All figures; `rate` is offered in place of four times the capacity."""
    request = request_of("npy", context(dimension_of(run), length))
    with (
        tempfile.TemporaryDirectory() as folder,
        Server("ours", run, flags=flags, log=Path(folder) / "log") as server,
    ):
        server.ready(request)
        bench = Bench(server, request, Path(folder), seconds)
        bench.load(32)  # warm
        unloaded, samples = bench.load(1)
        alone = summary(samples, seconds)["p50_ms"]
        capacity = max(bench.load(n)[0]["per_second"] for n in CONNECTIONS)
        half = bench.load(MOST, capacity / 2)[0]
        rate = TIMES * capacity if rate is None else rate
        burst = bench.burst(rate)
        recovered = bench.recovery(max(alone, unloaded["p99_ms"]))
        ended = bench.ended(rate)
    return {
        "run": run.name,
        "flags": flags,
        "capacity_per_second": capacity,
        "unloaded": unloaded,
        "half_load": half,
        "burst": burst,
        "recovered_after_seconds": recovered,
        "sigterm": ended,
    }


def describe(found: dict[str, Any]) -> str:
    burst, end, capacity = found["burst"], found["sigterm"], found["capacity_per_second"]
    unloaded, half = found["unloaded"]["p99_ms"], found["half_load"]["p99_ms"]
    return "\n".join(
        [
            f"capacity                 {capacity:.0f} req/s (best of {CONNECTIONS} connections)",
            f"unloaded p99             {unloaded:.1f} ms (one connection), {half:.1f} ms (half the capacity)",
            f"burst                    {burst['offered_per_second']:.0f} req/s offered, "
            f"{burst['per_second']:.0f} answered",
            f"refused                  {burst['refused_share']:.1%}, p50 "
            f"{burst['refused_p50_ms'] or 0:.1f} ms, "
            f"p99 {burst['refused_p99_ms'] or 0:.1f} ms; {burst['broken']} broken connections",
            f"admitted p99             {burst['p99_ms']:.1f} ms: {burst['p99_ms'] / unloaded:.2f} times one "
            f"connection's, {burst['p99_ms'] / half:.2f} times that at half the capacity",
            f"liveness                 worst {burst['live_worst_ms']:.1f} ms, "
            f"p99 {burst['live_p99_ms']:.1f} ms",
            f"as before after          {found['recovered_after_seconds']:.2f} s",
            f"SIGTERM in a burst       {end['accepted']} requests of it accepted, "
            f"{end['received']} answers received, {end['lost']} lost; exit {end['exit_code']} after "
            f"{end['seconds_to_end']:.2f} s",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("run", type=Path)
    parser.add_argument("--seconds", type=float, default=15, help="of each part")
    parser.add_argument("--length", type=int, default=5, help="vectors of the context")
    parser.add_argument("--rate", type=float, help="offered a second (default: 4 times the capacity)")
    parser.add_argument("--serve", default="", help="further flags of nextvec serve, separated by spaces")
    parser.add_argument("--json", type=Path)
    flags = parser.parse_args()
    found = measure(flags.run, flags.seconds, flags.length, tuple(flags.serve.split()), flags.rate)
    print(describe(found))
    if flags.json is not None:
        write_json(flags.json, found)


if __name__ == "__main__":
    main()
