"""`nextvec verify`, `selfcheck` and `doctor`: is what is there what it should be?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from nextvec.cli.common import JsonTarget, Quiet, flag, output
from nextvec.text import fill

if TYPE_CHECKING:
    from nextvec.experiments.verify import Examination, Verification


def verify(
    run: Annotated[Path, flag("A run folder.")],
    *,
    store: Annotated[Path | None, flag("Its store (default: the path in the run).")] = None,
    split_file: Annotated[Path | None, flag("Its split file (default: the path in the run).")] = None,
    json: JsonTarget = None,
) -> None:
    """Reload a run in a fresh process and reproduce what was saved with it: golden output, validation
    figures (to 1e-6), fingerprints, split, and what was trained on.

    The exit code is 0 when nothing is RED, 1 when something is, 2 when there is nothing to look at.
    """
    from nextvec.experiments.verify import verify

    found = verify(run, store, split_file)
    output(describe_verification(found), found.to_json(), json)
    if not found.passed:
        raise SystemExit(1)


def describe_verification(found: Verification) -> str:
    width = max(len(check.name) for check in found.checks)
    lines = [fill(check.text, f"{check.status:<4}  {check.name:<{width}}  ") for check in found.checks]
    red = sum(check.status == "RED" for check in found.checks)
    bad = f"{red} of {len(found.checks)} checks are RED"
    outcome = bad if red else "the run matches what was saved with it"
    return "\n".join([*lines, f"{found.run}: {outcome}"])


def selfcheck(
    *,
    every: Annotated[bool, Parameter(name="--all", help="Print every row, not only the red ones.")] = False,
    json: JsonTarget = None,
    quiet: Quiet = False,
) -> None:
    """Test the instruments: known predictors in known worlds, and known faults before their guards.

    Every metric states its expected value for every predictor in every world. Every fault must be caught by
    the guard meant for it and by nothing else, and the same work must pass without the fault. The exit code
    is 1 when a row is red: then trust no figure of this installation.
    """
    from nextvec.selfcheck import SUITES, run_suite

    suites = [run_suite(name, quiet=quiet) for name in SUITES]
    shown = [row for suite in suites for row in (suite.rows if every else suite.red)]
    lines = [f"{'ok ' if row.ok else 'RED'} {row}" for row in shown] + [suite.score for suite in suites]
    ok = not any(suite.red for suite in suites)
    output("\n".join(lines), {"ok": ok, "suites": {s.name: s.to_json() for s in suites}}, json)
    if not ok:
        raise SystemExit(1)


def doctor(
    folder: Annotated[Path, flag("A store, run, matrix, decoder or export.")], *, json: JsonTarget = None
) -> None:
    """Read every file of a folder, compare it with its checksum, and say what can be saved.

    The exit code is 0 when no file is damaged, 1 when one is, 2 when there is nothing to look at.
    """
    from nextvec.corpus.layout import MANIFEST
    from nextvec.experiments.verify import examine_store

    if (folder / MANIFEST).is_file():
        found = examine_store(folder)
    else:  # what was trained is loaded, with torch
        from nextvec.experiments.doctor import examine

        found = examine(folder)
    output(describe_examination(found), found.to_json(), json)
    if found.damaged:
        raise SystemExit(1)


def describe_examination(found: Examination) -> str:
    lines = [f"{file.state:<9}  {file.file}{': ' if file.why else ''}{file.why}" for file in found.files]
    bad, files = len(found.damaged), len(found.files)
    outcome = f"{bad} of {files} files are damaged" if bad else f"{files} files are whole"
    return "\n".join([*lines, f"{found.folder}: {outcome}", *(f"  {line}" for line in found.advice)])
