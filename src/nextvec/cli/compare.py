"""`nextvec compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from nextvec.cli.common import JsonTarget, output
from nextvec.cli.matrix import show


def compare(
    matrix: Annotated[Path, Parameter(help="A folder made by `nextvec matrix`.")],
    *,
    markdown: Annotated[bool, Parameter(negative=(), help="Print the table as Markdown.")] = False,
    json: JsonTarget = None,
) -> None:
    """Print the table of a matrix again."""
    from nextvec.experiments.matrix import read_table

    table = read_table(matrix)
    output(show(table, markdown=markdown), table, json)
