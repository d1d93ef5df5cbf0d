"""Requests a second and latency under 32 connections: a naive FastAPI endpoint, ours by JSON, npy; LitServe.

    python benchmarks/serving_load.py RUN                    # 60 s each, in turns
    python benchmarks/serving_load.py RUN --seconds 6        # a try
    python benchmarks/serving_load.py RUN --export EXPORT    # ours with an export of the run, too

Every server is a process of its own with one thread for the model, and all serve the same run; those that
are not measured are stopped (SIGSTOP). The load generator is a process of its own, too (`serving_http.py`).
Before any is measured, all must give the same vector. The seconds are divided into turns, so that whatever
else the machine does falls on all of them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from nextvec.disk import write_json
from serving_http import command_of, summary
from serving_servers import Server, context, dimension_of, request_of

ROWS = {
    "naive": ("naive", "naive FastAPI: pydantic lists, eager model"),
    "json": ("ours", "nextvec serve, JSON"),
    "npy": ("ours", "nextvec serve, npy"),
    "litserve": ("litserve", "LitServe, JSON, batches"),
}
EXPORT = {"export": ("ours", "nextvec serve, npy, the export")}


def measured(port: int, request: Path, seconds: float, connections: int) -> tuple[np.ndarray, float]:
    """Samples [N, 3] of one turn, and its seconds."""
    samples = request.with_suffix(".npy")
    command = command_of(port, request, samples, seconds, connections)
    output = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return np.load(samples, allow_pickle=False), float(output["seconds"])


def compare(
    run: Path, seconds: float, connections: int, turns: int, length: int, export: Path | None = None
) -> dict[str, Any]:
    """Figures of every row of ROWS, and of the export."""
    rows = ROWS if export is None else ROWS | EXPORT
    vectors = context(dimension_of(run), length)
    requests = {name: request_of("npy" if name in EXPORT else name, vectors) for name in rows}
    served = {name: (kind, export if name in EXPORT else run) for name, (kind, _) in rows.items()}
    found: dict[str, list[tuple[np.ndarray, float]]] = {name: [] for name in rows}
    with ExitStack() as held, tempfile.TemporaryDirectory() as folder:
        servers = {}
        for kind, model in dict.fromkeys(served.values()):
            servers[kind, model] = held.enter_context(Server(kind, model))
        answers = {name: servers[which].ready(requests[name]) for name, which in served.items()}
        for name, answer in answers.items():
            np.testing.assert_allclose(answer, answers["naive"], atol=1e-4, err_msg=name)
        for server in servers.values():
            server.pause()
        for _ in range(turns):
            for name, which in served.items():
                file, server = Path(folder) / f"{name}.request", servers[which]
                file.write_bytes(requests[name])
                server.proceed()
                measured(server.port, file, min(1.0, seconds / 10), connections)  # warm
                found[name].append(measured(server.port, file, seconds / turns, connections))
                server.pause()
    return {
        name: summary(np.concatenate([part for part, _ in parts]), sum(taken for _, taken in parts))
        for name, parts in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("run", type=Path)
    parser.add_argument("--seconds", type=float, default=60, help="of each row")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--length", type=int, default=5, help="vectors of the context")
    parser.add_argument("--export", type=Path, help="a folder that nextvec export made of the run")
    parser.add_argument("--json", type=Path)
    flags = parser.parse_args()
    found = compare(flags.run, flags.seconds, flags.connections, flags.turns, flags.length, flags.export)
    base = found["naive"]["per_second"]
    print(f"{'server':<44} {'req/s':>8} {'x naive':>8} {'p50 ms':>8} {'p99 ms':>8} {'errors':>7}")
    for name, row in found.items():
        errors = sum(n for code, n in row["statuses"].items() if code != "200")
        print(
            f"{(ROWS | EXPORT)[name][1]:<44} {row['per_second']:>8.0f} {row['per_second'] / base:>8.2f} "
            f"{row['p50_ms']:>8.1f} {row['p99_ms']:>8.1f} {errors:>7}"
        )
    if flags.json is not None:
        write_json(flags.json, {"run": flags.run.name, "connections": flags.connections, "rows": found})


if __name__ == "__main__":
    main()
