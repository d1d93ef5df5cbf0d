"""The contract of every back end: the answers of the exact index, in whatever they are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nextvec.corpus.store import NewDocument, Store, StoreWriter
from nextvec.errors import EncoderMismatchError, RetrievalError, VectorError
from nextvec.retrieval.backends import open_index
from nextvec.retrieval.engine import BACKENDS, ExactIndex, IndexSource
from nextvec.retrieval.index import SPARE, Index
from nextvec.vectors import RawVectors, UnitVectors, unit

D, LENGTH, DOCUMENTS = 16, 10, 60
EQUAL = SPARE + 30
"""So many rows are the same vector: more than are compared again."""
RECALL = 0.95
NAMES = sorted(BACKENDS)
KEPT = [name for name in NAMES if BACKENDS[name].address != "none"]


def write(path: Path, seed: int) -> Store:
    """Raw vectors of any length, EQUAL of them one vector, one chunk without a text."""
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((DOCUMENTS * LENGTH, D)) * rng.uniform(0.5, 20, (DOCUMENTS * LENGTH, 1))
    vectors[rng.choice(len(vectors), EQUAL, replace=False)] = vectors[0]
    made = [
        NewDocument.from_chunks(
            f"d{i}", [" " if (i, k) == (3, 4) else f"Chunk {k} of {i}." for k in range(LENGTH)], source="s"
        )
        for i in range(DOCUMENTS)
    ]
    encoder = {"name": "e", "fingerprint": "e"}
    chunker = {"kind": "sentences"}
    with StoreWriter(path, encoder=encoder, dimension=D, chunker=chunker, dtype="float32") as writer:
        writer.add_shard(made, vectors, path="test")
    return Store.open(path)


@pytest.fixture(scope="session")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write(tmp_path_factory.mktemp("stored") / "store", seed=0)


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Callable[[str], str]:
    """A back end's name with the address where the tests keep it. One that is not named here fails."""
    folder = tmp_path_factory.mktemp("kept")
    addresses: dict[str, Callable[[], str]] = {
        "exact": lambda: "",
        "faiss": lambda: "",
        "faiss-hnsw": lambda: f":{folder / 'graphs'}",
        "pgvector": lambda: f":{request.getfixturevalue('database')}",
        "pgvector-hnsw": lambda: f":{request.getfixturevalue('database')}",
        "milvus": lambda: f":{folder / 'milvus.db'}",
    }
    return lambda name: name + addresses[name]()


@pytest.fixture(scope="module", params=NAMES)
def index(request: pytest.FixtureRequest, spec: Callable[[str], str], stored: Store) -> Iterator[Index]:
    """Of every back end, over all chunks with a text."""
    opened = open_index(spec(request.param), stored)
    yield opened
    getattr(opened, "close", lambda: None)()


@pytest.fixture(scope="session")
def reference(stored: Store) -> ExactIndex:
    source = IndexSource.of(stored)
    return ExactIndex(source.vectors, source.rows, source.encoder)


@pytest.fixture(scope="session")
def queries(stored: Store) -> UnitVectors:
    """Some stored, one of them the vector that many are, some not, one of zeros."""
    drawn = np.random.default_rng(5).standard_normal((40, D))
    queries = np.concatenate([stored.vectors[:30], drawn, np.zeros((1, D))]).astype(np.float32)
    return UnitVectors(unit(queries), "e")


def compare(index: Index, reference: ExactIndex, queries: UnitVectors, k: int, without: Any = None) -> None:
    """The same rows, or nearly all of them; in any case true cosines, in order, of rows that may be found."""
    found, due = index.search(queries, k, without), reference.search(queries, k, without)
    assert found.rows.shape == found.scores.shape == (len(queries.values), k)
    assert found.rows.dtype == np.int64
    assert found.scores.dtype == np.float32
    if index.exact:
        np.testing.assert_array_equal(found.rows, due.rows)
        np.testing.assert_array_equal(found.scores, due.scores)
        return
    units = unit(np.asarray(reference._vectors[found.rows.ravel()])).reshape(*found.rows.shape, D)
    cosines = np.einsum("qd,qkd->qk", queries.values, units)
    np.testing.assert_allclose(found.scores, cosines, atol=1e-6)
    assert (np.diff(found.scores, axis=1) <= 0).all()
    assert all(len(set(rows)) == k for rows in found.rows.tolist())
    # of equal rows any will do, so recall is by score
    assert (found.scores >= due.scores[:, -1:] - 1e-6).mean() >= RECALL
    for rows, left in zip(found.rows, without or [], strict=without is not None):
        assert not np.isin(rows, left).any()


def test_the_same_top_20(index: Index, reference: ExactIndex, queries: UnitVectors) -> None:
    assert (index.size, index.dimension, index.encoder) == (DOCUMENTS * LENGTH - 1, D, "e")
    compare(index, reference, queries, 20)
    compare(index, reference, UnitVectors(queries.values[:1], "e"), 1)


def test_rows_left_out(index: Index, reference: ExactIndex, queries: UnitVectors) -> None:
    rng = np.random.default_rng(1)
    near = reference.search(queries, 30).rows
    some = [rng.permutation(rows)[: rng.integers(0, 30)] for rows in near]
    # everything but k, a row that is not held, one twice
    some[0], some[1] = reference.rows[20:], np.array([34, 10**6, near[1, 0], near[1, 0]])
    compare(index, reference, queries, 20, some)
    with pytest.raises(RetrievalError, match=f"{index.size - 20} of them left out; request 1 to 20"):
        index.search(queries, 21, some)


def test_all_rows(index: Index, reference: ExactIndex, queries: UnitVectors) -> None:
    sought = UnitVectors(queries.values[-3:], "e")
    found = index.search(sought, index.size)
    assert all(set(rows) == set(reference.rows.tolist()) for rows in found.rows.tolist())
    np.testing.assert_array_equal(found.rows, reference.search(sought, index.size).rows)


def test_bad_input(index: Index, queries: UnitVectors) -> None:
    values = queries.values
    with pytest.raises(VectorError, match=r"take \.unit"):
        index.search(RawVectors(values, "e"), 1)  # type: ignore[arg-type]
    with pytest.raises(EncoderMismatchError, match="encoder another"):
        index.search(UnitVectors(values, "another"), 1)
    with pytest.raises(RetrievalError, match=rf"index '{index.name}': queries of shape \[16\]"):
        index.search(UnitVectors(values[0], "e"), 1)
    with pytest.raises(RetrievalError, match="shape"):
        index.search(UnitVectors(unit(values[:, :15]), "e"), 1)
    for k in (0, index.size + 1):
        with pytest.raises(RetrievalError, match=f"{k} rows wanted of {index.size}; request 1 to"):
            index.search(queries, k)
    with pytest.raises(RetrievalError, match="give one array a query"):
        index.search(queries, 1, [np.arange(3)])


def test_many_threads_get_the_answers_of_one(index: Index, queries: UnitVectors) -> None:
    pieces = [UnitVectors(queries.values[i : i + 5], "e") for i in range(0, 40, 5)]
    due = [index.search(piece, 7).rows for piece in pieces]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda piece: index.search(piece, 7).rows, pieces * 3))
    for rows, expected in zip(found, due * 3, strict=True):
        np.testing.assert_array_equal(rows, expected)


def test_only_some_documents(index: Index, spec: Callable[[str], str], stored: Store) -> None:
    few = open_index(spec(index.name), stored, documents=[7, 2])
    queries = UnitVectors(unit(stored.vectors[25:26]), "e")
    assert few.search(queries, 1).rows.tolist() == [[25]]
    assert sorted(few.search(queries, 20).rows[0].tolist()) == [*range(20, 30), *range(70, 80)]
    with pytest.raises(RetrievalError, match="no rows to search"):
        open_index(spec(index.name), stored, documents=[])


@pytest.mark.parametrize("index", KEPT, indirect=True)
def test_what_is_kept_is_loaded_once(
    index: Index,
    spec: Callable[[str], str],
    stored: Store,
    queries: UnitVectors,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = write(tmp_path / "other", seed=1 + KEPT.index(index.name))
    with monkeypatch.context() as patch:
        patch.setattr(IndexSource, "blocks", lambda self: pytest.fail("loaded again"))
        again = open_index(spec(index.name), stored)
        with pytest.raises(pytest.fail.Exception):
            open_index(spec(index.name), other)
    np.testing.assert_array_equal(again.search(queries, 9).rows, index.search(queries, 9).rows)
    # a load that breaks off leaves nothing, and another store has a place of its own
    beside = open_index(spec(index.name), other)
    sought = UnitVectors(unit(other.vectors[11:12]), "e")
    assert beside.search(sought, 1).rows.tolist() == [[11]]
    assert index.search(sought, 1).scores[0, 0] < 0.99
