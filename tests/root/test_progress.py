"""Progress goes to standard error, as lines where there is no terminal."""

from __future__ import annotations

import io
import sys

import pytest

from nextvec import progress
from nextvec.progress import Progress, sparkline


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


class Terminal(io.StringIO):
    """Standard error as a terminal of some encoding."""

    def __init__(self, encoding: str) -> None:
        super().__init__()
        self.spoken = encoding

    @property
    def encoding(self) -> str:
        return self.spoken

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("encoding", "drawn"), [("utf-8", "▁█▅ 0.3"), ("ascii", "_#= 0.3")])
def test_a_terminal_shows_what_is_live_as_it_can(
    monkeypatch: pytest.MonkeyPatch, encoding: str, drawn: str
) -> None:
    terminal = Terminal(encoding)
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress("train", 4, "updates") as bar:
        bar.advance(2)
        bar.advance(0, "epoch 3", live=f"{sparkline([0.1, 0.45, 0.3])} 0.3")
        output = terminal.getvalue()
    assert drawn in output
    assert "epoch 3" not in terminal.getvalue()


def test_a_log_is_spared_what_is_live(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "PLAIN_INTERVAL_S", 0.0)
    with Progress("train", 4, "updates") as bar:
        bar.advance(1, "epoch 3", live="▁█▅")
    output = capsys.readouterr().err
    assert "epoch 3" in output
    assert "█" not in output


def test_a_sparkline_goes_from_the_lowest_to_the_highest_of_the_last_values() -> None:
    assert sparkline([]) == ""
    assert sparkline([0.5, 0.5]) == "▁▁"
    assert sparkline([-1.0, 0.0, 1.0]) == "▁▅█"
    assert sparkline([100.0, *range(8)], width=8) == "▁▂▃▄▅▆▇█"
