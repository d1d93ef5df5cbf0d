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
    pairs: Annotated[
        str | None, Parameter(help="Print every two rows by this metric instead: cosine, recall@5 or mrr.")
    ] = None,
    json: JsonTarget = None,
) -> None:
    """Print the table of a matrix again, or how every two of its rows differ."""
    from nextvec.evaluation.table import format_pairs
    from nextvec.experiments.matrix import read_table

    table = read_table(matrix)
    text = show(table, markdown=markdown) if pairs is None else format_pairs(table, pairs)
    output(text, table, json)
