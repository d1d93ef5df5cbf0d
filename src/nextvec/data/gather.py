"""The vectors of windows, gathered a block at a time, and what was fitted to them, kept."""

from __future__ import annotations

import functools
import hashlib
import weakref
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import numpy as np

from nextvec.corpus.layout import Vectors
from nextvec.data.windows import FloatArray, IntArray, Windows, reading_order


class VectorSource(Protocol):
    """Rows of vectors: `Store.vectors`, or a plain [n, D] array of any float type."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any, /) -> Any: ...


def gather_rows(vectors: VectorSource, rows: IntArray) -> FloatArray:
    """Vectors of an array of rows: [...] -> float32 [..., D].

    Rows that lie close together (windows in store order do) are read as one slice of the memory map and
    picked from memory, which is several times faster than asking the map for each.
    """
    flat = rows.ravel()
    if flat.size == 0:
        return np.zeros((*rows.shape, vectors.shape[1]), dtype=np.float32)
    low, high = int(flat.min()), int(flat.max()) + 1
    if high - low <= flat.size:
        picked = np.asarray(vectors[low:high], dtype=np.float32)[flat - low]
    else:
        picked = np.asarray(vectors[flat], dtype=np.float32)
    return picked.reshape(*rows.shape, -1)


def gather_contexts(vectors: VectorSource, windows: Windows, width: int) -> tuple[FloatArray, IntArray]:
    """What was read of each window, at most the last `width` chunks of it.

    Returns:
        contexts: float32 [N, width, D], in the order it was read, padded with zeros on the right.
        lengths: int64 [N], how many of them are real; at least 1.
    """
    lengths = np.minimum(windows.read, width)
    place = np.arange(width, dtype=np.int64)
    if windows.task == "middle":
        order = reading_order(windows.context)[-width:]
        rows = windows.target[:, None] + order[np.minimum(place, len(order) - 1)]
    else:
        rows = np.minimum((windows.last - lengths + 1)[:, None] + place, windows.last[:, None])
    contexts = gather_rows(vectors, rows)
    contexts[place >= lengths[:, None]] = 0.0
    return contexts, lengths


def read_on(
    contexts: FloatArray, lengths: IntArray, following: FloatArray, width: int
) -> tuple[FloatArray, IntArray]:
    """Contexts [B, T, D] with one more vector each [B, D], of which the last `width` are kept."""
    if contexts.shape[1] < width:
        contexts = np.concatenate([contexts, np.zeros_like(contexts[:, :1])], axis=1)
    else:
        full = lengths == width
        contexts = contexts.copy()
        contexts[full, :-1] = contexts[full, 1:]
        lengths = np.where(full, width - 1, lengths)
    contexts[np.arange(len(lengths)), lengths] = following
    return contexts, lengths + 1


def gather_queries(vectors: VectorSource, windows: Windows) -> FloatArray | None:
    """float32 [N, D] the queries, zeros for none; None where there are none."""
    if windows.query is None:
        return None
    queries = gather_rows(vectors, np.maximum(windows.query, 0))
    queries[windows.query < 0] = 0.0
    return queries


Choices = ParamSpec("Choices")
Found = TypeVar("Found")
Fit = Callable[Concatenate[VectorSource, Windows, Choices], Found]


def remembered(fit: Fit[Choices, Found]) -> Fit[Choices, Found]:
    """`fit`, with its last result kept for a store's vectors (a plain array may change): a table has two
    predictors with one ridge, and each run of a matrix begins with it."""
    last: list[tuple[weakref.ref[Vectors], bytes, Found]] = []

    @functools.wraps(fit)
    def found(
        vectors: VectorSource, train: Windows, /, *args: Choices.args, **kwargs: Choices.kwargs
    ) -> Found:
        if not isinstance(vectors, Vectors):
            return fit(vectors, train, *args, **kwargs)
        digest = hashlib.blake2b()
        for value in (train, *args, *sorted(kwargs.items())):
            parts = vars(value).values() if isinstance(value, Windows) else [value]
            for part in parts:
                digest.update(part.tobytes() if isinstance(part, np.ndarray) else repr(part).encode())
        key = digest.digest()
        for of, kept, result in last:
            if of() is vectors and kept == key:
                return result
        last[:] = [(weakref.ref(vectors), key, fit(vectors, train, *args, **kwargs))]
        return last[0][2]

    return found
