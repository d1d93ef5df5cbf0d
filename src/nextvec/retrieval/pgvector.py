"""PostgreSQL with pgvector: a table for each set of rows, named by their fingerprint.

The address is a libpq URI, `postgresql://user@host/database`; a password belongs in PGPASSWORD or in the
password file, where libpq looks for it, and not on a command line.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from nextvec.corpus.layout import FloatArray, IntArray
from nextvec.errors import RetrievalError, require_package
from nextvec.retrieval.engine import (
    NAME,
    TEXTS,
    EngineIndex,
    HeldRows,
    IndexSource,
    backend,
    check_dimension,
    check_filled,
    check_held_name,
    padded,
)

if TYPE_CHECKING:
    from psycopg import Connection

EXTRA = "pgvector"
CONNECT_SECONDS = 10
TABLE_MOST, GRAPH_MOST = 16_000, 2_000
"""Dimensions that pgvector stores, and indexes."""
INLINE = 2_000
"""Vectors of so many dimensions fit in a page, and so are kept in the row: reading them from beside the table
costs more than comparing them."""
SEARCH_WIDTH = 200
"""How many rows a walk of the graph keeps in sight; it goes on until it has as many as are asked for."""

NEAREST = """
    SELECT q.number, f.place, f.away
    FROM unnest(%s::vector[]) WITH ORDINALITY AS q(vector, number)
    CROSS JOIN LATERAL (
        SELECT t.place, t.vector <=> q.vector AS away FROM {table} t ORDER BY away LIMIT %s
    ) f
    ORDER BY q.number, f.away
"""
"""`<=>` is 1 - cosine."""
KINDS = {"position": "integer NOT NULL", "title": "text"}
COLUMNS = {
    "place": ("bigint NOT NULL UNIQUE", "number of the row in the index that made the table, from 0"),
    **{name: (KINDS.get(name, "text NOT NULL"), about) for name, about in TEXTS.items()},
    "vector": (
        "vector({D}) NOT NULL",
        "of the text, by the encoder that the table's comment names, unit length",
    ),
}
BINARY = ["int8", "text", "int4", "text", "text", "text", "vector"]


class PgvectorIndex(EngineIndex):
    """Asks a table. Safe to share between threads, which then take turns; a lost connection is made anew.

    Args:
        graph: walk an HNSW index instead of reading the whole table.
    """

    def __init__(self, source: IndexSource, address: str, graph: bool) -> None:
        super().__init__(source)
        self.name, self.exact = ("pgvector-hnsw", False) if graph else ("pgvector", True)
        self._server = _Server(address, f"index '{self.name}'")
        self._table = source.name
        self._lock = threading.Lock()
        self._held = self._server.connect(self._settings)
        _load(self._server, self._held, self._table, source, graph)

    @property
    def _settings(self) -> tuple[str, ...]:
        if self.exact:  # another index of the same table may have an HNSW index, which would be taken
            return ("SET enable_indexscan = off",)
        return (
            "SET enable_seqscan = off",
            f"SET hnsw.ef_search = {SEARCH_WIDTH}",
            "SET hnsw.iterative_scan = strict_order",
        )

    def close(self) -> None:
        """Give the connection back."""
        self._held.close()

    def _ask(self, queries: FloatArray, n: int) -> tuple[FloatArray, IntArray]:
        found: list[tuple[list[float], list[int]]] = [([], []) for _ in queries]
        for number, place, away in self._rows(queries, n):
            scores, places = found[number - 1]
            scores.append(1.0 - away)
            places.append(place)
        return padded(found, n)

    def _rows(self, queries: FloatArray, n: int) -> list[tuple[int, int, float]]:
        import psycopg
        from psycopg import sql

        statement = sql.SQL(NEAREST).format(table=sql.Identifier(self._table))
        with self._lock:
            for last_try in (False, True):
                if self._held.closed:
                    self._held = self._server.connect(self._settings)
                try:
                    with self._held.cursor(binary=True) as cursor:
                        return cursor.execute(statement, ([*queries], n)).fetchall()
                except psycopg.Error as e:
                    if last_try or not self._held.closed:
                        raise self._server.error(e) from None
        raise AssertionError("the second try returns or raises")


class _Server:
    """A database's address, and errors that keep its password."""

    def __init__(self, address: str, what: str) -> None:
        from psycopg.conninfo import conninfo_to_dict

        self.address, self.what = address, what
        try:
            self.parts = conninfo_to_dict(address)
        except Exception:  # noqa: BLE001 - its message may repeat the password
            remedy = f"write {EXTRA}:postgresql://user@host/database"
            raise RetrievalError("this is not an address of a database", where=what, remedy=remedy) from None

    def connect(self, settings: tuple[str, ...] = ()) -> Connection[Any]:
        """A connection that knows vectors and has these settings. Raises RetrievalError."""
        import psycopg
        from pgvector.psycopg import register_vector

        seconds = self.parts.get("connect_timeout", CONNECT_SECONDS)
        with self.answered(), ExitStack() as unless_it_works:
            connection = psycopg.connect(self.address, autocommit=True, connect_timeout=seconds)
            unless_it_works.callback(connection.close)
            connection.execute("SET client_min_messages = warning")
            if not connection.execute("SELECT 1 FROM pg_extension WHERE extname = 'vector'").fetchone():
                connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
            register_vector(connection)
            for setting in settings:
                connection.execute(setting)
            unless_it_works.pop_all()
        return connection

    @contextmanager
    def answered(self) -> Iterator[None]:
        """What the database refuses becomes a RetrievalError."""
        import psycopg

        try:
            yield
        except psycopg.Error as e:
            raise self.error(e) from None

    def error(self, cause: Exception) -> RetrievalError:
        """What the database said, without the password."""
        message = str(cause).strip().partition("\n")[0]
        password = self.parts.get("password")
        if password:
            message = message.replace(str(password), "***")
        place = "/".join(str(self.parts[key]) for key in ("host", "dbname") if key in self.parts)
        return RetrievalError(
            f"the database {place or 'of this machine'} answered: {message}",
            where=self.what,
            remedy="check its address, that it runs, and that the extension vector can be created in it",
        )


def _load(server: _Server, connection: Connection[Any], table: str, source: IndexSource, graph: bool) -> None:
    """Fill the table, unless it is there: it appears only once it is complete."""
    from psycopg import sql

    check_dimension(source, GRAPH_MOST if graph else TABLE_MOST, server.what)
    name = sql.Identifier(table)
    with server.answered(), connection.transaction():
        # of two that load the same rows the second waits, and finds them
        connection.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", (table,))
        there = connection.execute("SELECT to_regclass(%s)", (f'"{table}"',)).fetchone()
        if there is None or there[0] is None:
            _fill(connection, name, source)
        if graph:
            make = "CREATE INDEX IF NOT EXISTS {index} ON {table} USING hnsw (vector vector_cosine_ops)"
            connection.execute(sql.SQL(make).format(index=sql.Identifier(f"{table}_hnsw"), table=name))
    check_filled(source, _count(connection, table), f"table {table}", server.what)


def _fill(connection: Connection[Any], name: Any, source: IndexSource) -> None:
    from psycopg import sql

    D = source.vectors.shape[1]
    kinds = ", ".join(f"{column} {kind.format(D=D)}" for column, (kind, _) in COLUMNS.items())
    connection.execute(sql.SQL(f"CREATE TABLE {{}} ({kinds}, PRIMARY KEY (doc_id, position))").format(name))
    connection.execute(sql.SQL("COMMENT ON TABLE {} IS {}").format(name, sql.Literal(source.about)))
    for column, (_, about) in COLUMNS.items():
        comment = sql.SQL("COMMENT ON COLUMN {}.{} IS {}")
        connection.execute(comment.format(name, sql.Identifier(column), sql.Literal(about)))
    if D <= INLINE:
        connection.execute(sql.SQL("ALTER TABLE {} ALTER COLUMN vector SET STORAGE PLAIN").format(name))
    copy = sql.SQL(f"COPY {{}} ({', '.join(COLUMNS)}) FROM STDIN WITH (FORMAT BINARY)").format(name)
    with connection.cursor().copy(copy) as rows:
        rows.set_types(BINARY)
        for start, units in source.blocks():
            held = zip(units, source.texts(start, len(units)), strict=True)
            for place, (vector, texts) in enumerate(held, start):
                rows.write_row((place, *map(_stored, texts), vector))
    connection.execute(sql.SQL("ANALYZE {}").format(name))


def _stored(value: Any) -> Any:
    """PostgreSQL's text holds every character but the one of code 0."""
    return value.replace("\0", "\ufffd") if isinstance(value, str) else value


def _count(connection: Connection[Any], table: str) -> int:
    from psycopg import sql

    held = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(table))).fetchone()
    return int((held or (0,))[0])


def held_rows(address: str) -> list[HeldRows]:
    """The tables of indexes in a database, by name. Raises RetrievalError, MissingDependencyError."""
    server = _reached(address)
    with server.connect() as connection, server.answered():
        named = connection.execute(
            "SELECT tablename, coalesce(obj_description(to_regclass(quote_ident(tablename))), '') "
            "FROM pg_tables WHERE schemaname = ANY (current_schemas(false)) "
            "AND starts_with(tablename, 'nextvec_') ORDER BY tablename"
        ).fetchall()
        ours = [(name, about) for name, about in named if NAME.fullmatch(name)]
        return [HeldRows(name, _count(connection, name), about) for name, about in ours]


def drop_rows(address: str, name: str) -> None:
    """Drop one of them. Raises RetrievalError: not there, not an index's; MissingDependencyError."""
    server = _reached(address)
    check_held_name(name, server.what)
    from psycopg import sql

    with server.connect() as connection, server.answered():
        connection.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(name)))


def _reached(address: str) -> _Server:
    _require_packages()
    return _Server(address, "index 'pgvector'")


def _require_packages() -> None:
    for package in ("psycopg", "pgvector"):
        require_package("index 'pgvector'", package, EXTRA)


@backend("pgvector", "needed")
def _table(source: IndexSource, address: str | None) -> PgvectorIndex:
    """A table of PostgreSQL, read as a whole: exact."""
    return _open(source, address, graph=False)


@backend("pgvector-hnsw", "needed")
def _graph(source: IndexSource, address: str | None) -> PgvectorIndex:
    """The same table with an HNSW index: fast, finds nearly all."""
    return _open(source, address, graph=True)


def _open(source: IndexSource, address: str | None, graph: bool) -> PgvectorIndex:
    _require_packages()
    assert address is not None  # `find_backend` sees to it
    return PgvectorIndex(source, address, graph)
