"""`nextvec decoder setup`: the environment of vec2text, and a decoder put together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nextvec.decoding.vec2text import setup
from nextvec.decoding.vec2text.setup import RECORD, Environment, default_folder

VERSIONS = {"vec2text": "0.0.13", "torch": "2.0"}


@pytest.fixture
def installs(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """No package index is asked and no process started; lists the folders that were filled."""
    filled: list[Path] = []

    def install(target: Path) -> None:
        target.mkdir(parents=True)
        (target / "package.py").write_text("x = 1\n")
        filled.append(target)

    monkeypatch.setattr(setup, "_install", install)
    monkeypatch.setattr(Environment, "probe", lambda self: VERSIONS)
    return filled


def test_it_is_made_once_and_checked(cli, tmp_path: Path, installs: list[Path]) -> None:
    folder = tmp_path / "vec2text"
    done = cli("decoder", "setup", "vec2text", "--folder", folder, "--json", "-")
    assert (done.code, done.json["folder"], done.json["versions"]) == (0, str(folder), VERSIONS)
    assert done.json["bytes"] == sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    assert "in place" in done.err
    for again in ((), ("--check",)):
        done = cli("decoder", "setup", "vec2text", "--folder", folder, "--quiet", *again)
        assert done.code == 0
        assert done.out.startswith("vec2text runs: vec2text 0.0.13, torch 2.0\npackages in ")
        assert done.err == ""
    assert len(installs) == 1


def test_the_environment_variable_says_where(
    cli, tmp_path: Path, installs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEXTVEC_VEC2TEXT", str(tmp_path / "elsewhere"))
    assert cli("decoder", "setup", "vec2text", "--check").code == 2
    assert cli("decoder", "setup", "vec2text", "--quiet").code == 0
    assert json.loads((tmp_path / "elsewhere" / RECORD).read_text())["python"] == setup.PYTHON
    assert default_folder() == tmp_path / "elsewhere"


def test_another_kind_is_refused(cli, installs: list[Path]) -> None:
    done = cli("decoder", "setup", "nearest")
    assert done.code == 2
    assert "vec2text" in done.err
    assert installs == []
