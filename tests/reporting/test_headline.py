"""What the headline claims stands in the files, number by number."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nextvec.evaluation.results import KEPT, KeptPredictions
from nextvec.reporting.headline import Claim, headline, resolve
from nextvec.reporting.inputs import ReportInputs

NUMBER = re.compile(r"(?<![\w@.-])[-+]?\d[\d,]*(?:\.\d+)?(?![\w@])")
NOT_MEASURED = {"95"}
"""The level of the intervals."""


def traced(claim: Claim, folder: Path) -> None:
    """Every number of the text stands in a file, at a path that the claim names; no path is named in vain."""
    values = {}
    for place, value in claim.figures.items():
        file, _, path = place.partition("#")
        assert look_up(folder / file, path) == value
        values[place] = value
    shown = {number.replace(",", "") for number in NUMBER.findall(claim.text)} - NOT_MEASURED
    for number in shown:
        digits = len(number.partition(".")[2])
        matching = [
            v for v in values.values() if f"{abs(v):.{digits}f}" == number.lstrip("+-")
        ]  # a pair of rows stands in the table one way round only
        assert matching, f"{number} of '{claim.text}' stands nowhere"
    for place, value in values.items():
        assert any(
            f"{abs(value):.{len(number.partition('.')[2])}f}" == number.lstrip("+-") for number in shown
        ), f"{place} is not in '{claim.text}'"


def look_up(file: Path, path: str) -> Any:
    """By jq's rules, apart from the code that made the claim."""
    lines = file.read_text().splitlines()
    found = [json.loads(line) for line in lines] if file.suffix == ".jsonl" else json.loads("".join(lines))
    for step in re.findall(r"[^.\[\]]+", path):
        found = found[int(step)] if isinstance(found, list) else found[step]
    return found


def test_every_number_of_a_matrix_is_in_its_table(inputs: ReportInputs) -> None:
    claims = headline(inputs)
    assert len(claims) == 3
    for claim in claims:
        assert claim.figures
        traced(claim, inputs.folder)


def test_a_number_that_is_nowhere_would_be_seen(inputs: ReportInputs) -> None:
    claim = headline(inputs)[0]
    with pytest.raises(AssertionError, match="stands nowhere"):
        traced(replace(claim, text=claim.text + " And 0.1234 more."), inputs.folder)
    with pytest.raises(AssertionError, match="is not in"):
        traced(replace(claim, text="Nothing."), inputs.folder)


def test_the_table_itself_is_what_was_answered_window_by_window(inputs: ReportInputs) -> None:
    answers = KeptPredictions.read(inputs.folder / KEPT)
    for place, value in headline(inputs)[0].figures.items():
        found = re.fullmatch(r"matrix\.json#rows\[(\d+)\]\.cosine", place)
        if found:
            row = inputs.rows[int(found[1])]["name"]
            assert value == pytest.approx(
                float(np.mean(answers.values[row]["cosine"], dtype=float)), abs=1e-6
            )


def test_the_best_model_is_named(inputs: ReportInputs) -> None:
    best = max(inputs.models, key=lambda row: row["cosine"])
    baseline = max(inputs.baselines, key=lambda row: row["cosine"])
    claim = headline(inputs)[0]
    assert claim.text.startswith(f"By cosine the best model is {best['name']} at {best['cosine']:.4f}, ")
    assert f"the best baseline, {baseline['name']}, at {baseline['cosine']:.4f}" in claim.text
    other = next(row for row in inputs.models if row is not best)
    assert f"the next model, {other['name']}: difference +" in claim.text


@pytest.mark.parametrize(
    ("better", "words", "standing"),
    [
        (True, "better than", "above"),
        (False, "worse than", "below"),
        (None, "not distinguishable from", "level"),
    ],
)
def test_a_verdict_is_that_of_the_table(
    inputs: ReportInputs, better: bool | None, words: str, standing: str
) -> None:
    table = json.loads(json.dumps(inputs.table))
    for row in table["rows"]:
        if row["kind"] == "model":
            row["versus_best_baseline"]["cosine"]["better"] = better
    claim = headline(replace(inputs, table=table))[0]
    assert words in claim.text
    assert claim.standing == standing


def test_of_one_model_nothing_is_said_about_the_next(inputs: ReportInputs) -> None:
    table = json.loads(json.dumps(inputs.table))
    table["rows"] = [row for row in table["rows"] if row["name"] != "amn"]
    claims = headline(replace(inputs, table=table))
    assert "(the only one)" in claims[0].text
    assert "next model" not in claims[0].text
    assert "picked" not in claims[-1].text


def test_in_sample_figures_are_called_that(inputs: ReportInputs) -> None:
    table = {**json.loads(json.dumps(inputs.table)), "in_sample": True}
    assert "say nothing about new documents" in headline(replace(inputs, table=table))[-1].text


def test_without_baselines_or_intervals_it_is_said(inputs: ReportInputs) -> None:
    table = json.loads(json.dumps(inputs.table))
    for row in table["rows"]:
        row["versus_best_baseline"] = {}
    claims = headline(replace(inputs, table={**table, "pairs": []}))
    assert "one document gives no interval" in claims[0].text
    alone = {**table, "best_baseline": {}, "pairs": []}
    assert "no baseline was evaluated beside it" in headline(replace(inputs, table=alone))[0].text


def test_a_finished_run_quotes_its_metrics(trained: Path) -> None:
    claims = headline(ReportInputs.of(trained))
    assert "metrics.json#verified.cosine" in claims[0].figures
    assert "Nothing was evaluated" in claims[-1].text
    traced(claims[0], trained)


def test_an_interrupted_run_quotes_its_history(interrupted_run: Path) -> None:
    claim = headline(ReportInputs.of(interrupted_run))[0]
    assert "was interrupted" in claim.text
    assert set(claim.figures) == {"history.jsonl#[0].validation.cosine", "history.jsonl#[0].epoch"}
    traced(claim, interrupted_run)


def test_an_interrupted_matrix_quotes_its_best_run(interrupted_matrix: Path) -> None:
    claim = headline(ReportInputs.of(interrupted_matrix))[0]
    assert claim.text.startswith("The best run so far, ")
    traced(claim, interrupted_matrix)


def test_before_the_first_epoch_there_is_nothing_to_claim(interrupted_run: Path, tmp_path: Path) -> None:
    young = tmp_path / "young"
    shutil.copytree(interrupted_run, young)
    (young / "history.jsonl").unlink()
    claims = headline(ReportInputs.of(young))
    assert claims == [Claim("Nothing was trained to the end of an epoch yet.", {})]


def test_a_path_that_leads_nowhere_is_an_error() -> None:
    assert resolve({"rows": [{"recall@5": 0.5}]}, "rows[0].recall@5") == 0.5
    assert resolve([{"validation": {"cosine": 0.1}}], "[0].validation.cosine") == 0.1
    with pytest.raises(KeyError):
        resolve({"rows": []}, "lines[0]")
