"""Memory of the server under steady load.

    python benchmarks/serving_soak.py RUN --minutes 10

Eight connections ask by JSON and by npy in turns; resident memory is read from /proc once a second. Growth
is the mean of the last tenth against the mean of the first tenth, after a minute (or a tenth of the time,
if that is less) in which everything is used for the first time.
"""

from __future__ import annotations

import argparse
import re
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from nextvec.disk import write_json
from serving_load import measured
from serving_servers import Server, context, dimension_of, request_of

CONNECTIONS, TURN, WARM, MIB = 8, 10.0, 60.0, 2**20


def resident(process: int) -> int:
    """Bytes of a process that are in memory."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    assert found is not None
    return 1024 * int(found[1])


def soak(run: Path, seconds: float, length: int) -> dict[str, Any]:
    """Figures of the run."""
    vectors = context(dimension_of(run), length)
    requests = {kind: request_of(kind, vectors) for kind in ("json", "npy")}
    memory: list[tuple[float, int]] = []
    counts: dict[int, int] = {}
    over = threading.Event()
    with Server("ours", run) as server, tempfile.TemporaryDirectory() as folder:
        server.ready(requests["npy"])
        started = time.monotonic()

        def watch() -> None:
            while not over.wait(1.0):
                memory.append((time.monotonic() - started, resident(server.process.pid)))

        watching = threading.Thread(target=watch)
        watching.start()
        try:
            while time.monotonic() - started < seconds:
                for kind, request in requests.items():
                    file = Path(folder) / f"{kind}.request"
                    file.write_bytes(request)
                    samples, _ = measured(server.port, file, min(TURN, seconds / 20), CONNECTIONS)
                    for status, n in zip(*np.unique(samples[:, 2], return_counts=True), strict=True):
                        counts[int(status)] = counts.get(int(status), 0) + int(n)
        finally:
            over.set()
            watching.join()
    at, held = np.array(memory, dtype=np.float64).T
    held = held[at > min(WARM, seconds / 10)]
    tenth = max(1, len(held) // 10)
    first, last = float(held[:tenth].mean()), float(held[-tenth:].mean())
    return {
        "run": run.name,
        "seconds": float(at[-1]),
        "statuses": {str(code): n for code, n in sorted(counts.items())},
        "first_bytes": first,
        "last_bytes": last,
        "growth": last / first - 1,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("run", type=Path)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--length", type=int, default=5, help="vectors of the context")
    parser.add_argument("--json", type=Path)
    flags = parser.parse_args()
    found = soak(flags.run, 60 * flags.minutes, flags.length)
    print(
        f"{found['seconds']:.0f} s, statuses {found['statuses']}: {found['first_bytes'] / MIB:.0f} MiB, "
        f"then {found['last_bytes'] / MIB:.0f} MiB ({found['growth']:+.1%})"
    )
    if flags.json is not None:
        write_json(flags.json, found)


if __name__ == "__main__":
    main()
