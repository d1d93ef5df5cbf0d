"""kill -9, a full disk and an input/output error at every thing that a command does to the disk, and kill -9
at random moments: what stands is whole, and the same command, or the one that its message names, goes on to
the same result.

`make test` tries a few moments of some commands, `make faults` all of all: of a matrix and of a sweep every
moment of their own, and every seventh of the trainings in them, which are the same as alone; of an export
every third.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from corpus.ingesting import contents
from decoding.inverting import TINY as TINY_DECODER
from decoding.inverting import write_pairs
from nextvec.config import write_toml
from nextvec.corpus.store import Store

SERVER = Path(__file__).parent / "kill_server.py"
TINY = [
    "--device=cpu",
    "--recipe=scratch",
    "--precision=float32",
    "--epochs=2",
    "--batch-size=16",
    "--lr=0.01",
    "--set=model.options.hidden=8",
    "--set=runtime.threads=1",
    "--set=runtime.checkpoint_every_s=1000",
    "--quiet",
]
SHORT = [flag.replace("--epochs=2", "--epochs=1") for flag in TINY]
FULL, BROKEN = "No space left on device", "Input/output error"
INJECTIONS = ("at", "full", "broken", "readonly", "limit", "after")
Run = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """run(root, args, at=, full=, ...): a command in a process of its own, counted under
    `root`."""
    with subprocess.Popen(
        [sys.executable, SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"

        def ask(root: Path, args: list[Any], **injected: int) -> Any:
            given = {"root": str(root), "args": [str(a) for a in args]}
            order = {**dict.fromkeys(INJECTIONS), **given, **injected}
            server.stdin.write(json.dumps(order) + "\n")
            server.stdin.flush()
            return json.loads(server.stdout.readline())

        yield ask
        server.stdin.close()


def ingest(folder: Path, store: Path) -> list[Any]:
    """Vectors that are there already, in two shards: nothing has to be encoded."""
    rng = np.random.default_rng(0)
    np.save(folder / "v.npy", rng.standard_normal((24, 8)).astype(np.float32))
    ids = [f"doc-{i // 6}" for i in range(24)]
    table = {"doc_id": ids, "position": [i % 6 for i in range(24)], "text": [f"text {i}" for i in range(24)]}
    pq.write_table(pa.table({**table, "source": ["s"] * 24}), folder / "c.parquet")
    given = ["--vectors", folder / "v.npy", "--chunks", folder / "c.parquet", "--shard-chunks", 12]
    whose = ["--encoder", "own", "--encoder-sha256", "a" * 64, "--quiet"]
    return ["ingest", *given, *whose, "--out", folder / "out"]


def train(folder: Path, store: Path) -> list[Any]:
    return ["train", store, "--model", "lstm", "--out", folder / "out", *TINY]


def warm(folder: Path, store: Path) -> list[Any]:
    tiny = [flag for flag in SHORT if not flag.startswith("--set=model")]
    return ["train", store, "--init-from", store.parent / "run", "--out", folder / "out", *tiny]


def matrix(folder: Path, store: Path) -> list[Any]:
    models = ["--models", "lstm", "--seeds", "2", "--baselines", "copy-last", "--no-speed"]
    return ["matrix", store, *models, "--out", folder / "out", *SHORT]


def sweep(folder: Path, store: Path) -> list[Any]:
    tiny = [flag for flag in SHORT if not flag.startswith(("--lr", "--set=model"))]
    trials = ["--trials", "2", "--startup", "2"]
    return ["sweep", store, "--model", "mlp", *trials, "--out", folder / "out", *tiny]


def export(folder: Path, store: Path) -> list[Any]:
    return ["export", store.parent / "run", "--out", folder / "out"]


def decoder(folder: Path, store: Path) -> list[Any]:
    pairs = store.parent / "pairs"
    flags = ["--config", pairs / "tiny.toml", "--split-file", pairs / "split.json", "--quiet"]
    return ["decoder", "train", pairs / "store", "--out", folder / "out", *flags]


def index(folder: Path, store: Path) -> list[Any]:
    return ["index", f"faiss-hnsw:{folder / 'out'}", store]


def report(folder: Path, store: Path) -> list[Any]:
    shutil.copytree(store.parent / "run", folder / "run", dirs_exist_ok=True)
    return ["report", folder / "run", "--out", folder / "out", "--figures", "lr_schedule", "--quiet"]


def prune(folder: Path, store: Path) -> list[Any]:
    keep = ["--keep", "0.5", "--fine-tune-updates", "1", "--batches", "1", "--quiet"]
    return ["prune", store.parent / "run", "--store", store, *keep, "--out", folder / "out"]


TRAININGS = (train, warm, matrix, sweep, decoder, prune)
COMMANDS = {f.__name__: f for f in (ingest, *TRAININGS, export, index, report)}
TIMED = {
    "seconds",
    "predict_seconds",
    "train_seconds",
    "positions_per_second",
    "created",
    "run",
    "resumed_at_update",
    "p50_ms",
    "seal",
}
NOT_COMPARED = re.compile(r"last/|\.nextvec\.lock$|\.tmp$|\.(onnx|db|html|png|svg)$|plan\.json$|README\.md$")


def result(folder: Path) -> dict[str, Any]:
    """What a command left: bytes of each file, but JSON without what depends on the clock or the place."""
    found: dict[str, Any] = {}
    for name, content in contents(folder / "out").items():
        if NOT_COMPARED.search(name):
            continue
        if name.endswith((".json", ".jsonl")):
            content = [_timeless(json.loads(line)) for line in _documents(name, content)]
        found[name] = content
    if "sweep.json" in found:  # a trial that was taken up again has a number of its own
        (figures,) = found["sweep.json"]
        return {
            "complete": [model["complete"] for model in figures["models"]],
            "best": "best/mlp.toml" in found,
        }
    return found


def _documents(name: str, content: bytes) -> list[bytes]:
    return content.splitlines() if name.endswith(".jsonl") else [content]


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _timeless(v) for k, v in value.items() if k not in TIMED}
    return [_timeless(v) for v in value] if isinstance(value, list) else value


def again(run: Run, folder: Path, args: list[Any], *, may_be_there: bool = False) -> None:
    """The same command; where it says how to go on, that one. After a kill the folder of an export may be
    there already: it comes with one rename, so that all of it is (as the caller compares)."""
    done = run(folder, args)
    if may_be_there and args[0] == "export" and "is there already and not empty" in done["error"]:
        return
    if done["code"] == 2 and "go on with --resume" in done["error"]:
        if "--init-from" in args:  # it would say to leave that out
            at = args.index("--init-from")
            args = [*args[:at], *args[at + 2 :]]
        done = run(folder, [*args, "--resume"])
    assert done["code"] == 0, done["error"]


@pytest.fixture(scope="module")
def place(world: Store, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The shared store with a run, and the texts of a decoder, beside it."""
    folder = tmp_path_factory.mktemp("kills")
    shutil.copytree(world.path, folder / "store")
    shutil.copytree(trained, folder / "run")
    (folder / "pairs").mkdir()
    write_pairs(folder / "pairs")
    write_toml(folder / "pairs" / "tiny.toml", TINY_DECODER)
    return Store.open(folder / "store")


class InterruptedCommand:
    """One command in one folder, which is made anew for each injection."""

    def __init__(self, run: Run, name: str, place: Store, folder: Path) -> None:
        self._run, self._name, self._place, self._folder = run, name, place, folder / "here"
        self._fresh()
        done = run(self._folder, self._args)
        assert done["code"] == 0, done["error"]
        self.expected = result(self._folder)
        self.events, self.seconds = done["events"], done["seconds"]

    def _fresh(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir()
        self._args = COMMANDS[self._name](self._folder, self._place.path)

    def moments(self, *, exhaustive: bool) -> list[int]:
        """The ordinals to try: all, or a few."""
        count = len(self.events)
        if not exhaustive:
            return sorted({2, 1 + count // 3, 1 + 2 * count // 3, count - 1})
        inner = [n for n in range(count) if re.match(r"/out/(runs|trials)/", self.events[n][1])]
        if self._name == "export":  # takes eight seconds each time
            return list(range(1, count + 1, 3))
        return sorted({*range(1, count + 1)} - {n + 1 for n in inner} | {n + 1 for n in inner[::7]})

    def killed(self, **injected: float) -> None:
        """After a kill the same command goes on, to the same result."""
        self._fresh()
        died = self._run(self._folder, self._args, **injected)
        assert died["code"] == -9 or "after" in injected, died
        again(self._run, self._folder, self._args, may_be_there=True)
        self._compare()

    def refused(self, words: str, *, go_on: bool = True, **injected: int) -> None:
        """What the disk refuses is said in one line with the path, and the same command goes on."""
        self._fresh()
        refused = self._run(self._folder, self._args, **injected)
        if refused["code"] != 0:  # what comes last, such as taking a lock away, needs no space
            assert refused["code"] in (1, 2), refused
            assert "Traceback" not in refused["error"], refused["error"]
            assert words in refused["error"], refused["error"]
            assert str(self._folder) in refused["error"], refused["error"]
            if not go_on:
                return
            again(self._run, self._folder, self._args)
        self._compare()

    def _compare(self) -> None:
        left = result(self._folder)
        assert left.keys() == self.expected.keys()
        assert left == self.expected


@pytest.mark.parametrize("name", ["ingest", "train", "matrix", "decoder", "prune"])
def test_a_command_killed_at_some_moments_goes_on(run: Run, name: str, place: Store, tmp_path: Path) -> None:
    fixture = InterruptedCommand(run, name, place, tmp_path)
    assert len(fixture.events) > 10
    for at in fixture.moments(exhaustive=False):
        fixture.killed(at=at)


@pytest.mark.faults
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_killed_at_any_moment_goes_on(
    run: Run, name: str, place: Store, tmp_path: Path, tally: Any
) -> None:
    fixture = InterruptedCommand(run, name, place, tmp_path)
    with tally(f"kill -9 at a step on the disk: {name}") as injections:
        for at in fixture.moments(exhaustive=True):
            with injections.attempt((at, *fixture.events[at - 1])):
                fixture.killed(at=at)


@pytest.mark.faults
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_killed_at_random_goes_on(
    run: Run, name: str, place: Store, tmp_path: Path, tally: Any
) -> None:
    fixture = InterruptedCommand(run, name, place, tmp_path)
    rng = np.random.default_rng(0)
    with tally(f"kill -9 at a random moment: {name}") as injections:
        for after in rng.uniform(0.001, fixture.seconds, 5 if name == "export" else 25):
            with injections.attempt(after):
                fixture.killed(after=after)


def test_a_full_disk_is_said_and_gone_on_from(run: Run, place: Store, tmp_path: Path) -> None:
    fixture = InterruptedCommand(run, "train", place, tmp_path)
    for at in fixture.moments(exhaustive=False):
        fixture.refused(FULL, full=at)


@pytest.mark.faults
@pytest.mark.parametrize(("kind", "words"), [("full", FULL), ("broken", BROKEN)])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_disk_that_refuses_at_any_moment_is_said(
    run: Run, name: str, kind: str, words: str, place: Store, tmp_path: Path, tally: Any
) -> None:
    fixture = InterruptedCommand(run, name, place, tmp_path)
    with tally(f"{words.lower()}: {name}") as injections:
        for at in fixture.moments(exhaustive=True):
            with injections.attempt((at, *fixture.events[at - 1])):
                fixture.refused(words, go_on=at % 4 == 0, **{kind: at})


@pytest.mark.faults
@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - {"sweep"}))
def test_a_limit_on_the_size_of_any_file_is_said(
    run: Run, name: str, place: Store, tmp_path: Path, tally: Any
) -> None:
    fixture = InterruptedCommand(run, name, place, tmp_path)
    with tally(f"file too large: {name}") as injections:
        for limit in (2_000, 4_000, 10_000, 30_000, 100_000):
            with injections.attempt(limit):
                fixture.refused("File too large", limit=limit)


@pytest.mark.faults
@pytest.mark.parametrize("name", COMMANDS)
def test_a_folder_that_can_only_be_read_is_said(
    run: Run, name: str, place: Store, tmp_path: Path, tally: Any
) -> None:
    fixture = InterruptedCommand(run, name, place, tmp_path)
    with tally(f"read-only file system: {name}") as injections, injections.attempt("all of it"):
        fixture.refused("Read-only file system", readonly=1)


@pytest.mark.parametrize(
    "name",
    ["ingest", "train", "index", *(pytest.param(n, marks=pytest.mark.faults) for n in ("export", "decoder"))],
)
def test_what_is_renamed_is_durable_before_and_its_folder_after(
    run: Run, name: str, place: Store, tmp_path: Path
) -> None:
    durable: set[str] = set()
    renames = 0
    events = InterruptedCommand(run, name, place, tmp_path).events
    for n, (what, path, target) in enumerate(events):
        if what == "open":
            durable.discard(path)
        elif what == "fsync":
            durable.add(path)
        elif what in ("rename", "replace"):
            written = {p for w, p, _ in events[:n] if w == "open" and p.startswith(f"{path}/")} or {path}
            assert written <= durable, f"{path} is renamed before it is durable"
            then = next(p for w, p, _ in events[n + 1 :] if w == "fsync")
            assert then == str(Path(target).parent).rstrip("/"), (
                f"the folder of {target} is not made durable next"
            )
            renames += 1
    assert renames > 1


@pytest.mark.parametrize("limit", [3_000, 30_000])
def test_a_limit_on_the_size_of_files_is_said_by_name(
    run: Run, place: Store, tmp_path: Path, limit: int
) -> None:
    args = train(tmp_path, place.path)
    args[args.index("--set=model.options.hidden=8")] = "--set=model.options.hidden=64"
    refused = run(tmp_path, args, limit=limit)
    assert refused["code"] == 2, refused["error"]
    assert "File too large" in refused["error"]
    assert str(tmp_path / "out") in refused["error"]
    assert "Traceback" not in refused["error"]
    again(run, tmp_path, args)
