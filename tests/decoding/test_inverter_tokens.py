"""Tokens lose nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decoding.inverting import TEXTS
from nextvec.decoding.inverter.tokenizer import BYTES, Tokens
from nextvec.errors import DecoderError

KINDS = {"bpe": Tokens.learned("bpe", 400, TEXTS), "bytes": Tokens.learned("bytes", 400, TEXTS)}


@given(texts=st.lists(st.text(max_size=60), max_size=4), kind=st.sampled_from(sorted(KINDS)))
def test_any_text_comes_back(texts: list[str], kind: str) -> None:
    tokens = KINDS[kind]
    found = tokens.encode(texts)
    assert tokens.decode(found) == texts
    assert all(0 <= token < tokens.size for of_one in found for token in of_one)


def test_bytes_are_bytes_and_pairs_are_fewer() -> None:
    assert KINDS["bytes"].size == BYTES
    assert KINDS["bytes"].size < KINDS["bpe"].size <= 400
    text = TEXTS[-1]
    (pairs,), (single,) = (KINDS[kind].encode([text]) for kind in ("bpe", "bytes"))
    assert len(single) == len(text.encode())
    assert len(pairs) < len(single)


def test_blank_tokens_are_those_that_show_nothing() -> None:
    tokens = KINDS["bytes"]
    blank = tokens.blank()
    (space, letter), *_ = tokens.encode([" a"])
    assert blank[space]
    assert not blank[letter]
    assert 1 <= blank.sum() < 20


def test_the_same_texts_teach_the_same_tokens() -> None:
    assert Tokens.learned("bpe", 400, TEXTS).sha256 == KINDS["bpe"].sha256 != KINDS["bytes"].sha256


def test_another_tokenizer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    KINDS["bpe"].save(path)
    assert Tokens.load(path, KINDS["bpe"].sha256).encode(TEXTS) == KINDS["bpe"].encode(TEXTS)
    with pytest.raises(DecoderError, match=r"tokenizer\.json: is not the tokenizer the decoder was trained"):
        Tokens.load(path, KINDS["bytes"].sha256)
    path.unlink()
    with pytest.raises(DecoderError, match=r"tokenizer\.json: cannot be read .*; restore the file"):
        Tokens.load(path, KINDS["bpe"].sha256)
