"""The fault suite: what went wrong in the field, brought back: a fixture that passes, a way to spoil it, the
signal that must appear, and the guard without which it would not."""

from __future__ import annotations

import importlib
import pkgutil
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from nextvec.errors import EvaluationError
from nextvec.progress import Progress
from nextvec.selfcheck.faults.fixture import Fixture, Observation, SharedFixture, Signal

ROWS = (
    "loss weight 0 by default",
    "InfoNCE at weight 0.5 beside MSE",
    "windows split at random",
    "evaluation on training articles",
    "encoder mismatch between data, bank and decoder",
    "unit output sent to a decoder trained on raw",
    "model scores the mean vector's cosine",
    "off-by-one in the offset test",
    "mean of cos(next) - cos(previous) over sliding windows",
    '"top-5" that was a threshold; a bank of 6 vectors',
    "context chunks left among the candidates",
    "same weight names, other forward pass",
    "trained 4-layer, served 2-layer",
    "reported validation 0.62, measured later 0.04",
    "windows across articles; texts misaligned after a filter",
    "incoherent data (adjacent cosine .35 instead of .47)",
    "collapse in one epoch (0.54 to 0.34)",
    "contexts padded by repetition",
    "",
)
"""The table of the evaluation specification, row by row; last what is not in it."""

Probe = Callable[[Fixture, bool], Observation]
"""Does the user's work on a fixture, spoilt when the second argument is True."""


@dataclass(frozen=True)
class ExpectedSignal:
    """The signal that must appear: its exact name, and words of its text."""

    name: str
    words: str

    def find(self, seen: Observation) -> Signal | None:
        return next((s for s in seen.signals if s.name == self.name and self.words in s.text), None)


@dataclass(frozen=True)
class Fault:
    """One way in which the field went wrong.

    Attributes:
        row: of the table in the evaluation specification; empty for a fault that is not in it.
        did: what it did; guard: what must catch it.
        expected: the signal that the guard gives.
        without: the guard switched off: "module:attribute" -> what to put in its place.
    """

    name: str
    row: str
    did: str
    guard: str
    expected: ExpectedSignal
    probe: Probe
    without: Mapping[str, Any]


FAULTS: dict[str, Fault] = {}
"""Name -> fault, as the modules register them."""


def fault(
    name: str, row: str, *, did: str, guard: str, expected: tuple[str, str], without: Mapping[str, Any]
) -> Callable[[Probe], Probe]:

    def register(probe: Probe) -> Probe:
        if row not in ROWS or name in FAULTS:
            raise ValueError(f"fault '{name}': row '{row}' is unknown, or the name is taken")
        FAULTS[name] = Fault(name, row, did, guard, ExpectedSignal(*expected), probe, without)
        return probe

    return register


@dataclass(frozen=True)
class FaultRow:
    """How a fault went.

    Attributes:
        caught: its signal appeared, by name.
        clean_passes: the same work without the fault ends well, and without that signal.
        needs_guard: with the guard switched off the signal is absent.
        detail: the text of the signal; or what is wrong.
    """

    name: str
    row: str
    did: str
    guard: str
    caught: bool
    clean_passes: bool
    needs_guard: bool
    seconds: float
    detail: str

    @property
    def ok(self) -> bool:
        return self.caught and self.clean_passes and self.needs_guard

    def __str__(self) -> str:
        return f"{self.name}: {self.detail}"

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "seconds": round(self.seconds, 3), "ok": self.ok}


def try_fault(fault: Fault, fixture: Fixture) -> FaultRow:
    """The clean work, the spoilt work, and the spoilt work with the guard switched off."""
    started = time.perf_counter()
    clean = fault.probe(fixture.at(fault.name, "clean"), False)
    spoilt = fault.probe(fixture.at(fault.name, "spoilt"), True)
    with patched(fault.without):
        unguarded = fault.probe(fixture.at(fault.name, "unguarded"), True)
    signal = fault.expected.find(spoilt)
    passes = clean.code == 0 and fault.expected.find(clean) is None
    needed = unguarded.code == 0 and fault.expected.find(unguarded) is None
    problems = [
        "" if signal else f"no signal '{fault.expected.name}: {fault.expected.words}' but {_shown(spoilt)}",
        "" if passes else f"the clean input does not pass: {_shown(clean)}",
        "" if needed else f"without its guard it is stopped all the same: {_shown(unguarded)}",
    ]
    wrong = "; ".join(problem for problem in problems if problem)
    return FaultRow(
        fault.name,
        fault.row,
        fault.did,
        fault.guard,
        caught=signal is not None,
        clean_passes=passes,
        needs_guard=needed,
        seconds=time.perf_counter() - started,
        detail=wrong or (f"{signal.name}: {signal.text}" if signal else ""),
    )


def _shown(seen: Observation) -> str:
    message = "; ".join(f"{s.name}: {s.text}" for s in seen.signals[:3])
    return f"exit code {seen.code} ({message or 'no message'})"


@contextmanager
def patched(changes: Mapping[str, Any]) -> Iterator[None]:
    """For a while, other objects in the place of "module:attribute" (the attribute may have dots)."""
    with ExitStack() as stack:
        for target, replacement in changes.items():
            module, _, path = target.partition(":")
            owner: Any = importlib.import_module(module)
            *parents, name = path.split(".")
            for parent in parents:
                owner = getattr(owner, parent)
            stack.enter_context(mock.patch.object(owner, name, replacement))
        yield


def nothing(*_: object, **__: object) -> None:
    """In the place of a guard that raises: one that lets everything through."""


def run_faults(quiet: bool = True, only: Collection[str] = ()) -> list[FaultRow]:
    """Try every fault (or only some, by name) in a temporary folder.

    Raises:
        EvaluationError: an unknown name.
        MissingDependencyError: the command `nextvec` is not installed.
    """
    for name in only:
        if name not in FAULTS:
            raise EvaluationError(f"there is no fault '{name}'", remedy=f"known: {', '.join(FAULTS)}")
    chosen = sorted(
        (fault for name, fault in FAULTS.items() if not only or name in only), key=lambda f: ROWS.index(f.row)
    )
    rows = []
    with (
        tempfile.TemporaryDirectory(prefix="nextvec-faults-") as folder,
        Progress("fault suite", len(chosen), "faults", quiet=quiet) as progress,
    ):
        fixture = Fixture(SharedFixture(Path(folder)), Path(folder) / "trials")
        for fault in chosen:
            rows.append(try_fault(fault, fixture))
            progress.advance(note=fault.name)
    return rows


def score(rows: Collection[FaultRow]) -> str:
    return f"{sum(row.ok for row in rows)} of {len(rows)} faults caught"


for _module in pkgutil.iter_modules(__path__):  # importing them registers their faults
    importlib.import_module(f"{__name__}.{_module.name}")
