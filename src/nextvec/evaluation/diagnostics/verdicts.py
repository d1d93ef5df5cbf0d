"""A verdict: what a check found, in one sentence, and how grave it is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal

import numpy as np

Level = Literal["ok", "note", "warning", "red"]
LEVELS: tuple[Level, ...] = ("ok", "note", "warning", "red")
"""From harmless to grave. A note is worth knowing, a warning worth a look; what is red makes figures taken
from it meaningless."""


@dataclass(frozen=True)
class Verdict:
    """What one check found.

    Attributes:
        name: the check, for programs: "order", "texts misaligned"...
        level: how grave it is.
        text: the finding with its figures.
    """

    name: str
    level: Level
    text: str


def is_red(verdicts: Iterable[Verdict]) -> bool:
    """Whether any verdict is red."""
    return any(verdict.level == "red" for verdict in verdicts)


def short(value: float | None, digits: int = 3) -> str:
    """A figure mostly between -1 and 1, without the leading zero: -.31; "-" for what is not known."""
    if value is None or not math.isfinite(value):
        return "-"
    text = f"{value:.{digits}f}"
    return text.replace("0.", ".", 1) if abs(float(text)) < 1 else text


def plain(value: Any) -> Any:
    """Dataclasses, numpy numbers and arrays as JSON; what is not finite becomes null."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
