"""What several verbs share: parameter types, JSON output, tables, verdicts. Imports nothing heavy."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from cyclopts import Parameter

from nextvec.disk import write_json
from nextvec.errors import ConfigError
from nextvec.text import fill

if TYPE_CHECKING:
    from nextvec.data.splits import SplitConfig
    from nextvec.diagnostics.sections import Verdict
    from nextvec.experiments.evaluating import DocumentSelection

N = TypeVar("N", int, float)


def flag(help: str, **more: Any) -> Parameter:
    """What `--help` says of a parameter; `more` as cyclopts has it."""
    return Parameter(help=help, **more)


def _check_target(_: object, target: str | None) -> None:
    if target is not None and target != "-" and (target.startswith("-") or Path(target).is_dir()):
        raise ValueError(f"{target} is not a file to write to")


StorePath = Annotated[Path, flag("A store made by `nextvec ingest`.")]
JsonTarget = Annotated[
    str | None,
    Parameter(
        name="--json",
        help="Write the figures as JSON to this file; - is standard output.",
        allow_leading_hyphen=True,
        validator=_check_target,
    ),
]
Sources = Annotated[str | None, flag("Only these sources, separated by commas.")]
Quiet = Annotated[bool, flag("No progress on standard error.")]
Device = Annotated[Literal["cpu", "cuda", "mps"], flag("Where the model predicts.")]
Split = Annotated[str, flag("train (labelled in-sample), validation, test or all.")]
SplitFile = Annotated[Path | None, flag("JSON of document ids (default: the run's).")]
NewSplitFile = Annotated[Path | None, flag("JSON with train, validation, test document ids.")]
LeastContext = Annotated[int, flag("Chunks read at least before each target.")]
RANKED_AMONG = "What the true next chunk is ranked among."
Candidates = Annotated[Literal["split", "store", "document"], flag(RANKED_AMONG)]
NoSpeed = Annotated[bool, flag("Do not measure latency.")]


def names(text: str | None) -> tuple[str, ...]:
    """`a,b` -> ("a", "b"); None -> ()."""
    if text is None:
        return ()
    found = tuple(part.strip() for part in text.split(",") if part.strip())
    if not found:
        raise ConfigError(f"'{text}' names nothing", remedy="give names separated by commas")
    return found


def numbers(text: str | None, kind: type[N], what: str, flag: str, example: str) -> tuple[N, ...]:
    """`1,2` -> (1, 2). Raises ConfigError: the text of this flag `what`, such as "are not ranks"."""
    try:
        return tuple(kind(part) for part in names(text))
    except ValueError:
        raise ConfigError(f"'{text}' {what}", where=flag, remedy=f"write {flag} {example}") from None


def division(file: Path | None) -> SplitConfig | None:
    """How a --split-file divides documents."""
    from nextvec.data.splits import SplitConfig

    return None if file is None else SplitConfig(file=str(file.resolve()))


def selection(
    split: str = "test",
    sources: str | None = None,
    split_file: Path | None = None,
    train_sources: str | None = None,
) -> DocumentSelection:
    """The documents that these flags name."""
    from nextvec.experiments.evaluating import DocumentSelection

    trained = None if train_sources is None else names(train_sources)
    return DocumentSelection(split, names(sources), trained, division(split_file))


def output(text: str, figures: Any, target: str | None) -> None:
    """Print a table, or JSON in its place where the user asked for JSON on standard output."""
    if target == "-":
        json.dump(figures, sys.stdout, indent=2, ensure_ascii=False, allow_nan=False)
        print()
        return
    if target is not None:
        write_json(Path(target), figures)
    print(text)


Strict = Annotated[bool, flag("Exit with 1 when a verdict is RED.")]
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
