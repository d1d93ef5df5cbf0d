"""The model that comes with the package, made again: `make pretrained STORE=STORE SPLIT=splits.json`.

STORE holds unit vectors of the packaged encoder, verified at ingest (data/ and data/large/ together:
benchmarks/results/README.md says how it is made). Trains by the default recipe into --run (interrupted, the
same command goes on), and writes the model to --out in half precision (the backbone's matrices in bytes),
with the keys of all it was trained on for the leak guard, and nothing of the machine that it was made on.
Half an hour of one core with AVX2.

    python benchmarks/pretrained.py STORE --split-file splits.json --by-source FILE

judges the model of the package instead, once on the test documents of every source.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nextvec.corpus.chunking import make_chunker
from nextvec.corpus.store import Store
from nextvec.data.splits import SplitConfig
from nextvec.data.trained import TRAINED_ON
from nextvec.disk import read_json, write_json
from nextvec.errors import RunError
from nextvec.evaluation.harness import EvaluationConfig
from nextvec.evaluation.intervals import DocumentBootstrap
from nextvec.experiments.evaluating import DocumentSelection, evaluate_runs
from nextvec.inference.predictor import RunPredictor
from nextvec.models.saving import PRETRAINED, load_model, save_model
from nextvec.training.loop import METRICS

OPPONENTS = (
    "last and mean",
    "position weights",
    "exponential averages",
    "ridge on averages",
    "listwise averages",
    "averages + residuals",
)
BY_SOURCE = {"cosine": 1, "recall@5": 1, "mrr": 1, "energy_score": -1}  # 1: more is better
KEPT = (
    "context",
    "min_context",
    "horizons",
    "task",
    "normalised",
    "chunker",
    "store_fingerprint",
    "documents",
)


def train(store: Path, split: Path, run: Path) -> None:
    """Start the run, or go on with it. Raises CalledProcessError where training fails."""
    command = [sys.executable, "-m", "nextvec", "train", str(store), "--out", str(run)]
    if (run / "config.toml").is_file():
        command.append("--resume")
    else:
        command += ["--model", "lcm", "--set", 'model.preset="m7"']
        command += ["--set", f'data.split.file="{split.resolve()}"']
    subprocess.run(command, check=True)


def package(run: Path, store: Store, out: Path) -> None:
    """Write the best model of `run` to `out`: half precision but for its scale."""
    model, info = load_model(run)
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        if name != "scale" and value.is_floating_point():
            value.data = value.data.to(torch.float16)
    training = {key: info["training"][key] for key in KEPT}
    chunker = make_chunker().describe()
    extra = {
        "encoder": dict(store.encoder),
        "training": {
            **training,
            "store": "",
            "sources": [],
            "split": {},
            "chunker": chunker,
            "reads_directions": True,
        },
        "epoch": info["epoch"],
        "validation": info["validation"],
    }
    backbone = [
        name for name, value in model.named_parameters() if name.startswith("reader.") and value.ndim == 2
    ]
    save_model(out, model, extra, bytes_of=backbone)
    shutil.copy(run / TRAINED_ON, out / TRAINED_ON)
    metrics = read_json(run / METRICS, RunError)
    write_json(out / METRICS, {**metrics, "run": "pretrained"})


def _cell(found: dict[str, Any]) -> str:
    interval = f" [{found['low']:+.4f}, {found['high']:+.4f}]" if "low" in found else ""
    return f"{found['value']:.4f}, {found['difference']:+.4f}{interval} {found['best']}"


def by_source(store: Store, split: Path, out: Path) -> None:
    """The packaged model on the test documents of each source, against the best baseline there, fitted on the
    training documents of all. Candidates: every chunk of all test documents. Prints Markdown, writes JSON."""
    selection = DocumentSelection(division=SplitConfig(file=str(split)))
    how = EvaluationConfig(baselines=OPPONENTS, keep=True)
    report = evaluate_runs(store, [RunPredictor(PRETRAINED)], selection, how)
    assert report.evaluated is not None
    document = report.evaluated.document
    sources = np.array([store.documents[i].source for i in document.tolist()])
    baselines = [row for row in report.rows if row.kind == "baseline"]
    model = report.row(PRETRAINED)
    found = []
    columns = " | ".join(f"{metric}, less the best baseline" for metric in BY_SOURCE)
    print(f"| source | documents | windows | {columns} |\n|---|---:|---:|" + "---|" * len(BY_SOURCE))
    for source in sorted(set(sources.tolist())):
        here = sources == source
        documents = len(np.unique(document[here]))
        line: dict[str, Any] = {"source": source, "documents": documents, "windows": int(here.sum())}
        for metric, sign in BY_SOURCE.items():
            best = max(baselines, key=lambda row: sign * float(row.values[metric][here].mean()))
            own, theirs = (row.values[metric][here].astype(np.float64) for row in (model, best))
            line[metric] = {"value": own.mean(), "best": best.name, "difference": (own - theirs).mean()}
            if documents > 1:
                estimate = DocumentBootstrap(document[here]).interval(own, theirs)
                line[metric] |= {"low": estimate.low, "high": estimate.high}
        found.append(line)
        print(
            "| "
            + " | ".join(
                [source, str(documents), str(line["windows"]), *(_cell(line[metric]) for metric in BY_SOURCE)]
            )
            + " |"
        )
    write_json(out, found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path)
    parser.add_argument("--split-file", type=Path, required=True)
    parser.add_argument("--run", type=Path, default=Path("runs/pretrained"))
    parser.add_argument("--out", type=Path, default=Path("src/nextvec/pretrained"))
    parser.add_argument("--by-source", type=Path, metavar="FILE", help="judge the model of the package")
    given = parser.parse_args()
    if given.by_source:
        by_source(Store.open(given.store), given.split_file, given.by_source)
        return
    if not (given.run / METRICS).is_file():
        train(given.store, given.split_file, given.run)
    store = Store.open(given.store)
    if not store.encoder.get("weights_sha256"):
        parser.error(f"{given.store}: nothing proves its encoder; ingest it with --verify-encoder")
    package(given.run, store, given.out)
    size = sum(file.stat().st_size for file in given.out.iterdir())
    print(f"{given.out}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
