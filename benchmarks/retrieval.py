"""Ranking true next vectors among candidates: our blocks, a plain full matrix, and a faiss flat index.

    python benchmarks/retrieval.py            # 10,000 windows against 80,000 candidates, D = 768
    python benchmarks/retrieval.py --small    # 1,000 against 8,000: a try

Synthetic documents of 40 unit vectors in a file of float16 (as a store has them), predictions that are the
target plus noise. Every method runs in a process of its own and gives the rank of every target among all
chunks, without those read. Seconds are of ranking alone, from the mapped file to the ranks. Memory is the
peak resident set of the whole process; the last line is a process that does everything but ranking. The full
matrix is what one writes first: similarities [N, V] in float32, what was read set to -inf, and counting.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from nextvec.corpus.layout import Vectors
from nextvec.data.gather import VectorSource, gather_rows
from nextvec.data.windows import IntArray, Windows
from nextvec.disk import write_json
from nextvec.evaluation.predictor_protocol import unit
from nextvec.evaluation.ranking import CANDIDATE_BLOCK, Pool, exact_cosines, make_pool, ranks
from nextvec.vectors import rounding

COUNT, CONTEXT, NOISE = 40, 5, 1.2
MIB = 2**20
FloatArray = np.ndarray
Rank = Callable[[FloatArray, Vectors, Pool], np.ndarray]


def ours(units: FloatArray, vectors: Vectors, pool: Pool) -> np.ndarray:
    """Blocks of windows x candidates, exact."""
    return ranks(units, vectors, pool)


def full_matrix(units: FloatArray, vectors: Vectors, pool: Pool) -> np.ndarray:
    """Everything against everything, in numpy."""
    similar = units @ unit(np.asarray(vectors)).T
    every = np.arange(len(units))
    truth = similar[every, pool.target]
    for i, (low, high) in enumerate(zip(pool.read_low, pool.read_high, strict=True)):
        similar[i, low:high] = -np.inf
    return np.asarray(1 + (similar > truth[:, None]).sum(axis=1))


NEAREST = 256
QUERY_BLOCK = 1024


class FaissIndex:
    """All candidates of a pool in one index, V x D float32 in memory."""

    def __init__(self, vectors: VectorSource, pool: Pool) -> None:
        import faiss

        self._vectors = vectors
        self._index = faiss.IndexFlatIP(vectors.shape[1])
        for start in range(0, len(pool), CANDIDATE_BLOCK):
            rows = pool.rows[start : start + CANDIDATE_BLOCK]
            self._index.add(unit(gather_rows(vectors, rows)))

    def ranks(self, units: FloatArray, pool: Pool) -> IntArray:
        """Rank of each target, 1 the best, from predictions [N, D] of unit length.

        Args:
            pool: of the candidates that were indexed, for these N windows.
        """
        found = np.empty(len(units), dtype=np.int64)
        for start in range(0, len(units), QUERY_BLOCK):
            piece = slice(start, start + QUERY_BLOCK)
            found[piece] = self._ranks(np.ascontiguousarray(units[piece]), pool.select(piece))
        return found

    def _ranks(self, units: FloatArray, pool: Pool) -> IntArray:
        similar, nearest = self._index.search(units, min(NEAREST, len(pool)))
        truth = exact_cosines(units, gather_rows(self._vectors, pool.rows[pool.target]))[:, None]
        margin = rounding(units.shape[1])
        counted = _may_come_before(nearest, pool)
        found = 1 + (counted & (similar > truth + margin)).sum(axis=1)
        i, j = np.nonzero(counted & (np.abs(similar - truth) <= margin))
        candidates = gather_rows(self._vectors, pool.rows[nearest[i, j]])
        np.add.at(found, i, exact_cosines(units[i], candidates) > truth[i, 0])
        if similar.shape[1] < len(pool):
            beyond = np.flatnonzero(similar[:, -1] >= truth[:, 0] - margin)
            if len(beyond):
                found[beyond] = ranks(units[beyond], self._vectors, pool.select(beyond))
        return np.asarray(found, dtype=np.int64)


def _may_come_before(nearest: IntArray, pool: Pool) -> np.ndarray:
    """[N, K] which of the positions found count against the target: not given, not it or its equal."""
    low, high, read_low, read_high, query, target = (
        values[:, None]
        for values in (pool.low, pool.high, pool.read_low, pool.read_high, pool.query, pool.target)
    )
    counted = (nearest >= low) & (nearest < high) & (nearest != target) & (nearest != query)
    counted &= (nearest < read_low) | (nearest >= read_high)
    for window, same in pool.tied.items():
        counted[window] &= ~np.isin(nearest[window], same)
    return np.asarray(counted)


def faiss_flat(units: FloatArray, vectors: Vectors, pool: Pool) -> np.ndarray:
    """Flat inner product, the 256 nearest, exact blocks for targets beyond them."""
    return FaissIndex(vectors, pool).ranks(units, pool)


def idle(units: FloatArray, vectors: Vectors, pool: Pool) -> np.ndarray:
    """Everything but ranking: libraries, predictions and pool are in memory."""
    return np.zeros(len(units), dtype=np.int64)


IDLE = "(no ranking)"
METHODS: dict[str, Rank] = {"nextvec": ours, "full matrix": full_matrix, "faiss flat": faiss_flat, IDLE: idle}


def make(folder: Path, windows: int, candidates: int, D: int) -> None:
    """Vectors and predictions as files, written in pieces."""
    rng = np.random.default_rng(0)
    stored = np.lib.format.open_memmap(
        folder / "vectors.npy", mode="w+", dtype=np.float16, shape=(candidates, D)
    )
    for start in range(0, candidates, COUNT):
        centre = rng.standard_normal(D, dtype=np.float32)
        chunks = centre + 1.5 * rng.standard_normal((COUNT, D), dtype=np.float32)
        stored[start : start + COUNT] = unit(chunks)
    stored.flush()
    target = np.sort(rng.choice(_targets(candidates), size=windows, replace=False))
    truth = np.asarray(stored[target], dtype=np.float32)
    noise = rng.standard_normal(truth.shape, dtype=np.float32) / np.sqrt(np.float32(D))
    # from nearly right to nearly blind
    strength = np.geomspace(0.3, 30, windows, dtype=np.float32)[rng.permutation(windows), None]
    np.save(folder / "predictions.npy", unit(truth + NOISE * strength * noise))
    np.save(folder / "target.npy", target)


def _targets(candidates: int) -> np.ndarray:
    rows = np.arange(candidates)
    return rows[rows % COUNT >= CONTEXT]


def measure(folder: Path, method: str) -> None:
    """Run one method in this process; print its figures as JSON and save its ranks."""
    stored = np.load(folder / "vectors.npy", mmap_mode="r", allow_pickle=False)
    candidates, D = stored.shape
    vectors = Vectors([folder / "vectors.npy"], [candidates], D, "float16")
    target = np.load(folder / "target.npy", allow_pickle=False)
    first = target - target % COUNT
    windows = Windows.of_targets(target, first, first // COUNT, CONTEXT)
    ranges = [(row, COUNT) for row in range(0, candidates, COUNT)]
    pool = make_pool(windows, vectors, ranges, lambda rows: [str(row) for row in rows.tolist()])
    units = np.load(folder / "predictions.npy", allow_pickle=False)
    warm_up(method, units[:8], gather_rows(vectors, np.arange(4 * COUNT, dtype=np.int64)))
    started = time.perf_counter()
    found = METHODS[method](units, vectors, pool)
    seconds = time.perf_counter() - started
    np.save(folder / f"{method}.npy", found)
    print(json.dumps({"seconds": seconds, "peak": peak()}))


def warm_up(method: str, units: FloatArray, vectors: FloatArray) -> None:
    """Load the libraries, so that importing them is neither timed nor counted."""
    target = np.full(len(units), COUNT // 2, dtype=np.int64)
    windows = Windows.of_targets(target, np.zeros_like(target), np.zeros_like(target), CONTEXT)
    ranges = [(row, COUNT) for row in range(0, len(vectors), COUNT)]
    pool = make_pool(windows, vectors, ranges, lambda rows: [str(row) for row in rows.tolist()])
    METHODS[method](units, vectors, pool)


def peak() -> float:
    """Largest resident set of this process so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MIB


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--small", action="store_true", help="1,000 windows against 8,000 candidates")
    parser.add_argument("--dimension", type=int, default=768)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--measure", choices=list(METHODS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.folder, options.measure)
        return
    windows, candidates = (1_000, 8_000) if options.small else (10_000, 80_000)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make(folder, windows, candidates, options.dimension)
        print(
            f"{windows:,} windows against {candidates:,} candidates, D = {options.dimension}, "
            f"{os.cpu_count()} cores"
        )
        print(f"{'method':<12} {'seconds':>8} {'peak MiB':>9}  ranks unlike nextvec's")
        rows = [compare(folder, method) for method in METHODS]
    if options.json:
        write_json(options.json, {"windows": windows, "candidates": candidates, "rows": rows})


def compare(folder: Path, method: str) -> dict[str, object]:
    """One line of the table, from a process of its own."""
    command = [sys.executable, __file__, "--measure", method, "--folder", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    row: dict[str, object] = {"method": method, **json.loads(done.stdout)}
    found, reference = (np.load(folder / f"{name}.npy", allow_pickle=False) for name in (method, "nextvec"))
    row["unlike"] = int((found != reference).sum())
    row["median_rank"] = float(np.median(found))
    unlike = "-" if method == IDLE else f"{row['unlike']:,}"
    print(f"{method:<12} {row['seconds']:>8.1f} {row['peak']:>9,.0f}  {unlike}", flush=True)
    return row


if __name__ == "__main__":
    main()
