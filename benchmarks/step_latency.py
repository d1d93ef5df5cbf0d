"""What one more vector of a stream costs: the exported step beside the step in torch and beside a graph of
contexts that is given the last ones again.

    python benchmarks/step_latency.py                       # every architecture, preset `small`, D = 768
    python benchmarks/step_latency.py --models gru,lcm --preset brief --precision int8 --json step.json

Batch 1, one thread, fp32 unless --precision says otherwise. The three take turns, so that other programs
disturb them alike; a figure is the median of the last --pushes in milliseconds, after 16 vectors and after
--long. Ratios are torch / exported step after --long.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nextvec.disk import write_json
from nextvec.errors import NextvecError
from nextvec.inference.base import StreamSession, WindowSession
from nextvec.inference.export import export_predictor
from nextvec.inference.exported import ExportedPredictor
from nextvec.inference.graphs import seeded
from nextvec.inference.predictor import ModelPredictor
from nextvec.models import registry

SHORT = 16


def medians(sessions: Sequence[StreamSession], vectors: np.ndarray, pushes: int) -> list[float]:
    """Milliseconds of a push of each session, after all of `vectors` but the last `pushes`."""
    taken: list[list[float]] = [[] for _ in sessions]
    for session in sessions:
        session.reset()
        for vector in vectors[:-pushes]:
            session.push(vector)
    for vector in vectors[-pushes:]:
        for session, times in zip(sessions, taken, strict=True):
            start = time.perf_counter()
            session.push(vector)
            times.append(1e3 * (time.perf_counter() - start))
    return [statistics.median(times) for times in taken]


def measure(name: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    torch.manual_seed(0)
    predictor = ModelPredictor(
        registry.build(name, options.preset, options.dimension).eval(), options.context, name
    )
    made = export_predictor(
        predictor, folder / name, "onnx", options.precision, tolerance=0.9, any_length=False, step=True
    )
    exported = ExportedPredictor(made.folder)
    sessions = predictor.stream(), exported.stream(), WindowSession(exported)
    vectors = seeded(predictor.model, 1, options.long)[0][0]
    short = medians(sessions, vectors[: SHORT + options.pushes], options.pushes)
    long = medians(sessions, vectors, options.pushes)
    keys = ("torch", "step", "window")
    return {
        "model": name,
        "state": predictor.model.streaming,
        "short": dict(zip(keys, short, strict=True)),
        "long": dict(zip(keys, long, strict=True)),
        "ratio": long[0] / long[1],
        "flat": long[1] / short[1],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default="all", help="names, with commas between them")
    parser.add_argument("--preset", default="small")
    parser.add_argument("--dimension", type=int, default=768)
    parser.add_argument("--context", type=int, default=32, help="vectors that a window reads again")
    parser.add_argument("--long", type=int, default=512, help="vectors of the long stream")
    parser.add_argument("--pushes", type=int, default=31)
    parser.add_argument("--precision", default="fp32", choices=("fp32", "int8"))
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    names = registry.names() if options.models == "all" else options.models.split(",")
    print(f"preset {options.preset}, D = {options.dimension}, {options.precision}, one thread; ms a vector")
    three = f"{'torch':>7} {'step':>7} {'window':>7}"
    print(f"{'model':<12} state     {three}   {three}")
    print(f"{'':<12} {'after':<9} {SHORT:>23}   {options.long:>23}   torch / step")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            try:
                row = measure(name, options, Path(folder))
            except NextvecError as e:
                row = {"model": name, "failed": str(e)}
                print(f"{name:<12} {e}", flush=True)
            else:
                cells = "   ".join(
                    " ".join(f"{row[when][key]:7.2f}" for key in ("torch", "step", "window"))
                    for when in ("short", "long")
                )
                print(f"{name:<12} {row['state']:<9} {cells}   {row['ratio']:.1f}", flush=True)
            rows.append(row)
    if options.json:
        facts = {key: value for key, value in vars(options).items() if key not in ("json", "models")}
        write_json(options.json, {**facts, "torch": torch.__version__, "rows": rows})


if __name__ == "__main__":
    main()
