"""`nextvec verify`."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from nextvec.cli.common import JsonTarget, output
from nextvec.cli.verdicts import WIDTH

if TYPE_CHECKING:
    from nextvec.experiments.verify import Verification


def verify(
    run: Annotated[Path, Parameter(help="A run folder.")],
    *,
    store: Annotated[Path | None, Parameter(help="Its store (default: where the run says it was).")] = None,
    split_file: Annotated[
        Path | None, Parameter(help="Its split file (default: where the run says it was).")
    ] = None,
    json: JsonTarget = None,
) -> None:
    """Reload a run in a fresh process and reproduce what it says of itself: golden output, validation
    figures (to 1e-6), fingerprints, split, and what was trained on.

    The exit code is 0 when nothing is RED, 1 when something is, 2 when there is nothing to look at.
    """
    from nextvec.experiments.verify import verify

    found = verify(run, store, split_file)
    output(describe(found), found.to_json(), json)
    if not found.passed:
        raise SystemExit(1)


def describe(found: Verification) -> str:
    """A line a check, then the outcome."""
    width = max(len(check.name) for check in found.checks)
    lines = []
    for check in found.checks:
        head = f"{check.status:<4}  {check.name:<{width}}  "
        lines.append(
            textwrap.fill(
                check.text, WIDTH, initial_indent=head, subsequent_indent=" " * len(head),
                break_long_words=False, break_on_hyphens=False,
            )
        )  # fmt: skip
    red = sum(check.status == "RED" for check in found.checks)
    outcome = f"{red} of {len(found.checks)} checks are RED" if red else "the run is what it says"
    return "\n".join([*lines, f"{found.run}: {outcome}"])
