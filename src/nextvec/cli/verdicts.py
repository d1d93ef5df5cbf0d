"""Verdicts on the terminal, and the exit code of --strict."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from nextvec.diagnostics.engine import Verdict

Strict = Annotated[bool, Parameter(negative=(), help="Exit with 1 when a verdict is RED.")]
MARKS = {"ok": "ok", "note": "note", "warning": "WARNING", "red": "RED"}
WIDTH = 110


def verdict_lines(verdicts: Sequence[Verdict]) -> list[str]:
    """One line a verdict, the gravest last so that it is what stays on the screen."""
    order = list(MARKS)
    lines = []
    for verdict in sorted(verdicts, key=lambda v: order.index(v.level)):
        head = f"  {MARKS[verdict.level]:<8}"
        wrapped = textwrap.fill(
            verdict.text, WIDTH, initial_indent=head, subsequent_indent=" " * len(head),
            break_long_words=False, break_on_hyphens=False,
        )  # fmt: skip
        lines.append(wrapped)
    return lines


def finish(verdicts: Sequence[Verdict], *, strict: bool) -> None:
    """With --strict, exit with 1 when a verdict is red."""
    if strict and any(verdict.level == "red" for verdict in verdicts):
        raise SystemExit(1)
