"""What is particular to a back end: its address, what it keeps, what goes wrong with it."""

from __future__ import annotations

import importlib.util
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import psycopg
import pytest
from psycopg import sql

from nextvec.cli.retrieve import index_drop, index_list
from nextvec.corpus.layout import FloatArray, IntArray
from nextvec.corpus.store import Store
from nextvec.errors import ConfigError, MissingDependencyError, RetrievalError
from nextvec.retrieval import milvus, pgvector
from nextvec.retrieval.backends import FaissIndex, drop_rows, find_backend, held_rows, open_index
from nextvec.retrieval.engine import BACKENDS, EngineIndex, ExactIndex, IndexSource, backend
from nextvec.vectors import UnitVectors, unit

UNREACHABLE = "postgresql://reader:s3cret@127.0.0.1:9/passages"


@pytest.fixture
def queries(world: Store) -> UnitVectors:
    """[5, D] of stored vectors."""
    return UnitVectors(unit(world.vectors[100:105]), "world")


def nearest(world: Store, queries: UnitVectors, k: int) -> np.ndarray:
    return ExactIndex.of(world).search(queries, k).rows


class Stubborn(EngineIndex):
    """Gives 40 candidates a query and no more, shifted by `off`."""

    name, exact = "stubborn", True
    most: ClassVar[int] = 40
    off = 0

    def _ask(self, queries: FloatArray, n: int) -> tuple[FloatArray, IntArray]:
        similar = queries @ unit(self._vectors[self.rows]).T
        places = np.argsort(-similar, axis=1)[:, :n]
        return np.take_along_axis(similar, places, axis=1), places + self.off


def test_an_engine_that_gives_too_few_is_helped(world: Store, queries: UnitVectors) -> None:
    index = Stubborn(IndexSource.of(world))
    np.testing.assert_array_equal(index.search(queries, 90).rows, nearest(world, queries, 90))
    without = list(nearest(world, queries, 60))
    found = index.search(queries, 5, without).rows
    np.testing.assert_array_equal(found, nearest(world, queries, 65)[:, 60:])


def test_an_engine_that_names_rows_that_are_not_there(world: Store, queries: UnitVectors) -> None:
    index = Stubborn(IndexSource.of(world))
    index.off = 480
    with pytest.raises(RetrievalError, match=r"index 'stubborn': names row \d+ of 480; delete"):
        index.search(queries, 3)


def test_names_and_addresses() -> None:
    assert find_backend("exact")[1] is None
    assert find_backend("faiss-hnsw")[1] is None
    assert find_backend("milvus:https://host:19530")[1] == "https://host:19530"
    for spec, message in {
        "annoy": "no index 'annoy'; choose one of: exact, faiss, faiss-hnsw, milvus, pgvector",
        "pgvector": "index 'pgvector': its address is missing; write pgvector:ADDRESS",
        "milvus:": "index 'milvus': its address is missing",
        "faiss:folder": "index 'faiss': takes no such address",
        "faiss-hnsw:": "without the colon",
    }.items():
        with pytest.raises(RetrievalError, match=message):
            find_backend(spec)
    with pytest.raises(ValueError, match="taken"):
        backend("exact")(lambda source, address: ExactIndex.of(source.store))
    assert len({known.summary for known in BACKENDS.values()}) == len(BACKENDS)


@pytest.mark.parametrize(
    ("spec", "package", "extra"),
    [
        ("faiss", "faiss", "faiss"),
        ("faiss-hnsw", "faiss", "faiss"),
        ("pgvector:postgresql:///x", "psycopg", "pgvector"),
        ("pgvector-hnsw:postgresql:///x", "pgvector", "pgvector"),
        ("milvus:x.db", "pymilvus", "milvus"),
    ],
)
def test_a_missing_package(
    spec: str, package: str, extra: str, world: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else found(name))
    with pytest.raises(MissingDependencyError, match=rf"needs {package}.*pip install nextvec\[{extra}\]"):
        open_index(spec, world)


def test_the_graph_is_kept_in_a_folder(world: Store, queries: UnitVectors, tmp_path: Path) -> None:
    spec = f"faiss-hnsw:{tmp_path}"
    found = open_index(spec, world).search(queries, 3).rows
    [file], [note] = tmp_path.glob("*.faiss"), tmp_path.glob("*.json")
    assert file.stem == note.stem == IndexSource.of(world).identity
    assert json.loads(note.read_text())["rows"] == 480
    np.testing.assert_array_equal(open_index(spec, world).search(queries, 3).rows, found)
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(RetrievalError, match=r"\.faiss: is not the file that was written .*; delete"):
        open_index(spec, world)
    file.write_bytes(whole + bytes(2**21))
    with pytest.raises(RetrievalError, match="is missing or too large"):
        open_index(spec, world)
    file.unlink()
    with pytest.raises(RetrievalError, match="is missing or too large"):
        open_index(spec, world)
    note.unlink()
    np.testing.assert_array_equal(open_index(spec, world).search(queries, 3).rows, found)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_graph_that_cannot_be_written(world: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(RetrievalError, match=r"cannot be written .*; name a folder"):
        open_index(f"faiss-hnsw:{tmp_path / 'file'}", world)


def test_a_database_that_does_not_answer(world: Store, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for address in (UNREACHABLE, "postgresql://reader:s3cret@host:port/x", "postgresql://h/x?colour=s3cret"):
        with pytest.raises(RetrievalError, match="index 'pgvector': ") as refused:
            open_index(f"pgvector:{address}", world)
        assert "s3cret" not in repr(refused.value) + caplog.text
        assert refused.value.__cause__ is None
        assert refused.value.__suppress_context__


def test_what_the_database_repeats_of_the_password_is_struck() -> None:
    server = pgvector._Server(UNREACHABLE, "here")
    output = server.error(psycopg.OperationalError("no s3cret here\nmore"))
    assert str(output).startswith("here: the database 127.0.0.1/passages answered: no *** here; check")


def test_a_lost_connection_is_made_anew(world: Store, queries: UnitVectors, database: str) -> None:
    index = open_index(f"pgvector:{database}", world)
    assert isinstance(index, pgvector.PgvectorIndex)
    with psycopg.connect(database, autocommit=True) as admin:
        admin.execute("SELECT pg_terminate_backend(%s)", (index._held.info.backend_pid,))
    np.testing.assert_array_equal(index.search(queries, 4).rows, nearest(world, queries, 4))
    index.close()
    np.testing.assert_array_equal(index.search(queries, 4).rows, nearest(world, queries, 4))
    with psycopg.connect(database, autocommit=True) as admin:
        admin.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(index._table)))
    with pytest.raises(RetrievalError, match="does not exist"):
        index.search(queries, 4)


def test_a_table_that_lost_rows(world: Store, database: str) -> None:
    index = open_index(f"pgvector:{database}", world, documents=[1])
    assert isinstance(index, pgvector.PgvectorIndex)
    with psycopg.connect(database, autocommit=True) as admin:
        admin.execute(sql.SQL("DELETE FROM {} WHERE place = 3").format(sql.Identifier(index._table)))
        with pytest.raises(RetrievalError, match=r"does not hold the 12 rows .*; drop it"):
            open_index(f"pgvector:{database}", world, documents=[1])
        admin.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(index._table)))
    assert open_index(f"pgvector:{database}", world, documents=[1]).size == 12


def test_the_table_stays_exact_beside_a_graph(world: Store, database: str) -> None:
    """The plan of the exact index reads the table even where the graph's index is there."""
    graph = open_index(f"pgvector-hnsw:{database}", world, documents=[4, 5])
    plain = open_index(f"pgvector:{database}", world, documents=[4, 5])
    plans = []
    for index in (graph, plain):
        assert isinstance(index, pgvector.PgvectorIndex)
        query = sql.SQL("EXPLAIN SELECT place FROM {} ORDER BY vector <=> %s LIMIT 3").format(
            sql.Identifier(index._table)
        )
        plans.append(str(index._held.execute(query, (world.vectors[0],)).fetchall()))
    assert "Index Scan" in plans[0]
    assert "Index Scan" not in plans[1]


@pytest.mark.parametrize(
    ("module", "limit", "spec"),
    [
        (pgvector, "TABLE_MOST", "pgvector"),
        (pgvector, "GRAPH_MOST", "pgvector-hnsw"),
        (milvus, "DIMENSIONS", "milvus"),
    ],
)
def test_too_many_dimensions(
    module: Any,
    limit: str,
    spec: str,
    make_world: Callable[..., Store],
    database: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = make_world(tmp_path / "store", documents=4, seed=77)
    monkeypatch.setattr(module, limit, 8)
    address = tmp_path / "m.db" if spec == "milvus" else database
    with pytest.raises(RetrievalError, match="8 dimensions at most, these have 16; take the index exact or"):
        open_index(f"{spec}:{address}", store)


@pytest.mark.parametrize("address", ["folder", "ftp://host", "http://root:s3cret@host:19530"])
def test_no_address_of_milvus(address: str, world: Store) -> None:
    with pytest.raises(RetrievalError, match="this is not an address of Milvus") as refused:
        open_index(f"milvus:{address}", world)
    assert "s3cret" not in repr(refused.value)


def test_a_milvus_that_does_not_answer(
    world: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(milvus, "CONNECT_SECONDS", 0.2)
    monkeypatch.setenv(milvus.TOKEN, "s3cret")
    with pytest.raises(
        RetrievalError, match=r"index 'milvus': Milvus answered: .*; check its address"
    ) as refused:
        open_index("milvus:http://127.0.0.1:9", world)
    assert "Traceback" not in caplog.text
    assert not [record for record in caplog.records if record.name.startswith("pymilvus")]
    assert "s3cret" not in repr(refused.value)


def test_a_milvus_file_that_is_none(world: Store, tmp_path: Path) -> None:
    (tmp_path / "other.db").write_text("not of Milvus")
    with pytest.raises(RetrievalError, match="index 'milvus': Milvus answered"):
        open_index(f"milvus:{tmp_path / 'other.db'}", world)


def test_a_collection_that_lost_rows(world: Store, tmp_path: Path) -> None:
    spec = f"milvus:{tmp_path / 'm.db'}"
    index = open_index(spec, world, documents=[1])
    assert isinstance(index, milvus.MilvusIndex)
    index._client.delete(index._collection, ids=[3])
    with pytest.raises(RetrievalError, match=r"does not hold the 12 rows .*; drop it"):
        open_index(spec, world, documents=[1])


def test_faiss_is_asked_with_any_layout(world: Store, queries: UnitVectors) -> None:
    index = open_index("faiss", world)
    assert isinstance(index, FaissIndex)
    columns = UnitVectors(np.asfortranarray(queries.values), "world")
    np.testing.assert_array_equal(index.search(columns, 6).rows, nearest(world, queries, 6))


HELD = ("place", "doc_id", "position", "title", "source", "text")


def output(world: Store, row: int) -> tuple[Any, ...]:
    return tuple(world.chunks[name][row].as_py() for name in HELD[1:])


def test_a_table_is_of_use_to_others(world: Store, database: str) -> None:
    open_index(f"pgvector-hnsw:{database}", world, documents=[2, 3])
    name = IndexSource.of(world, [2, 3]).name
    [held] = [rows for rows in held_rows(f"pgvector:{database}") if rows.name == name]
    assert held.rows == 24
    assert "24 chunks of the store store, encoder world, 16 dimensions" in held.about
    with psycopg.connect(database, autocommit=True) as anyone:
        query = sql.SQL(
            "SELECT place, doc_id, position, title, source, text FROM {} "
            "ORDER BY vector <=> %s::vector LIMIT 1"
        ).format(sql.Identifier(held.name))
        vector = str((3 * world.vectors[30]).tolist())
        [found] = anyone.execute(query, (vector,)).fetchall()
        assert found == (30 - 24, *output(world, 30))
        anyone.execute("SET enable_seqscan = off")
        plan = str(anyone.execute(sql.SQL("EXPLAIN ") + query, (vector,)).fetchall())
        assert f"{held.name}_hnsw" in plan
        keys = anyone.execute(
            "SELECT pg_get_constraintdef(oid) FROM pg_constraint "
            "WHERE conrelid = %s::regclass AND contype = 'p'",
            (held.name,),
        ).fetchall()
        assert keys == [('PRIMARY KEY (doc_id, "position")',)]
        comments = anyone.execute(
            "SELECT count(col_description(%s::regclass, n)) FROM generate_series(1, 7) n", (held.name,)
        ).fetchone()
        assert comments == (7,)


def test_a_collection_is_of_use_to_others(world: Store, tmp_path: Path) -> None:
    spec = f"milvus:{tmp_path / 'm.db'}"
    index = open_index(spec, world, documents=[2, 3])
    assert isinstance(index, milvus.MilvusIndex)
    [[hit]] = index._client.search(
        index._collection, data=[3 * world.vectors[30]], limit=1, anns_field="vector", output_fields=[*HELD]
    )
    assert tuple(hit["entity"][name] for name in HELD) == (30 - 24, *output(world, 30))
    assert hit["distance"] == pytest.approx(1, abs=1e-5)
    index.close()
    [held] = held_rows(spec)
    assert (held.name, held.rows) == (IndexSource.of(world, [2, 3]).name, 24)


@pytest.mark.parametrize("engine", ["pgvector", "milvus"])
def test_what_no_store_uses_is_dropped(
    world: Store, database: str, tmp_path: Path, engine: str, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = f"{engine}:{database if engine == 'pgvector' else tmp_path / 'm.db'}"
    open_index(spec, world, documents=[6]).close()  # type: ignore[attr-defined]
    name = IndexSource.of(world, [6]).name
    index_list(spec)
    assert name in capsys.readouterr().out
    index_drop(spec, name)
    assert name not in [held.name for held in held_rows(spec)]
    with pytest.raises(RetrievalError):
        drop_rows(spec, name)
    for other in ("pg_class", "nextvec_", f"{name}; DROP TABLE x", "nextvec_0123456789ABCDEF"):
        with pytest.raises(RetrievalError, match="is not of nextvec"):
            drop_rows(spec, other)
    with pytest.raises(RetrievalError, match="keeps nothing in a database"):
        held_rows("exact")
    with pytest.raises(ConfigError, match="no name is given"):
        index_drop(spec)


def test_a_text_that_an_engine_cannot_hold() -> None:
    assert pgvector._stored("a\0b") == "a\ufffdb"
    assert milvus._stored(None) == ""
    assert len(str(milvus._stored("ä" * 40_000)).encode()) == milvus.MOST_BYTES - 1
