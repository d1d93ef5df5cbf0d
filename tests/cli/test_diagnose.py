"""`nextvec diagnose` and `nextvec verify`, as the shell runs them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from by_hand import by_hand
from nextvec.corpus.store import NewDocument, Store, StoreWriter


@pytest.fixture
def coherent(tmp_path: Path) -> Path:
    """30 documents of 12 chunks that turn slowly, of two sources."""
    return write(tmp_path / "coherent", order=np.arange(12))


@pytest.fixture
def shuffled(tmp_path: Path) -> Path:
    """The same with the chunks of every document in another order."""
    return write(tmp_path / "shuffled", order=None)


def write(path: Path, order: np.ndarray | None) -> Path:
    rng, plane = np.random.default_rng(0), np.arange(12) * 0.2
    documents, vectors = [], []
    for i in range(30):
        own = rng.permutation(12) if order is None else order
        vectors.append(np.stack([np.cos(plane + i), np.sin(plane + i)], axis=1)[own])
        texts = [f"chunk {k} of {i} says {i * 31 + k}" for k in range(12)]
        documents.append(NewDocument.from_chunks(f"d{i}", texts, source="ab"[i % 2]))
    encoder = {"name": "hand", "fingerprint": "hand"}
    with StoreWriter(path, encoder=encoder, dimension=2, chunker={"kind": "t"}, dtype="float32") as writer:
        writer.add_shard(documents, np.concatenate(vectors), path="test")
    return path


def test_data_prints_figures_and_verdicts(cli, coherent):
    done = cli("diagnose", "data", coherent, "--quiet")
    assert done.code == 0
    assert "coherent: 30 documents, 360 chunks of 2 sources, hand vectors" in done.out
    assert "order carries signal" in done.out
    assert "different documents" in done.out
    assert "Re-embedding: not checked: the store's encoder 'hand' does not run here" in done.out
    assert f"{np.cos(0.2):.4f}" in done.out
    assert "RED" not in done.out


def test_data_as_json_of_one_source(cli, coherent):
    found = cli("diagnose", "data", coherent, "--sources=a", "--json=-", "--quiet").json
    assert found["sources"] == ["a"]
    assert [lag["k"] for lag in found["curves"][0]["lags"]] == list(range(1, 9))
    assert found["curves"][0]["lags"][0]["cosine"]["mean"] == pytest.approx(np.cos(0.2), abs=1e-5)
    assert {v["level"] for v in found["verdicts"]} <= {"ok", "note", "warning"}


def test_red_data_exits_with_1_only_when_strict(cli, shuffled, coherent):
    done = cli("diagnose", "data", shuffled, "--quiet")
    assert done.code == 0
    assert "RED     incoherent data" in done.out
    assert cli("diagnose", "data", shuffled, "--strict", "--quiet").code == 1
    assert cli("diagnose", "data", coherent, "--strict", "--quiet").code == 0


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--sources=c"], "no document of source 'c'"),
        (["--reembed=3"], "3.0 is not a share; give 0 to 1"),
        (["--context=0"], "must be at least 1"),
        (["--endpoint=http://localhost:1"], "no encoder is named"),
        (["--encoder=./nowhere"], "no such encoder folder"),
        (["--encoder=x", "--encoder-option=precission=float32"], "unknown key 'precission'"),
        (["--split-file=nowhere.json"], "nowhere.json: not found"),
    ],
)
def test_data_refuses_bad_input(cli, coherent, flags, says):
    done = cli("diagnose", "data", coherent, "--quiet", *flags)
    assert done.code == 2
    assert says in done.err
    assert done.err.count("\n") == 1
    assert done.out == ""


def test_run_prints_the_history_and_verdicts(cli, trained, tmp_path):
    done = cli("diagnose", "run", trained, "--json", tmp_path / "run.json")
    assert done.code == 0
    lines = done.out.splitlines()
    assert lines[0] == f"{trained}: lstm"
    assert lines[2].split()[:2] == ["epoch", "updates"]
    assert "learning rates as planned: cosine" in done.out
    found = json.loads((tmp_path / "run.json").read_text())
    assert [e["epoch"] for e in found["epochs"]] == [1, 2]
    assert found["best_epoch"] == 2


def test_run_names_what_is_red_and_what_is_damaged(cli, trained, tmp_path):
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    path = run / "history.jsonl"
    first, second = (json.loads(line) for line in by_hand(path).splitlines())
    first["validation"]["cosine"], second["validation"]["cosine"] = 0.5, 0.1
    path.write_text(f"{json.dumps(first)}\n{json.dumps(second)}\n")
    done = cli("diagnose", "run", run, "--strict")
    assert done.code == 1
    assert "RED     collapse: the validation cosine fell from" in done.out
    assert cli("diagnose", "run", run).code == 0
    path.write_text(f"{json.dumps(first)}\n{{\n")
    done = cli("diagnose", "run", run)
    assert done.code == 2
    assert f"{path}:2: is not JSON" in done.err
    (run / "history.jsonl").unlink()
    assert "no epoch is finished" in cli("diagnose", "run", run).out
    assert cli("diagnose", "run", tmp_path).code == 2


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks without the fresh process, which costs seconds and has a test of its own."""
    from nextvec.experiments.evidence import examine
    from nextvec.experiments.verify import Verification

    def here(run: Path, store: Path | None, split_file: Path | None) -> Verification:
        return Verification(str(run), tuple(examine(run, store, split_file)))

    monkeypatch.setattr("nextvec.experiments.verify.verify", here)


@pytest.mark.usefixtures("in_this_process")
def test_verify_says_each_check_and_its_outcome_is_the_exit_code(cli, trained, tmp_path):
    done = cli("verify", trained)
    assert done.code == 0
    assert done.out.splitlines()[0].startswith("ok    golden output     reproduced, largest deviation")
    assert done.out.endswith("the run matches what was saved with it\n")
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    metrics = json.loads(by_hand(run / "metrics.json"))
    metrics["cosine"] = 0.62
    (run / "metrics.json").write_text(json.dumps(metrics))
    done = cli("verify", run)
    assert done.code == 1
    assert "RED   reported figures" in done.out
    assert "1 of 10 checks are RED" in done.out
    found = cli("verify", run, "--json=-")
    assert found.code == 1
    assert found.json["passed"] is False


@pytest.mark.usefixtures("in_this_process")
def test_verify_without_run_or_store_is_bad_input(cli, trained, tmp_path):
    done = cli("verify", trained, "--store", tmp_path / "nowhere")
    assert done.code == 2
    assert "give the store: --store" in done.err


def test_the_packaged_encoder_reembeds_an_imported_store(cli, tmp_path):
    """The whole path, with the real encoder: texts that belong, then the same texts moved by one."""
    from nextvec.corpus.encoders import EncoderConfig, load_encoder

    texts = [f"The number {i} is written on door {i * 7} of house {i * 3}." for i in range(33)]
    encoder = load_encoder(EncoderConfig(device="cpu", precision="float32"))
    vectors = encoder.encode(texts)
    for name, order in (("good", list(range(33))), ("moved", [*range(1, 33), 0])):
        chunks = [texts[i] for i in order]
        documents = [
            NewDocument.from_chunks(f"d{k}", chunks[3 * k : 3 * k + 3], source="s") for k in range(11)
        ]
        recorded = {"kind": "imported", "name": "all-MiniLM-L6-v2", "fingerprint": "on trust"}
        with StoreWriter(
            tmp_path / name, encoder=recorded, dimension=384, chunker={"kind": "t"}, dtype="float32"
        ) as writer:
            writer.add_shard(documents, vectors, path="test")
    assert Store.open(tmp_path / "good").dimension == 384
    good = cli("diagnose", "data", tmp_path / "good", "--quiet")
    assert "texts and vectors belong together" in " ".join(good.out.split())
    moved = cli("diagnose", "data", tmp_path / "moved", "--quiet", "--strict")
    assert "texts misaligned" in moved.out
    assert moved.code == 1
