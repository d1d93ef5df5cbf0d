"""Forward and backward seconds of each architecture beside the implementation it is proven against.

    python benchmarks/reference_speed.py                   # everything that is installed, L = 512
    python benchmarks/reference_speed.py --models rwkv,mamba2 --rounds 9 --batch 8 --dtype float32
    python benchmarks/reference_speed.py --small           # a try: L = 128, two rounds

Both have the sizes of the preset, a Linear(D, H) before and a Linear(H, D) behind, and no dropout. All run
on one thread of this process, in turns, in float32 and, where the processor has it, under bfloat16
autocast: that is how `nextvec train` runs there. Times are that thread's own (CPU seconds), the median of
the rounds. The aim is for ours as it trains by default (the last of --dtype) against the reference in
float32, as it comes; the other ratio is against the faster of the reference's two. MFU: 6 x weights of
matrices x positions in a second, as a share of what products of 1024 x 1024 reached in the same rounds;
attention, scans and transforms count as no work. A reference that loops over positions costs nearly the
same for a larger --batch, so that the ratio shrinks with it; one that loops over documents too (rwkv7-hf)
does not. Weights are fresh: that both compute the same is what tests/parity shows. What the references
(references.py) need that nextvec does not:

    pip install --no-deps rwkv7-hf==0.9.0 torchscale==0.3.0 performer-pytorch==1.1.4 local-attention==1.9.0 \\
        axial-positional-embedding==0.3.12 && pip install transformers einops
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import fields
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nextvec.disk import write_json
from nextvec.hardware import native_bfloat16
from nextvec.models import registry
from nextvec.models.base import ModelConfig
from nextvec.models.ops.parameters import count_parameters
from references import REFERENCES, Reference
from speed import processor

WARM_UP = 32
PRODUCT = 1024  # the side of the matrices whose product is the measure of MFU
PACKAGES = ("torch", "transformers", "torchscale", "rwkv7-hf", "performer-pytorch")
Row = dict[str, Any]


def cpu_seconds(work: Callable[..., object], *given: object) -> float:
    start = time.process_time()
    work(*given)
    return time.process_time() - start


def train_pass(model: nn.Module, x: Tensor, dtype: str) -> None:
    """One forward and backward pass."""
    model.zero_grad(set_to_none=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
        out = model(x)
    (out if isinstance(out, Tensor) else out.raw).float().square().mean().backward()


def plain(architecture: str, preset: str, dimension: int) -> dict[str, Any]:
    """Options that leave the body alone: a linear head and no dropout, where there is any."""
    known = {f.name for f in fields(registry.get(architecture).Config)}
    options: dict[str, Any] = {"head": "linear", "residual": "none", "dropout": 0.0}
    return {key: value for key, value in options.items() if key in known}


def compare(architecture: str, reference: Reference | None, options: argparse.Namespace) -> Row:
    """One line of the table."""
    preset = "small" if reference is None else reference.preset
    changes = plain(architecture, preset, options.dimension)
    config: ModelConfig = registry.resolve(architecture, preset, options.dimension, **changes)
    models = {"ours": registry.build(architecture, preset, options.dimension, **changes).train()}
    if reference is not None:
        models["reference"] = reference.build(config).train()
    times: dict[str, dict[str, list[float]]] = {
        who: {d: [] for d in options.dtypes} for who in (*models, "product")
    }
    squares = {d: torch.randn(PRODUCT, PRODUCT).to(getattr(torch, d)) for d in options.dtypes}
    for turn in range(options.rounds + 1):  # the first, a short one, does not count
        x = torch.randn(options.batch, options.length if turn else WARM_UP, options.dimension)
        for dtype, square in squares.items():
            found = {who: cpu_seconds(train_pass, model, x, dtype) for who, model in models.items()}
            found["product"] = cpu_seconds(torch.mm, square, square)
            for who, seconds in found.items():
                times[who][dtype] += [seconds] if turn else []
    weights = sum(p.numel() for p in models["ours"].parameters() if p.ndim == 2)
    work = 6 * weights * options.batch * options.length
    medians = {who: {d: statistics.median(t) for d, t in taken.items()} for who, taken in times.items()}
    row: Row = {
        "model": architecture,
        "preset": preset,
        "reference": None if reference is None else reference.name,
        "aim": None if reference is None else reference.aim,
        "parameters": [count_parameters(model) for model in models.values()],
        "seconds": times,
        "gflops": {d: 2e-9 * PRODUCT**3 / s for d, s in medians["product"].items()},
    }
    row["mfu"] = {d: work / medians["ours"][d] / (1e9 * row["gflops"][d]) for d in options.dtypes}
    if reference is not None:
        ours, theirs = medians["ours"], medians["reference"]
        row["ratios"] = {d: theirs[d] / ours[d] for d in options.dtypes}
        row["against_float32"] = theirs[options.dtypes[0]] / ours[options.dtypes[-1]]
        row["ratio"] = min(theirs.values()) / ours[options.dtypes[-1]]
    return row


def show(row: Row) -> str:
    """One line of the table, Markdown; milliseconds in each precision."""

    def cells(found: dict[str, float] | None, form: str) -> str:
        return " / ".join(format(value, form) for value in found.values()) if found else ""

    ours, theirs = (
        cells({d: 1e3 * statistics.median(t) for d, t in row["seconds"].get(who, {}).items()}, ".0f")
        for who in ("ours", "reference")
    )
    name = row["model"] if row["preset"] == "small" else f"{row['model']} ({row['preset']})"
    aim = "" if row["aim"] is None else f"{row['aim']:g}x" + (" missed" if missed(row) else "")
    against = f"{row['against_float32']:.1f}x" if row["reference"] else ""
    best = f"{row['ratio']:.1f}x" if row["reference"] else ""
    return (
        f"| `{name}` | {row['reference'] or ''} | {ours} | {theirs} | {against} | {best} | {aim} | "
        f"{cells({d: 100 * share for d, share in row['mfu'].items()}, '.0f')} % |"
    )


def missed(row: Row) -> bool:
    """Whether ours, as it trains, is less times as fast as a float32 reference than it is to be."""
    return row["aim"] is not None and round(row["against_float32"], 1) < row["aim"]


HEAD = (
    "| model | reference | ours ms | reference ms | ours by default, reference float32 | against its best "
    "| aim | MFU |\n|---|---|---:|---:|---:|---:|---|---:|"
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default="all", help="names of ours, with commas between them")
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--dtype", help="float32, bfloat16 or both with a comma (default: what there is)")
    parser.add_argument("--small", action="store_true", help="a try: --length 128 --rounds 2")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    if options.small:
        options.length, options.rounds = 128, 2
    there = "float32,bfloat16" if native_bfloat16("cpu") else "float32"
    options.dtypes = (options.dtype or there).split(",")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warnings.filterwarnings("ignore")  # the references' own, about CUDA and deprecations
    logging.disable(logging.WARNING)
    wanted = registry.names() if options.models == "all" else options.models.split(",")
    rows, absent = [], []
    known: dict[str, list[Reference | None]] = {name: [] for name in wanted}
    for reference in REFERENCES:
        known.get(reference.architecture, []).append(reference)
    for name, references in known.items():
        for reference in references or [None]:
            try:
                rows.append(compare(name, reference, options))
            except ImportError as e:
                absent.append(f"{reference.name if reference else name}: not installed ({e.name})")
                continue
            print(show(rows[-1]), file=sys.stderr, flush=True)
    if not rows:
        sys.exit("no reference of these models is installed")
    rows.sort(key=lambda row: (not missed(row), row["aim"] is None))
    print(
        f"forward and backward, batch {options.batch}, L = {options.length}, D = {options.dimension}; ms in"
    )
    print(f"{' / '.join(options.dtypes)}; one thread of {processor()}\n")
    print("\n".join([HEAD, *map(show, rows), *absent]))
    if options.json:
        facts = {key: getattr(options, key) for key in ("dimension", "length", "batch", "dtypes")}
        facts["versions"] = {
            p.metadata["Name"]: p.version for p in metadata.distributions() if p.metadata["Name"] in PACKAGES
        }
        write_json(options.json, {**facts, "processor": processor(), "rows": rows, "absent": absent})


if __name__ == "__main__":
    main()
