"""A crash leaves the old file or the new one; JSON is read with bounds and typed errors."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from nextvec.disk import atomic_path, read_json, refuse_taken, sha256_file, write_json, write_text
from nextvec.errors import StoreError


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
