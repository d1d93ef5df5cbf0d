"""The suites of the self-check: rows that are as they should be, or red."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


class CheckRow(Protocol):
    """One check. `str` is one line that says what was expected and what was found."""

    @property
    def name(self) -> str: ...

    @property
    def ok(self) -> bool: ...

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        ...


@dataclass(frozen=True)
class Suite:
    """A suite that has run."""

    name: str
    rows: Sequence[CheckRow]
    seconds: float

    @property
    def red(self) -> list[CheckRow]:
        """The rows that are not as they should be."""
        return [row for row in self.rows if not row.ok]

    @property
    def passed(self) -> int:
        """How many rows are as they should be."""
        return sum(row.ok for row in self.rows)

    @property
    def score(self) -> str:
        """In words."""
        return f"{self.name}: {self.passed} of {len(self.rows)} in {self.seconds:.1f} s"

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "rows": [row.to_json() for row in self.rows],
            "passed": self.passed,
            "of": len(self.rows),
            "seconds": round(self.seconds, 3),
        }


def _oracle(quiet: bool) -> Sequence[CheckRow]:
    from nextvec.selfcheck.oracle import run_oracle

    return run_oracle(quiet=quiet)


def _faults(quiet: bool) -> Sequence[CheckRow]:
    from nextvec.selfcheck.faults import run_faults

    return run_faults(quiet=quiet)


SUITES: Mapping[str, Callable[[bool], Sequence[CheckRow]]] = {"oracle suite": _oracle, "fault suite": _faults}


def run_suite(name: str, *, quiet: bool = True) -> Suite:
    """Run one of `SUITES`."""
    started = time.perf_counter()
    rows = SUITES[name](quiet)
    return Suite(name, rows, time.perf_counter() - started)
