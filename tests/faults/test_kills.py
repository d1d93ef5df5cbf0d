"""kill -9 and a full disk at every thing that a command does to the disk: what stands is whole, and the same
command, or the one that its message names, goes on to the same result.

`make test` tries a few moments of each command, `make faults` all of them.
"""

from __future__ import annotations

import json
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
from nextvec.corpus.store import Store

SERVER = Path(__file__).parent / "kill_server.py"
TINY = [
    "--device=cpu",
    "--precision=float32",
    "--epochs=2",
    "--batch-size=16",
    "--lr=0.01",
    "--set=model.options.hidden=8",
    "--set=runtime.threads=1",
    "--set=runtime.checkpoint_every_s=1000",
    "--quiet",
]
Run = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """run(root, args, at=, full=, limit=): a command in a process of its own, counted under `root`."""
    with subprocess.Popen(
        [sys.executable, SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"

        def ask(root: Path, args: list[Any], **injected: int) -> Any:
            given = {"root": str(root), "args": [str(a) for a in args]}
            order = {"at": None, "full": None, "limit": None, **given, **injected}
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


def matrix(folder: Path, store: Path) -> list[Any]:
    models = ["--models", "lstm", "--seeds", "2", "--baselines", "copy-last", "--no-speed"]
    return ["matrix", store, *models, "--out", folder / "out", *TINY]


def export(folder: Path, store: Path) -> list[Any]:
    return ["export", store.parent / "run", "--out", folder / "out"]


COMMANDS = {"ingest": ingest, "train": train, "matrix": matrix, "export": export}
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


def result(folder: Path) -> dict[str, Any]:
    """What a command left: bytes of each file, but JSON without what depends on the clock or the place."""
    found: dict[str, Any] = {}
    for name, content in contents(folder / "out").items():
        if "last/" in name or name.endswith(("onnx", "plan.json")):
            continue
        if name.endswith((".json", ".jsonl")):
            content = [_timeless(json.loads(line)) for line in _documents(name, content)]
        found[name] = content
    return found


def _documents(name: str, content: bytes) -> list[bytes]:
    return content.splitlines() if name.endswith(".jsonl") else [content]


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _timeless(v) for k, v in value.items() if k not in TIMED}
    return [_timeless(v) for v in value] if isinstance(value, list) else value


def moments(count: int, exhaustive: bool) -> list[int]:
    """The ordinals to try: all, or the first, where nothing has a name yet, and some of the rest."""
    if exhaustive:
        return list(range(1, count + 1))
    return sorted({2, 4, 1 + count // 4, 1 + count // 2, count - 1})


def whole(run: Run, name: str, folder: Path, world: Store) -> tuple[dict[str, Any], int]:
    """The result of the command when nothing happens to it, and how many things it does to the disk."""
    folder.mkdir()
    done = run(folder, COMMANDS[name](folder, world.path))
    assert done["code"] == 0, done["error"]
    return result(folder), len(done["events"])


def again(run: Run, folder: Path, args: list[Any]) -> None:
    """The same command; where it says how to go on, that one."""
    done = run(folder, args)
    if done["code"] == 2 and "go on with --resume" in done["error"]:
        done = run(folder, [*args, "--resume"])
    assert done["code"] == 0, done["error"]


@pytest.fixture(scope="module")
def place(world: Store, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The shared store with a run beside it."""
    folder = tmp_path_factory.mktemp("kills")
    shutil.copytree(world.path, folder / "store")
    shutil.copytree(trained, folder / "run")
    return Store.open(folder / "store")


def kill_at(run: Run, name: str, place: Store, tmp_path: Path, *, exhaustive: bool) -> None:
    expected, count = whole(run, name, tmp_path / "whole", place)
    assert count > 10
    for at in moments(count, exhaustive):
        folder = tmp_path / f"at-{at}"
        folder.mkdir()
        args = COMMANDS[name](folder, place.path)
        died = run(folder, args, at=at)
        assert died["code"] == -9, f"{at} of {count}: {died}"
        again(run, folder, args)
        left = result(folder)
        assert left.keys() == expected.keys(), f"killed at {at} of {count}"
        assert left == expected, f"killed at {at} of {count}"
        shutil.rmtree(folder)


def fill_at(run: Run, name: str, place: Store, tmp_path: Path, *, exhaustive: bool) -> None:
    expected, count = whole(run, name, tmp_path / "whole", place)
    for at in moments(count, exhaustive):
        folder = tmp_path / f"at-{at}"
        folder.mkdir()
        args = COMMANDS[name](folder, place.path)
        refused = run(folder, args, full=at)
        if refused["code"] != 0:  # what comes last, such as taking a lock away, needs no space
            assert refused["code"] in (1, 2), refused
            assert "Traceback" not in refused["error"], refused["error"]
            assert "No space left on device" in refused["error"], refused["error"]
            assert str(folder) in refused["error"], refused["error"]
            again(run, folder, args)
        assert result(folder) == expected, f"full at {at} of {count}"
        shutil.rmtree(folder)


@pytest.mark.parametrize("name", ["ingest", "train", "matrix"])
def test_a_command_killed_at_some_moments_goes_on(run: Run, name: str, place: Store, tmp_path: Path) -> None:
    kill_at(run, name, place, tmp_path, exhaustive=False)


@pytest.mark.faults
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_killed_at_any_moment_goes_on(run: Run, name: str, place: Store, tmp_path: Path) -> None:
    kill_at(run, name, place, tmp_path, exhaustive=True)


@pytest.mark.parametrize("name", ["train"])
def test_a_full_disk_is_said_and_gone_on_from(run: Run, name: str, place: Store, tmp_path: Path) -> None:
    fill_at(run, name, place, tmp_path, exhaustive=False)


@pytest.mark.faults
@pytest.mark.parametrize("name", COMMANDS)
def test_a_disk_full_at_any_moment_is_said(run: Run, name: str, place: Store, tmp_path: Path) -> None:
    fill_at(run, name, place, tmp_path, exhaustive=True)


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
