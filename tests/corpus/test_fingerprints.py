from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import unicodedata

import numpy as np
import pytest
from datasketch import MinHash
from hypothesis import given
from hypothesis import strategies as st

from nextvec.corpus.fingerprints import (
    minhash_text,
    minhash_texts,
    minhash_vectors,
    pack,
    similarity,
    text_key,
    text_keys,
    text_sha256,
    unpack,
)

SIGNATURE = [661857236, 21577292, 526287727]
KEY = 5814608031911216775
WORDS = [f"word{i}" for i in range(3000)]


def shingles(words: list[str]) -> set[tuple[str, ...]]:
    return {tuple(words[i : i + 5]) for i in range(len(words) - 4)}


@pytest.mark.parametrize("shared", [0.0, 0.3, 0.8, 1.0])
def test_the_estimate_is_the_jaccard_similarity_of_five_grams(shared: float) -> None:
    rng = np.random.default_rng(int(10 * shared))
    estimates, truths = [], []
    for _ in range(20):
        one = list(rng.choice(WORDS, 400))
        keep = int(400 * shared)
        other = one[:keep] + list(rng.choice(WORDS, 400 - keep))
        a, b = shingles(one), shingles(other)
        truths.append(len(a & b) / len(a | b))
        estimates.append(float(similarity(minhash_text(" ".join(one)), minhash_text(" ".join(other)))))
    # Twenty estimates of 64 permutations each: three standard errors of a share.
    tolerance = 3 * 0.5 / np.sqrt(64 * 20)
    assert np.mean(estimates) == pytest.approx(np.mean(truths), abs=tolerance)


def test_case_punctuation_and_spacing_do_not_count_but_order_does() -> None:
    text = "The quick brown fox jumps over the lazy dog."
    assert (minhash_text(text) == minhash_text("the quick,  brown FOX jumps\nover the lazy dog")).all()
    assert similarity(minhash_text(text), minhash_text(" ".join(reversed(text.split())))) < 0.3


def test_short_documents_are_one_shingle() -> None:
    assert (minhash_text("Only four words here") == minhash_text("only four words here!")).all()
    assert similarity(minhash_text("one two"), minhash_text("two one")) < 0.3
    assert minhash_text("").shape == (64,)


def test_another_process_gives_the_same_hashes() -> None:
    code = (
        "from nextvec.corpus.fingerprints import *;"
        "print(text_key('Straße 5'), pack(minhash_text('a b c d e f g')).hex())"
    )
    environment = {"PYTHONHASHSEED": "7"}
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert out.stdout.split() == [str(text_key("Straße 5")), pack(minhash_text("a b c d e f g")).hex()]


def test_signatures_written_today_can_be_compared_tomorrow() -> None:
    # Fixed values: stores on disk hold signatures made by earlier versions.
    assert minhash_text("the quick brown fox jumps over the lazy dog")[:3].tolist() == SIGNATURE
    assert text_key("Hello, World") == KEY


def test_signatures_pack_and_unpack() -> None:
    signatures = np.stack([minhash_text("a b c d e f"), minhash_text("")])
    np.testing.assert_array_equal(unpack([pack(s) for s in signatures]), signatures)
    assert len(pack(signatures[0])) == 256
    assert unpack([]).shape == (0, 64)


def test_vectors_stand_in_for_a_missing_text() -> None:
    rows = np.random.default_rng(0).standard_normal((200, 4)).astype(np.float16)
    whole = minhash_vectors(rows)
    assert (whole == minhash_vectors(rows.copy())).all()
    assert 0.6 < similarity(whole, minhash_vectors(rows[:160])) < 0.98
    assert similarity(whole, minhash_vectors(rows + np.float16(1))) < 0.1


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Hello, World!", "hello   world", True),
        ("Hello world", "Hello words", False),
        ("ﬁne", "FINE", True),
        ("* * *", "---", False),
        ("- - -", "- - -", True),
    ],
)
def test_text_keys(one: str, other: str, same: bool) -> None:
    assert (text_key(one) == text_key(other)) is same


@given(st.text())
def test_any_text_has_hashes(text: str) -> None:
    assert 0 <= text_key(text) < 2**64
    assert len(text_sha256(text)) == 64
    assert minhash_text(text).dtype == np.uint32


def reference(text: str) -> np.ndarray:
    """The signature word by word, permuted by datasketch."""

    def key(word: str) -> int:
        digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8)
        return int.from_bytes(digest.digest(), "little")

    words = re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold())
    keys, mix = [], 0x9E3779B97F4A7C15
    for i in range(len(words) - 4):
        shingle = 0
        for word in words[i : i + 5]:
            shingle = (shingle * mix + key(word)) % 2**64
        keys.append(shingle)
    short = key(" ".join(words) if words else unicodedata.normalize("NFKC", text).strip())
    sketch = MinHash(num_perm=64, seed=1, scheme="affine32", hashfunc=int)
    sketch.update_batch([(k * mix % 2**64) >> 32 for k in keys or [short]])
    return np.asarray(sketch.hashvalues, np.uint32)


ODD = [
    "a",
    "B",
    "é",
    "ſ",
    "ﬁ",
    "İ",
    "ß",
    " ",
    "\n",
    "—",
    "\u0301",
    "_",
    "5",
    "sixteen-",
    "x" * 17,
    "\0",
    "\ud800",
    "𝒳",
    "²",
]


@given(
    st.lists(
        st.lists(
            st.lists(st.sampled_from(ODD) | st.characters(), max_size=40).map("".join), min_size=1, max_size=4
        ),
        max_size=4,
    )
)
def test_many_documents_have_the_signatures_that_datasketch_gives_each(documents: list[list[str]]) -> None:
    expected = [reference(" ".join(pieces)) for pieces in documents]
    np.testing.assert_array_equal(minhash_texts(documents), np.reshape(expected, (-1, 64)))


@given(st.lists(st.lists(st.sampled_from(ODD) | st.characters(), max_size=12).map("".join), max_size=6))
def test_many_texts_have_the_keys_of_each(texts: list[str]) -> None:
    assert text_keys(texts).tolist() == [text_key(text) for text in texts]
