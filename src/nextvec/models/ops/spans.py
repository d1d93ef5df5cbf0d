"""How a sequence is cut where it is read piece by piece."""

from __future__ import annotations


def spans(time: int, size: int) -> list[slice]:
    """Slices of `size` positions, the last one of what is left, that make up 0..time-1."""
    return [slice(start, min(start + size, time)) for start in range(0, time, size)]
