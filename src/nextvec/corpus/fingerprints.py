"""What tells two texts apart, and what tells that two are nearly one: hashes that are the same in every
process, on every machine and in every run (Python's own `hash` is not)."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache, lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

PERMUTATIONS = 64
SHINGLE_WORDS = 5
BLOCK_BYTES = 2**22
"""Of text whose words are hashed together: what is made of them then fits a processor's cache."""
LONG = 16
"""Bytes of a word; longer ones are hashed one by one."""
_FOREIGN = re.compile(r"[^\w\x00-\x7f]+")
_SPELLED = bytes(b if b > 127 or chr(b).isalnum() or chr(b) == "_" else ord(" ") for b in range(256)).lower()
_MASKS = np.array([(1 << 8 * n) - 1 for n in range(9)], np.uint64)
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
    if words:
        return hash64(b" ".join(words))
    return hash64(unicodedata.normalize("NFKC", text).strip().encode("utf-8", "surrogatepass"))


def text_keys(texts: Sequence[str]) -> NDArray[np.uint64]:
    """[n] `text_key` of each."""
    spelled = np.frombuffer(b"\n".join(map(_spelled, texts)), np.uint8)  # no line break is left in a text
    space = spelled == ord(" ")
    single = np.append(True, ~(space[1:] & space[:-1]))[: len(spelled)]
    lines = [line.strip() for line in spelled[single].tobytes().split(b"\n")][: len(texts)]
    digests = b"".join([hashlib.blake2b(line, digest_size=8).digest() for line in lines])
    keys = np.frombuffer(digests, "<u8").astype(np.uint64)
    for i, line in enumerate(lines):
        if not line:
            keys[i] = text_key(texts[i])
    return keys


def minhash_text(text: str) -> MinHash:
    """MinHash [64] over the document's 5-grams of words; a document of fewer words is one shingle.

    Two documents' estimated Jaccard similarity is the share of equal entries (Broder, 1997, "On the
    resemblance and containment of documents"); its standard error is at most 1/16.
    """
    signature: MinHash = minhash_texts([[text]])[0]
    return signature


def minhash_texts(documents: Iterable[Sequence[str]]) -> MinHash:
    """[n, 64] `minhash_text` of many documents, each given in pieces that white space stands between."""
    signatures, held, size = [np.zeros((0, PERMUTATIONS), np.uint32)], list[tuple[Sequence[str], bytes]](), 0
    for pieces in documents:
        held.append((pieces, b" ".join(map(_spelled, pieces))))
        size += len(held[-1][1])
        if size >= BLOCK_BYTES:
            signatures.append(_minhash_block(held))
            held, size = [], 0
    return np.concatenate([*signatures, _minhash_block(held)])


def _minhash_block(held: Sequence[tuple[Sequence[str], bytes]]) -> MinHash:
    """[n, 64] of documents in pieces, and as they are spelled."""
    signatures = np.empty((len(held), PERMUTATIONS), np.uint32)
    starts, hashes = _words_in(b" ".join(spelled for _, spelled in held))
    ends = np.cumsum([len(spelled) + 1 for _, spelled in held])
    last = np.searchsorted(starts, ends)
    first = np.concatenate([[0], last[:-1]])
    long = last - first >= SHINGLE_WORDS
    if long.any():
        shingles = _ngrams(hashes, SHINGLE_WORDS)
        signatures[long] = _signatures(shingles, first[long], last[long] - SHINGLE_WORDS + 1)
    for i in np.flatnonzero(~long).tolist():
        signatures[i] = _minhash(np.array([text_key(" ".join(held[i][0]))], np.uint64))
    return signatures


def ngram_keys(text: str, n: int) -> NDArray[np.uint64]:
    """64-bit keys of every n words in a row, without case and punctuation; none of a text of fewer words."""
    words = _words(text)
    if len(words) < n:
        return np.zeros(0, np.uint64)
    return _ngrams(np.fromiter(map(_word_hash, words), np.uint64, len(words)), n)


def _ngrams(hashes: NDArray[np.uint64], n: int) -> NDArray[np.uint64]:
    """Keys of every n words in a row, of their hashes."""
    count = len(hashes) - n + 1
    keys = np.zeros(count, np.uint64)
    for k in range(n):
        # Multiply and add, wrapping: a polynomial in the words, so their order counts.
        keys *= _MIX
        keys += hashes[k : k + count]
    return keys


def minhash_vectors(vectors: NDArray[Any]) -> MinHash:
    """MinHash [64] over the vectors of one document [T, D], for documents without text."""
    rows = np.ascontiguousarray(vectors)
    return _minhash(np.array([hash64(row.tobytes()) for row in rows], np.uint64))


def similarity(one: MinHash, other: MinHash) -> NDArray[np.float64]:
    """Estimated Jaccard similarity of signatures [..., 64] and [..., 64] (broadcast)."""
    return np.asarray(np.mean(one == other, axis=-1, dtype=np.float64))


def pack(signature: MinHash) -> bytes:
    """A signature as 256 bytes, little endian."""
    return signature.astype("<u4").tobytes()


def unpack(packed: Sequence[bytes] | Iterable[bytes]) -> MinHash:
    """Signatures [n, 64] from their bytes."""
    return np.frombuffer(b"".join(packed), "<u4").reshape(-1, PERMUTATIONS).astype(np.uint32)


def _spelled(text: str) -> bytes:
    """The text's words without case, between spaces, in UTF-8."""
    if not text.isascii():
        text = _FOREIGN.sub(" ", unicodedata.normalize("NFKC", text).casefold())
    return text.encode().translate(_SPELLED)


def _words(text: str) -> list[bytes]:
    return _spelled(text).split()


def hash64(data: bytes) -> int:
    """64 bits of the BLAKE2 digest."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


_word_hash = lru_cache(maxsize=2**17)(hash64)


def _words_in(spelled: bytes) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """Where each word begins, and its hash. Each different one is hashed once."""
    padded = b" " + spelled + b" " * (LONG + 8)
    letter = np.frombuffer(padded, np.uint8) != ord(" ")
    edges = np.flatnonzero(letter[1:] != letter[:-1]) + 1
    start, end = edges[::2], edges[1::2]
    length = end - start
    eight = np.ndarray(len(padded) - 7, "<u8", padded, strides=(1,))  # the eight bytes from every place on
    words = np.empty((len(start), 2), np.uint64)
    words[:, 0] = eight[start] & _MASKS[np.minimum(length, 8)]
    words[:, 1] = eight[start + 8] & _MASKS[np.clip(length - 8, 0, 8)]
    kind = pa.binary(LONG)
    numbered = pa.Array.from_buffers(kind, len(words), [None, pa.py_buffer(words)]).dictionary_encode()
    different = np.frombuffer(numbered.dictionary.buffers()[1], f"S{LONG}", len(numbered.dictionary)).tolist()
    hashes = np.fromiter(map(_word_hash, different), np.uint64, len(different))
    hashes = hashes[np.from_dlpack(numbered.indices)]
    for i in np.flatnonzero(length > LONG):
        hashes[i] = _word_hash(padded[start[i] : end[i]])
    return start - 1, hashes


def _minhash(shingles: NDArray[np.uint64]) -> MinHash:
    signature: MinHash = _signatures(shingles, np.array([0]), np.array([len(shingles)]))[0]
    return signature


def _signatures(shingles: NDArray[np.uint64], first: NDArray[np.int64], end: NDArray[np.int64]) -> MinHash:
    """[n, 64] of the shingles from `first` [n] to before `end` [n], which ascend.

    A permutation is x -> a x + b modulo 2^32 with an odd a, of what MurmurHash3's finaliser makes of the
    shingle: the "affine32" of datasketch, with its random numbers, because stored signatures have to stay
    comparable.
    """
    x = ((shingles * _MIX) >> np.uint64(32)).astype(np.uint32)  # the upper half is the well mixed one
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x ^= x >> np.uint32(shift)
        x *= np.uint32(factor)
    x ^= x >> np.uint32(16)
    cuts = np.stack([first, end], axis=1).ravel()
    cuts = cuts[: len(cuts) - int(end[-1] == len(x))]
    signatures = np.empty((len(first), PERMUTATIONS), np.uint32)
    permuted = np.empty_like(x)
    for k, (a, b) in enumerate(_permutations()):
        np.multiply(x, a, out=permuted)
        permuted += b
        signatures[:, k] = np.minimum.reduceat(permuted, cuts)[::2]
    return signatures


@cache
def _permutations() -> list[tuple[np.uint32, np.uint32]]:
    random = np.random.RandomState(1)  # the generator that datasketch takes
    a = random.randint(0, 2**31, PERMUTATIONS, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
    return list(zip(a, random.randint(0, 2**32, PERMUTATIONS, dtype=np.uint32), strict=True))
