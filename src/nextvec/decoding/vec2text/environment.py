"""The folder of packages that vec2text runs with: its own pins, beside the torch that is here already.

vec2text 0.0.13 does not run with transformers 5. So it runs in a process of its own (`worker.py`), whose
packages stand in a folder of their own; torch and a few helpers are borrowed from the environment that
nextvec runs in. A folder is whole or not there: it is filled under another name, tried, and renamed."""

from __future__ import annotations

import importlib.util
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nextvec.disk import fsync_folder, read_json, sha256_file, write_json
from nextvec.errors import DecoderError
from nextvec.json_process import JsonProcess, Problem
from nextvec.progress import Progress

log = logging.getLogger("nextvec.decoding")

VARIABLE = "NEXTVEC_VEC2TEXT"
RECORD = "environment.json"
PACKAGES = "packages"
REQUIREMENTS = Path(__file__).with_name("requirements.txt")
WORKER = Path(__file__).with_name("worker.py")
SETUP = "make it: nextvec decoder setup vec2text"
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
INSTALL_TIMEOUT = 1800.0
CHECK = "see whether it runs at all: nextvec decoder setup vec2text --check"
REMEDIES: dict[Problem, str] = {
    "late": "raise the time-out, or lower steps and beam",
    "ended": CHECK,
    "invalid": CHECK,
    "refused": "check the decoder's folder",
}

_LENDERS = ("torch", "numpy", "safetensors", "regex")


def default_folder() -> Path:
    """$NEXTVEC_VEC2TEXT; else inside the virtual environment that runs; else among the user's data."""
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named)
    if sys.prefix != sys.base_prefix:
        return Path(sys.prefix) / "share" / "nextvec" / "vec2text"
    data = os.environ.get("XDG_DATA_HOME")
    return (Path(data) if data else Path.home() / ".local" / "share") / "nextvec" / "vec2text"


def sites() -> list[str]:
    """The folders that torch and the helpers are borrowed from."""
    specs = [importlib.util.find_spec(name) for name in _LENDERS]
    return sorted({str(Path(spec.origin).parent.parent) for spec in specs if spec and spec.origin})


def vec2text_process(command: Sequence[str], timeout: float) -> JsonProcess:
    """A process of vec2text, not yet started; what goes wrong in it is a DecoderError."""

    def error(problem: Problem, message: str) -> DecoderError:
        return DecoderError(message, remedy=REMEDIES[problem])

    quiet = {"TRANSFORMERS_VERBOSITY": "error"}
    return JsonProcess(command, name="vec2text", error=error, timeout=timeout, environment=quiet)


@dataclass(frozen=True)
class Environment:
    """A folder that `make` filled."""

    folder: Path

    @classmethod
    def find(cls, folder: Path | None = None) -> Environment:
        """The environment in a folder, by default in `default_folder()`; it is not run to see.

        Raises:
            DecoderError: none there, or one for other pins or another Python.
        """
        folder = default_folder() if folder is None else folder
        if not (folder / RECORD).is_file():
            raise DecoderError("the environment of vec2text is not there", where=folder, remedy=SETUP)
        record = read_json(folder / RECORD, DecoderError, remedy=SETUP)
        if not isinstance(record, dict) or record.get("requirements_sha256") != sha256_file(REQUIREMENTS):
            raise DecoderError("an environment of vec2text with other pins", where=folder, remedy=SETUP)
        if record.get("python") != PYTHON:
            made = record.get("python")
            raise DecoderError(
                f"an environment of vec2text for Python {made}, not {PYTHON}", where=folder, remedy=SETUP
            )
        return cls(folder)

    def worker(self, *arguments: str, timeout: float) -> JsonProcess:
        """The process, not yet started. See `worker.py` for the arguments."""
        packages = str(self.folder.resolve() / PACKAGES)
        isolated = [sys.executable, "-I", "-S", str(WORKER)]
        return vec2text_process([*isolated, packages, *sites(), *arguments], timeout)

    def probe(self, timeout: float = 300.0) -> dict[str, str]:
        """Import everything in a process of its own; returns versions by package. Raises DecoderError."""
        with self.worker(timeout=timeout) as worker:
            versions: dict[str, str] = worker.start()["versions"]
        return versions

    def size(self) -> int:
        """Bytes on disk."""
        return sum(f.stat().st_size for f in self.folder.rglob("*") if f.is_file())


def make(folder: Path | None = None, *, quiet: bool = False) -> tuple[Environment, dict[str, str]]:
    """Fill the folder unless it is whole already; one of other pins, or that does not run, is made again.

    Returns:
        the environment, and versions by package.
    Raises:
        DecoderError: packages that cannot be installed or do not run, or a folder that holds something else.
    """
    folder = default_folder() if folder is None else folder
    whole = _whole(folder)
    if whole is not None:
        return whole
    if folder.exists() and (
        not folder.is_dir() or (any(folder.iterdir()) and not (folder / RECORD).exists())
    ):
        raise DecoderError("holds something else", where=folder, remedy="name a folder that is new or empty")
    if not quiet:
        log.info("installing vec2text and its pins (70 MB) into %s; torch is shared", folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch,
        Progress("vec2text's environment", 3, "steps", quiet=quiet) as progress,
    ):
        made = Environment(Path(scratch) / "made")
        _install(made.folder / PACKAGES)
        progress.advance(note="installed")
        versions = made.probe()
        progress.advance(note="tried")
        record = {"requirements_sha256": sha256_file(REQUIREMENTS), "python": PYTHON}
        write_json(made.folder / RECORD, record)
        if folder.exists():
            folder.rename(Path(scratch) / "old")
        made.folder.rename(folder)
        fsync_folder(folder.parent)
        progress.advance(note="in place")
    return Environment(folder), versions


def _whole(folder: Path) -> tuple[Environment, dict[str, str]] | None:
    """The environment there and its versions, if it runs."""
    try:
        found = Environment.find(folder)
        return found, found.probe()
    except DecoderError:
        return None


def _install(target: Path) -> None:
    """The pins, as wheels and without what they would draw in. Raises DecoderError with pip's last word."""
    if importlib.util.find_spec("pip") is None:
        raise DecoderError(
            "pip, which installs vec2text, is not in this environment", remedy="python -m ensurepip"
        )
    options = ["--no-deps", "--no-compile", "--only-binary", ":all:", "--quiet", "--no-input"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(target)]
    command += ["--disable-pip-version-check", "--requirement", str(REQUIREMENTS)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT, check=False)  # noqa: S603
    except subprocess.TimeoutExpired:
        raise DecoderError(
            f"pip did not end within {INSTALL_TIMEOUT:.0f} s", remedy="check the connection, and try again"
        ) from None
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["no reason given"]
        raise DecoderError(
            f"pip could not install vec2text's packages ({said[-1]})",
            remedy="check the connection to the package index, and try again",
        )
