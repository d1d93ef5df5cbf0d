from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from nextvec.disk import read_json
from nextvec.errors import NextvecError
from nextvec.selfcheck import suites
from nextvec.selfcheck.oracle import OracleRow

GOOD = OracleRow("cosine", "oracle", "rotation", "= 1", 1.0, 2e-5, ok=True)
BAD = replace(GOOD, predictor="copy-last", measured=float("nan"), ok=False)


def test_everything_is_as_it_should_be(cli) -> None:
    done = cli("selfcheck", "--json", "-", "--quiet")
    assert (done.code, done.err) == (0, "")
    assert done.json["ok"] is True
    assert set(done.json["suites"]) == set(suites.SUITES)
    for suite in done.json["suites"].values():
        assert suite["passed"] == suite["of"] == len(suite["rows"]) > 10
        assert 0 < suite["seconds"] < 120


def test_what_is_red_is_printed_and_fails(cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(suites, "SUITES", {"small suite": lambda: [GOOD, BAD]})
    done = cli("selfcheck", "--json", tmp_path / "rows.json")
    assert done.code == 1
    assert done.out.splitlines()[0].startswith("RED cosine of copy-last in rotation: expected = 1")
    assert done.out.splitlines()[1].startswith("small suite: 1 of 2 in 0.0 s")
    assert "1/1 suites" in done.err
    written = read_json(tmp_path / "rows.json", NextvecError)
    assert (written["ok"], written["suites"]["small suite"]["passed"]) == (False, 1)
    assert written["suites"]["small suite"]["rows"][1]["measured"] is None


def test_all_rows_when_asked_for(cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suites, "SUITES", {"small suite": lambda: [GOOD]})
    few, every = cli("selfcheck", "--quiet"), cli("selfcheck", "--all", "--quiet")
    assert (few.code, every.code) == (0, 0)
    assert few.out.startswith("small suite: 1 of 1")
    assert every.out.startswith("ok  cosine of oracle in rotation")
