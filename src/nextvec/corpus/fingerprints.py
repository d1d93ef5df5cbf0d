"""What tells two texts apart, and what tells that two are nearly one: hashes that are the same in every
process, on every machine and in every run (Python's own `hash` is not)."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

PERMUTATIONS = 64
SHINGLE_WORDS = 5
_WORD = re.compile(r"\w+")
_MIX = np.uint64(0x9E3779B97F4A7C15)
MinHash = NDArray[np.uint32]


def text_sha256(text: str) -> str:
    """Hex sha256 of a text's UTF-8 bytes (a lone surrogate is kept, not refused)."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def vectors_sha256(vectors: NDArray[Any]) -> str:
    """Hex sha256 of the bytes of an array, for documents that came without text."""
    return hashlib.sha256(np.ascontiguousarray(vectors).tobytes()).hexdigest()


def text_key(text: str) -> int:
    """64-bit key of a text without case, punctuation and spacing: equal keys mean duplicate texts.

    A text without any letter or digit is keyed by what it is made of, so that "* * *" and "---" differ.
    """
    words = _words(text)
    normal = " ".join(words) if words else unicodedata.normalize("NFKC", text).strip()
    return int.from_bytes(_digest(normal), "little")


def minhash_text(text: str) -> MinHash:
    """MinHash [64] over the document's 5-grams of words; a document of fewer words is one shingle.

    Two documents' estimated Jaccard similarity is the share of equal entries (Broder, 1997, "On the
    resemblance and containment of documents"); its standard error is at most 1/16.
    """
    shingles = ngram_keys(text, SHINGLE_WORDS)
    return _minhash(shingles if len(shingles) else np.array([text_key(text)], np.uint64))


def ngram_keys(text: str, n: int) -> NDArray[np.uint64]:
    """64-bit keys of every n words in a row, without case and punctuation; none of a text of fewer words."""
    words = _words(text)
    if len(words) < n:
        return np.zeros(0, np.uint64)
    hashes = np.fromiter((_word_hash(w) for w in words), np.uint64, len(words))
    count = len(words) - n + 1
    keys = np.zeros(count, np.uint64)
    for k in range(n):
        # Multiply and add, wrapping: a polynomial in the words, so their order counts.
        keys = keys * _MIX + hashes[k : k + count]
    return keys


def minhash_vectors(vectors: NDArray[Any]) -> MinHash:
    """MinHash [64] over the vectors of one document [T, D], for documents without text."""
    rows = np.ascontiguousarray(vectors)
    return _minhash(np.array([int.from_bytes(_digest_bytes(r.tobytes()), "little") for r in rows], np.uint64))


def similarity(one: MinHash, other: MinHash) -> NDArray[np.float64]:
    """Estimated Jaccard similarity of signatures [..., 64] and [..., 64] (broadcast)."""
    return np.asarray(np.mean(one == other, axis=-1, dtype=np.float64))


def pack(signature: MinHash) -> bytes:
    """A signature as 256 bytes, little endian."""
    return signature.astype("<u4").tobytes()


def unpack(packed: Sequence[bytes] | Iterable[bytes]) -> MinHash:
    """Signatures [n, 64] from their bytes."""
    return np.frombuffer(b"".join(packed), "<u4").reshape(-1, PERMUTATIONS).astype(np.uint32)


def _words(text: str) -> list[str]:
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def _digest(text: str) -> bytes:
    return _digest_bytes(text.encode("utf-8", "surrogatepass"))


def _digest_bytes(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=8).digest()


@lru_cache(maxsize=2**17)
def _word_hash(word: str) -> int:
    return int.from_bytes(_digest(word), "little")


def _minhash(shingles: NDArray[np.uint64]) -> MinHash:
    from datasketch import MinHash as Sketch

    # The upper half of the product is the well mixed one. The scheme is named because stored signatures
    # must stay comparable when the library's default changes.
    items = np.unique((shingles * _MIX) >> np.uint64(32))
    sketch = Sketch(num_perm=PERMUTATIONS, seed=1, scheme="affine32", hashfunc=int)
    for start in range(0, len(items), 2**16):
        sketch.update_batch(items[start : start + 2**16].tolist())
    return np.asarray(sketch.hashvalues, np.uint32)
