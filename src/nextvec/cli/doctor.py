"""`nextvec doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from nextvec.cli.common import JsonTarget, output

if TYPE_CHECKING:
    from nextvec.experiments.examined import Examination


def doctor(
    folder: Annotated[Path, Parameter(help="A store, run, matrix, decoder or export.")],
    *,
    json: JsonTarget = None,
) -> None:
    """Read every file of a folder, compare it with its checksum, and say what can be saved.

    The exit code is 0 when no file is damaged, 1 when one is, 2 when there is nothing to look at.
    """
    from nextvec.corpus.layout import MANIFEST
    from nextvec.experiments.examined import examine_store

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
    bad = len(found.damaged)
    outcome = (
        f"{bad} of {len(found.files)} files are damaged" if bad else f"{len(found.files)} files are whole"
    )
    return "\n".join([*lines, f"{found.folder}: {outcome}", *(f"  {line}" for line in found.advice)])
