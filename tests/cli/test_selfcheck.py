from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from nextvec import selfcheck as suites
from nextvec.disk import read_json
from nextvec.errors import NextvecError
from nextvec.selfcheck.oracle import OracleRow

GOOD = OracleRow("cosine", "oracle", "rotation", "= 1", 1.0, 2e-5, ok=True)
BAD = replace(GOOD, predictor="copy-last", measured=float("nan"), ok=False)


def only(name: str, run: Callable[[bool], list[OracleRow]]) -> dict[str, Callable[[bool], list[OracleRow]]]:
    """A self-check of one suite."""
    return {name: run}


def test_everything_is_as_it_should_be(cli, monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(suites.SUITES) == ["oracle suite", "fault suite"]  # the second is run by tests/faults
    monkeypatch.setattr(suites, "SUITES", only("oracle suite", suites.SUITES["oracle suite"]))
    done = cli("selfcheck", "--json", "-")
    assert done.code == 0
    assert "oracle suite: 2/2 worlds" in done.err
    assert done.json["ok"] is True
    suite = done.json["suites"]["oracle suite"]
    assert suite["passed"] == suite["of"] == len(suite["rows"]) > 400
    assert 0 < suite["seconds"] < 120


def test_what_is_red_is_printed_and_fails(cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(suites, "SUITES", only("small suite", lambda quiet: [GOOD, BAD]))
    done = cli("selfcheck", "--json", tmp_path / "rows.json")
    assert done.code == 1
    assert done.out.splitlines()[0].startswith("RED cosine of copy-last in rotation: expected = 1")
    assert done.out.splitlines()[1].startswith("small suite: 1 of 2 in 0.0 s")
    written = read_json(tmp_path / "rows.json", NextvecError)
    assert (written["ok"], written["suites"]["small suite"]["passed"]) == (False, 1)
    assert written["suites"]["small suite"]["rows"][1]["measured"] is None


def test_all_rows_when_asked_for(cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suites, "SUITES", only("small suite", lambda quiet: [GOOD]))
    few, every = cli("selfcheck", "--quiet"), cli("selfcheck", "--all", "--quiet")
    assert (few.code, every.code) == (0, 0)
    assert few.out.startswith("small suite: 1 of 1")
    assert every.out.startswith("ok  cosine of oracle in rotation")
