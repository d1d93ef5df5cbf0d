"""Vectors: the store's rows as one read-only [n, D] array over memory-mapped shards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from nextvec.corpus.layout import open_vectors

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]


def widen(values: NDArray[Any]) -> FloatArray:
    """float16 or float32 -> float32, exactly, for finite values.

    numpy converts float16 one value at a time. Shifting the bits into float32's fields and scaling by
    2^112 (the difference of the exponent biases) is exact, subnormals included, and six times as fast.
    """
    if values.dtype != np.float16:
        return values.astype(np.float32, copy=False)
    bits = values.view(np.int16).astype(np.int32)
    bits <<= 13
    bits &= np.int32(-0x70002000)  # 0x8fffe000: the sign, five exponent bits, ten fraction bits
    wide: FloatArray = bits.view(np.float32)
    wide *= np.float32(2.0**112)
    return wide


class Vectors:
    """A read-only [n, D] array; whatever its dtype on disk, what is read from it is float32.

    Args:
        files: one .npy file a shard.
        rows: rows of each.
        dimension: D.
        stored_dtype: "float16" or "float32".
    Raises:
        StoreError: a shard file that is missing, truncated or of another shape.
    """

    def __init__(self, files: Sequence[Path], rows: Sequence[int], dimension: int, stored_dtype: str) -> None:
        self._made_of = (tuple(files), tuple(rows), dimension, stored_dtype)
        self._shards = [open_vectors(f, n, dimension, stored_dtype) for f, n in zip(files, rows, strict=True)]
        self._starts = np.concatenate([[0], np.cumsum(rows, dtype=np.int64)]).astype(np.int64)
        self.shape = (int(self._starts[-1]), dimension)
        self.dtype = np.dtype(np.float32)
        self.stored_dtype = stored_dtype
        self.ndim = 2

    def __reduce__(self) -> tuple[Any, ...]:
        # A worker process maps the files again instead of receiving their contents.
        return (Vectors, self._made_of)

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"Vectors({self.shape[0]} x {self.shape[1]}, {self.stored_dtype} on disk)"

    def gather(self, rows: NDArray[np.integer[Any]]) -> FloatArray:
        """The vectors of `rows` (any shape [...], in any order) as float32 [..., D].

        Raises:
            IndexError: a row outside 0..n-1 (negative rows are an error here, not a count from the end).
        """
        rows = np.asarray(rows)
        if rows.size == 0:
            return np.empty((*rows.shape, self.shape[1]), np.float32)
        low, high = int(rows.min()), int(rows.max())
        if low < 0 or high >= self.shape[0]:
            raise IndexError(f"row {low if low < 0 else high} of {self.shape[0]} vectors")
        first, last = (int(np.searchsorted(self._starts, r, side="right")) - 1 for r in (low, high))
        if first == last:
            return widen(self._shards[first].take(rows - self._starts[first], axis=0))
        return self._gather_across(rows)

    def _gather_across(self, rows: NDArray[np.integer[Any]]) -> FloatArray:
        flat = rows.reshape(-1)
        order = np.argsort(flat, kind="stable")
        ordered = flat[order]
        cuts = np.searchsorted(ordered, self._starts)
        out = np.empty((flat.size, self.shape[1]), np.float32)
        for shard in np.flatnonzero(np.diff(cuts)):
            part = slice(cuts[shard], cuts[shard + 1])
            out[order[part]] = widen(self._shards[shard].take(ordered[part] - self._starts[shard], axis=0))
        return out.reshape(*rows.shape, self.shape[1])

    def __getitem__(self, key: Any) -> FloatArray:
        """int -> [D]; slice, list, int or bool array -> [..., D]. Negative rows count from the end."""
        n = self.shape[0]
        if isinstance(key, slice):
            start, stop, step = key.indices(n)
            return self._block(start, stop) if step == 1 else self.gather(np.arange(start, stop, step))
        rows = np.asarray(key)
        if rows.dtype == np.bool_:
            if rows.shape != (n,):
                raise IndexError(f"mask of shape {rows.shape} on {n} vectors")
            return self.gather(np.flatnonzero(rows))
        if rows.dtype.kind not in "iu":
            raise IndexError("rows are given as an int, a slice or an array of int or bool")
        return self.gather(np.where(rows < 0, rows + n, rows))

    def _block(self, start: int, stop: int) -> FloatArray:
        out = np.empty((max(stop - start, 0), self.shape[1]), np.float32)
        for shard, (low, high) in enumerate(zip(self._starts[:-1], self._starts[1:], strict=True)):
            a, b = max(start, int(low)), min(stop, int(high))
            if a < b:
                out[a - start : b - start] = widen(self._shards[shard][a - low : b - low])
        return out

    def blocks(self, size: int = 8192) -> Iterator[tuple[int, FloatArray]]:
        """(first row, float32 [<= size, D]) over the whole store, without loading it."""
        for start in range(0, self.shape[0], size):
            yield start, self._block(start, min(start + size, self.shape[0]))

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("the vectors lie in several files: an array of them is always a copy")
        return self._block(0, self.shape[0]).astype(dtype or np.float32, copy=False)
