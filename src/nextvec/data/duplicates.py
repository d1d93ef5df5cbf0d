"""Near-duplicate documents from MinHash signatures, without comparing all pairs and without missing any."""

from __future__ import annotations

import itertools
import math

import numpy as np
from numpy.typing import NDArray


class NearDuplicates:
    """Which documents' signatures resemble one another.

    The estimated Jaccard similarity of two signatures of P hashes is the share of equal hashes (Broder 1997).
    Two that reach `threshold` differ in at most m = P - ceil(threshold P) places, so of any m + 1 bands at
    least one is equal in both (pigeonhole): unlike locality-sensitive hashing tuned by probability, the
    banding misses nothing. Candidates are then compared in full.

    Args:
        minhashes: uint32 [n, P], one row a document, in store order.
        threshold: in (0, 1].
    Attributes:
        signature_of: for each document the number of its signature; equal signatures share one.
    """

    def __init__(self, minhashes: NDArray[np.uint32], threshold: float) -> None:
        numbers: dict[bytes, int] = {}
        firsts: list[int] = []
        self.signature_of: list[int] = []
        for i, row in enumerate(minhashes):
            number = numbers.setdefault(row.tobytes(), len(numbers))
            if number == len(firsts):
                firsts.append(i)
            self.signature_of.append(number)
        self._like = _resembling(minhashes[np.array(firsts, dtype=np.int64)], threshold)

    def signatures_like(self, document: int) -> list[int]:
        """Numbers of the signatures that resemble this document's, its own among them."""
        return self._like[self.signature_of[document]]


def _resembling(signatures: NDArray[np.uint32], threshold: float) -> list[list[int]]:
    """For each distinct signature, those with at least `threshold` of the hashes equal, itself among them."""
    count, hashes = signatures.shape
    needed = math.ceil(threshold * hashes - 1e-9)
    edges = np.linspace(0, hashes, hashes - needed + 2).astype(int)
    bands = [(int(a), int(b)) for a, b in itertools.pairwise(edges)]
    buckets: list[dict[bytes, list[int]]] = [{} for _ in bands]
    like: list[list[int]] = [[i] for i in range(count)]
    for i in range(count):
        candidates: set[int] = set()
        for bucket, (a, b) in zip(buckets, bands, strict=True):
            members = bucket.setdefault(signatures[i, a:b].tobytes(), [])
            candidates.update(members)
            members.append(i)
        rows = np.array(sorted(candidates), dtype=np.int64)
        equal = (signatures[rows] == signatures[i]).sum(axis=1)
        for row in rows[equal >= needed].tolist():
            like[i].append(row)
            like[row].append(i)
    return like
