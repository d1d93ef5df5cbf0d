"""Each source left out of training once: what linear predictors lose on a kind of text they have not seen.

    python benchmarks/out_of_domain.py STORE --split-file splits.json [--groups wikitext+enwiki,books,...] \\
        --json out-of-domain.json

Two closed forms, exponential averages (five scalars) and ridge on averages (a dense map of the same five
averages, its penalty chosen on validation documents), fitted on the training documents of all sources, and of
all but the one that is evaluated. Both fits come from sums over sources, so that documents are read once.
Evaluated on the test windows of each source (context 5). Differences have 95 % intervals over documents.

    python benchmarks/out_of_domain.py STORE --split-file splits.json --groups GROUPS --network lcm \\
        --out FOLDER --json out-of-domain-network.json

trains a network by the default recipe without each group instead, and sets it beside the best baselines,
fitted without it too. Nobody read any document of the group then, and up to 150 are evaluated, those of the
test part first. Ten minutes of one core for each group on 437,000 chunks; interrupted, it goes on.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path

import numpy as np

from nextvec.corpus.store import Store
from nextvec.data.least_squares import BACK, DECAYS, MapSums, averaged_blocks
from nextvec.data.splits import SplitConfig, split_documents
from nextvec.data.windows import Windows, make_windows
from nextvec.disk import write_json
from nextvec.evaluation.intervals import estimate
from nextvec.vectors import unit

CONTEXT, PENALTIES = 5, (10.0, 100.0, 1000.0)
PREDICTORS = ("exponential averages", "ridge on averages")
OPPONENTS = "last and mean,exponential averages,ridge on averages,listwise averages,averages + residuals"
SHOWN = ("cosine", "recall@5", "mrr", "energy_score")
DOCUMENTS = 150


@dataclass
class Group:
    """The windows of some sources, and the normal equations of those to learn and to choose by."""

    name: str
    test: Windows
    train: MapSums
    validation: MapSums


def group(store: Store, name: str, split_file: str) -> Group:
    split = split_documents(store, SplitConfig(file=split_file), name.split("+"))
    test, train, validation = (
        make_windows(store, of, CONTEXT) for of in (split.test, split.train, split.validation)
    )
    sums = [
        MapSums.summed(store.dimension, len(DECAYS), averaged_blocks(store.vectors, some, DECAYS, BACK))
        for some in (train, validation)
    ]
    return Group(name, test, *sums)


def fit(groups: list[Group]) -> list[np.ndarray]:
    """The maps [5 D, D] of both predictors."""
    train, unseen = (reduce(add, (getattr(g, part) for g in groups)) for part in ("train", "validation"))
    anchor, scale = train.anchor(), train.yy / train.count
    tried = (train.solve(anchor, penalty * scale) for penalty in PENALTIES)
    return [anchor, min(tried, key=unseen.squared_error)]


def cosines(store: Store, where: Group, weights: np.ndarray) -> np.ndarray:
    found = []
    for averages, goal in averaged_blocks(store.vectors, where.test, DECAYS, BACK):
        message = averages.reshape(len(goal), -1) @ weights.astype(np.float32)
        found.append((unit(message) * unit(goal)).sum(axis=1))
    return np.concatenate(found).astype(np.float64)


def without(store: Store, sources: list[str], split_file: Path, out: Path) -> Path:
    """Write a division where documents of `sources` are in the test part alone, and nothing else is."""
    split = json.loads(split_file.read_text(encoding="utf-8"))
    held = {document.doc_id for document in store.documents if document.source in sources}
    first = [doc_id for doc_id in split["test"] if doc_id in held]
    more = sorted(held - set(first) - set(split.get("unused", [])))
    np.random.default_rng(0).shuffle(more)
    parts = {
        part: [doc_id for doc_id in split[part] if doc_id not in held] for part in ("train", "validation")
    }
    parts["test"] = (first + more)[:DOCUMENTS]
    placed = set().union(*parts.values())
    parts["unused"] = [document.doc_id for document in store.documents if document.doc_id not in placed]
    out.write_text(json.dumps(parts), encoding="utf-8")
    return out


def networks(store: Store, names: list[str], given: argparse.Namespace) -> None:
    """Train without each group, evaluate on it; prints Markdown and writes JSON after each."""
    given.out.mkdir(parents=True, exist_ok=True)
    rows = []
    print("| without | documents | windows | " + " | ".join(SHOWN) + " |")
    print("|---|---:|---:|" + "---|" * len(SHOWN))
    for name in names:
        split = without(store, name.split("+"), given.split_file, given.out / f"{name}.json")
        command = [sys.executable, "-m", "nextvec", "matrix", given.store, "--models", given.network]
        command += ["--epochs", "1", "--split-file", str(split), "--out", str(given.out / name)]
        subprocess.run([*command, "--no-speed", "--baselines", OPPONENTS], check=True, stdout=sys.stderr)
        table = json.loads((given.out / name / "matrix.json").read_text(encoding="utf-8"))
        model = next(row for row in table["rows"] if row["kind"] == "model")
        line = {"without": name, "documents": table["documents"], "windows": table["windows"]}
        cells = []
        for metric in SHOWN:
            less = model["versus_best_baseline"][metric]
            line[metric] = {"value": model[metric], "best": table["best_baseline"][metric], **less}
            interval = f"{less['difference']:+.4f} [{less['low']:+.4f}, {less['high']:+.4f}]"
            cells.append(f"{model[metric]:.4f}, {interval}")
        rows.append(line)
        print(
            f"| {name} | {line['documents']} | {line['windows']:,} | " + " | ".join(cells) + " |", flush=True
        )
        write_json(given.json, {"model": given.network, "seconds": model["seconds"], "rows": rows})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("store")
    parser.add_argument("--split-file", type=Path, required=True)
    parser.add_argument("--groups", default="", help="sources joined by + are held out together")
    parser.add_argument("--network", metavar="MODEL", help="train this one; needs --out")
    parser.add_argument("--out", type=Path, help="folder of what is trained")
    parser.add_argument("--json", type=Path, required=True)
    arguments, started = parser.parse_args(), time.process_time()
    store = Store.open(arguments.store)
    names = [name for name in arguments.groups.split(",") if name] or list(store.sources)
    if arguments.network:
        if arguments.out is None:
            parser.error("--network needs --out FOLDER")
        networks(store, names, arguments)
        return
    groups = [group(store, name, str(arguments.split_file)) for name in names]
    every, rows = fit(groups), []
    print("| evaluated on | windows | predictor | trained on all | without it | difference |")
    print("|---|---:|---|---:|---:|---|")
    for one in groups:
        others, documents = fit([g for g in groups if g is not one]), one.test.document
        for name, here, there in zip(PREDICTORS, every, others, strict=True):
            seen, unseen = cosines(store, one, here), cosines(store, one, there)
            less = estimate(documents, unseen, seen)
            rows.append({"judged": one.name, "windows": len(seen), "predictor": name, **less.to_json()})
            rows[-1] |= {"all": float(seen.mean()), "without": float(unseen.mean())}
            figures = f"{seen.mean():.4f} | {unseen.mean():.4f} | {less.signed()}"
            print(f"| {one.name} | {len(seen):,} | {name} | {figures} |", flush=True)
    seconds = round(time.process_time() - started)
    write_json(arguments.json, {"store": Path(arguments.store).name, "cpu_seconds": seconds, "rows": rows})


if __name__ == "__main__":
    main()
