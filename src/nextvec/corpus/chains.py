"""Windows back into documents: which window goes on where another ends."""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Chain:
    """Windows of one document in order, each the one before moved on by one chunk.

    Attributes:
        doc_id: "" where windows carry none.
        piece: 1 for a document's first chain, 2 for the next that could not be joined to it, ...
        windows: indices.
    """

    doc_id: str
    piece: int
    windows: list[int]


def chain_windows(contexts: NDArray[Any], targets: NDArray[Any], doc_ids: NDArray[Any] | None) -> list[Chain]:
    """Group windows into chains, in the order of their first windows.

    A window follows another of its document when its context is, bit for bit, the other's moved on by
    the other's target, wherever the two stand in the file; of several the next in the file is taken.

    Args:
        contexts: [N, c, D].
        targets: [N, D].
        doc_ids: [N], or None.
    """
    n = len(contexts)
    names = [""] * n if doc_ids is None else [str(i) for i in doc_ids.tolist()]
    follower = _followers(contexts, targets, names)
    followed = set(follower)
    used = [False] * n
    found: list[list[int]] = []
    # Windows that follow none come first; what is left runs in circles (a document that repeats itself).
    for first in sorted(range(n), key=lambda i: (i in followed, i)):
        windows: list[int] = []
        at = first
        while at >= 0 and not used[at]:
            used[at] = True
            windows.append(at)
            at = follower[at]
        if windows:
            found.append(windows)
    pieces: Counter[str] = Counter()
    chains = []
    for windows in sorted(found):
        name = names[windows[0]]
        pieces[name] += 1
        chains.append(Chain(name, pieces[name], windows))
    return chains


def _followers(contexts: NDArray[Any], targets: NDArray[Any], names: list[str]) -> list[int]:
    """For each window the one that follows it, or -1; no window follows two."""
    n = len(contexts)
    starting: dict[tuple[str, bytes], list[int]] = {}
    for i in range(n - 1, -1, -1):
        starting.setdefault((names[i], _key(contexts[i])), []).append(i)
    follower = [-1] * n
    for i in range(n):
        after = np.concatenate([contexts[i, 1:], targets[i : i + 1]])
        candidates = starting.get((names[i], _key(after)), [])  # descending
        later = bisect_left(candidates, -i, key=lambda other: -other)
        if later:
            follower[i] = candidates.pop(later - 1)
        elif candidates and candidates[-1] != i:
            follower[i] = candidates.pop()
    return follower


def _key(block: NDArray[Any]) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(block).tobytes(), digest_size=16).digest()
