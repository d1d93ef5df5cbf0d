"""Exact ranks of the true next vector among candidates, without ever holding windows x candidates.

Similarities are float32 matrix products of blocks. A candidate whose similarity is closer to the target's
than float32 can tell apart is compared again in float64, so the ranks are those of float64 cosines, whatever
the blocks, the number of threads or the order of the candidates. What was read is left out by index
arithmetic: the candidates of one document are a contiguous range. Equal texts and equal vectors are known by
identity, not by a small difference: equal columns of a matrix product need not get equal sums.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from nextvec.data.gather import VectorSource, gather_rows
from nextvec.data.windows import FloatArray, IntArray, Windows
from nextvec.evaluation.predictor_protocol import unit
from nextvec.vectors import rounding

CANDIDATES = ("split", "store", "document")
CANDIDATE_BLOCK = 4096
WINDOW_BLOCK = 256
_NOTHING = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True)
class Pool:
    """The candidates that each window's target is ranked among.

    V candidates in store order; positions below are indices into `rows`. Window i chooses among the positions
    low[i] .. high[i] - 1 without read_low[i] .. read_high[i] - 1, which have been read (all but the target,
    where it lies amid them), and without its query.

    Attributes:
        kind: "split", "store" or "document".
        rows: [V] row numbers in the store, ascending.
        target: [N] position of the target.
        low, high, read_low, read_high: [N].
        query: [N] position of the chunk that conditional predictors are given, -1 for none.
        begin, end: [N] position of the first chunk of the target's document, and after its last.
        text, vector: [V] equal numbers mark equal texts, equal vectors.
    """

    kind: str
    rows: IntArray
    target: IntArray
    low: IntArray
    high: IntArray
    read_low: IntArray
    read_high: IntArray
    query: IntArray
    begin: IntArray
    end: IntArray
    text: IntArray
    vector: IntArray

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, which: NDArray[np.bool_] | IntArray | slice) -> Pool:
        per_window = ("target", "low", "high", "read_low", "read_high", "query", "begin", "end")
        return replace(self, **{name: getattr(self, name)[which] for name in per_window})

    @cached_property
    def tied(self) -> dict[int, IntArray]:
        """Window -> ascending positions of the target's text or vector, where there are more than its own."""
        by_text, by_vector = _members(self.text), _members(self.vector)
        unions: dict[tuple[int, int], IntArray] = {}
        tied: dict[int, IntArray] = {}
        for i, position in enumerate(self.target.tolist()):
            key = (int(self.text[position]), int(self.vector[position]))
            if key not in unions:
                unions[key] = np.union1d(by_text.get(key[0], _NOTHING), by_vector.get(key[1], _NOTHING))
            if unions[key].size > 1:
                tied[i] = unions[key]
        return tied

    @cached_property
    def amid(self) -> NDArray[np.bool_]:
        """[N] whether the target lies amid what was read."""
        return (self.read_low <= self.target) & (self.target < self.read_high)

    @cached_property
    def ties(self) -> IntArray:
        """[N] number of other eligible candidates that share the target's text or vector."""
        counts = np.zeros(len(self.target), dtype=np.int64)
        for i, positions in self.tied.items():
            within = _count(positions, self.low[i], self.high[i])
            read = _count(positions, self.read_low[i], self.read_high[i]) - self.amid[i]
            counts[i] = within - read - int(self.query[i] in positions) - 1
        return counts

    @cached_property
    def eligible(self) -> IntArray:
        """[N] candidates that can come before the target, and the target: not given, not tied with it."""
        given = (self.read_high - self.read_low - self.amid) + (self.query >= 0)
        return (self.high - self.low) - given - self.ties

    def allowed(self, windows: IntArray | int, positions: IntArray) -> NDArray[np.bool_]:
        """[n, v] which candidate positions [v] each of these windows [n] may choose: those not given; of one
        window [v]."""
        low, high, read_low, read_high, query, target = (
            values[windows][..., None]
            for values in (self.low, self.high, self.read_low, self.read_high, self.query, self.target)
        )
        read = (positions >= read_low) & (positions < read_high) & (positions != target)
        return np.asarray((positions >= low) & (positions < high) & ~read & (positions != query))

    def chance_recall(self, k: int) -> float:
        """recall@k of a predictor that knows nothing: mean of min(1, k / eligible)."""
        return float(np.minimum(1.0, k / self.eligible).mean())

    def chance_mrr(self) -> float:
        """MRR of a predictor that knows nothing: mean of H(eligible) / eligible, H the harmonic number."""
        harmonic = np.cumsum(1.0 / np.arange(1, int(self.eligible.max()) + 1))
        return float((harmonic[self.eligible - 1] / self.eligible).mean())

    def chance(self, ks: Sequence[int]) -> dict[str, float]:
        """Both, under the metrics' names."""
        return {f"recall@{k}": self.chance_recall(k) for k in ks} | {"mrr": self.chance_mrr()}


def make_pool(
    windows: Windows,
    vectors: VectorSource,
    ranges: Sequence[tuple[int, int]],
    texts: Callable[[IntArray], Sequence[str]],
    kind: str = "split",
) -> Pool:
    """The candidates of `windows`.

    Args:
        ranges: (first row, count) of every document whose chunks are candidates, in store order; the
            documents of all windows among them.
        texts: gives the texts of an array of rows; an empty text equals nothing.
        kind: "document" ranks within the target's own document; the other two within all `ranges`.
    """
    first = np.array([r[0] for r in ranges], dtype=np.int64)
    count = np.array([r[1] for r in ranges], dtype=np.int64)
    starts = np.cumsum(count) - count
    total = int(count.sum())
    rows = np.arange(total, dtype=np.int64) + np.repeat(first - starts, count)
    document = np.searchsorted(first, windows.first)
    start = starts[document]
    own = kind == "document"
    shift = start - windows.first  # from rows of the store to positions
    read_first, read_last = windows.read_range
    none = np.full_like(shift, -1)
    return Pool(
        kind=kind,
        rows=rows,
        target=windows.target + shift,
        low=start if own else np.zeros_like(start),
        high=start + count[document] if own else np.full_like(start, total),
        read_low=read_first + shift,
        read_high=read_last + shift + 1,
        query=none if windows.query is None else np.where(windows.query < 0, none, windows.query + shift),
        begin=start,
        end=start + count[document],
        text=_number_texts(texts(rows)),
        vector=_number_vectors(vectors, rows),
    )


def ranks(units: FloatArray, vectors: VectorSource, pool: Pool) -> IntArray:
    """Rank of each target, 1 the best: 1 + the eligible candidates with a larger cosine.

    Args:
        units: [N, D] predictions of unit length, one a window of the pool.
    """
    import torch

    N, D = units.shape
    truth = exact_cosines(units, gather_rows(vectors, pool.rows[pool.target]))
    margin = rounding(D)
    bounds = np.stack([truth - margin, truth + margin], axis=1).astype(np.float32)
    predictions = torch.from_numpy(np.ascontiguousarray(units))
    found = np.ones(N, dtype=np.int64)
    with _full_precision(), torch.inference_mode():
        for start in range(0, len(pool), CANDIDATE_BLOCK):
            stop = min(start + CANDIDATE_BLOCK, len(pool))
            block = gather_rows(vectors, pool.rows[start:stop])
            candidates = torch.from_numpy(unit(block))
            for a in range(0, N, WINDOW_BLOCK):
                b = min(a + WINDOW_BLOCK, N)
                low = max(int(pool.low[a:b].min()), start)
                high = min(int(pool.high[a:b].max()), stop)
                if low >= high:
                    continue
                # numpy from here on: passes this small only lose by torch's threads
                similar = (predictions[a:b] @ candidates[low - start : high - start].T).numpy()
                _leave_out(similar, pool, a, low)
                above = np.count_nonzero(similar > bounds[a:b, 1:], axis=1)
                found[a:b] += above
                # hardly any row has a similarity near the target's
                close = np.flatnonzero(np.count_nonzero(similar >= bounds[a:b, :1], axis=1) > above)
                which, j = np.nonzero(
                    (similar[close] >= bounds[a + close, :1]) & (similar[close] <= bounds[a + close, 1:])
                )
                i = close[which]
                exact = exact_cosines(units[a + i], block[low - start + j])
                np.add.at(found, a + i, exact > truth[a + i])
    return found


def _leave_out(table: FloatArray, pool: Pool, window: int, position: int) -> None:
    """Put what a window may not choose, and what never counts against it, below every similarity.

    `table` [b, v] is of the windows from `window` on and the candidates from `position` on.
    """
    count, width = table.shape
    which = slice(window, window + count)
    nothing, everything = np.zeros(count, dtype=np.int64), np.full(count, width, dtype=np.int64)
    for low, high in (
        (nothing, pool.low[which] - position),
        (pool.high[which] - position, everything),
        (pool.read_low[which] - position, pool.read_high[which] - position),
        (pool.query[which] - position, pool.query[which] - position + 1),
        (pool.target[which] - position, pool.target[which] - position + 1),
    ):
        low, high = np.maximum(low, 0), np.minimum(high, width)
        for i in np.flatnonzero(low < high).tolist():
            table[i, low[i] : high[i]] = -2.0
    for i in range(count):
        same = pool.tied.get(window + i)
        if same is not None:
            a, b = np.searchsorted(same, (position, position + width))
            table[i, same[a:b] - position] = -2.0


def exact_cosines(units: FloatArray, candidates: FloatArray) -> NDArray[np.float64]:
    """Dot products of unit vectors [n, D] with the directions of candidates [n, D], in float64."""
    out = np.empty(len(units), dtype=np.float64)
    for a in range(0, len(units), 2048):
        wide = candidates[a : a + 2048].astype(np.float64)
        dots = np.einsum("nd,nd->n", units[a : a + 2048].astype(np.float64), wide)
        out[a : a + 2048] = dots / np.sqrt(np.einsum("nd,nd->n", wide, wide))
    return out


@contextlib.contextmanager
def _full_precision() -> Iterator[None]:
    """Training may have allowed products of lower precision; ranks need all of float32."""
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _members(numbers: IntArray) -> dict[int, IntArray]:
    """Number -> ascending positions, for numbers that occur more than once."""
    _, which, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    repeated = np.flatnonzero(counts[which] > 1)
    order = repeated[np.argsort(numbers[repeated], kind="stable")]
    edges = np.flatnonzero(np.diff(numbers[order])) + 1
    return {int(numbers[group[0]]): group for group in np.split(order, edges) if len(group)}


def _count(positions: IntArray, low: int, high: int) -> int:
    a, b = np.searchsorted(positions, (low, high))
    return int(b - a)


def _number_texts(texts: Sequence[str]) -> IntArray:
    seen: dict[str, int] = {}
    # an empty text gets a number of its own: it says nothing about what the vector stands for
    return np.array([seen.setdefault(t, i) if t.strip() else i for i, t in enumerate(texts)], dtype=np.int64)


def _number_vectors(vectors: VectorSource, rows: IntArray) -> IntArray:
    seen: dict[bytes, int] = {}
    numbers = np.empty(len(rows), dtype=np.int64)
    for start in range(0, len(rows), CANDIDATE_BLOCK):
        block = gather_rows(vectors, rows[start : start + CANDIDATE_BLOCK])
        for i, row in enumerate(block, start):
            numbers[i] = seen.setdefault(hashlib.blake2b(row.tobytes(), digest_size=16).digest(), i)
    return numbers
