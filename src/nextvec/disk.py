"""Writing so that a crash at any instant leaves either the old file or the new one, and reading JSON
with bounds. Every file nextvec writes goes through here."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from nextvec.errors import NextvecError

MAX_JSON_BYTES = 256 * 2**20


def fsync_folder(folder: Path) -> None:
    """Make a rename inside `folder` durable."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success fsync it, rename it over `path`, fsync the folder.

    On an exception the temporary file is removed and `path` is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fd, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(fd)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as f:
            os.fsync(f.fileno())
        # mkstemp makes 0600; a file that others are meant to read follows the umask instead.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
        fsync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def atomic_write(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Call `write` with an open binary file, then move the result into place."""
    with atomic_path(path) as temporary, temporary.open("wb") as f:
        write(f)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    atomic_write(path, lambda f: f.write(text.encode("utf-8")))


def write_json(path: Path, value: object) -> None:
    """Write indented JSON atomically. NaN and infinity are refused: they are not JSON."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def refuse_taken(
    folder: Path, error: type[NextvecError], remedy: str, why: str = "is there already and not empty"
) -> None:
    """Raise `error` where a folder that is to be filled is a file, or has anything in it already."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise error(why, where=folder, remedy=remedy)


def read_json(path: Path, error: type[NextvecError], *, remedy: str | None = None) -> Any:
    """Read a JSON file of bounded size; whatever is wrong with it becomes `error`."""
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise error(f"larger than {MAX_JSON_BYTES >> 20} MiB", where=path, remedy=remedy)
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise error("not found", where=path, remedy=remedy) from None
    except (OSError, UnicodeDecodeError, RecursionError) as e:
        raise error(f"cannot be read ({e})", where=path, remedy=remedy) from None
    except json.JSONDecodeError as e:
        raise error(
            f"is not JSON (line {e.lineno}, column {e.colno}: {e.msg})", where=path, remedy=remedy
        ) from None


def sha256_file(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
