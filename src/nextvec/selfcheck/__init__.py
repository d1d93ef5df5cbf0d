"""Worlds, predictors and faults whose truth is known, in suites: rows that are as they should be, or red."""

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

    def to_json(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Suite:
    name: str
    rows: Sequence[CheckRow]
    seconds: float

    @property
    def red(self) -> list[CheckRow]:
        return [row for row in self.rows if not row.ok]

    @property
    def passed(self) -> int:
        return sum(row.ok for row in self.rows)

    @property
    def score(self) -> str:
        return f"{self.name}: {self.passed} of {len(self.rows)} in {self.seconds:.1f} s"

    def to_json(self) -> dict[str, Any]:
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
    started = time.perf_counter()
    rows = SUITES[name](quiet)
    return Suite(name, rows, time.perf_counter() - started)
