"""A crash leaves the old file or the new one; JSON is read with bounds and typed errors."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from nextvec import disk
from nextvec.disk import (
    LOCK,
    atomic_path,
    check_sha256,
    locked,
    new_folder,
    read_json,
    refuse_taken,
    sha256_file,
    write_json,
    write_text,
)
from nextvec.errors import BusyError, DiskError, StoreError


def test_failure_while_writing_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half of the new")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_written_files_follow_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        write_text(tmp_path / "a.txt", "x")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o644


def test_a_folder_to_be_filled_is_new_or_empty(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for free in (tmp_path / "new", tmp_path / "empty"):
        refuse_taken(free, StoreError, "go elsewhere")
    (tmp_path / "file").write_text("x")
    for taken in (tmp_path, tmp_path / "file"):
        with pytest.raises(StoreError, match=r"is there already and not empty.*go elsewhere") as raised:
            refuse_taken(taken, StoreError, "go elsewhere")
        assert raised.value.where == str(taken)
    with pytest.raises(StoreError, match="holds no matrix"):
        refuse_taken(tmp_path, StoreError, "go elsewhere", why="is there already and holds no matrix")


def test_json_round_trip_and_digest(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"ü": [1, 2.5, None]})
    assert read_json(tmp_path / "a.json", StoreError) == {"ü": [1, 2.5, None]}
    write_json(tmp_path / "b.json", {"ü": [1, 2.5, None]})
    assert sha256_file(tmp_path / "a.json") == sha256_file(tmp_path / "b.json")


def test_not_a_number_is_not_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", float("nan"))
    assert not (tmp_path / "a.json").exists()


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[" * 100_000])
def test_damaged_json_names_the_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "store.json"
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"store\.json") as caught:
        read_json(path, StoreError, remedy="ingest again")
    assert "ingest again" in str(caught.value)
    with pytest.raises(StoreError, match="not found"):
        read_json(tmp_path / "none.json", StoreError)


HOLD = """
import sys, time
from pathlib import Path
from nextvec.disk import atomic_path, locked
with locked(Path(sys.argv[1])), atomic_path(Path(sys.argv[1]) / "file") as path:
    path.write_text("half")
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_lock_names_its_holder_and_ends_with_it(tmp_path: Path) -> None:
    out = tmp_path / "a" / "out"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(out)], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(BusyError, match=rf"{out}: is being written by process {holder.pid}; wait") as busy,
            locked(out),
        ):
            pytest.fail("two at once")
        assert busy.value.exit_code == 2
        write_text(out / "file", "another's")  # without the lock: what is being written is not swept away
        assert len(list(out.glob(".file.*.tmp"))) == 1
        os.kill(holder.pid, signal.SIGKILL)
    assert {path.name for path in out.iterdir()} > {LOCK, "file"}
    refuse_taken_but_for(out)
    with locked(out):
        assert {path.name for path in out.iterdir()} == {LOCK, "file"}
    assert {path.name for path in out.iterdir()} == {"file"}


def refuse_taken_but_for(out: Path) -> None:
    """What a dead process left is nothing that a folder holds."""
    (out / "file").rename(out.parent / "file")
    refuse_taken(out, StoreError, "go elsewhere")
    (out.parent / "file").rename(out / "file")


def test_a_lock_leaves_no_folder_that_was_not_there(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), locked(tmp_path / "a" / "b"):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("x")
    with pytest.raises(DiskError, match="is a file, not a folder"), locked(tmp_path / "file"):
        pytest.fail("no folder")


def test_a_new_folder_that_cannot_be_made_durable_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(folder: Path) -> None:
        if folder == tmp_path:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(disk, "fsync_folder", full)
        with pytest.raises(DiskError, match="No space left"), new_folder(out) as made:
            (made / "a").write_text("a")
    assert list(tmp_path.iterdir()) == []
    with new_folder(out) as made:
        (made / "a").write_text("a")
    assert (out / "a").read_text() == "a"


def test_a_new_folder_comes_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (tmp_path / ".out.making").mkdir()
    (tmp_path / ".out.making" / "old").write_text("of a killed process")
    with pytest.raises(RuntimeError), new_folder(out) as made:
        (made / "a").write_text("x")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with new_folder(out) as made:
        (made / "a").write_text("x")
        with pytest.raises(BusyError, match=f"process {os.getpid()}"), new_folder(out):
            pytest.fail("two at once")
    assert [str(p.relative_to(tmp_path)) for p in sorted(tmp_path.rglob("*"))] == ["out", "out/a"]


def test_what_the_disk_refuses_names_the_file_that_was_to_be_written(tmp_path: Path) -> None:
    import errno

    message = r"a\.txt: No space left on device; check"
    with pytest.raises(DiskError, match=message) as caught, atomic_path(tmp_path / "a.txt"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path / "a.txt"))
    with pytest.raises(FileNotFoundError, match="other"), atomic_path(tmp_path / "a.txt"):
        Path("/nowhere/other").read_text()
    assert list(tmp_path.iterdir()) == []


def test_a_checksum_is_compared_again_where_the_file_changed(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"right")
    digest = sha256_file(path)
    for _ in range(2):
        check_sha256(path, digest, StoreError, "restore it")
    path.write_bytes(b"wrong")
    with pytest.raises(StoreError, match="a: has changed since it was written"):
        check_sha256(path, digest, StoreError, "restore it")
    with pytest.raises(StoreError, match="is missing"):
        check_sha256(tmp_path / "b", digest, StoreError, "restore it")
