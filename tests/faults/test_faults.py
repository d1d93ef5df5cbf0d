"""What went wrong in the field, brought back: caught by name, by its own guard, and by nothing without it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from nextvec.errors import EvaluationError
from nextvec.selfcheck.faults import FAULTS, ROWS, patched, run_faults, score, try_fault
from nextvec.selfcheck.faults.fixture import Fixture, SharedFixture
from nextvec.selfcheck.faults.training_faults import any_weights

TABLE = {
    "loss weight 0 by default": ["loss weight 0 by default"],
    "InfoNCE at weight 0.5 beside MSE": ["a term that drowns the other"],
    "windows split at random": ["windows split at random", "one document in two splits"],
    "evaluation on training articles": ["evaluation on training articles"],
    "encoder mismatch between data, bank and decoder": [
        "vectors are not of the encoder named",
        "vectors of two encoders in one bank",
        "encoder of the store is not the model's",
        "decoder of another encoder",
    ],
    "unit output sent to a decoder trained on raw": ["unit output sent to a decoder trained on raw"],
    "model scores the mean vector's cosine": ["model that says the mean vector"],
    "off-by-one in the offset test": ["off-by-one in the offset test"],
    "mean of cos(next) - cos(previous) over sliding windows": [
        "forward signal by a statistic that telescopes"
    ],
    '"top-5" that was a threshold; a bank of 6 vectors': [
        "top-5 that was a threshold",
        "bank of six vectors",
        "k beyond the bank",
    ],
    "context chunks left among the candidates": [
        "context left among the candidates",
        "copies of the context among the candidates",
    ],
    "same weight names, other forward pass": ["other forward pass, same weight names"],
    "trained 4-layer, served 2-layer": ["trained with four layers, served with two"],
    "reported validation 0.62, measured later 0.04": ["reported validation cannot be measured again"],
    "windows across articles; texts misaligned after a filter": [
        "windows across articles",
        "texts misaligned after a filter",
    ],
    "incoherent data (adjacent cosine .35 instead of .47)": ["incoherent data"],
    "collapse in one epoch (0.54 to 0.34)": ["collapse in one epoch"],
    "contexts padded by repetition": ["contexts padded by repetition", "documents padded by repetition"],
}
"""The table of the specification, and the faults that stand for each of its rows."""


@pytest.fixture(scope="module")
def fixture(tmp_path_factory: pytest.TempPathFactory) -> Fixture:
    folder = tmp_path_factory.mktemp("faults")
    return Fixture(SharedFixture(folder), folder / "trials")


def test_every_row_of_the_table_has_its_faults() -> None:
    for row, names in TABLE.items():
        assert sorted(names) == sorted(fault.name for fault in FAULTS.values() if fault.row == row)
    assert set(ROWS) - {""} == set(TABLE)
    assert len({fault.expected for fault in FAULTS.values()}) > len(TABLE)


@pytest.mark.parametrize("name", FAULTS)
def test_the_fault_is_caught_by_its_own_guard(name: str, fixture: Fixture) -> None:
    row = try_fault(FAULTS[name], fixture)
    assert row.clean_passes, row.detail
    assert row.caught, row.detail
    assert row.needs_guard, row.detail
    assert row.ok
    assert FAULTS[name].expected.words in row.detail


def test_a_guard_that_sleeps_turns_its_row_red(fixture: Fixture) -> None:
    fault = FAULTS["loss weight 0 by default"]
    with patched({"nextvec.objectives.config:LossConfig.active": any_weights}):
        row = try_fault(replace(fault, name="asleep"), fixture)
    assert (row.caught, row.clean_passes, row.ok) == (False, True, False)
    assert "no signal 'ConfigError: every loss weight is zero'" in row.detail


def test_a_fault_that_something_else_stops_turns_its_row_red(fixture: Fixture) -> None:
    row = try_fault(replace(FAULTS["loss weight 0 by default"], name="stopped", without={}), fixture)
    assert (row.caught, row.needs_guard, row.ok) == (True, False, False)
    assert "without its guard it is stopped all the same" in row.detail


def test_a_clean_input_that_does_not_pass_turns_its_row_red(fixture: Fixture) -> None:
    fault = FAULTS["one document in two splits"]
    row = try_fault(
        replace(fault, name="never", probe=lambda fixture, faulty: fault.probe(fixture, True)), fixture
    )
    assert (row.caught, row.clean_passes, row.ok) == (True, False, False)


def test_the_suite_runs_some_by_name_in_the_order_of_the_table(tmp_path: Path) -> None:
    chosen = ("texts misaligned after a filter", "one document in two splits")
    rows = run_faults(only=chosen)
    assert [row.name for row in rows] == ["one document in two splits", "texts misaligned after a filter"]
    assert score(rows) == "2 of 2 faults caught"
    found = json.loads(json.dumps([row.to_json() for row in rows]))[0]
    assert {"name", "did", "guard", "caught", "clean_passes", "seconds", "detail", "ok"} <= set(found)
    with pytest.raises(EvaluationError, match="there is no fault 'nothing'; known: "):
        run_faults(only=("nothing",))
