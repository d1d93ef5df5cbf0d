"""One line of a verification."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "note", "RED"]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. A "note" is worth knowing, or says what was not checked and why."""

    name: str
    status: Status
    text: str
