"""What a report is made of, and what is said of what is not there."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from by_hand import by_hand
from nextvec.corpus.store import Store
from nextvec.errors import RunError, StoreError
from nextvec.reporting.inputs import ReportInputs


def test_all_of_a_matrix_is_found(inputs: ReportInputs, world: Store) -> None:
    assert (inputs.kind, inputs.name, inputs.trained) == ("matrix", "small", ("amn", "lstm"))
    assert [run.name for run in inputs.runs] == ["amn-seed0", "amn-seed1", "lstm-seed0", "lstm-seed1"]
    assert [(run.seed, run.architecture) for run in inputs.runs_of("lstm")] == [(0, "lstm"), (1, "lstm")]
    assert [len(run.history) for run in inputs.runs if run.history] == [2, 2, 2, 2]
    assert {row["kind"] for row in inputs.models} == {"model"}
    assert len(inputs.models) + len(inputs.baselines) == len(inputs.rows)
    assert inputs.store is not None
    assert inputs.store.fingerprint == world.fingerprint
    assert inputs.answers is not None
    assert set(inputs.missing) == {"deep"}
    assert inputs.lacks(("rows", "histories", "answers", "store")) is None
    assert "--deep" in (inputs.lacks(("rows", "deep")) or "")


def test_an_interrupted_matrix_says_what_is_not_there(interrupted_matrix: Path) -> None:
    inputs = ReportInputs.of(interrupted_matrix)
    assert (inputs.rows, inputs.table, inputs.answers) == ([], None, None)
    assert set(inputs.missing) == {"rows", "answers", "deep"}
    assert [(run.name, len(run.history), run.result is None) for run in inputs.runs] == [
        ("amn-seed0", 2, False),
        ("amn-seed1", 2, False),
        ("lstm-seed0", 1, True),
        ("lstm-seed1", 0, True),
    ]
    assert [run.name for run in inputs.runs if run.history] == ["amn-seed0", "amn-seed1", "lstm-seed0"]


def test_a_run_alone_is_not_evaluated(trained: Path) -> None:
    inputs = ReportInputs.of(trained)
    assert (inputs.kind, inputs.trained) == ("run", ("small-lstm",))
    assert inputs.rows == []
    assert {"rows", "answers", "deep"} == set(inputs.missing)


def test_a_run_is_evaluated_where_models_may_be_loaded(trained: Path) -> None:
    inputs = ReportInputs.of(trained, deep=True)
    assert [row["name"] for row in inputs.models] == ["small-lstm"]
    assert inputs.models[0]["per_seed"][0]["model_file"] == "model.safetensors"
    assert len(inputs.baselines) > 3
    assert inputs.answers is not None
    assert inputs.missing == {}


def test_a_run_without_a_model_is_not_evaluated(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "young"
    shutil.copytree(trained, folder)
    for name in ("model.safetensors", "history.jsonl", "metrics.json"):
        (folder / name).unlink()
    inputs = ReportInputs.of(folder, deep=True)
    assert "could not be evaluated" in inputs.missing["rows"]
    assert inputs.missing["histories"] == "no run has finished an epoch yet"


def test_a_store_that_has_gone_is_said(trained: Path, tmp_path: Path, world: Store) -> None:
    folder = tmp_path / "moved"
    shutil.copytree(trained, folder)
    metadata = folder / "run.json"
    metadata.write_text(by_hand(metadata).replace(str(world.path.resolve()), "/nowhere/store"))
    inputs = ReportInputs.of(folder)
    assert inputs.store is None
    assert inputs.diagnosis is None
    assert inputs.missing["store"].startswith("the store store cannot be used")
    assert ReportInputs.of(folder, store=world.path).store is not None


def test_another_store_is_refused(matrix: Path, make_world: Callable[..., Store], tmp_path: Path) -> None:
    other = make_world(tmp_path / "other", encoder="another")
    with pytest.raises(StoreError, match="another store"):
        ReportInputs.of(matrix, store=other.path)
    short = make_world(tmp_path / "short", documents=4)
    with pytest.raises(StoreError, match="another store"):
        ReportInputs.of(matrix, store=short.path)


def test_documents_deleted_since_are_known(matrix: Path, world: Store, tmp_path: Path) -> None:
    """Those evaluated keep their names though others before them are gone; without one of them the store is
    of no use."""
    shutil.copytree(world.path, tmp_path / "store")
    store = Store.open(tmp_path / "store")
    before = ReportInputs.of(matrix).answers
    assert before is not None
    evaluated = sorted(set(before.document.tolist()))
    gone = next(i for i in range(len(store.documents)) if i not in evaluated)
    assert gone < evaluated[-1]
    with store.writer() as writer:
        writer.delete([store.documents[gone].doc_id])
    after = ReportInputs.of(matrix, store=tmp_path / "store")
    assert after.store is not None
    assert after.answers is not None
    names = [after.store.documents[i].doc_id for i in after.answers.document]
    assert names == [world.documents[i].doc_id for i in before.document]
    shutil.copytree(tmp_path / "store", tmp_path / "compact")
    with Store.open(tmp_path / "compact").writer() as writer:
        writer.compact()  # other chunks stand in these rows now
    with pytest.raises(StoreError, match="other chunks where those evaluated stood: compacted since"):
        ReportInputs.of(matrix, store=tmp_path / "compact")
    with after.store.writer() as writer:
        writer.delete([world.documents[evaluated[-1]].doc_id])
    with pytest.raises(
        StoreError, match="lacks documents that were evaluated: deleted since; evaluate again"
    ):
        ReportInputs.of(matrix, store=tmp_path / "store")


def test_another_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="neither a matrix nor a run"):
        ReportInputs.of(tmp_path)


@pytest.mark.parametrize("name", ["metrics.json", "run.json", "history.jsonl"])
def test_a_damaged_file_is_named(trained: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(trained, folder)
    (folder / name).write_text("[1,")
    with pytest.raises(RunError, match=name):
        ReportInputs.of(folder)


def test_the_data_are_looked_at(inputs: ReportInputs) -> None:
    found = inputs.diagnosis
    assert found is not None
    assert len(found.curves[0].lags) > 1
    assert inputs.diagnosis is found
