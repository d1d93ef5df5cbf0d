"""`verify`: green on a run as training left it, and red on each file that somebody changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from by_hand import by_hand
from nextvec.corpus.store import Store
from nextvec.data.splits import SplitConfig, split_documents
from nextvec.data.trained import TrainedOn
from nextvec.errors import RunError, SplitError, StoreError
from nextvec.experiments.evidence import CHECKS, answer, examine
from nextvec.experiments.verify import verify
from nextvec.training.loop import train


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of a run."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture
def own_store(world: Store, tmp_path: Path) -> Path:
    """A copy of the store."""
    return Path(shutil.copytree(world.path, tmp_path / "store"))


def status(run: Path, store: Path | None = None, split_file: Path | None = None) -> dict[str, str]:
    """Name -> status of what is not ok."""
    return {c.name: c.status for c in examine(run, store, split_file) if c.status != "ok"}


def edit(path: Path, change: Callable[[Any], object]) -> None:
    found = json.loads(by_hand(path))
    change(found)
    path.write_text(json.dumps(found))


def nudge(path: Path, name: str, by: float) -> None:
    tensors = load_file(path)
    tensors[name].view(-1)[0] += by
    save_file(tensors, path, metadata={"format": "pt"})


def test_a_run_as_it_was_left_is_green_in_a_fresh_process(run):
    found = verify(run)
    assert [(c.name, c.status) for c in found.checks] == [(name, "ok") for name in CHECKS]
    assert found.passed
    assert found.to_json()["passed"] is True


def test_training_in_bfloat16_leaves_a_figure_that_is_reproduced(world, make_tiny, tmp_path):
    train(world, make_tiny("gru", "runtime.precision=bfloat16"), tmp_path / "run", quiet=True)
    assert status(tmp_path / "run") == {}
    figures = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert figures["verified"]["cosine"] != figures["cosine"]


def test_changed_weights(run):
    name = next(n for n in load_file(run / "model.safetensors") if n != "scale")
    nudge(run / "model.safetensors", name, 0.05)
    assert status(run) == {"golden output": "RED", "code": "note", "validation": "note"}


def test_the_model_of_another_run(run, world, make_tiny, tmp_path):
    """Weights and golden output are exchanged together: only the figures can tell."""
    train(world, make_tiny("lstm", seed=1), tmp_path / "other", quiet=True)
    for name in ("model.safetensors", "golden.safetensors"):
        shutil.copy(tmp_path / "other" / name, run / name)
    assert status(run) == {"validation": "RED"}


def test_a_changed_golden_output(run):
    nudge(run / "golden.safetensors", "raw", 5e-6)  # below what loading refuses, above what verify allows
    assert status(run) == {"golden output": "RED"}


@pytest.mark.parametrize(
    ("file", "change", "red"),
    [
        ("metrics.json", lambda m: m.update(cosine=m["cosine"] + 0.01), {"reported figures"}),
        ("metrics.json", lambda m: m.update(epoch=7), {"reported figures"}),
        (
            "metrics.json",
            lambda m: m["verified"].update(cosine=m["verified"]["cosine"] + 3e-6),
            {"validation"},
        ),
        ("metrics.json", lambda m: m["verified"].update(mse=None), {"validation"}),
        ("metrics.json", lambda m: m["verified"].update(targets=1), {"validation"}),
        ("config.json", lambda c: c["validation"].update(cosine=0.99), {"reported figures", "validation"}),
        ("config.json", lambda c: c["training"].update(context=5), {"configuration"}),
        ("config.json", lambda c: c["training"]["split"].update(salt="other"), {"configuration"}),
        ("config.json", lambda c: c["encoder"].update(fingerprint="other"), {"encoder"}),
        ("config.json", lambda c: c["training"].update(store_fingerprint="other"), {"store"}),
        ("run.json", lambda r: r["identity"].update({"store.vectors": "other"}), {"store"}),
        ("run.json", lambda r: r["identity"].update({"split.train": "other"}), {"split"}),
    ],
)
def test_each_changed_figure_or_fact(run, file, change, red):
    edit(run / file, change)
    assert status(run) == dict.fromkeys(red, "RED")


def test_a_changed_history(run):
    path = run / "history.jsonl"
    path.write_text(by_hand(path).replace('"epoch": 2', '"epoch": 3'))
    assert status(run) == {"reported figures": "RED"}
    path.write_text("{\n")
    assert status(run) == {"reported figures": "RED"}


def test_another_configuration(run):
    path = run / "config.toml"
    path.write_text(by_hand(path).replace('salt = "nextvec"', 'salt = "other"'))
    found = status(run)
    assert found["configuration"] == found["split"] == found["trained on"] == found["disjoint"] == "RED"


def test_a_changed_list_of_what_was_trained_on(run, world):
    path = run / "trained_on.safetensors"
    listed = TrainedOn.load(path)
    TrainedOn(listed.chunks, listed.documents, listed.ids[1:]).save(path)
    assert status(run) == {"trained on": "RED"}
    split = split_documents(world, SplitConfig())
    TrainedOn.union([listed, TrainedOn.of(world, split.validation[:1])]).save(path)
    assert status(run) == {"trained on": "RED", "disjoint": "RED"}
    path.write_bytes(b"nothing")
    assert status(run) == {"trained on": "RED", "disjoint": "note"}


def test_a_damaged_last_model(run):
    (run / "final" / "model.safetensors").write_bytes(b"")
    assert status(run) == {"reported figures": "RED"}


def test_other_code_with_the_same_answers_is_a_note(run):
    edit(run / "config.json", lambda c: c.update(code_version="0" * 16))
    assert status(run) == {"code": "note"}


def test_vectors_that_changed_after_training(run, own_store):
    assert status(run, own_store) == {}
    path = own_store / "vectors" / "0000.npy"
    vectors = np.load(path)
    vectors[0] *= -1
    np.save(path, vectors)
    assert status(run, own_store)["store"] == "RED"


def test_a_store_that_has_grown_still_verifies(run, own_store, make_world, tmp_path):
    from nextvec.corpus.store import NewDocument, StoreWriter

    more = make_world(tmp_path / "more", documents=20, seed=9, prefix="new")
    info = Store.open(own_store).info
    with StoreWriter(
        own_store,
        **{k: info[k] for k in ("encoder", "dimension", "chunker", "dtype", "normalised")},
    ) as writer:
        documents = [
            NewDocument.from_chunks(d.doc_id, more.texts(range(d.first, d.first + d.count)), source=d.source)
            for d in more.documents
        ]
        writer.add_shard(documents, np.asarray(more.vectors), path="test")
    assert status(run, own_store) == {}
    output = {c.name: c.text for c in examine(run, own_store)}
    assert "20 documents came later" in output["store"]


def test_a_store_of_another_encoder(run, make_world, tmp_path):
    other = make_world(tmp_path / "other", encoder="another")
    found = status(run, other.path)
    assert found["encoder"] == found["store"] == "RED"


@pytest.fixture
def by_file(world: Store, make_tiny: Any, tmp_path: Path) -> tuple[Path, Path]:
    """A run whose documents are divided by a file, and that file."""
    path = tmp_path / "split.json"
    ids = [d.doc_id for d in world.documents]
    path.write_text(json.dumps({"train": ids[:30], "validation": ids[30:35], "test": ids[35:]}))
    train(world, make_tiny("lstm", f"data.split.file='{path}'"), tmp_path / "run", quiet=True)
    return tmp_path / "run", path


def test_a_changed_split_file(by_file, tmp_path):
    run, path = by_file
    assert status(run) == {}
    before = json.loads(path.read_text())
    moved = {
        **before,
        "train": before["train"][1:],
        "validation": [*before["validation"], before["train"][0]],
    }
    path.write_text(json.dumps(moved))
    red = {"split", "trained on", "disjoint", "validation"}
    assert status(run) == dict.fromkeys(red, "RED")
    path.write_text(json.dumps({**before, "test": [*before["test"], before["train"][0]]}))
    assert status(run)["split"] == "RED"
    assert status(run)["validation"] == "note"
    path.unlink()
    with pytest.raises(SplitError, match="--split-file"):
        examine(run)
    elsewhere = tmp_path / "elsewhere.json"
    elsewhere.write_text(json.dumps(before))
    assert status(run, None, elsewhere) == {}


def test_an_unfinished_run_is_checked_as_far_as_it_goes(run):
    (run / "metrics.json").unlink()
    assert status(run) == {"reported figures": "note", "validation": "note"}
    nudge(run / "golden.safetensors", "raw", 5e-6)
    assert status(run)["golden output"] == "RED"


def test_nothing_to_look_at(run, tmp_path):
    with pytest.raises(RunError, match=r"is not a run"):
        examine(tmp_path)
    with pytest.raises(StoreError, match="--store"):
        examine(run, tmp_path / "nowhere")
    (run / "config.json").unlink()
    with pytest.raises(RunError, match="no saved model yet"):
        examine(run)


def test_a_process_that_dies_is_an_error(run, monkeypatch):
    monkeypatch.setattr("nextvec.experiments.verify.sys.executable", "/bin/false")
    with pytest.raises(RunError, match="ended with code 1 and no answer"):
        verify(run)


def test_an_error_of_the_fresh_process_is_raised_here(run, tmp_path, monkeypatch):
    def here(command: list[str], **_: Any) -> Any:
        return SimpleNamespace(stdout=json.dumps(answer(command[-1])), returncode=0)

    monkeypatch.setattr("nextvec.experiments.verify.subprocess.run", here)
    assert verify(run).passed
    with pytest.raises(StoreError, match=r"nowhere: is not a store.*--store"):
        verify(run, tmp_path / "nowhere")
