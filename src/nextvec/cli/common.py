"""What several verbs share: parameter types, JSON output, tables, verdicts. Imports nothing heavy."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from nextvec.disk import write_json
from nextvec.errors import ConfigError
from nextvec.text import fill

if TYPE_CHECKING:
    from nextvec.diagnostics.sections import Verdict


def _check_target(_: object, target: str | None) -> None:
    if target is not None and target != "-" and (target.startswith("-") or Path(target).is_dir()):
        raise ValueError(f"{target} is not a file to write to")


StorePath = Annotated[Path, Parameter(help="A store made by `nextvec ingest`.")]
JsonTarget = Annotated[
    str | None,
    Parameter(
        name="--json",
        help="Write the figures as JSON to this file; - is standard output.",
        allow_leading_hyphen=True,
        validator=_check_target,
    ),
]
Sources = Annotated[str | None, Parameter(help="Only these sources, separated by commas.")]
Quiet = Annotated[bool, Parameter(negative=(), help="No progress on standard error.")]


def names(text: str | None) -> tuple[str, ...]:
    """`a,b` -> ("a", "b"); None -> ()."""
    if text is None:
        return ()
    found = tuple(part.strip() for part in text.split(",") if part.strip())
    if not found:
        raise ConfigError(f"'{text}' names nothing", remedy="give names separated by commas")
    return found


def output(text: str, figures: Any, target: str | None) -> None:
    """Print a table, or JSON in its place where the user asked for JSON on standard output."""
    if target == "-":
        json.dump(figures, sys.stdout, indent=2, ensure_ascii=False, allow_nan=False)
        print()
        return
    if target is not None:
        write_json(Path(target), figures)
    print(text)


Strict = Annotated[bool, Parameter(negative=(), help="Exit with 1 when a verdict is RED.")]
MARKS = {"ok": "ok", "note": "note", "warning": "WARNING", "red": "RED"}


def verdict_lines(verdicts: Sequence[Verdict]) -> list[str]:
    """One line a verdict, the gravest last so that it is what stays on the screen."""
    order = list(MARKS)
    ranked = sorted(verdicts, key=lambda verdict: order.index(verdict.level))
    return [fill(verdict.text, f"  {MARKS[verdict.level]:<8}") for verdict in ranked]


def section(lines: Sequence[str]) -> list[str]:
    """Sentences in lines of one width; tables as they are."""
    return [
        fill(line, rest="") if line.endswith(".") and not line.startswith(" ") else line for line in lines
    ]


def finish(verdicts: Sequence[Verdict], *, strict: bool) -> None:
    """With --strict, exit with 1 when a verdict is red."""
    if strict and any(verdict.level == "red" for verdict in verdicts):
        raise SystemExit(1)
