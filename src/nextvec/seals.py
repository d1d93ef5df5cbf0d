"""The checksum that a text file carries of itself: the sha256 of what it would be without. So it is exchanged
in one rename with what it vouches for.

In JSON it is the last entry of the object (in JSON lines: of the first one), in TOML the first line. Whoever
changes such a file by hand takes it out. Files of tensors have theirs in the header (`nextvec.disk.seal`).
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

from nextvec.errors import NextvecError

SEAL = "seal"
CHANGED = "has changed since it was written (sha256 differs)"
_ALGORITHM = "sha256:"
_ENTRY = re.compile(rf',\s+"{SEAL}": "({_ALGORITHM}[0-9a-f]{{64}})"(?=\s*\}})')
_LINE = f"# {SEAL} %s; take this line out when you change the file\n"


def _digest(text: str) -> str:
    return _ALGORITHM + hashlib.sha256(text.encode("utf-8")).hexdigest()


def seal_json(text: str) -> str:
    """An indented JSON object, not an empty one, with its checksum."""
    return text.removesuffix("\n}\n") + f',\n  "{SEAL}": "{_digest(text)}"\n}}\n'


def seal_lines(text: str) -> str:
    """JSON lines, the first an object that is not empty, with their checksum; nothing stays nothing."""
    first, end, rest = text.partition("\n")
    return text and f'{first[:-1]}, "{SEAL}": "{_digest(text)}"}}{end}{rest}'


def unsealed(
    value: Any, text: str, path: Path, error: type[NextvecError], remedy: str | None, *, first: bool = False
) -> Any:
    """What was read from `text`, without its checksum, which is compared.

    Args:
        value: what the whole text, or with `first` its first line, holds.
    Raises:
        NextvecError: of the type `error`, where the text is not what was written.
    """
    if not isinstance(value, dict) or not value:
        return value
    key, seal = next(reversed(value.items()))
    if not isinstance(seal, str) or (key != SEAL and not seal.startswith(_ALGORITHM)):
        return value
    found = list(_ENTRY.finditer(text, 0, text.find("\n") if first else len(text)))
    if not found or _digest(text[: found[-1].start()] + text[found[-1].end() :]) != found[-1][1]:
        meant = f"{remedy or 'restore it'}, or take its entry '{SEAL}' out if the change is meant"
        raise error(CHANGED, where=path, remedy=meant)
    return {name: held for name, held in value.items() if name != SEAL}


def seal_toml(text: str) -> str:
    """TOML with its checksum in a comment before it."""
    return _LINE % _digest(text) + text


def toml_is_whole(text: str) -> bool:
    """Whether TOML is what `seal_toml` made of it; True for one without a checksum."""
    first, _, rest = text.partition("\n")
    if not first.startswith(f"# {SEAL[:-1]}") and f" {_ALGORITHM}" not in first:
        return True
    return first + "\n" == _LINE % _digest(rest)


def is_sealed(path: Path) -> bool:
    """Whether a text file, which has been read without an error, carries its checksum."""
    text = path.read_text(encoding="utf-8")
    return text.startswith(f"# {SEAL}") or _ENTRY.search(text) is not None
