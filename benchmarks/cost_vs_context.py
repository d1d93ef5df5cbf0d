"""What a context costs: time and memory of training on it, time of a step after it, and the state's bytes.

    python benchmarks/cost_vs_context.py                    # every architecture, preset `small`, D = 768
    python benchmarks/cost_vs_context.py --models gru,rwkv --max 2048 --max-context 4096
    python benchmarks/cost_vs_context.py --small            # a try, at most 512 and 4,096 vectors

Training is a forward and a backward pass over one document of 64, 128, ... vectors (the parallel form). A
step reads one vector after 16, 64, ... others, which `extend` has read before. Each architecture is measured
in a process of its own, on one thread. Times are that thread's own (CPU seconds: waiting for other programs
is not in them); memory is the process's peak resident set above what it had with the model built. What would
take longer than --seconds, or more than --memory, by the growth seen so far, is skipped, and so is what a
model says is too long for it.

The exponent is the slope of log cost over log length in the upper half of the lengths: 1 is linear, 0 flat.
An architecture that declares O(T) should stay below 1.15; one that declares a constant state should have a
step exponent below 0.1, and exactly as many bytes after every context.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nextvec.disk import write_json
from nextvec.errors import ModelError
from nextvec.models import registry
from nextvec.models.base import NextVectorModel
from nextvec.models.ops.parameters import count_parameters
from nextvec.models.residual import State

SHORTEST, FIRST_CONTEXT, CHUNK, WARM_UP = 64, 16, 256, 8
LINEAR, FLAT = 1.15, 0.1
STEPS = 31
MIB, KIB = 2**20, 2**10
Row = dict[str, Any]
Points = dict[str, list[float]]


def doubling(start: int, stop: int, factor: int) -> Iterator[int]:
    """start, start * factor, ... up to stop."""
    while start <= stop:
        yield start
        start *= factor


def exponent(points: Points, cost: str) -> float | None:
    """Slope of log cost over log length in the upper half (on a log scale) of the lengths measured."""
    length, value = np.log(points["length"]), np.log(np.maximum(points[cost], 1e-9))
    if len(length) < 2:
        return None
    upper = length >= (length[0] + length[-1]) / 2
    return float(np.polyfit(length[upper], value[upper], 1)[0])


def peak() -> int:
    """Largest resident set of this process so far, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def growth(values: list[float], lengths: list[float], factor: int) -> float:
    """What the next of `values` will be, at `factor` times the length: at least in proportion."""
    if len(values) < 2 or min(values[-2:]) <= 0:
        return factor**2 * values[-1]
    slope = math.log(values[-1] / values[-2]) / math.log(lengths[-1] / lengths[-2])
    return values[-1] * factor ** max(slope, 1.0)


def seconds_of(work: Callable[[], object], least: float) -> float:
    """The fastest of up to five runs, fewer where they take longer than `least` seconds in all."""
    taken: list[float] = []
    while len(taken) < 2 or (len(taken) < 5 and sum(taken) < least):
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return min(taken)


def train(model: NextVectorModel, options: argparse.Namespace) -> tuple[Points, str]:
    """Forward and backward over one document of each length; and why the rest was skipped."""
    points: Points = {"length": [], "seconds": [], "bytes": []}

    def once(x: torch.Tensor) -> None:
        model(x).raw.square().mean().backward()
        model.zero_grad(set_to_none=True)

    model.train()
    once(torch.randn(1, WARM_UP, model.d_embed))
    floor = peak()
    for length in doubling(SHORTEST, options.max, 2):
        if points["length"]:
            seconds = growth(points["seconds"], points["length"], 2)
            memory = growth(points["bytes"], points["length"], 2)
            if seconds > options.seconds:
                return points, f"training on {length:,} would take about {seconds:.0f} s a pass"
            if memory > options.memory * MIB:
                return points, f"training on {length:,} would take about {memory / MIB:,.0f} MiB"
        x = torch.randn(1, length, model.d_embed)
        try:
            seconds = seconds_of(lambda x=x: once(x), options.seconds / 10)
        except ModelError as e:
            return points, f"training on {length:,}: {e.message}"
        for key, value in (("length", length), ("seconds", seconds), ("bytes", max(peak() - floor, 1))):
            points[key].append(value)
    return points, ""


@torch.inference_mode()
def stream(model: NextVectorModel, options: argparse.Namespace) -> tuple[Points, str]:
    """The last steps to each number of vectors; and why the rest was skipped."""
    points: Points = {"length": [], "seconds": [], "bytes": []}
    spent: list[float] = []
    model.eval()
    steps(model, model.init_state(1), STEPS)
    state, read = model.init_state(1), 0
    for context in doubling(FIRST_CONTEXT, options.max_context, 4):
        if len(spent) > 1 and (seconds := growth(spent, points["length"], 4)) > options.seconds:
            return points, f"reading {context:,} vectors would take about {seconds:.0f} s"
        start = time.process_time()
        last = min(STEPS, context // 2)
        try:
            for piece in torch.randn(1, context - last - read, model.d_embed).split(CHUNK, 1):
                _, state = model.extend(piece, state)
            state, seconds = steps(model, state, last)
        except ModelError as e:
            return points, f"reading {context:,} vectors: {e.message}"
        read = context
        spent.append(time.process_time() - start)
        size = sum(value.numel() * value.element_size() for value in state.values())
        for key, value in (("length", context), ("seconds", seconds), ("bytes", size)):
            points[key].append(value)
    return points, ""


def steps(model: NextVectorModel, state: State, count: int) -> tuple[State, float]:
    """`count` steps on: the state, and the median seconds of one."""
    taken = []
    for x_t in torch.randn(count, 1, model.d_embed):
        start = time.process_time()
        _, state = model.step(x_t, state)
        taken.append(time.process_time() - start)
    return state, statistics.median(taken)


def longest(name: str, options: argparse.Namespace) -> dict[str, int]:
    """The option that lets an architecture of a limited length read the longest document asked for."""
    limits = {"hyena": {"max_length": options.max}, "distilgpt2": {"positions": options.max_context}}
    return limits.get(name, {})


def measure(name: str, options: argparse.Namespace) -> Row:
    """Everything about one architecture, in this process."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = registry.build(name, options.preset, options.dimension, **longest(name, options))
    training, short_of = train(model, options)
    streaming, short_of_too = stream(model, options)
    return {
        "model": name,
        "parameters": count_parameters(model),
        "complexity": model.complexity,
        "streaming": model.streaming,
        "training": training,
        "training_exponent": exponent(training, "seconds"),
        "memory_exponent": exponent(training, "bytes"),
        "step": streaming,
        "step_exponent": exponent(streaming, "seconds"),
        "skipped": [reason for reason in (short_of, short_of_too) if reason],
    }


def verdicts(row: Row) -> Row:
    """Whether it keeps what it declares; None where it declares nothing of the kind, or too little ran."""
    linear = flat = None
    if row["complexity"] == "O(T)" and row["training_exponent"] is not None:
        linear = row["training_exponent"] < LINEAR
    if row["streaming"] == "constant" and row["step_exponent"] is not None:
        flat = row["step_exponent"] < FLAT and len(set(row["step"]["bytes"])) == 1
    return {"linear": linear, "flat": flat}


COLUMNS = (
    ("model", 12), ("declares", 10), ("state", 8),
    ("train ms", 8), ("and at", 6), ("ms", 7), ("exp", 5), ("MiB", 6), ("exp", 5),
    ("step ms", 8), ("and at", 6), ("ms", 6), ("exp", 5), ("state KiB", 9), ("and", 9), ("keeps it", 0),
)  # fmt: skip


def cells(row: Row) -> list[str]:
    """One line of the table, as COLUMNS: costs at the shortest and at the longest, exponents."""

    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.2f}"

    training, step = row["training"], row["step"]
    kept = {True: "yes", False: "NO"}
    message = [f"{key} {kept[row[key]]}" for key in ("linear", "flat") if row[key] is not None]
    return [
        *(row["model"], row["complexity"], row["streaming"]),
        f"{1e3 * training['seconds'][0]:,.0f}",
        f"{training['length'][-1]:,}",
        f"{1e3 * training['seconds'][-1]:,.0f}",
        number(row["training_exponent"]),
        f"{training['bytes'][-1] / MIB:,.0f}",
        number(row["memory_exponent"]),
        f"{1e3 * step['seconds'][0]:.2f}",
        f"{step['length'][-1]:,}",
        f"{1e3 * step['seconds'][-1]:.2f}",
        number(row["step_exponent"]),
        f"{step['bytes'][0] / KIB:,.1f}",
        f"{step['bytes'][-1] / KIB:,.1f}",
        ", ".join(message) or "-",
    ]


def line(values: Iterable[str]) -> str:
    """Words to the left, numbers to the right."""
    padded = [
        f"{value:<{width}}" if i < 3 or not width else f"{value:>{width}}"
        for i, (value, (_, width)) in enumerate(zip(values, COLUMNS, strict=True))
    ]
    return " ".join(padded)


def run(name: str, argv: list[str]) -> Row:
    """`measure` in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, *argv, "--measure", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        message = (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]
        return {"model": name, "failed": message}
    row: Row = json.loads(done.stdout.splitlines()[-1])
    return {**row, **verdicts(row)}


def main() -> None:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / MIB
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default="all", help="names, with commas between them")
    parser.add_argument("--preset", default="small")
    parser.add_argument("--dimension", type=int, default=768)
    parser.add_argument("--max", type=int, default=8192, help="longest document to train on")
    parser.add_argument("--max-context", type=int, default=65536, help="most vectors before a step")
    parser.add_argument("--seconds", type=float, default=30.0, help="skip what would take longer")
    parser.add_argument("--memory", type=float, default=memory / 3, help="skip what would take more MiB")
    parser.add_argument(
        "--small", action="store_true", help="a try: --max 512 --max-context 4096 --seconds 2"
    )
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.small:
        options.max, options.max_context, options.seconds = 512, 4096, 2.0
    if options.measure:
        print(json.dumps(measure(options.measure, options)))
        return
    names = registry.names() if options.models == "all" else options.models.split(",")
    print(f"preset {options.preset}, D = {options.dimension}, one document, one thread")
    print(line(title for title, _ in COLUMNS))
    rows = []
    for name in names:
        row = run(name, sys.argv[1:])
        rows.append(row)
        print(f"{name:<12} FAILED: {row['failed']}" if "failed" in row else line(cells(row)), flush=True)
    for row in rows:
        for reason in row.get("skipped", ()):
            print(f"{row['model']}: {reason}: skipped")
    if options.json:
        facts = {"preset": options.preset, "dimension": options.dimension, "torch": torch.__version__}
        write_json(options.json, {**facts, "rows": rows})
    if any("failed" in row for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
