"""The numbers of a report as files."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest

from nextvec.reporting.inputs import ReportInputs
from nextvec.reporting.result_files import as_csv, write_tables

PRD = {"validation_results.json", "retrieval_results.json", "inference_benchmarks.json"}


@pytest.fixture
def written(inputs: ReportInputs, tmp_path: Path) -> Path:
    """A folder with all tables of the small matrix."""
    write_tables(inputs, tmp_path)
    return tmp_path


def lines(folder: Path, name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((folder / f"{name}.csv").read_text())))


def test_every_row_has_a_line_with_its_figures(written: Path, inputs: ReportInputs) -> None:
    found = lines(written, "rows")
    assert [line["name"] for line in found] == [row["name"] for row in inputs.rows]
    for line, row in zip(found, inputs.rows, strict=True):
        assert float(line["cosine"]) == row["cosine"]
        assert float(line["recall@5"]) == row["recall@5"]
        assert line.keys().isdisjoint({"per_seed", "versus_best_baseline"})


def test_every_seed_and_epoch_has_a_line(written: Path) -> None:
    assert [line["name"] for line in lines(written, "seeds")] == [
        "amn-seed0", "amn-seed1", "lstm-seed0", "lstm-seed1",
    ]  # fmt: skip
    history = lines(written, "history")
    assert [(line["run"], line["epoch"]) for line in history[:3]] == [
        ("amn-seed0", "1"), ("amn-seed0", "2"), ("amn-seed1", "1"),
    ]  # fmt: skip
    assert 0 < float(history[0]["validation.cosine"]) < 1


def test_differences_are_there_with_their_intervals(written: Path, inputs: ReportInputs) -> None:
    found = {(line["name"], line["metric"]): line for line in lines(written, "versus_best_baseline")}
    line = found["lstm", "cosine"]
    expected = next(row for row in inputs.models if row["name"] == "lstm")["versus_best_baseline"]["cosine"]
    assert [float(line[key]) for key in ("low", "difference", "high")] == [
        expected["low"], expected["difference"], expected["high"],
    ]  # fmt: skip
    assert len(lines(written, "pairs")) == len((inputs.table or {})["pairs"])


def test_windows_have_the_cosine_of_every_predictor(written: Path, inputs: ReportInputs) -> None:
    found = lines(written, "windows")
    assert inputs.answers is not None
    assert len(found) == len(inputs.answers.target) == (inputs.table or {})["windows"]
    assert found[0]["document"].startswith("doc-")
    for row in inputs.rows:
        mean = np.mean([float(line[row["name"]]) for line in found])
        assert mean == pytest.approx(row["cosine"], abs=1e-5)


def test_the_files_of_the_prd(written: Path, inputs: ReportInputs) -> None:
    assert {path.name for path in written.glob("*.json")} == PRD
    validation = json.loads((written / "validation_results.json").read_text())["models"]
    run = inputs.runs_of("lstm")[1]
    assert validation["lstm"]["lstm-seed1"] == run.result
    retrieval = json.loads((written / "retrieval_results.json").read_text())
    lstm = next(row for row in inputs.models if row["name"] == "lstm")
    assert retrieval["predictors"]["lstm"]["recall@5"] == lstm["recall@5"]
    assert "copy-last" in retrieval["predictors"]
    assert retrieval["chance"]["recall@1"] > 0
    inference = json.loads((written / "inference_benchmarks.json").read_text())["predictors"]
    assert inference["lstm"]["latency_p50_ms"] > 0
    assert inference["lstm"]["parameters"] == lstm["parameters"]


def test_of_what_was_interrupted_the_last_epoch_is_said(interrupted_matrix: Path, tmp_path: Path) -> None:
    written = write_tables(ReportInputs.of(interrupted_matrix), tmp_path / "out")
    assert {path.name for path in written} == {"history.csv", "validation_results.json"}
    found = json.loads((tmp_path / "out" / "validation_results.json").read_text())["models"]["lstm"]
    assert found["lstm-seed0"]["finished"] is False
    assert found["lstm-seed0"]["last_epoch"]["epoch"] == 1
    assert found["lstm-seed1"] == {"finished": False}


def test_a_lone_run_that_was_evaluated_leaves_its_table(trained: Path, tmp_path: Path) -> None:
    inputs = ReportInputs.of(trained, deep=True)
    write_tables(inputs, tmp_path)
    assert json.loads((tmp_path / inputs.table_file).read_text()) == inputs.table


def test_csv_quotes_what_it_must() -> None:
    assert as_csv([{"a": 1, "b": None}, {"a": 'x,"y"', "c": 2}]) == 'a,b,c\n1,,\n"x,""y""",,2\n'
