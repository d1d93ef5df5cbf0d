"""A decoder is found by its name, or it is said what is wrong."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from nextvec.corpus.store import Store
from nextvec.decoding.load import FOLDERS, DecoderOptions, NearestOptions, check_decoders, open_decoder
from nextvec.errors import DecoderError, NextvecError
from nextvec.vectors import RawVectors


def test_nearest_finds_chunks_of_the_documents_named(world: Store) -> None:
    first = world.documents[3].first
    vectors = RawVectors(world.vectors[first : first + 2], "world")
    with open_decoder("nearest", store=world) as decoder:
        assert decoder.text(vectors) == world.texts([first, first + 1])
    with open_decoder("nearest", store=world, documents=[0, 1]) as decoder:
        rows = [found[0].row for found in decoder.decode(vectors)]
    assert all(row is not None and row < world.documents[2].first for row in rows)


def test_options_reach_their_kind(world: Store) -> None:
    with pytest.raises(DecoderError, match="trade-off of 7"):
        open_decoder("nearest", store=world, options=DecoderOptions(NearestOptions(trade_off=7.0)))


def test_nearest_without_a_store_is_refused() -> None:
    with pytest.raises(DecoderError, match=r"nearest: needs chunks to find; name a store"):
        open_decoder("nearest")


@pytest.mark.parametrize(
    ("manifest", "says"),
    [
        (None, r"made: is not a decoder \(it has no decoder\.json\); give nearest, a folder made by"),
        (
            {"kind": "magic"},
            r"decoder\.json: a decoder of kind 'magic'; this version knows: inverter, vec2text",
        ),
        ({}, r"decoder\.json: a decoder of kind 'None'"),
        ([1], r"decoder\.json: a decoder of kind 'None'"),
        ("{", r"decoder\.json"),
    ],
)
def test_a_folder_that_holds_no_decoder_is_refused(tmp_path: Path, manifest: object, says: str) -> None:
    (tmp_path / "made").mkdir()
    if manifest is not None:
        text = manifest if isinstance(manifest, str) else json.dumps(manifest)
        (tmp_path / "made" / "decoder.json").write_text(text)
    for work in (lambda spec: open_decoder(spec), lambda spec: check_decoders([spec])):
        with pytest.raises(DecoderError, match=says):
            work(str(tmp_path / "made"))


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_kind_may_be_named_with_its_folder(kind: str, tmp_path: Path) -> None:
    check_decoders([f"{kind}:{tmp_path}"])
    with pytest.raises(DecoderError, match=f"{kind}:: no folder named; write {kind}:FOLDER"):
        check_decoders([f"{kind}:"])
    with pytest.raises(NextvecError, match=str(tmp_path)):
        open_decoder(f"{kind}:{tmp_path / 'nowhere'}")


def test_a_decoder_named_twice_is_refused() -> None:
    with pytest.raises(DecoderError, match="nearest: named twice"):
        check_decoders(["nearest", "nearest"])


def test_names_are_checked_without_loading_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    for room in ("inverter", "vec2text", "nearest"):
        monkeypatch.setitem(sys.modules, f"nextvec.decoding.{room}", None)
    check_decoders(["nearest", "vec2text:somewhere"])
    with pytest.raises(ImportError):
        open_decoder("vec2text:somewhere")
