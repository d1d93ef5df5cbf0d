"""Where faults are tried: a temporary folder with a small store, a run trained on it, and helpers to spoil
copies of both."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import re
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from nextvec.corpus.layout import MANIFEST, ShardFiles
from nextvec.corpus.store import Store
from nextvec.data.splits import Split, SplitConfig, split_documents
from nextvec.data.windows import FloatArray
from nextvec.diagnostics.data import DataDiagnosisConfig, diagnose_data
from nextvec.diagnostics.sections import is_red
from nextvec.disk import read_json, sha256_file, write_json
from nextvec.errors import EvaluationError, MissingDependencyError, NextvecError, RunError
from nextvec.selfcheck.worlds import make_store, noisy, rotation

# The installed `nextvec` command, run in this process as the shell would, and what it says.


@dataclass(frozen=True)
class Signal:
    """Something that a command said: the class of an error or warning, or a verdict's name, and the words."""

    name: str
    text: str


@dataclass(frozen=True)
class Observation:
    """What a user sees of a command: the exit code and what it said."""

    code: int
    signals: tuple[Signal, ...] = ()

    def __add__(self, other: Observation) -> Observation:
        return Observation(max(self.code, other.code), self.signals + other.signals)


WARNING = "nextvec: warning: "


def command(*arguments: object) -> Observation:
    """Run a verb; `--json -` makes its verdicts, checks and notes signals.

    Signs: an error or warning by its class; "verdict <name>" of what is red or a warning; "check <name>" of a
    red check; "note" of a table's notes.
    """
    run = _installed()
    out, err = io.StringIO(), io.StringIO()
    signals, code = [], 0
    with _fresh_process(), redirect_stdout(out), redirect_stderr(err):
        try:
            run([str(a) for a in arguments])
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else int(left.code is not None)
            if isinstance(left.__context__, NextvecError):
                signals.append(Signal(type(left.__context__).__name__, str(left.__context__)))
    output = err.getvalue()
    lines = [line for line in output.splitlines() if line.startswith(WARNING)]
    signals += [Signal("NextvecWarning", line.removeprefix(WARNING)) for line in lines]
    if code and not signals:
        signals.append(Signal("exit", output.strip() or out.getvalue().strip()[-200:]))
    if "--json" in arguments and out.getvalue():
        signals += _figures(json.loads(out.getvalue()))
    return Observation(code, tuple(signals))


def refused(work: Callable[[], object]) -> Observation:
    """The same for a call of a public function: its error and its warnings as signals."""
    signals, code = [], 0
    with _fresh_process(), warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            work()
        except NextvecError as error:
            code, signals = error.exit_code, [Signal(type(error).__name__, str(error))]
    signals += [Signal(w.category.__name__, str(w.message)) for w in warned]
    return Observation(code, tuple(signals))


def _figures(found: dict[str, Any]) -> list[Signal]:
    verdicts = [v for v in found.get("verdicts", []) if v["level"] in ("warning", "red")]
    checks = [c for c in found.get("checks", []) if c["status"] == "RED"]
    return [
        *(Signal(f"verdict {v['name']}", v["text"]) for v in verdicts),
        *(Signal(f"check {c['name']}", c["text"]) for c in checks),
        *(Signal("note", note) for note in found.get("notes", [])),
    ]


def _installed() -> Callable[[list[str]], None]:
    """The function behind the console script: what a user starts."""
    found = [e for e in entry_points(group="console_scripts", name="nextvec") if e.dist is not None]
    if not found:
        message = "the command `nextvec` is not installed here"
        raise MissingDependencyError(message, remedy="install the package: pip install nextvec")
    run: Callable[[list[str]], None] = found[0].load()
    return run


@contextmanager
def _fresh_process() -> Iterator[None]:
    """What a command sets for its whole process is put back afterwards; its log lines are not shown."""
    root, ours = logging.getLogger(), logging.getLogger("nextvec")
    handlers, level, own_level = root.handlers[:], root.level, ours.level
    threads = torch.get_num_threads()
    root.handlers = []
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        try:
            yield
        finally:
            root.handlers = handlers
            root.setLevel(level)
            ours.setLevel(own_level)
            torch.set_num_threads(threads)


D, DOCUMENTS, LENGTH = 16, 60, 16
TINY = (
    "--recipe=scratch", "--device=cpu", "--precision=float32", "--quiet", "--set=optim.batch_size=4",
    "--set=optim.lr=0.01", "--set=runtime.threads=1", "--set=model.options.dropout=0.0",
)  # fmt: skip


RUN = ("--set=model.options.hidden=64", "--set=model.options.layers=4", "--epochs=2")


class SharedFixture:
    """What all faults start from, made once. Nobody changes it: take a copy."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def vectors(self) -> FloatArray:
        """Documents of the rotation world, [60, 16, 16]: the next vector can be learned."""
        return rotation(np.random.default_rng(0), DOCUMENTS, LENGTH, D)[0]

    @cached_property
    def store(self) -> Store:
        """A store of them, with texts, in one shard."""
        return make_store(self.folder / "store", self.vectors)

    @cached_property
    def noise(self) -> FloatArray:
        """Documents of a hidden state seen through noise, [60, 16, 16]."""
        return noisy(np.random.default_rng(1), DOCUMENTS, LENGTH, D)

    @cached_property
    def split(self) -> Split:
        return split_documents(self.store, SplitConfig())

    @cached_property
    def run(self) -> Path:
        """A GRU of four layers, trained on the store for two epochs."""
        out = self.folder / "run"
        seen = train(self.store.path, out, *RUN)
        if seen.code:
            raise EvaluationError(f"the self-check's own run fails: {seen.signals}", where=out)
        return out


@dataclass(frozen=True)
class Fixture:
    """A folder of one trial, and what is shared."""

    shared: SharedFixture
    folder: Path

    def at(self, *names: str) -> Fixture:
        """A new, empty folder for a trial."""
        place = self.folder.joinpath(*(re.sub(r"\W+", "-", name) for name in names))
        place.mkdir(parents=True)
        return Fixture(self.shared, place)

    def copy_run(self) -> Path:
        """A copy of the shared run, free to be spoilt."""
        return Path(shutil.copytree(self.shared.run, self.folder / "run"))

    def write_split(self, train: Sequence[int], validation: Sequence[int], test: Sequence[int]) -> Path:
        """A split file of indices into the shared store's documents."""
        ids = [d.doc_id for d in self.shared.store.documents]
        parts = {"train": train, "validation": validation, "test": test}
        path = self.folder / "split.json"
        write_json(path, {name: [ids[i] for i in part] for name, part in parts.items()})
        return path


def train(store: Path, out: Path, *flags: str, model: str = "gru") -> Observation:
    return command("train", store, "--model", model, "--out", out, *TINY, *flags)


def run_evaluate(*runs: object, store: Path, flags: Sequence[object] = ()) -> Observation:
    """`nextvec evaluate` of runs, or of the baselines alone."""
    rest = ("--no-speed", "--quiet", "--json", "-", *flags)
    return command("evaluate", *(runs or ("baselines",)), "--store", store, *rest)


def ingest_vectors(
    folder: Path, name: str, vectors: FloatArray, chunks: pa.Table, encoder: str = "one"
) -> Observation:
    """`nextvec ingest --vectors` into the store of a folder."""
    np.save(folder / f"{name}.npy", vectors)
    pq.write_table(chunks, folder / f"{name}.parquet")
    return command(
        "ingest", "--vectors", folder / f"{name}.npy", "--chunks", folder / f"{name}.parquet",
        "--encoder", encoder, "--out", folder / "store", "--quiet",
    )  # fmt: skip


def turned(vectors: FloatArray, seed: int) -> FloatArray:
    """Vectors [..., D] as another encoder might give them: turned at random."""
    turn = np.linalg.qr(np.random.default_rng(seed).standard_normal((D, D)))[0]
    return np.asarray(vectors @ turn, dtype=np.float32)


def store_of_another_encoder(fixture: Fixture) -> Store:
    """The shared documents, encoded by encoder-b, of the same dimension."""
    return make_store(fixture.folder / "store", turned(fixture.shared.vectors, 3), encoder="encoder-b")


def spot_check(store: Store, encoder: TableEncoder) -> Observation:
    """The diagnosis of data with an encoder at hand, red verdicts and warnings as signals."""
    found = diagnose_data(store, DataDiagnosisConfig(resamples=100, quiet=True), encoder=encoder).verdicts
    raised = [v for v in found if v.level in ("warning", "red")]
    return Observation(int(is_red(found)), tuple(Signal(f"verdict {v.name}", v.text) for v in raised))


def edit_json(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = read_json(path, RunError)
    change(content)
    write_json(path, content)


def edit_table(store: Path, part: str, change: Callable[[pa.Table], pa.Table]) -> None:
    """Rewrite the "chunks" or "documents" of a store's first shard, and the manifest's counts and sums."""
    files = ShardFiles.of(store, "0000")
    path: Path = getattr(files, part)
    table = change(pq.read_table(path))
    pq.write_table(table, path)

    def adjust(manifest: dict[str, Any]) -> None:
        shard = manifest["shards"][0]
        shard[f"{part}_sha256"] = sha256_file(path)
        if part == "documents":
            shard["documents"] = manifest["documents"] = table.num_rows

    edit_json(store / MANIFEST, adjust)


class TableEncoder:
    """An encoder that knows the vectors [n, D] of certain texts, and nothing else."""

    name, path = "table", "cpu float32"
    max_tokens: int | None = None
    normalises, unit = True, False

    def __init__(self, texts: Sequence[str], vectors: FloatArray) -> None:
        self._rows = dict(zip(texts, vectors, strict=True))
        self.dimension = int(vectors.shape[1])
        mark = hashlib.sha256(vectors.tobytes()).hexdigest()
        self.fingerprint: dict[str, Any] = {"name": self.name, "fingerprint": mark}

    def encode(self, texts: Sequence[str], advance: Callable[[int], object] | None = None) -> FloatArray:
        if advance is not None:
            advance(len(texts))
        return np.stack([self._rows[text] for text in texts])

    def count_tokens(self, texts: Sequence[str]) -> list[tuple[int, int]]:
        return [(len(text.split()), 0) for text in texts]
