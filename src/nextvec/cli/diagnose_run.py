"""`nextvec diagnose run`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from nextvec.cli.common import JsonTarget, columns, output
from nextvec.cli.verdicts import Strict, finish, verdict_lines

if TYPE_CHECKING:
    from nextvec.evaluation.diagnostics.run import RunDiagnosis


def diagnose_run(
    run: Annotated[Path, Parameter(help="A run folder, finished or not.")],
    *,
    strict: Strict = False,
    json: JsonTarget = None,
) -> None:
    """Read the history of a training run: every loss term and its gradient, variance, collapse, divergence,
    over-fitting, the learning rate's schedule, speed.

    The exit code is 0 whatever is found, or with --strict 1 when a verdict is RED.
    """
    from nextvec.evaluation.diagnostics.run import diagnose_run
    from nextvec.experiments.records import read_record

    found = diagnose_run(read_record(run))
    output(describe(found), found.to_json(), json)
    finish(found.verdicts, strict=strict)


def describe(found: RunDiagnosis) -> str:
    """One row an epoch, then the verdicts."""
    from nextvec.evaluation.diagnostics.run import table

    blocks = [f"{found.record.run}: {found.record.model}"]
    if found.record.epochs:
        blocks.append(columns(*table(found.record)))
    return "\n\n".join([*blocks, "Verdicts"]) + "\n" + "\n".join(verdict_lines(found.verdicts))
