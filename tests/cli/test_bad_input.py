"""Bad input: one line that names the file, row or key at fault and the remedy, exit code 2, nothing printed,
nothing on disk changed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import load_file, save_file

from by_hand import by_hand
from nextvec.corpus.store import Store

CATALOGUE = tomllib.loads(Path(__file__).with_name("bad_input.toml").read_text(encoding="utf-8"))["case"]
ABSENT = "cuda" if torch.backends.mps.is_available() else "mps"


@pytest.fixture(scope="module")
def inputs(
    tmp_path_factory: pytest.TempPathFactory, make_world: Callable[..., Store], world: Store, trained: Path
) -> Path:
    """A folder with everything that the cases name. No case may change it."""
    folder = tmp_path_factory.mktemp("bad")
    make_stores(folder, make_world, world)
    make_vectors(folder, world)
    make_texts(folder)
    make_runs(folder, world, trained)
    make_correctors(folder)
    (folder / "odd-decoder").mkdir()
    (folder / "odd-decoder" / "decoder.json").write_text('{"kind": "magic"}')
    return folder


def make_stores(folder: Path, make_world: Callable[..., Store], world: Store) -> None:
    for name in (
        "store",
        "truncated",
        "cut-chunks",
        "cut-documents",
        "altered",
        "no-json",
        "new-format",
        "no-shard",
    ):
        shutil.copytree(world.path, folder / name)
    make_world(folder / "other", encoder="another")
    cut(folder / "truncated" / "vectors" / "0001.npy")
    cut(folder / "cut-chunks" / "chunks" / "0000.parquet")
    cut(folder / "cut-documents" / "documents" / "0000.parquet")
    vectors = np.load(folder / "altered" / "vectors" / "0000.npy")
    vectors[0] *= -1
    np.save(folder / "altered" / "vectors" / "0000.npy", vectors)
    (folder / "no-json" / "store.json").write_text("format = 1")
    manifest = folder / "new-format" / "store.json"
    manifest.write_text(json.dumps({**json.loads(by_hand(manifest)), "format": 9}))
    (folder / "no-shard" / "vectors" / "0000.npy").unlink()


def make_vectors(folder: Path, world: Store) -> None:
    vectors = np.asarray(world.vectors)
    bad = vectors.copy()
    bad[37, 3] = np.nan
    arrays = {"vectors": vectors, "nan": bad, "wide": np.hstack([vectors, vectors]), "short": vectors[:-1]}
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    np.save(folder / "object.npy", np.array([[None]]), allow_pickle=True)
    chunks = world.chunks.select(["doc_id", "position", "text", "source"])
    pq.write_table(chunks, folder / "chunks.parquet")
    pq.write_table(chunks.drop_columns(["doc_id"]), folder / "no-doc.parquet")
    contexts, targets = np.stack([vectors[i : i + 5] for i in range(7)]), vectors[5:12]
    spoiled = contexts.copy()
    spoiled[3, 1, 2] = np.nan
    np.savez(folder / "nan.npz", context_sequences=spoiled, target_vectors=targets)
    ids = np.array(["a", 1, None, "a", "a", "a", "a"], dtype=object)
    np.savez(folder / "object.npz", context_sequences=contexts, target_vectors=targets, doc_ids=ids)
    np.savez(folder / "lacking.npz", context_sequences=contexts)
    np.savez(folder / "cut.npz", context_sequences=contexts, target_vectors=targets)
    cut(folder / "cut.npz")


def make_texts(folder: Path) -> None:
    for name in ("empty", "texts", "changed", "no-table", "no-ensemble"):
        (folder / name).mkdir()
    (folder / "texts" / "a.txt").write_text("The ship left the harbour before dawn. Nobody saw it go.")
    (folder / "texts" / "b.txt").write_text("Water boils at lower temperatures on high mountains.")
    (folder / "changed" / "a.txt").write_text("The ship came back.")
    (folder / "broken.jsonl").write_text('{"id": "a", "text": "one"}\n{"id": "b", "text": \n')
    (folder / "rows.csv").write_text("id,body\n1,one\n")
    (folder / "bad.toml").write_text("[optim]\nclipp = 1.0\n")
    (folder / "split.toml").write_text("")
    (folder / "split.json").write_text(
        json.dumps({"train": ["doc-0"], "validation": ["doc-1"], "test": ["doc-2"]})
    )
    (folder / "twice.json").write_text(json.dumps({"train": ["doc-1"], "test": ["doc-1"]}))
    one = {"train": ["doc-0"], "validation": [f"doc-{i}" for i in range(1, 20)]}
    (folder / "one.json").write_text(json.dumps({**one, "test": [f"doc-{i}" for i in range(20, 40)]}))
    (folder / "no-table" / "matrix.json").write_text("[]")
    (folder / "no-ensemble" / "ensemble.json").write_text('{"members": []}')


def make_runs(folder: Path, world: Store, trained: Path) -> None:
    for name in ("run", "cut-run", "cut-checkpoint", "other-weights", "bare-run", "unseen-run"):
        shutil.copytree(trained, folder / name)
    cut(folder / "cut-run" / "model.safetensors")
    cut(folder / "cut-checkpoint" / "last" / "checkpoint.safetensors")
    weights = folder / "other-weights" / "model.safetensors"
    save_file({k: v * 1.5 if v.ndim > 1 else v for k, v in load_file(weights).items()}, weights)
    config = folder / "bare-run" / "config.json"
    config.write_text(json.dumps({k: v for k, v in json.loads(by_hand(config)).items() if k != "training"}))
    (folder / "unseen-run" / "trained_on.safetensors").unlink()
    for name, training in (
        ("salted-run", {"split": {"salt": "other"}}),
        ("web-run", {"sources": ["web"]}),
        ("far-run", {"horizons": [3]}),
    ):
        shutil.copytree(trained, folder / name)
        config = folder / name / "config.json"
        held = json.loads(by_hand(config))
        config.write_text(json.dumps({**held, "training": {**held["training"], **training}}))
    (folder / "lost-ensemble").mkdir()
    lost = {"run": "../gone-run", "sha256": "0"}
    (folder / "lost-ensemble" / "ensemble.json").write_text(
        json.dumps(
            {"members": [lost, lost], "raw_weights": [1.0, 0.0], "unit_weights": [1.0, 0.0], "horizon": 1}
        )
    )
    (folder / "old-sweep").mkdir()
    (folder / "old-sweep" / "sweep.toml").write_text(
        f'store = "{world.path}"\nmodels = ["lstm"]\ntrials = 1\n'
    )
    (folder / "old-matrix").mkdir()
    (folder / "old-matrix" / "matrix.toml").write_text(
        f'store = "{world.path}"\nmodels = ["lstm"]\nseeds = 1\n'
    )


def make_correctors(folder: Path) -> None:
    for name in ("pickled-corrector", "weightless-corrector"):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text('{"embedder_model_name": "gtr_base"}')
    (folder / "pickled-corrector" / "pytorch_model.bin").write_bytes(b"")


def cut(file: Path) -> None:
    """Keep the first two thirds of a file."""
    data = file.read_bytes()
    file.write_bytes(data[: 2 * len(data) // 3])


@pytest.fixture
def inside(inputs: Path, monkeypatch: pytest.MonkeyPatch, cli, hash_encoder: None) -> Path:
    """`inputs` as the working folder; with the stores that only ingest itself can make."""
    monkeypatch.chdir(inputs)
    if not Path("hashed").exists():
        assert cli("ingest", "texts", "--out", "hashed").code == 0
        shutil.copytree("hashed", "cut-hashed")
        cut(Path("cut-hashed/vectors/0000.npy"))
        ready = ("--vectors", "vectors.npy", "--chunks", "chunks.parquet", "--encoder", "world")
        assert cli("ingest", *ready, "--out", "same").code == 0
    return inputs


@pytest.mark.parametrize("bad", CATALOGUE, ids=lambda case: case["name"])
def test_bad_input_is_one_line(
    cli, inside: Path, snapshot: Callable[[Path], dict[str, str]], bad: dict[str, Any]
) -> None:
    before = snapshot(inside)
    done = cli(*bad["command"].replace("ABSENT", ABSENT).split())
    assert done.code == 2
    assert done.out == ""
    assert done.err.endswith("\n")
    # what was read before the fault was met is said too
    [error] = [line for line in done.err.splitlines() if not line.startswith("read: ")]
    assert error.startswith("nextvec: error: ")
    for part in bad["says"]:
        assert part.replace("ABSENT", ABSENT) in done.err
    assert ";" in done.err or " must " in done.err, "no remedy"
    assert snapshot(inside) == before


def test_the_names_of_the_cases_differ() -> None:
    assert len({case["name"] for case in CATALOGUE}) == len(CATALOGUE)


def test_a_disk_without_rights(cli, world: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may write anywhere, so the refusal is the file system's by proxy."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(tmp_path / "run"))

    monkeypatch.setattr(Path, "mkdir", refuse)
    done = cli("train", world.path, "--model", "lstm", "--out", tmp_path / "run")
    assert (done.code, done.out) == (2, "")
    where = tmp_path / "run"
    says = "Permission denied; check the path, its rights and the space left, and give the command again"
    assert done.err == f"nextvec: error: {where}: {says}\n"


def test_in_a_process_of_its_own(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "nextvec", "info", "nowhere"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "nextvec: error: nowhere: is not a store (it has no store.json); make one: nextvec ingest\n"
    )
