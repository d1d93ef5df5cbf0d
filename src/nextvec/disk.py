"""Writing so that a crash at any instant leaves either the old file or the new one, and reading JSON
with bounds. Every file nextvec writes goes through here, and so does the right to write a folder."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from nextvec.errors import BusyError, DiskError, NextvecError
from nextvec.seals import CHANGED, seal_json, seal_lines, unsealed

MAX_JSON_BYTES = 256 * 2**20
LOCK = ".nextvec.lock"


def fsync_folder(folder: Path) -> None:
    """Make a rename inside `folder` durable."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def is_own(path: Path) -> bool:
    """Whether a file is a lock or temporary: what stands in a folder without being part of what it holds."""
    return path.name == LOCK or (path.name.startswith(".") and path.name.endswith(".tmp"))


@contextlib.contextmanager
def _named(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """What the file system refuses, naming no file or a temporary one, becomes a DiskError of `path`."""
    try:
        yield
    except DiskError:
        raise
    except OSError as e:
        ours = (str(path), str(temporary or path))
        if e.filename is not None and not str(e.filename).startswith(ours):
            raise
        raise DiskError.of(e, path) from e
    except Exception as e:
        from safetensors import SafetensorError  # here: `nextvec --help` loads nothing that it can spare

        # Its errors are no OSErrors, but say which one it was.
        found = re.search(r"\(os error (\d+)\)", str(e)) if isinstance(e, SafetensorError) else None
        if found is None:
            raise
        number = int(found[1])
        raise DiskError.of(OSError(number, os.strerror(number)), path) from e


def _same_file(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat(follow_symlinks=False))
    except FileNotFoundError:
        return False


def _make_temporary(path: Path) -> tuple[int, Path]:
    """A new file beside `path`, and its descriptor, locked so that nobody takes it for a dead process's."""
    while True:
        fd, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        with contextlib.suppress(OSError):  # a file system without locks: then nothing is swept either
            fcntl.flock(fd, fcntl.LOCK_EX)
        if _same_file(fd, Path(name)):
            return fd, Path(name)
        os.close(fd)


def _sweep(files: Iterable[Path]) -> None:
    """Remove the temporary files among these whose process has died."""
    for file in files:
        with contextlib.suppress(OSError):  # another's, or gone already
            fd = os.open(file, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                file.unlink()
            finally:
                os.close(fd)


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success fsync it, rename it over `path`, fsync the folder.

    On an exception the temporary file is removed and `path` is untouched; what a killed process left of an
    earlier attempt is removed too.

    Raises:
        DiskError: the file system refuses (no space, no rights, an input/output error).
    """
    with _named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(file for file in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"))
        fd, temporary = _make_temporary(path)
    try:
        with _named(path, temporary):
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
        os.close(fd)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the only right to write `folder`, made where it is missing, and sweep what a killed process left.

    The lock is the operating system's, on the file .nextvec.lock in the folder: it ends with its process,
    however that ends. Afterwards the file is gone, and so are folders that were made and are still empty.

    Raises:
        BusyError: another process, or another thread of this one, has it.
        DiskError: `folder` is a file, or cannot be written to.
    """
    if folder.exists() and not folder.is_dir():
        raise DiskError("is a file, not a folder", where=folder, remedy="give another folder")
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    with _named(folder):
        fd = _take_lock(folder)
    try:
        _sweep(
            Path(place) / name
            for place, _, names in os.walk(folder)
            for name in names
            if name != LOCK and is_own(Path(name))
        )
        yield
    finally:
        if _same_file(fd, folder / LOCK):
            (folder / LOCK).unlink()
        os.close(fd)
        with contextlib.suppress(OSError):
            for place in made:
                place.rmdir()


def _take_lock(folder: Path) -> int:
    file = folder / LOCK
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except FileNotFoundError:
            continue  # its last holder has just removed the empty folder
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _same_file(fd, file):
                os.ftruncate(fd, 0)
                os.pwrite(fd, str(os.getpid()).encode(), 0)
                return fd
        except BlockingIOError:
            holder = os.pread(fd, 20, 0).decode("ascii", "replace")
            os.close(fd)
            raise busy(folder, holder) from None
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)  # the file was removed when we had opened it: by its last holder


def busy(folder: Path, holder: str = "") -> BusyError:
    """The error of a folder that somebody else is writing; `holder` is the process id, where it is known."""
    who = f"process {holder}" if holder.isdigit() else "another process"
    remedy = "wait for it to end and give the command again"
    return BusyError(f"is being written by {who}", where=folder, remedy=remedy)


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yield an empty folder beside `out` (missing or empty, and locked meanwhile); on success everything in
    it is made durable and it takes the place of `out`, on an exception it is removed.

    Raises:
        BusyError, DiskError: as `locked`.
    """
    with locked(out):
        made = out.parent / f".{out.name}.making"
        shutil.rmtree(made, ignore_errors=True)
        with _named(out, made):
            made.mkdir()
        try:
            with _named(out, made):
                yield made
                for place, _, names in os.walk(made):
                    for name in names:
                        with (Path(place) / name).open("rb") as f:
                            os.fsync(f.fileno())
                    fsync_folder(Path(place))
                (out / LOCK).unlink()
                try:
                    out.rmdir()
                    made.rename(out)
                except OSError as e:
                    raise busy(out) if e.errno in (errno.ENOTEMPTY, errno.EEXIST) else e from None
                try:
                    fsync_folder(out.parent)
                except OSError:
                    out.rename(made)  # what is said to have failed must not stand in the way of another try
                    raise
        finally:
            shutil.rmtree(made, ignore_errors=True)


def atomic_write(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Call `write` with an open binary file, then move the result into place."""
    with atomic_path(path) as temporary, temporary.open("wb") as f:
        write(f)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    atomic_write(path, lambda f: f.write(text.encode("utf-8")))


def write_json(path: Path, value: object, *, sealed: bool = False) -> None:
    """Write indented JSON atomically. NaN and infinity are refused: they are not JSON.

    Args:
        sealed: an object gets its checksum as last entry, which `read_json` compares and takes out again.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_text(path, seal_json(text) if sealed else text)


def write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Write JSON objects one a line, atomically; the first gets the checksum of all as last entry."""
    write_text(path, seal_lines("".join(json.dumps(line, allow_nan=False) + "\n" for line in lines)))


def refuse_taken(
    folder: Path,
    error: type[NextvecError],
    remedy: str,
    why: str = "is there already and not empty",
    besides: Collection[str] = (),
) -> None:
    """Raise `error` where a folder that is to be filled is a file, or has anything in it already. Locks, what
    a killed process left half written and the names in `besides` do not count."""
    if folder.exists() and (
        not folder.is_dir() or not all(is_own(file) or file.name in besides for file in folder.iterdir())
    ):
        raise error(why, where=folder, remedy=remedy)


def read_json(path: Path, error: type[NextvecError], *, remedy: str | None = None) -> Any:
    """Read a JSON file of bounded size; whatever is wrong with it becomes `error`."""
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise error(f"larger than {MAX_JSON_BYTES >> 20} MiB", where=path, remedy=remedy)
        text = path.read_bytes().decode("utf-8")
        return unsealed(json.loads(text), text, path, error, remedy)
    except FileNotFoundError:
        raise error("not found", where=path, remedy=remedy) from None
    except json.JSONDecodeError as e:
        message = f"is not JSON (line {e.lineno}, column {e.colno}: {e.msg})"
        raise error(message, where=path, remedy=remedy) from None
    except (OSError, RecursionError, ValueError) as e:  # also an integer of more digits than Python reads
        raise error(f"cannot be read ({e})", where=path, remedy=remedy) from None


def read_object(
    path: Path, error: type[NextvecError], *, needs: Mapping[str, type], remedy: str | None = None
) -> dict[str, Any]:
    """As `read_json`, of an object that has these entries, of these types (float takes whole numbers too)."""
    found = read_json(path, error, remedy=remedy)
    if not isinstance(found, dict):
        raise error("is not a JSON object", where=path, remedy=remedy)
    for key, kind in needs.items():
        held = found.get(key)
        if isinstance(held, bool) or not isinstance(held, (int, float) if kind is float else kind):
            raise error(f"has no entry '{key}' of type {kind.__name__}", where=path, remedy=remedy)
    return found


def sha256_file(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


_checked: set[tuple[Any, ...]] = set()


def check_sha256(path: Path, digest: str, error: type[NextvecError], remedy: str) -> None:
    """Raise `error` unless the file has this sha256. Read once a process, and again where it changed."""
    try:
        state = path.stat()
        key = (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns, digest)
        if key in _checked:
            return
        found = sha256_file(path)
    except FileNotFoundError:
        raise error("is missing", where=path, remedy=remedy) from None
    except OSError as e:
        raise error(f"cannot be read ({e.strerror or e})", where=path, remedy=remedy) from None
    if found != digest:
        raise error(CHANGED, where=path, remedy=remedy)
    _checked.add(key)


# A safetensors file carries its own checksum, in the metadata of its header: the sha256 of the whole file
# with zeros in that place. So it is exchanged in one rename with what it vouches for.

UNSEALED = {"sha256": "0" * 64}
"""Metadata to save a safetensors file with that `seal` is then called for."""
_PLACE = b'"sha256":"'


def seal(path: Path) -> None:
    """Put the checksum into a safetensors file that was saved with `UNSEALED` in its metadata."""
    with path.open("r+b") as f:
        length = int.from_bytes(f.read(8), "little")
        header = json.loads(f.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))  # same content, same bytes
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(length)
        if len(text) != length:
            raise ValueError(f"{path}: its header cannot be written in {length} bytes")
        f.seek(8)
        f.write(text)
        f.flush()
        digest = _sealed_digest(f, text)
        f.seek(8 + text.index(_PLACE) + len(_PLACE))
        f.write(digest)


def _sealed_digest(f: IO[bytes], header: bytes) -> bytes:
    digest = hashlib.sha256(len(header).to_bytes(8, "little") + header)
    f.seek(8 + len(header))
    while block := f.read(2**20):
        digest.update(block)
    return digest.hexdigest().encode()


def check_seal(path: Path, error: type[NextvecError], remedy: str) -> bool:
    """Raise `error` where a safetensors file is not what its checksum says; False where it carries none,
    as files of earlier versions do. Anything else that is wrong with it is left to who reads it."""
    try:
        with path.open("rb") as f:
            length = int.from_bytes(f.read(8), "little")
            header = f.read(min(length, MAX_JSON_BYTES))
            at = header.find(_PLACE) + len(_PLACE)
            if len(header) != length or at < len(_PLACE):
                return False
            zeroed = header[:at] + b"0" * 64 + header[at + 64 :]
            sealed = _sealed_digest(f, zeroed) == header[at : at + 64]
    except OSError:
        return False
    if not sealed:
        raise error(CHANGED, where=path, remedy=remedy)
    return True
