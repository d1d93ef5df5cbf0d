"""Can a run be believed? Reload it in a fresh process and reproduce what it says of itself. And is every file
what was written?

In the field a validation figure of 0.62 was 0.04 when somebody measured it later. Here the saved model has to
give its golden output and its recorded validation again to 1e-6, and to stand on the documents it names.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from nextvec import errors
from nextvec.corpus.layout import MANIFEST as STORE
from nextvec.corpus.layout import ShardFiles, open_shard, read_manifest
from nextvec.disk import check_seal, check_sha256
from nextvec.errors import NextvecError, RunError
from nextvec.seals import is_sealed

Status = Literal["ok", "note", "RED"]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. A "note" is worth knowing, or says what was not checked and why."""

    name: str
    status: Status
    text: str


@dataclass(frozen=True)
class Verification:
    run: str
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        return all(check.status != "RED" for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready: "run", "passed", "checks"."""
        return {"run": self.run, "passed": self.passed, "checks": [asdict(c) for c in self.checks]}


def verify(
    run: str | Path, store: str | Path | None = None, split_file: str | Path | None = None
) -> Verification:
    """Check a run in a process of its own, where nothing of the training is in memory.

    Args:
        store, split_file: where they lie now; by default where the run says they were.
    Raises:
        RunError, StoreError, SplitError, ConfigError: no run, store or split file there, or a configuration
            that cannot be read: nothing can be said.
    """
    paths = {"run": run, "store": store, "split_file": split_file}
    request = json.dumps({name: None if path is None else str(path) for name, path in paths.items()})
    fresh = subprocess.run(  # noqa: S603 - our own module in our own interpreter
        [sys.executable, "-m", "nextvec.experiments.evidence", request], stdout=subprocess.PIPE, check=False
    )
    try:
        answer = json.loads(fresh.stdout)
    except ValueError:
        text = f"the process that looked at it ended with code {fresh.returncode} and no answer"
        raise RunError(text, where=run) from None
    if "error" in answer:
        kind = getattr(errors, answer["error"], NextvecError)
        raise kind(answer["message"], where=answer["where"], remedy=answer["remedy"])
    return Verification(str(run), tuple(Check(**check) for check in answer["checks"]))


# Files as they lie there, each read and compared with its checksum; `doctor` does so for what was trained. A
# store's checksums stand in store.json, an export's in export.json; files of tensors, JSON and TOML carry
# their own (`nextvec.disk.seal`, `nextvec.seals`). What has none, because an earlier version wrote it or a
# user changed it by hand, is read all the same, and said to be unchecked.

State = Literal["ok", "unchecked", "DAMAGED"]


@dataclass(frozen=True)
class Examined:
    """One file. "ok": as it was written; "unchecked": it can be read, but has no checksum; `why` not ok."""

    file: str
    state: State
    why: str = ""


@dataclass(frozen=True)
class Examination:
    """All files of a folder, and in `advice` what can be saved where something is damaged."""

    folder: str
    files: list[Examined]
    advice: list[str]

    @property
    def damaged(self) -> list[Examined]:
        return [file for file in self.files if file.state == "DAMAGED"]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def look(path: Path, read: Callable[[], object] = lambda: None) -> Examined:
    """Read a file that is expected to carry its checksum."""
    if not path.is_file():
        return Examined(str(path), "DAMAGED", "is missing")
    try:
        tensors = path.suffix == ".safetensors"
        checked = check_seal(path, RunError, "restore it") if tensors else False
        read()
        checked = checked or (not tensors and is_sealed(path))
    except NextvecError as e:
        return Examined(str(path), "DAMAGED", e.message)
    why = "" if checked else "carries no checksum: of an earlier version, or changed by hand"
    return Examined(str(path), "ok" if checked else "unchecked", why)


def listed(path: Path, digest: str) -> Examined:
    """Compare a file with the checksum that a list has of it."""
    try:
        check_sha256(path, digest, RunError, "restore it")
    except NextvecError as e:
        return Examined(str(path), "DAMAGED", e.message)
    return Examined(str(path), "ok")


def examine_store(folder: Path) -> Examination:
    files, advice = [look(folder / STORE, lambda: read_manifest(folder))], list[str]()
    if files[0].state == "DAMAGED":
        return Examination(str(folder), files, ["copy the file from a backup: the shards are not looked at"])
    info = read_manifest(folder)
    for shard in info["shards"]:
        names = asdict(ShardFiles.of(folder, shard["name"]))
        found = [listed(path, shard[f"{part}_sha256"]) for part, path in names.items()]
        if all(file.state == "ok" for file in found):
            try:
                open_shard(folder, shard, info["dimension"], info["dtype"])
            except NextvecError as e:
                found.append(Examined(str(e.where), "DAMAGED", e.message))
        files += found
        bad = {Path(file.file).parent.name for file in found if file.state == "DAMAGED"}
        if bad == {"vectors"}:
            advice.append(
                f"shard {shard['name']}: the texts of its {shard['documents']:,} documents are whole"
            )
        elif bad:
            advice.append(f"shard {shard['name']}: {', '.join(sorted(bad))} of its documents are lost")
    if advice:
        advice.append("copy the files named above from a backup, or ingest the same sources into a new store")
    return Examination(str(folder), files, advice)
