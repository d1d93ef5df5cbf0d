"""`nextvec selfcheck`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from nextvec.cli.common import JsonTarget, Quiet, output

MARKS = {True: "ok ", False: "RED"}


def selfcheck(
    *,
    every: Annotated[
        bool, Parameter(name="--all", negative=(), help="Print every row, not only the red ones.")
    ] = False,
    json: JsonTarget = None,
    quiet: Quiet = False,
) -> None:
    """Put the instruments on trial: known predictors in known worlds, and known faults before their guards.

    Every metric states what it must say of every predictor in every world. Every fault must be caught by
    the guard meant for it and by nothing else, and the same work must pass without the fault. The exit code
    is 1 when a row is red: then trust no figure of this installation.
    """
    from nextvec.selfcheck.suites import SUITES, run_suite

    suites = [run_suite(name, quiet=quiet) for name in SUITES]
    lines = []
    for suite in suites:
        shown = suite.rows if every else suite.red
        lines += [f"{MARKS[row.ok]} {row}" for row in shown]
    lines += [suite.score for suite in suites]
    ok = not any(suite.red for suite in suites)
    output("\n".join(lines), {"ok": ok, "suites": {s.name: s.to_json() for s in suites}}, json)
    if not ok:
        raise SystemExit(1)
