"""What a report is made of, and what is said of what is not there."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from nextvec.corpus.store import Store
from nextvec.errors import RunError, StoreError
from nextvec.reporting.material import Material


def test_all_of_a_matrix_is_found(material: Material, world: Store) -> None:
    assert (material.kind, material.name, material.trained) == ("matrix", "small", ("amn", "lstm"))
    assert [run.name for run in material.runs] == ["amn-seed0", "amn-seed1", "lstm-seed0", "lstm-seed1"]
    assert [(run.seed, run.architecture) for run in material.runs_of("lstm")] == [(0, "lstm"), (1, "lstm")]
    assert [len(lines) for lines in material.histories.values()] == [2, 2, 2, 2]
    assert {row["kind"] for row in material.models} == {"model"}
    assert len(material.models) + len(material.baselines) == len(material.rows)
    assert material.store is not None
    assert material.store.fingerprint == world.fingerprint
    assert material.answers is not None
    assert set(material.missing) == {"deep"}
    assert material.lacks(("rows", "histories", "answers", "store")) is None
    assert "--deep" in (material.lacks(("rows", "deep")) or "")


def test_an_interrupted_matrix_says_what_is_not_there(interrupted_matrix: Path) -> None:
    material = Material.of(interrupted_matrix)
    assert (material.rows, material.table, material.answers) == ([], None, None)
    assert set(material.missing) == {"rows", "answers", "deep"}
    assert [(run.name, len(run.history), run.result is None) for run in material.runs] == [
        ("amn-seed0", 2, False),
        ("amn-seed1", 2, False),
        ("lstm-seed0", 1, True),
        ("lstm-seed1", 0, True),
    ]
    assert list(material.histories) == ["amn-seed0", "amn-seed1", "lstm-seed0"]


def test_a_run_alone_is_not_judged(trained: Path) -> None:
    material = Material.of(trained)
    assert (material.kind, material.trained) == ("run", ("small-lstm",))
    assert material.rows == []
    assert {"rows", "answers", "deep"} == set(material.missing)


def test_a_run_is_judged_where_models_may_be_loaded(trained: Path) -> None:
    material = Material.of(trained, deep=True)
    assert [row["name"] for row in material.models] == ["small-lstm"]
    assert material.models[0]["per_seed"][0]["model_file"] == "model.safetensors"
    assert len(material.baselines) > 3
    assert material.answers is not None
    assert material.missing == {}


def test_a_run_without_a_model_is_not_judged(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "young"
    shutil.copytree(trained, folder)
    for name in ("model.safetensors", "history.jsonl", "metrics.json"):
        (folder / name).unlink()
    material = Material.of(folder, deep=True)
    assert "could not be judged" in material.missing["rows"]
    assert material.missing["histories"] == "no run has finished an epoch yet"


def test_a_store_that_has_gone_is_said(trained: Path, tmp_path: Path, world: Store) -> None:
    folder = tmp_path / "moved"
    shutil.copytree(trained, folder)
    facts = folder / "run.json"
    facts.write_text(facts.read_text().replace(str(world.path.resolve()), "/nowhere/store"))
    material = Material.of(folder)
    assert material.store is None
    assert material.diagnosis is None
    assert material.missing["store"].startswith("the store store cannot be used")
    assert Material.of(folder, store=world.path).store is not None


def test_another_store_is_refused(matrix: Path, make_world: Callable[..., Store], tmp_path: Path) -> None:
    other = make_world(tmp_path / "other", encoder="another")
    with pytest.raises(StoreError, match="another store"):
        Material.of(matrix, store=other.path)
    short = make_world(tmp_path / "short", documents=4)
    with pytest.raises(StoreError, match="another store"):
        Material.of(matrix, store=short.path)


def test_another_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="neither a matrix nor a run"):
        Material.of(tmp_path)


@pytest.mark.parametrize("name", ["metrics.json", "run.json", "history.jsonl"])
def test_a_damaged_file_is_named(trained: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(trained, folder)
    (folder / name).write_text("[1,")
    with pytest.raises(RunError, match=name):
        Material.of(folder)


def test_the_data_are_looked_at(material: Material) -> None:
    found = material.diagnosis
    assert found is not None
    assert len(found.curves[0].lags) > 1
    assert material.diagnosis is found
