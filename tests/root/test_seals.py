"""Text files that carry their checksum: no bit of them changes unseen, and who means it can change them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from by_hand import by_hand
from nextvec.config import read_toml, write_toml
from nextvec.disk import read_json, read_object, write_json, write_lines
from nextvec.errors import NextvecError, RunError
from nextvec.seals import is_sealed
from nextvec.training.history import HISTORY, read_history

VALUE = {"a": "é", "b": {"seal": "c"}, "c": [1.5, None]}


def read_as_json(path: Path) -> Any:
    return read_json(path, RunError)


def read_lines(path: Path) -> Any:
    return read_history(path.parent)


TABLE = {"a": {"b": 1.5}, "c": "é"}
FORMS: dict[str, tuple[Callable[[Path], object], Callable[[Path], Any], Any]] = {
    "a.json": (lambda path: write_json(path, VALUE, sealed=True), read_as_json, VALUE),
    HISTORY: (lambda path: write_lines(path, [VALUE, {"d": 1}]), read_lines, [VALUE, {"d": 1}]),
    "a.toml": (
        lambda path: write_toml(path, {"a": {"b": 1.5}, "c": "é"}),
        read_toml,
        {"a": {"b": 1.5}, "c": "é"},
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_flipped_bit_and_every_cut_is_seen(name: str, tmp_path: Path) -> None:
    path, (write, read, value) = tmp_path / name, FORMS[name]
    write(path)
    assert read(path) == value
    assert is_sealed(path)
    good = path.read_bytes()
    damaged = [good[:i] for i in range(1, len(good))]
    damaged += [
        good[:i] + bytes([good[i] ^ 1 << bit]) + good[i + 1 :] for i in range(len(good)) for bit in range(8)
    ]
    for content in damaged:
        path.write_bytes(content)
        try:
            found = read(path)
        except NextvecError as e:
            assert str(path) in str(e)  # noqa: PT017 - the same content is right too
        else:
            assert found in (value, {}, []), content  # no table is left: who reads it misses the keys


@pytest.mark.parametrize("name", FORMS)
def test_who_changes_one_by_hand_takes_the_seal_out(name: str, tmp_path: Path) -> None:
    path, (write, read, _) = tmp_path / name, FORMS[name]
    write(path)
    sealed = path.read_text()
    path.write_text(sealed.replace("1.5", "2.5"))
    with pytest.raises(
        NextvecError, match=r"has changed since it was written.*take its (first line|entry 'seal') out"
    ):
        read(path)
    path.write_text(sealed)
    path.write_text(by_hand(path).replace("1.5", "2.5"))
    assert "2.5" in json.dumps(read(path))
    assert not is_sealed(path)


@pytest.mark.parametrize(
    "content", ["{}", "[]", "null", "3", '"x"', '{"n": true}', '{"n": "1"}', '{"n": null}']
)
def test_what_is_no_such_object_is_a_typed_error(content: str, tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    path.write_text(content)
    with pytest.raises(RunError, match=r"metrics\.json: (is not a JSON object|has no entry 'n' of)"):
        read_object(path, RunError, needs={"n": float})
    path.write_text('{"n": 1}')
    assert read_object(path, RunError, needs={"n": float}) == {"n": 1}
