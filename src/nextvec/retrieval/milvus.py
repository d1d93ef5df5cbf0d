"""Milvus: a collection for each set of rows, named by their fingerprint.

The address is a file that ends in .db (Milvus Lite, in this process) or the URI of a cluster,
`https://host:19530`; its token is read from NEXTVEC_MILVUS_TOKEN, never from the address.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

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
    from pymilvus import MilvusClient

WHAT, TOKEN = "index 'milvus'", "NEXTVEC_MILVUS_TOKEN"
CONNECT_SECONDS = 10.0
DIMENSIONS = 32_768
"""The most that Milvus takes."""
MOST_BYTES = 65_535
"""Of a text."""
ROWS_A_REQUEST = 1_000


class MilvusIndex(EngineIndex):
    """Asks a collection, which compares with every row. Safe to share between threads."""

    name = "milvus"
    exact = True
    most = 16_384

    def __init__(self, source: IndexSource, address: str) -> None:
        super().__init__(source)
        self._collection = source.name
        self._client = _connected(address)
        try:
            with _answered():
                _load(self._client, self._collection, source)
        except BaseException:
            self._client.close()
            raise

    def close(self) -> None:
        """Give the connection, or the file, back."""
        self._client.close()

    def _ask(self, queries: FloatArray, n: int) -> tuple[FloatArray, IntArray]:
        with _answered():
            found = self._client.search(
                self._collection, data=[*queries], limit=n, anns_field="vector", output_fields=["place"]
            )
        return padded(
            [([hit["distance"] for hit in hits], [hit["place"] for hit in hits]) for hits in found], n
        )


def _connected(address: str) -> MilvusClient:
    """Raises RetrievalError: not an address, or no one answers there."""
    parts = urlsplit(address)
    remote = parts.scheme in ("http", "https")
    if parts.password is not None or not (remote or address.endswith(".db")):
        remedy = f"write milvus:FILE.db or milvus:https://host:19530, its token in {TOKEN}"
        message = "this is not an address of Milvus, or holds a password"
        raise RetrievalError(message, where=WHAT, remedy=remedy)
    from pymilvus import MilvusClient

    # It logs a traceback of what it raises, and it is we who say what went wrong.
    # Milvus Lite answers calls that it lacks with another, of which its server logs one.
    for name in ("pymilvus", "grpc._server"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    token = os.environ.get(TOKEN, "") if remote else ""
    with _answered():
        if not remote:
            Path(address).resolve().parent.mkdir(parents=True, exist_ok=True)
        return MilvusClient(address, token=token, timeout=CONNECT_SECONDS)


def _load(client: MilvusClient, collection: str, source: IndexSource) -> None:
    """Fill the collection, unless it is there: it gets its name only once it is complete."""
    if not client.has_collection(collection):
        filling = f"{collection}_{secrets.token_hex(4)}"
        try:
            _fill(client, filling, source)
            client.rename_collection(filling, collection)
        except Exception:
            if client.has_collection(filling):
                client.drop_collection(filling)
            if not client.has_collection(collection):  # unless somebody else was faster
                raise
    client.load_collection(collection)
    [held] = client.query(collection, filter="", output_fields=["count(*)"], consistency_level="Strong")
    check_filled(source, held["count(*)"], f"collection {collection}", WHAT)


def _fill(client: MilvusClient, collection: str, source: IndexSource) -> None:
    from pymilvus import DataType

    check_dimension(source, DIMENSIONS, WHAT)
    schema = client.create_schema(auto_id=False, enable_dynamic_field=False, description=source.about)
    schema.add_field("place", DataType.INT64, is_primary=True, description="number of the row, from 0")
    for name, about in TEXTS.items():
        text = (DataType.VARCHAR, {"max_length": MOST_BYTES})
        kind, sizes = (DataType.INT64, {}) if name == "position" else text
        schema.add_field(name, kind, description=about, **sizes)
    about = "of the text, unit length"
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=source.vectors.shape[1], description=about)
    index = client.prepare_index_params()
    index.add_index("vector", index_type="FLAT", metric_type="COSINE")
    client.create_collection(collection, schema=schema, index_params=index, consistency_level="Strong")
    for start, units in source.blocks():
        held = zip(units, source.texts(start, len(units)), strict=True)
        rows: list[dict[str, Any]] = [
            {"place": i, "vector": vector, **dict(zip(TEXTS, map(_stored, texts), strict=True))}
            for i, (vector, texts) in enumerate(held, start)
        ]
        for at in range(0, len(rows), ROWS_A_REQUEST):
            client.insert(collection, rows[at : at + ROWS_A_REQUEST])
    client.flush(collection)


def _stored(value: str | int | None) -> str | int:
    """A text as a field holds it: the beginning of one that is too long, "" for one that is missing."""
    if isinstance(value, int):
        return value
    data = (value or "").encode()
    return (value or "") if len(data) <= MOST_BYTES else data[:MOST_BYTES].decode(errors="ignore")


def held_rows(address: str) -> list[HeldRows]:
    """The collections of indexes, by name. Raises RetrievalError, MissingDependencyError."""
    with _reached(address) as client:
        return [
            HeldRows(
                name,
                int(client.get_collection_stats(name)["row_count"]),
                str(client.describe_collection(name).get("description") or ""),
            )
            for name in sorted(client.list_collections())
            if NAME.fullmatch(name)
        ]


def drop_rows(address: str, name: str) -> None:
    """Drop one of them. Raises RetrievalError: not there, not an index's; MissingDependencyError."""
    check_held_name(name, WHAT)
    with _reached(address) as client:
        if not client.has_collection(name):
            raise RetrievalError(f"no collection {name}", where=WHAT, remedy="see nextvec index list")
        client.drop_collection(name)


@contextmanager
def _reached(address: str) -> Iterator[MilvusClient]:
    require_package(WHAT, "pymilvus", "milvus")
    if address.endswith(".db") and not Path(address).exists():
        raise RetrievalError("no such file", where=address, remedy="check the path")
    with closing(_connected(address)) as client, _answered():
        yield client


@contextmanager
def _answered() -> Iterator[None]:
    """What Milvus refuses becomes a RetrievalError."""
    try:
        yield
    except RetrievalError:
        raise
    except Exception as e:  # noqa: BLE001 - pymilvus and its transport share no base class
        reason = str(getattr(e, "message", e)).strip().partition("\n")[0]
        remedy = f"check its address, that it runs, and the token in {TOKEN}"
        message = f"Milvus answered: {reason or type(e).__name__}"
        raise RetrievalError(message, where=WHAT, remedy=remedy) from None


@backend("milvus", "needed")
def _open(source: IndexSource, address: str | None) -> MilvusIndex:
    """A file of Milvus Lite, or a cluster: exact."""
    require_package(WHAT, "pymilvus", "milvus")
    assert address is not None  # `find_backend` sees to it
    return MilvusIndex(source, address)
