"""A file as who changes it by hand has it: its text without the checksum that it carries."""

from __future__ import annotations

import re
from pathlib import Path

from nextvec.seals import is_sealed


def by_hand(path: Path) -> str:
    """The text of a sealed JSON, JSON lines or TOML file, without its seal."""
    assert is_sealed(path)
    text = re.sub(r',\s+"seal": "sha256:[0-9a-f]{64}"(?=\s*\})', "", path.read_text())
    return re.sub(r"^# seal .*\n", "", text)
