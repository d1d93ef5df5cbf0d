"""Progress goes to standard error, as lines where there is no terminal."""

from __future__ import annotations

import pytest

from nextvec import progress
from nextvec.progress import Progress


def test_plain_lines_off_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "PLAIN_INTERVAL_S", 0.0)
    with Progress("encode", 10, "chunks", initial=2) as bar:
        bar.advance(4, note="shard 1")
    captured = capsys.readouterr()
    assert captured.out == ""
    first, last = captured.err.strip().splitlines()
    assert first.startswith("encode: 6/10 chunks")
    assert "s left" in first
    assert "shard 1" in last


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("encode", 3, "chunks", quiet=True) as bar:
        bar.advance(3)
    assert capsys.readouterr() == ("", "")


def test_no_last_line_after_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError), Progress("encode", 3, "chunks"):
        raise RuntimeError
    assert capsys.readouterr().err == ""
