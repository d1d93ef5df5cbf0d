"""A store larger than memory: what opening, training, evaluation and retrieval need of it.

    python benchmarks/large_store.py [--rows 20000000] [--store FOLDER] [--memory 2] [--json FILE]

Makes a store of random documents (60 chunks each, vectors that move slowly through a document) of 20 million
chunks of 384 dimensions, 15 GB, and a hundredth of it beside it. Each command then runs in a process of its
own on both: seconds, the most memory that was the process's alone (anonymous) and the most that it held with
the pages of the store that it had mapped (resident). Pages of a file can be dropped at any time, so where
Linux has a control group for memory to give (as root), the process gets no more than `--memory` GiB of both
together, and one that needs more is killed. What must not grow with the store is the cost of an update.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nextvec.corpus.layout import CHUNK_SCHEMA, DOCUMENT_SCHEMA, MANIFEST, ShardFiles
from nextvec.disk import sha256_file, write_json

DIMENSION, COUNT, SHARD_DOCUMENTS = 384, 60, 333
CGROUPS = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
OPEN = "import sys; from nextvec.corpus.store import Store; print(len(Store.open(sys.argv[1])))"
RETRIEVE = """
import sys, nextvec
from nextvec.decoding.nearest import Nearest
store, predictor = nextvec.Store.open(sys.argv[1]), nextvec.Predictor.load(sys.argv[2])
library = Nearest(store)
first = store.documents[7].first
raw, _ = predictor.predict(store.vectors[first : first + 20])
print([d.text for d in library.texts_of(raw.values[None], 10)[0]])
"""


def write_shard(store: Path, number: int, rng: np.random.Generator) -> dict[str, object]:
    """One shard of the layout's three files; returns its entry in the manifest."""
    rows = SHARD_DOCUMENTS * COUNT
    files = ShardFiles.of(store, f"{number:04d}")
    vectors = rng.standard_normal((SHARD_DOCUMENTS, COUNT, DIMENSION), dtype=np.float32)
    for t in range(1, COUNT):
        vectors[:, t] = 0.8 * vectors[:, t - 1] + 0.6 * vectors[:, t]
    np.save(files.vectors, vectors.reshape(rows, DIMENSION).astype(np.float16))
    ids = [f"d{number}-{i}" for i in range(SHARD_DOCUMENTS)]
    words = rng.integers(0, 30_000, (rows, 4)).tolist()
    columns = {
        "doc_id": np.repeat(ids, COUNT),
        "position": np.tile(np.arange(COUNT, dtype=np.int32), SHARD_DOCUMENTS),
        "text": [f"w{a} w{b} w{c} w{d}" for a, b, c, d in words],
        "source": ["s"] * rows,
        "title": np.repeat(ids, COUNT),
        "start": np.zeros(rows, np.int64),
        "end": np.zeros(rows, np.int64),
        "gap": [""] * rows,
    }
    documents = {
        "doc_id": ids,
        "source": ["s"] * SHARD_DOCUMENTS,
        "title": ids,
        "sha256": [hashlib.sha256(i.encode()).hexdigest() for i in ids],
        "first": np.arange(SHARD_DOCUMENTS) * COUNT,
        "count": np.full(SHARD_DOCUMENTS, COUNT),
        "minhash": [rng.bytes(256) for _ in ids],
    }
    pq.write_table(pa.table(columns, CHUNK_SCHEMA), files.chunks, compression="zstd")
    pq.write_table(pa.table(documents, DOCUMENT_SCHEMA), files.documents, compression="zstd")
    parts = {
        f"{part}_sha256": sha256_file(getattr(files, part)) for part in ("vectors", "chunks", "documents")
    }
    return {"name": f"{number:04d}", "rows": rows, "documents": SHARD_DOCUMENTS, **parts, "path": "generated"}


def write_store(store: Path, rows: int) -> Path:
    """A store of at least `rows` chunks, unless it is there, and its split: 100 documents to validate on and
    100 to test on."""
    if (store / MANIFEST).exists():
        return store
    for part in ("vectors", "chunks", "documents"):
        (store / part).mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    count = -(-rows // (SHARD_DOCUMENTS * COUNT))
    shards = []
    for number in range(count):
        shards.append(write_shard(store, number, rng))
        print(f"\rshard {number + 1} of {count}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    ids = [f"d{n}-{i}" for n in range(count) for i in range(SHARD_DOCUMENTS)]
    ids = [ids[i] for i in rng.permutation(len(ids))]
    split = {"validation": ids[:100], "test": ids[100:200], "train": ids[200:]}
    (store.parent / f"{store.name}-split.json").write_text(json.dumps(split))
    manifest = {
        "format": 1,
        "encoder": {"name": "generated", "fingerprint": "generated"},
        "dimension": DIMENSION,
        "dtype": "float16",
        "normalised": False,
        "encoder_normalises": True,
        "chunker": {"name": "generated"},
        "documents": len(ids),
        "chunks": sum(int(str(s["rows"])) for s in shards),
        "shards": shards,
    }
    write_json(store / MANIFEST, manifest, sealed=True)
    return store


class Limit:
    """A control group for memory, of version 1 or 2, if this process may make one; else nothing."""

    def __init__(self, gib: float) -> None:
        self.group: Path | None = None
        for root in CGROUPS:
            names = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.max", "memory.swap.max")
            if gib and (root / "cgroup.procs").is_file():
                try:
                    group = root / f"nextvec-{os.getpid()}"
                    group.mkdir()
                    held = [group / name for name in names if (group / name).exists()]
                    for file in held:
                        file.write_text(str(int(gib * 2**30)) if "swap" not in file.name else "0")
                except OSError as e:
                    print(f"no memory limit: {e}", file=sys.stderr)
                    continue
                if held:
                    self.group = group
                    break

    def enter(self) -> None:
        """Put this process in it; for `preexec_fn`."""
        if self.group:
            (self.group / "cgroup.procs").write_text(str(os.getpid()))

    def close(self) -> None:
        """Remove it."""
        if self.group:
            self.group.rmdir()


def status(pid: int) -> dict[str, float]:
    """MiB of a process by /proc."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    found = dict(line.split(":", 1) for line in lines)
    return {k: int(found[k].split()[0]) / 1024 for k in ("RssAnon", "RssFile", "VmRSS") if k in found}


def run(name: str, command: list[str], gib: float) -> dict[str, object]:
    """Seconds and the most memory of one command."""
    limit = Limit(gib)
    if limit.group:  # pages that are cached already would not be counted as this command's
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("1")
    began, most = time.perf_counter(), {"RssAnon": 0.0, "VmRSS": 0.0}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=limit.enter
    )
    while process.poll() is None:
        try:
            now = status(process.pid)
        except (OSError, KeyError, ValueError):
            break  # it has just ended
        most = {k: max(v, now.get(k, 0.0)) for k, v in most.items()}
        time.sleep(0.05)
    output = process.communicate()[0]
    seconds = time.perf_counter() - began
    limited = limit.group is not None
    limit.close()
    if process.returncode:
        print(output[-2000:], file=sys.stderr)
    row = {
        "row": name,
        "seconds": round(seconds, 1),
        "anonymous_mib": round(most["RssAnon"]),
        "resident_mib": round(most["VmRSS"]),
        "limit_gib": gib if limited else None,
        "exit": process.returncode,
    }
    memory = f"{row['anonymous_mib']:>8} MiB {row['resident_mib']:>8} MiB"
    print(f"{name:<12} {seconds:8.1f} s {memory}  exit {process.returncode}", flush=True)
    return row


def milliseconds_an_update(run_folder: Path) -> float:
    """By the run's history: training alone, without validation."""
    lines = [json.loads(line) for line in (run_folder / "history.jsonl").read_text().splitlines()]
    return round(1000 * sum(line["train_seconds"] for line in lines) / lines[-1]["update"], 1)


def measure(store: Path, folder: Path, updates: int, gib: float) -> list[dict[str, object]]:
    """All commands on one store."""
    ours, python = [sys.executable, "-m", "nextvec"], [sys.executable, "-c"]
    split, trained = str(store.parent / f"{store.name}-split.json"), folder / "run"
    train = ["--model", "gru", "--recipe", "scratch", "--residual", "averages"]
    train += ["--max-updates", str(updates), "--quiet"]
    rows = [
        run("open", [*python, OPEN, str(store)], gib),
        run("info", [*ours, "info", str(store)], gib),
        run("train", [*ours, "train", str(store), *train, "--split-file", split, "--out", str(trained)], gib),
        run(
            "evaluate", [*ours, "evaluate", str(trained), "--store", str(store), "--no-speed", "--quiet"], gib
        ),
        run("retrieve", [*python, RETRIEVE, str(store), str(trained)], gib),
    ]
    if not rows[2]["exit"]:
        rows[2]["milliseconds_an_update"] = milliseconds_an_update(trained)
        print(f"{rows[2]['milliseconds_an_update']} ms an update")
    return rows


def main() -> None:
    """Make the stores, measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--store", type=Path, help="where the stores are kept (default: a temporary folder)")
    parser.add_argument("--updates", type=int, default=200)
    parser.add_argument(
        "--memory", type=float, default=2.0, help="GiB that each command is given (0: no limit)"
    )
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.store or Path(temporary)
        table: dict[str, list[dict[str, object]]] = {}
        for rows in (given.rows // 100, given.rows):
            store = write_store(folder / f"rows-{rows}", rows)
            work = Path(tempfile.mkdtemp(dir=temporary))
            print(f"{rows:,} chunks")
            table[f"{rows}"] = measure(store, work, given.updates, given.memory)
    if given.json:
        write_json(given.json, {"machine": platform.processor(), "load": os.getloadavg(), "rows": table})


if __name__ == "__main__":
    main()
