"""`nextvec bench`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App

from nextvec.cli.common import JsonTarget, Quiet, flag, names, numbers, output
from nextvec.errors import ConfigError
from nextvec.text import columns

if TYPE_CHECKING:
    from nextvec.inference.bench.measure import EngineResult, Measured

bench = App(name="bench", help="How fast, and in how much memory.", help_format="plaintext")
bench.command(
    "nextvec.cli.bench:bench_inference",
    name="inference",
    help="Latency, throughput and memory of runs by every engine.",
)


MIB = 2**20


def bench_inference(
    *runs: Annotated[Path, flag("Run folders.")],
    models: Annotated[
        str | None, flag("Untrained architectures in place of runs, separated by commas.")
    ] = None,
    preset: Annotated[str, flag("The size of these.")] = "brief",
    dimension: Annotated[int, flag("Of the vectors that these read.")] = 768,
    engines: Annotated[
        str, flag("Of eager, compiled, onnx, onnx-int8, openvino, openvino-bf16.")
    ] = "eager,compiled,onnx,onnx-int8,openvino",
    batches: Annotated[str, flag("Contexts predicted at once.")] = "1,8,32,128,256",
    context: Annotated[int, flag("Vectors read before each prediction.")] = 5,
    seconds: Annotated[float, flag("Spent on each batch size of each engine.")] = 2.0,
    threads: Annotated[int, flag("Of every engine.")] = 1,
    device: Annotated[
        Literal["cpu", "cuda", "mps"], flag("Of eager and compiled; exports run on the CPU.")
    ] = "cpu",
    json: JsonTarget = None,
    quiet: Quiet = False,
) -> None:
    """Measure how fast runs predict, and in how much memory, by every engine.

    Each engine has a process of its own; a model's engines take turns, so that a load on the machine meets
    all of them. For an engine that cannot run the reason is given.
    """
    from nextvec.inference.bench import measure as subjects
    from nextvec.inference.bench.measure import BenchConfig, measure

    if bool(runs) == (models is not None):
        raise ConfigError("nothing to measure, or two things", where="nextvec bench inference",
                          remedy="name runs, or --models")  # fmt: skip
    sizes = numbers(batches, int, "are not batch sizes", "--batches", "1,8,32")
    bench = BenchConfig(names(engines), sizes, context, seconds, threads, device)
    with tempfile.TemporaryDirectory(prefix="nextvec-bench-") as folder:
        if models is None:
            chosen = subjects.runs(runs)
        else:
            chosen = subjects.fresh(names(models), preset, dimension, Path(folder))
        measured = measure(chosen, bench, quiet=quiet)
    output(describe(measured), measured.to_json(), json)


def describe(measured: Measured) -> str:
    bench = measured.bench
    sizes = sorted({1, *bench.batches})
    device = [] if bench.device == "cpu" else ["device MiB"]
    header = ["model", "engine", "p50 ms", "p95", "p99", "speed-up", "floor ms", *(f"x{b} /s" for b in sizes),
              "MiB", "grown", *device, "cosine", "least"]  # fmt: skip
    rates = ", ".join(f"{name} {rate / 1e9:.1f} GB/s" for name, rate in measured.bandwidth.items())
    missing = [f"{r.model}, {r.engine}: {r.reason}" for r in measured.rows if r.reason is not None]
    lines = [
        f"Context {bench.context}, threads {bench.threads}, {bench.device}. p50, p95, p99 of batch 1; "
        "xN /s: predictions a second in batches of N.",
        f"Floor: reading the weights once from memory ({rates}; from a cache it is faster).",
        "MiB: peak of the process; grown: since the program was loaded. Cosine: to eager, on vectors that"
        " mean nothing.\n",
        columns(header, [_cells(row, sizes, bool(device)) for row in measured.rows if row.latency]),
    ]
    return "\n".join([*lines, *(["", *missing] if missing else [])])


def _cells(row: EngineResult, sizes: list[int], device: bool) -> list[str]:
    memory = [row.peak_bytes, row.grown_bytes, *([row.device_bytes] if device else [])]
    return [
        *(row.model, row.engine),
        *(f"{row.latency[key]:.3f}" for key in ("p50_ms", "p95_ms", "p99_ms")),
        *(f"{row.speedup:.2f}", f"{row.floor_ms:.3f}"),
        *(f"{row.throughput[batch]:,.0f}" for batch in sizes),
        *("" if size is None else f"{size / MIB:,.0f}" for size in memory),
        *(f"{row.cosine:.6f}", f"{row.cosine_min:.6f}"),
    ]
