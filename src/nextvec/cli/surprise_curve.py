"""A curve drawn with the characters of a terminal."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence

HEIGHT = 8
BLOCKS = " ▁▂▃▄▅▆▇█"
PLAIN = "  ...::##"
LABEL = 7
WIDEST = 3
GAP = 8


def terminal() -> tuple[int, str]:
    """How many characters a line has (100 where that is not known), and what bars are drawn with."""
    width = shutil.get_terminal_size((100, 24)).columns
    try:
        BLOCKS.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return width, PLAIN
    return width, BLOCKS


def draw_curve(values: Sequence[float], starts: Sequence[int], width: int, bars: str = BLOCKS) -> list[str]:
    """Lines at most `width` long, from 0 to 1 or the highest value: a column a chunk, or the highest of
    several where there is no room.

    Args:
        values: 0 or more, of chunk 1, 2, ...; chunk 0 has none and stays blank.
        starts: chunks that a new topic begins with, marked below the curve.
        bars: nine characters, from an empty place to a full one.
    """
    count, room = len(values) + 1, max(width - LABEL, 10)
    per = -(-count // room)
    columns = -(-count // per)
    wide = max(1, min(WIDEST, room // columns))
    top = max(1.0, *values)
    heights = _eighths(values, per, columns, top)
    lines = []
    for row in reversed(range(HEIGHT)):
        label = {HEIGHT - 1: f"{top:.2f}", HEIGHT // 2 - 1: f"{top / 2:.2f}"}.get(row, "")
        body = "".join(bars[max(0, min(8, height - 8 * row))] * wide for height in heights)
        lines.append(f"{label:>{LABEL - 1}} {body}".rstrip())
    marks = [" "] * columns * wide
    for start in starts:
        marks[start // per * wide] = "^"
    lines.append(f"{'topics':>{LABEL - 1}} {''.join(marks)}".rstrip())
    lines.append(f"{'chunk':>{LABEL - 1}} {_numbers(columns, per, wide)}".rstrip())
    return lines


def _eighths(values: Sequence[float], per: int, columns: int, top: float) -> list[int]:
    """Height of each column in eighths of a line."""
    heights = []
    for column in range(columns):
        held = values[max(column * per - 1, 0) : (column + 1) * per - 1]
        heights.append(round(8 * HEIGHT * max(held, default=0.0) / top))
    return heights


def _numbers(columns: int, per: int, wide: int) -> str:
    """Numbers of chunks, from 1, below the columns that begin with them."""
    line = ""
    for column in range(columns):
        number, place = str(column * per + 1), column * wide
        if place >= len(line) + (GAP if line else 0) and place + len(number) <= columns * wide:
            line = line.ljust(place) + number
    return line
