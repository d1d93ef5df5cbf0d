"""Every comparison of speed with a named peer: `make bench`.

    python benchmarks/speed.py                                   # all rows; --quick in minutes
    python benchmarks/speed.py --rows encode,gather --documents documents.jsonl.gz --json speed.json
    python benchmarks/speed.py --table speed.json                # the table of docs/speed.md again

Ours and the peer do the same work in this process, in turns, on one thread but where a row says otherwise;
a figure is the median of the rounds in seconds, between the fastest and the slowest round. Their results are
compared before anything is timed. The rows `training`, `stream` and `ranking` come from scripts of their own
beside this file, which run in processes of their own. A peer that is not installed is named below the table.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import importlib.util
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from nextvec.corpus.encoders import EncoderConfig, load_encoder
from nextvec.corpus.encoders.sentence_transformer import PACKAGED, find_folder
from nextvec.corpus.layout import Vectors
from nextvec.data.gather import gather_rows
from nextvec.data.windows import make_windows
from nextvec.disk import write_json
from nextvec.evaluation.harness import EvaluationConfig, make_evaluation_set
from nextvec.evaluation.metrics import Scores
from nextvec.inference.predictor import ModelPredictor
from nextvec.models import registry
from nextvec.vectors import unit
from train_throughput import synthetic_store

HERE = Path(__file__).parent
VERSIONS = ("torch", "numpy", "sentence-transformers", "datasets", "pylance", "faiss-cpu", "onnxruntime")
CONTEXT = 32
Work = Callable[[], Any]


@dataclass(frozen=True)
class Row:
    """One comparison. ours, peer: seconds, of the median, the fastest and the slowest round; aim: the least
    ratio wanted; note: what else was seen."""

    name: str
    against: str
    ours: tuple[float, float, float]
    peer: tuple[float, float, float]
    aim: float | None = None
    note: str = ""

    @property
    def ratio(self) -> float:
        return self.peer[0] / self.ours[0]


def in_turns(ours: Work, peer: Work, rounds: int) -> tuple[tuple[float, float, float], ...]:
    """Median, fastest and slowest of each, after a round that does not count."""
    taken: tuple[list[float], list[float]] = ([], [])
    for turn in range(rounds + 1):
        for work, times in zip((ours, peer), taken, strict=True):
            start = time.perf_counter()
            work()
            if turn:
                times.append(time.perf_counter() - start)
    return tuple((statistics.median(times), min(times), max(times)) for times in taken)


def chunks_of(documents: Path | None, count: int) -> list[str]:
    """Chunks of 64 words of the documents' texts, or of this project's own pages."""
    if documents is None:
        texts = [path.read_text() for path in sorted((HERE.parent / "docs").glob("*.md"))]
    else:
        with gzip.open(documents, "rt") as lines:
            texts = [json.loads(line)["text"] for line, _ in zip(lines, range(count), strict=False)]
    words = [word for text in texts for word in text.split()]
    return [" ".join(words[i : i + 64]) for i in range(0, min(len(words), 64 * count), 64)]


def encode(options: argparse.Namespace, folder: Path) -> Iterator[Row]:
    """Texts as they stand in a corpus, on all cores: our encoder beside the library that loads it."""
    from sentence_transformers import SentenceTransformer

    ours = load_encoder(EncoderConfig())
    theirs = SentenceTransformer(str(find_folder(PACKAGED)), device="cpu")
    texts = chunks_of(options.documents, 64 if options.quick else 512)
    cosine = float((unit(ours.encode(texts)) * theirs.encode(texts)).sum(1).min())
    with cores(options.cores):
        times = in_turns(lambda: ours.encode(texts), lambda: theirs.encode(texts), options.rounds)
    yield Row(
        f"encode {len(texts)} chunks", "SentenceTransformer.encode", *times, 3.5, f"cosine {cosine:.5f}"
    )


@contextlib.contextmanager
def cores(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    yield
    torch.set_num_threads(before)


class PlainWindows(Dataset[torch.Tensor]):
    """One window at a time from a mapped file, as one writes it first."""

    def __init__(self, vectors: np.ndarray, first: np.ndarray, length: int) -> None:
        self.vectors, self.first, self.length = vectors, first, length

    def __len__(self) -> int:
        return len(self.first)

    def __getitem__(self, index: int) -> torch.Tensor:
        start = self.first[index]
        return torch.from_numpy(self.vectors[start : start + self.length].astype(np.float32))


def gather(options: argparse.Namespace, folder: Path) -> Iterator[Row]:
    """Batches of windows from a mapped file of float16, in a random order."""
    for batch, length, dimension, aim in ((256, 5, 768, 10.0), (32, 64, 384, None)):
        rows, batches = (20_000, 4) if options.quick else (200_000, 40)
        path, rng = folder / f"{dimension}.npy", np.random.default_rng(0)
        np.save(path, rng.standard_normal((rows, dimension), dtype=np.float32).astype(np.float16))
        vectors = np.load(path, mmap_mode="r", allow_pickle=False)
        first = rng.permutation(rows - length)[: batch * batches]
        plain = PlainWindows(vectors, first, length)

        held = Vectors([path], [rows], dimension, "float16")

        def ours(first: Any = first, held: Any = held, batch: int = batch, length: int = length) -> Any:
            for part in first.reshape(-1, batch):
                last = torch.from_numpy(gather_rows(held, part[:, None] + np.arange(length)))
            return last

        def peer(plain: Any = plain, batch: int = batch) -> Any:
            for made in DataLoader(plain, batch_size=batch):
                last = made
            return last

        name = f"gather {batches} batches {batch} x {length} x {dimension}"
        assert torch.equal(ours(), peer())
        yield Row(name, "DataLoader + Dataset", *in_turns(ours, peer, options.rounds), aim)
        for against, other in further(folder, vectors, first, batch, length):
            assert torch.equal(ours(), other())
            yield Row(name, against, *in_turns(ours, other, options.rounds))


def rows_of(path: str) -> Iterator[dict[str, np.ndarray]]:
    """The rows of a mapped file as datasets takes them."""
    for row in np.load(path, mmap_mode="r", allow_pickle=False):
        yield {"vector": row}


def further(
    folder: Path, vectors: np.ndarray, first: np.ndarray, batch: int, length: int
) -> Iterator[tuple[str, Work]]:
    """Other libraries that keep rows on a disk, of those that are installed: the rows of a batch at once."""
    D = vectors.shape[1]
    if importlib.util.find_spec("datasets"):
        import datasets

        kind = datasets.Features({"vector": datasets.List(datasets.Value("float16"), length=D)})
        datasets.disable_progress_bars()
        given = {"path": str(folder / f"{D}.npy")}
        made = datasets.Dataset.from_generator(
            rows_of, features=kind, cache_dir=str(folder / str(D)), gen_kwargs=given
        )
        held = made.with_format("numpy")

        def through_datasets() -> torch.Tensor:
            for part in first.reshape(-1, batch):
                index = (part[:, None] + np.arange(length)).ravel()
                found = np.asarray(held[index]["vector"], dtype=np.float32).reshape(batch, length, D)
            return torch.from_numpy(found)

        yield "HF datasets, a batch at once", through_datasets
    if importlib.util.find_spec("lance"):
        import lance
        import pyarrow as pa

        table = pa.table({"vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), D)})
        stored = lance.write_dataset(table, str(folder / f"{D}.lance"))

        def through_lance() -> torch.Tensor:
            for part in first.reshape(-1, batch):
                index = (part[:, None] + np.arange(length)).ravel()
                column = stored.take(index, columns=["vector"])["vector"].combine_chunks()
                found = column.values.to_numpy(zero_copy_only=False).astype(np.float32)
            return torch.from_numpy(found.reshape(batch, length, D))

        yield "Lance, a batch at once", through_lance


class ByWindow:
    """The same predictor, asked for every window alone."""

    def __init__(self, predictor: ModelPredictor) -> None:
        self.predictor = predictor

    def __getattr__(self, name: str) -> Any:
        if name == "predict_positions":
            raise AttributeError(name)
        return getattr(self.predictor, name)


def evaluation(options: argparse.Namespace, folder: Path) -> Iterator[Row]:
    """Evaluation of one model: one pass over a document against a pass for every window."""
    for length in (30, 60):  # a context that is cut at the front has a pass of its own
        store = synthetic_store(folder / str(length), 20 if options.quick else 100, length)
        documents = range(len(store.documents))
        windows = make_windows(store, documents, 1)
        made = make_evaluation_set(store, windows, documents, EvaluationConfig(), None)
        for name in ("transformer", "lstm"):
            torch.manual_seed(0)
            model = registry.build(name, "small", store.dimension).eval()
            predictor = ModelPredictor(model, CONTEXT, name)
            plain: Any = ByWindow(predictor)
            ours, peer = partial(Scores.of, predictor, made), partial(Scores.of, plain, made)
            times = in_turns(ours, peer, options.rounds)
            off = float(np.abs(ours().cosines - peer().cosines).max())
            what = f"evaluate {name}, context {CONTEXT}, documents of {length}"
            yield Row(what, "a pass a window", *times, 5.0, f"cosine {off:.0e} off")


def script(name: str, *arguments: str) -> dict[str, Any]:
    """What a script beside this one writes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "figures.json"
        subprocess.run(
            [sys.executable, HERE / name, *arguments, "--json", path], check=True, stdout=sys.stderr
        )
        found: dict[str, Any] = json.loads(path.read_text())
        return found


def training(options: argparse.Namespace, folder: Path) -> Iterator[Row]:
    """Forward and backward of each architecture beside the implementation that it is proven against."""
    how = ["--small"] if options.quick else ["--rounds", str(options.rounds)]
    for row in script("reference_speed.py", *how)["rows"]:
        if row["reference"] is None:
            continue
        ours, peer = (
            (statistics.median(times), min(times), max(times))
            for times in (list(row["seconds"]["ours"].values())[-1], row["seconds"]["reference"]["float32"])
        )
        note = f"MFU {100 * list(row['mfu'].values())[-1]:.0f} %, {row['ratio']:.1f}x of the peer's best"
        yield Row(f"train {row['model']} {row['preset']}", row["reference"], ours, peer, row["aim"], note)


def stream(options: argparse.Namespace, folder: Path) -> Iterator[Row]:
    """One more vector of a stream, by an exported step and in torch."""
    how = ["--models", "gru,transformer", "--long", "64"] if options.quick else []
    for row in script("step_latency.py", *how)["rows"]:
        if "failed" not in row:
            ours, peer = ((row["long"][key] / 1e3,) * 3 for key in ("step", "torch"))
            note = f"{row['flat']:.2f}x after the long stream"
            yield Row(f"step {row['model']}, ONNX", "torch", ours, peer, None, note)


def startup(options: argparse.Namespace, folder: Path) -> Iterator[Row]:
    """Processor seconds until a command begins to work."""
    for row in script("startup.py", *(["--quick"] if options.quick else []))["rows"]:
        ours, peer = ((row[key],) * 3 for key in ("ours", "peer"))
        yield Row(row["row"], row["peer_is"], ours, peer, None, "processor seconds, the least")


def ranking(options: argparse.Namespace, folder: Path) -> Iterator[Row]:
    """Ranks of true next vectors among all candidates."""
    taken: dict[str, list[float]] = {}
    for _ in range(options.rounds):
        for row in script("retrieval.py", *(["--small"] if options.quick else []))["rows"]:
            taken.setdefault(row["method"], []).append(row["seconds"])
    three = {name: (statistics.median(times), min(times), max(times)) for name, times in taken.items()}
    for against in ("faiss flat", "full matrix"):
        yield Row("rank all targets", against, three["nextvec"], three[against])


ROWS = {
    "encode": encode,
    "gather": gather,
    "evaluation": evaluation,
    "ranking": ranking,
    "training": training,
    "stream": stream,
}


def show(row: Row) -> str:
    aim = "" if row.aim is None else f"{row.aim:g}x" + ("" if row.ratio >= row.aim else " MISSED")
    times = " | ".join(f"{m:.3g} ({low:.3g}-{high:.3g})" for m, low, high in (row.ours, row.peer))
    return f"| {row.name} | {row.against} | {times} | {row.ratio:.1f}x | {aim} | {row.note} |"


def table(rows: list[Row]) -> str:
    """Markdown; what misses its aim first."""
    missed = [row for row in rows if row.aim is not None and row.ratio < row.aim]
    ordered = missed + [row for row in rows if row not in missed]
    head = "| what | beside | seconds | of the peer | ratio | aim | |\n|---|---|---:|---:|---:|---|---|"
    return "\n".join([head, *map(show, ordered)])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", default=",".join(ROWS), help="names, with commas between them")
    parser.add_argument("--quick", action="store_true", help="small sizes, a few minutes: a try")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cores", type=int, default=2, help="threads of the row `encode`")
    parser.add_argument("--documents", type=Path, help=".jsonl.gz with `text` for the row `encode`")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--table", type=Path, help="print the table of such a file, and measure nothing")
    options = parser.parse_args()
    if options.table:
        held = json.loads(options.table.read_text())
        print(table([Row(**row) for row in held["rows"]]))
        return
    torch.set_num_threads(1)
    rows: list[Row] = []
    for name in options.rows.split(","):
        with tempfile.TemporaryDirectory() as folder:
            for row in ROWS[name](options, Path(folder)):
                rows.append(row)
                print(show(row), file=sys.stderr, flush=True)
    print(table(rows))
    if options.json:
        versions = {
            p.metadata["Name"]: p.version for p in metadata.distributions() if p.metadata["Name"] in VERSIONS
        }
        machine = {
            "processor": processor(),
            "cores": torch.get_num_threads(),
            "python": platform.python_version(),
        }
        write_json(
            options.json,
            {
                "machine": machine,
                "versions": versions,
                "quick": options.quick,
                "rows": [asdict(row) for row in rows],
            },
        )


def processor() -> str:
    """As the system calls it, with what of it bears on products."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = next(
        (line.split(":")[1].strip() for line in text.splitlines() if line.startswith("model name")),
        platform.processor(),
    )
    flags = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if f" {flag} " in text]
    return f"{model} ({', '.join(flags)})"


if __name__ == "__main__":
    main()
