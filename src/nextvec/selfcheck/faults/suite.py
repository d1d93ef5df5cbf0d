"""All faults, one after another."""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from pathlib import Path

from nextvec.errors import EvaluationError
from nextvec.progress import Progress
from nextvec.selfcheck.faults import data, decoders, encoders, metrics, saving, splits_and_leaks, training
from nextvec.selfcheck.faults.fault import FAULTS, ROWS, FaultRow, try_fault
from nextvec.selfcheck.faults.scene import Scene, Shared

ROOMS = (training, splits_and_leaks, encoders, decoders, metrics, data, saving)
"""Importing them registers their faults."""


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
        scene = Scene(Shared(Path(folder)), Path(folder) / "trials")
        for fault in chosen:
            rows.append(try_fault(fault, scene))
            progress.advance(note=fault.name)
    return rows


def score(rows: Collection[FaultRow]) -> str:
    """In words."""
    return f"{sum(row.ok for row in rows)} of {len(rows)} faults caught"
