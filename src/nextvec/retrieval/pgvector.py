"""PostgreSQL with pgvector: a table for each set of rows, named by their fingerprint.

The address is a libpq URI, `postgresql://user@host/database`; a password belongs in PGPASSWORD or in the
password file, where libpq looks for it, and not on a command line.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from nextvec.corpus.layout import FloatArray, IntArray
from nextvec.errors import RetrievalError
from nextvec.retrieval.engine import (
    NAME,
    EngineIndex,
    HeldRows,
    IndexSource,
    backend,
    check_held_name,
    padded,
    require_package,
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
COLUMNS = {
    "place": ("bigint NOT NULL UNIQUE", "number of the row in the index that made the table, from 0"),
    "doc_id": ("text NOT NULL", "id of the document"),
    "position": ("integer NOT NULL", "of the chunk in its document, from 0"),
    "title": ("text", "of the document"),
    "source": ("text NOT NULL", "of the document"),
    "text": ("text NOT NULL", "of the chunk"),
    "vector": (
        "vector({D}) NOT NULL",
        "of the text, by the encoder that the table's comment names, unit length",
    ),
}
KINDS = ["int8", "text", "int4", "text", "text", "text", "vector"]


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
            raise RetrievalError(
                "this is not an address of a database",
                where=what,
                remedy=f"write {EXTRA}:postgresql://user@host/database",
            ) from None

    def connect(self, settings: tuple[str, ...]) -> Connection[Any]:
        """A connection that knows vectors and has these settings. Raises RetrievalError."""
        import psycopg
        from pgvector.psycopg import register_vector

        seconds = self.parts.get("connect_timeout", CONNECT_SECONDS)
        connection: Connection[Any] | None = None
        try:
            connection = psycopg.connect(self.address, autocommit=True, connect_timeout=seconds)
            connection.execute("SET client_min_messages = warning")
            if not connection.execute("SELECT 1 FROM pg_extension WHERE extname = 'vector'").fetchone():
                connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
            register_vector(connection)
            for setting in settings:
                connection.execute(setting)
        except psycopg.Error as e:
            if connection is not None:
                connection.close()
            raise self.error(e) from None
        return connection

    def error(self, cause: Exception) -> RetrievalError:
        """What the database said, without the password."""
        said = str(cause).strip().partition("\n")[0]
        password = self.parts.get("password")
        if password:
            said = said.replace(str(password), "***")
        place = "/".join(str(self.parts[key]) for key in ("host", "dbname") if key in self.parts)
        return RetrievalError(
            f"the database {place or 'of this machine'} answered: {said}",
            where=self.what,
            remedy="check its address, that it runs, and that the extension vector can be created in it",
        )


def _load(server: _Server, connection: Connection[Any], table: str, source: IndexSource, graph: bool) -> None:
    """Fill the table, unless it is there: it appears only once it is complete."""
    import psycopg
    from psycopg import sql

    dimension, most = source.vectors.shape[1], GRAPH_MOST if graph else TABLE_MOST
    if dimension > most:
        raise RetrievalError(
            f"takes vectors of {most} dimensions at most, these have {dimension}",
            where=server.what,
            remedy="take the index exact or faiss",
        )
    name = sql.Identifier(table)
    try:
        with connection.transaction():
            # of two that load the same rows the second waits, and finds them
            connection.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", (table,))
            there = connection.execute("SELECT to_regclass(%s)", (f'"{table}"',)).fetchone()
            if there is None or there[0] is None:
                _fill(connection, name, source)
            if graph:
                connection.execute(
                    sql.SQL(
                        "CREATE INDEX IF NOT EXISTS {index} ON {table} USING hnsw (vector vector_cosine_ops)"
                    ).format(index=sql.Identifier(f"{table}_hnsw"), table=name)
                )
    except psycopg.Error as e:
        raise server.error(e) from None
    held = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(name)).fetchone()
    if held is None or held[0] != len(source.rows):
        raise RetrievalError(
            f"the table {table} does not hold the {len(source.rows)} rows that it is named after",
            where=server.what,
            remedy="drop it, and it is loaded again",
        )


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
        rows.set_types(KINDS)
        for start, units in source.blocks():
            held = zip(units, source.texts(start, len(units)), strict=True)
            for place, (vector, texts) in enumerate(held, start):
                rows.write_row((place, *map(_stored, texts), vector))
    connection.execute(sql.SQL("ANALYZE {}").format(name))


def _stored(value: Any) -> Any:
    """PostgreSQL's text holds every character but the one of code 0."""
    return value.replace("\0", "\ufffd") if isinstance(value, str) else value


def held_tables(address: str) -> list[HeldRows]:
    """The tables of indexes in a database, by name. Raises RetrievalError, MissingDependencyError."""
    import psycopg
    from psycopg import sql

    server = _reached(address)
    with server.connect(()) as connection:
        try:
            names = connection.execute(
                "SELECT tablename, coalesce(obj_description(to_regclass(quote_ident(tablename))), '') "
                "FROM pg_tables WHERE schemaname = ANY (current_schemas(false)) "
                "AND starts_with(tablename, 'nextvec_') ORDER BY tablename"
            ).fetchall()
            counts = [
                connection.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(name))).fetchone()
                for name, _ in names
            ]
        except psycopg.Error as e:
            raise server.error(e) from None
    found = zip(names, counts, strict=True)
    return [
        HeldRows(name, int((count or (0,))[0]), about)
        for (name, about), count in found
        if NAME.fullmatch(name)
    ]


def drop_table(address: str, name: str) -> None:
    """Drop one of them. Raises RetrievalError: not there, not an index's; MissingDependencyError."""
    import psycopg
    from psycopg import sql

    server = _reached(address)
    check_held_name(name, server.what)
    with server.connect(()) as connection:
        try:
            connection.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(name)))
        except psycopg.Error as e:
            raise server.error(e) from None


def _reached(address: str) -> _Server:
    for package in ("psycopg", "pgvector"):
        require_package("index 'pgvector'", package, EXTRA)
    return _Server(address, "index 'pgvector'")


@backend("pgvector", "needed")
def _table(source: IndexSource, address: str | None) -> PgvectorIndex:
    """A table of PostgreSQL, read as a whole: exact."""
    return _open(source, address, graph=False)


@backend("pgvector-hnsw", "needed")
def _graph(source: IndexSource, address: str | None) -> PgvectorIndex:
    """The same table with an HNSW index: fast, finds nearly all."""
    return _open(source, address, graph=True)


def _open(source: IndexSource, address: str | None, graph: bool) -> PgvectorIndex:
    for package in ("psycopg", "pgvector"):
        require_package("index 'pgvector'", package, EXTRA)
    assert address is not None  # `find_backend` sees to it
    return PgvectorIndex(source, address, graph)
