"""Text for people: tables in columns, sentences in lines of one width, texts cut to a length."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

WIDTH = 110
"""Characters of a line."""


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, markdown: bool = False) -> list[str]:
    """Lines of aligned columns, or of a Markdown table: the first column left, the others right."""
    cells = [header, *rows]
    if markdown:
        cells = [[cell.replace("|", "\\|") for cell in row] for row in cells]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    head, *body = (
        [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
        for row in cells
    )
    if markdown:
        rule = ["-" * widths[0], *("-" * (w - 1) + ":" for w in widths[1:])]
        return [f"| {' | '.join(row)} |" for row in (head, rule, *body)]
    return ["  ".join(row).rstrip() for row in (head, ["-" * w for w in widths], *body)]


def columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The lines of `table` as one text."""
    return "\n".join(table(header, rows))


def fill(text: str, first: str = "", rest: str | None = None) -> str:
    """A text in lines of `WIDTH`, the first of which begins with `first`, the others with `rest` (by default
    as many spaces). Words stay whole."""
    indent = " " * len(first) if rest is None else rest
    return textwrap.fill(
        text, WIDTH, initial_indent=first, subsequent_indent=indent, break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip


def counted(number: int, one: str, many: str | None = None) -> str:
    """`1 document`, `1,200 documents`; `many` where the plural is more than an s."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def shorten(text: str, most: int, *, middle: bool = False) -> str:
    """A text on one line, cut at its end (or in its `middle`) where it is longer than `most` characters.

    Not `textwrap.shorten`: of a text without spaces, as Chinese has none, that leaves only the dots.
    """
    line = " ".join(text.split())
    if len(line) <= most:
        return line
    half = (most - 5) // 2
    return f"{line[:half]} ... {line[-half:]}" if middle else f"{line[: most - 3]}..."
