"""Counting injections: each test says how many faults it tried and how many lost something; `make faults`
prints the table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

COUNTED = "injections"


class Tally:
    """Of one kind of fault: how many were tried, and what was lost."""

    def __init__(self) -> None:
        self.tried = 0
        self.lost: list[str] = []

    @contextmanager
    def attempt(self, where: object) -> Iterator[None]:
        """One injection. What fails in it is lost, and the next one is tried all the same."""
        self.tried += 1
        try:
            yield
        except AssertionError as e:
            self.lost.append(f"{where}: {e}")


Tallies = Callable[[str], AbstractContextManager[Tally]]


@pytest.fixture
def tally(record_property: Callable[[str, object], None]) -> Tallies:
    """with tally("kill -9 during train") as injections: ...; fails at its end when something was lost."""

    @contextmanager
    def counting(fault: str) -> Iterator[Tally]:
        found = Tally()
        yield found
        record_property(COUNTED, (fault, found.tried, len(found.lost)))
        assert not found.lost, f"{len(found.lost)} of {found.tried} lost:\n" + "\n".join(found.lost[:5])

    return counting


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The table of `make faults`."""
    if terminalreporter.config.option.markexpr != "faults":
        return
    rows: dict[str, list[int]] = {}
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, ()):
            for name, value in getattr(report, "user_properties", ()):
                if name == COUNTED and report.when == "call":
                    row = rows.setdefault(value[0], [0, 0])
                    row[0] += value[1]
                    row[1] += value[2]
    if rows:
        terminalreporter.section("injections")
        width = max(map(len, rows))
        terminalreporter.write_line(f"{'fault':<{width}}  injections  survived  lost")
        for fault, (tried, lost) in rows.items():
            terminalreporter.write_line(f"{fault:<{width}}  {tried:>10,}  {tried - lost:>8,}  {lost:>4,}")
