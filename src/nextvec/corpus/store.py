"""The store: documents as sequences of chunks, each chunk a text and a vector, on disk.

Shards are only ever added; the manifest is written last, so that a crash leaves the store as it was before.
What it lists as deleted is in no document, though its rows are there until the store is compacted."""

from __future__ import annotations

import hashlib
import json
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nextvec.corpus.arrow_tables import CARD, NewDocument
from nextvec.corpus.fingerprints import MinHash, unpack
from nextvec.corpus.layout import (
    AGAIN,
    CHUNK_SCHEMA,
    DAMAGED,
    DOCUMENT_SCHEMA,
    MANIFEST,
    VIEW_SCHEMA,
    FloatArray,
    IntArray,
    ShardFiles,
    Vectors,
    number_column,
    numbers,
    open_table,
    read_documents,
    read_manifest,
    read_table,
    unknown_document,
    verify_shard,
)
from nextvec.corpus.writer import StoreWriter
from nextvec.disk import check_sha256
from nextvec.errors import StoreError

MADE_BY = ("encoder", "dimension", "dtype", "normalised", "encoder_normalises", "chunker")
"""What in the manifest says how the vectors were made."""
__all__ = [
    "Document",
    "FloatArray",
    "IntArray",
    "NewDocument",
    "Store",
    "StoreWriter",
    "Vectors",
    "describe_store",
]

KEPT_BYTES = 2**27
"""Of the shards' chunks (texts and all) that were read last."""


@dataclass(frozen=True)
class Document:
    """One document of a store: its chunks are the rows `first` .. `first + count - 1`.

    Attributes:
        view_of: the id of the document that this is a view of (`nextvec.corpus.chunking`), or None.
    """

    doc_id: str
    source: str
    title: str
    first: int
    count: int
    sha256: str
    view_of: str | None = None

    @property
    def original(self) -> str:
        """The id under which a document and its views are one."""
        return self.doc_id if self.view_of is None else self.view_of


class Store:
    """A store opened for reading. Use `Store.open`.

    Attributes:
        info: store.json as a dictionary.
        vectors: float32 view [n, D] of the memory-mapped vectors.
    """

    _temporary: tempfile.TemporaryDirectory[str] | None = None

    def __init__(self, path: Path, info: dict[str, Any]) -> None:
        self.path = path
        self.info = info
        shards = info["shards"]
        self._files = [ShardFiles.of(path, shard["name"]) for shard in shards]
        self._rows = [int(shard["rows"]) for shard in shards]
        self._recent: dict[int, pa.Table] = {}
        self._reading = threading.Lock()
        self.vectors = Vectors(
            [f.vectors for f in self._files],
            self._rows,
            info["dimension"],
            info["dtype"],
            [shard["vectors_sha256"] for shard in shards],
        )
        for files, shard in zip(self._files, shards, strict=True):
            open_table(files.chunks, shard["rows"], CHUNK_SCHEMA)
            open_table(files.documents, shard["documents"], DOCUMENT_SCHEMA, VIEW_SCHEMA)

    @classmethod
    def open(cls, path: str | Path, *, verify: bool = False) -> Store:
        """Open a store, checking sizes, row counts and shapes of every shard.

        Args:
            verify: also compare the sha256 of every shard file (reads everything once).
        Raises:
            StoreError: not a store, another format, or a shard that is missing, truncated or altered;
                the message names the file.
        """
        store = cls(Path(path), read_manifest(Path(path)))
        if verify:
            for shard in store.info["shards"]:
                verify_shard(store.path, shard)
        return store

    @classmethod
    def from_documents(cls, documents: Any, out: str | Path | None = None, **options: Any) -> Store:
        """Put documents that a program holds into a store, new or existing, and open it.

        Args:
            documents: texts; lists of chunks; or a table of rows (a pandas or polars DataFrame, a pyarrow
                Table, a `datasets.Dataset`, dictionaries) with text and, if there, id, title, source,
                vectors.
            out: the store's folder; None makes a temporary one, which goes with the object.
            options: encoder, chunker, dtype, most_unknown, quiet of
                `nextvec.corpus.in_memory.store_documents`.
        Raises:
            DocumentError, StoreError, EncoderError, VectorError: as `store_documents`.
        """
        from nextvec.corpus.in_memory import store_documents

        if out is not None:
            store_documents(documents, out, **options)
            return cls.open(out)
        folder = tempfile.TemporaryDirectory(prefix="nextvec-store-")
        store_documents(documents, Path(folder.name) / "store", **options)
        store = cls.open(Path(folder.name) / "store")
        store._temporary = folder
        return store

    def writer(self) -> StoreWriter:
        """A writer of more such documents, or one that deletes some. Raises as `StoreWriter`."""
        return StoreWriter(self.path, **{key: self.info[key] for key in MADE_BY})

    def __reduce__(self) -> tuple[Any, ...]:
        return (Store.open, (self.path,))

    def __repr__(self) -> str:
        return f"Store({self.path}, {len(self)} chunks, {len(self.documents)} documents)"

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def dimension(self) -> int:
        """D."""
        return int(self.info["dimension"])

    @property
    def encoder(self) -> dict[str, Any]:
        """The encoder's description; two stores with the same `encoder["fingerprint"]` are comparable."""
        return dict(self.info["encoder"])

    @property
    def normalised(self) -> bool:
        """True when the stored vectors are already of unit length (as imported), not raw."""
        return bool(self.info["normalised"])

    @property
    def fingerprint(self) -> str:
        """16 hex digits over the encoder, the chunker and whether the vectors are normalised."""
        parts = [self.info["encoder"]["fingerprint"], self.info["chunker"], self.normalised]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    @cached_property
    def chunks(self) -> pa.Table:
        """All chunks as one table, read at first use; row i belongs to vector i."""
        tables = [table for _, table in self.chunk_tables()]
        return pa.concat_tables(tables) if tables else CHUNK_SCHEMA.empty_table()

    @cached_property
    def _documents_table(self) -> pa.Table:
        self._check("documents")
        self._check("chunks")
        tables = []
        for files, shard, start in zip(self._files, self.info["shards"], self._shard_starts, strict=True):
            table = read_documents(files.documents, shard["documents"])
            _check_documents(table, shard["rows"], files.documents)
            positions = read_table(files.chunks, shard["rows"], CHUNK_SCHEMA, columns=["position"])
            check_positions(table, numbers(positions["position"]), files.documents)
            first = number_column(numbers(table["first"]) + start)
            table = table.set_column(VIEW_SCHEMA.get_field_index("first"), "first", first)
            tables.append(table.take(number_column(kept(shard))) if shard.get("deleted") else table)
        return pa.concat_tables(tables) if tables else VIEW_SCHEMA.empty_table()

    def _check(self, part: Literal["chunks", "documents"]) -> None:
        """Raise StoreError where a file of this kind is not the one that was written."""
        for files, shard in zip(self._files, self.info["shards"], strict=True):
            check_sha256(getattr(files, part), shard[f"{part}_sha256"], StoreError, DAMAGED)

    @cached_property
    def _shard_starts(self) -> list[int]:
        return [int(n) for n in np.concatenate([[0], np.cumsum(self._rows)])[: len(self._rows)]]

    @cached_property
    def documents(self) -> list[Document]:
        """Every document, in the order of the rows; a view stands somewhere after its original."""
        table = self._documents_table
        columns = [table[field.name].to_pylist() for field in fields(Document)]
        found = [Document(*row) for row in zip(*columns, strict=True)]
        _check_views(found, self.path)
        return found

    @cached_property
    def index(self) -> Mapping[str, int]:
        """doc_id -> index in `documents`."""
        return {d.doc_id: i for i, d in enumerate(self.documents)}

    @cached_property
    def sources(self) -> tuple[str, ...]:
        """The names of the sources, sorted."""
        return tuple(sorted({d.source for d in self.documents}))

    def find(self, doc_id: str) -> Document:
        """The document `doc_id`. Raises StoreError when the store has none of that id."""
        at = self.index.get(doc_id)
        if at is None:
            raise unknown_document(doc_id, self.index, self.path)
        return self.documents[at]

    def rows_of(self, documents: Iterable[int]) -> IntArray:
        """Rows of the chunks of these documents (indices into `documents`), in the order given."""
        spans = [(self.documents[i].first, self.documents[i].count) for i in documents]
        return np.concatenate([np.zeros(0, np.int64), *(np.arange(first, first + n) for first, n in spans)])

    @cached_property
    def _firsts(self) -> IntArray:
        return np.array([document.first for document in self.documents], dtype=np.int64)

    def document_of(self, rows: int | IntArray) -> IntArray:
        """Index into `documents` of each row."""
        return np.asarray(np.searchsorted(self._firsts, rows, side="right") - 1, dtype=np.int64)

    def texts(self, rows: Sequence[int] | NDArray[np.integer[Any]]) -> list[str]:
        """The texts of `rows`, in the order asked for."""
        texts: list[str] = self.take(rows, ["text"])["text"].to_pylist()
        return texts

    def document_text(self, doc_id: str) -> str:
        """The document's text, put together from its chunks and the gaps between them."""
        self.find(doc_id)
        chunks = self.take(self.rows_of([self.index[doc_id]]), ["gap", "text"])
        pairs = zip(chunks["gap"].to_pylist(), chunks["text"].to_pylist(), strict=True)
        return "".join(gap + text for gap, text in pairs)

    def take(self, rows: Sequence[int] | NDArray[np.integer[Any]], columns: Sequence[str]) -> pa.Table:
        """These columns of the chunks `rows`, in the order asked for. Shards are read one at a time, and
        those read last are kept, so that no more than a part of a large store is ever in memory."""
        wanted = np.asarray(rows, np.int64).ravel()
        if wanted.size and (wanted.min() < 0 or wanted.max() >= len(self)):
            message = f"row {wanted.min() if wanted.min() < 0 else wanted.max()} of {len(self)} chunks"
            raise IndexError(message)
        order = np.argsort(wanted, kind="stable")
        cuts = np.searchsorted(wanted[order], self._shard_starts[1:])
        found = []
        for shard, part in enumerate(np.split(order, cuts)):
            if part.size:
                places = number_column(wanted[part] - self._shard_starts[shard])
                found.append(self._shard_chunks(shard).select(columns).take(places))
        if not found:
            return CHUNK_SCHEMA.empty_table().select(columns)
        return pa.concat_tables(found).take(number_column(np.argsort(order, kind="stable")))

    def chunk_tables(self) -> Iterator[tuple[int, pa.Table]]:
        """(first row, chunks of one shard), shard by shard: for what looks at all texts of a large store."""
        for shard, start in enumerate(self._shard_starts):
            yield start, self._shard_chunks(shard)

    def _shard_chunks(self, shard: int) -> pa.Table:
        with self._reading:
            table = self._recent.pop(shard, None)
            self._recent[shard] = table = self._read_chunks(shard) if table is None else table
            while len(self._recent) > 1 and sum(t.nbytes for t in self._recent.values()) > KEPT_BYTES:
                del self._recent[next(iter(self._recent))]
        return table

    def _read_chunks(self, shard: int) -> pa.Table:
        file = self._files[shard].chunks
        check_sha256(file, self.info["shards"][shard]["chunks_sha256"], StoreError, DAMAGED)
        return read_table(file, self._rows[shard], CHUNK_SCHEMA)

    def minhashes(self) -> MinHash:
        """The MinHash signatures uint32 [documents, 64], in the order of `documents`."""
        return unpack(self._documents_table["minhash"].to_pylist())


def kept(shard: Mapping[str, Any]) -> IntArray:
    """The numbers of the documents of a shard that are not deleted."""
    return np.setdiff1d(np.arange(shard["documents"]), shard.get("deleted", ()))


def _check_documents(table: pa.Table, rows: int, path: Path) -> None:
    """The documents of a shard cover its rows one after another."""
    first, count = numbers(table["first"]), numbers(table["count"])
    expected = np.concatenate([[0], np.cumsum(count)])
    if (count < 1).any() or (first != expected[:-1]).any() or expected[-1] != rows:
        raise StoreError("documents do not cover the shard's rows", where=path, remedy=AGAIN)


def _check_views(documents: Sequence[Document], store: Path) -> None:
    """Every view comes after its original."""
    seen: set[str] = set()
    for document in documents:
        if document.view_of is None:
            seen.add(document.doc_id)
        elif document.view_of not in seen:
            message = f"document '{document.doc_id}' is a view of '{document.view_of}', not found before it"
            raise StoreError(message, where=store, remedy=AGAIN)


def check_positions(documents: pa.Table, positions: IntArray, path: Path) -> None:
    """Raise StoreError unless every chunk stands where the table of documents says: `positions` [rows] count
    0, 1, 2, ... from each document's beginning. Else windows would run from one article into another."""
    first, count = numbers(documents["first"]), numbers(documents["count"])
    due = np.arange(len(positions)) - np.repeat(first, count)
    wrong = np.flatnonzero(positions != due)
    if len(wrong):
        row = int(wrong[0])
        at, wanted = positions[row], due[row]
        message = f"row {row} of its shard is chunk {at} of a document, where chunk {wanted} is due"
        reason = "chunks and documents disagree on where documents begin"
        raise StoreError(f"{message}: {reason}", where=path, remedy=AGAIN)


def describe_store(path: str | Path) -> dict[str, Any]:
    """What `nextvec info` shows: encoder, chunker, counts, sources, shards, bytes, norms of the vectors.

    Returns:
        JSON-ready dictionary; "norm" holds mean, std, min and max of the vectors' lengths and
        "chunks_per_document" min, median and max. "views" counts views, "deleted" chunks that
        `nextvec compact` would remove; every other count but those of "shards" is of originals only.
    Raises:
        StoreError: as `Store.open`.
    """
    store = Store.open(path)
    norms = np.concatenate(
        [np.linalg.norm(block.astype(np.float64), axis=1) for _, block in store.vectors.blocks()]
        or [np.zeros(0)]
    )
    whole = [d for d in store.documents if d.view_of is None]
    sources: dict[str, dict[str, int]] = {}
    for document in whole:
        entry = sources.setdefault(document.source, {"documents": 0, "chunks": 0})
        entry["documents"] += 1
        entry["chunks"] += document.count
    lengths = [d.count for d in whole]
    files = [store.path / MANIFEST, *(p for f in store._files for p in (f.vectors, f.chunks, f.documents))]
    files += [p for p in (store.path / CARD,) if p.is_file()]
    return {
        "path": str(store.path),
        "fingerprint": store.fingerprint,
        **{key: store.info[key] for key in MADE_BY},
        "documents": len(whole),
        "chunks": sum(lengths),
        "views": {
            "documents": len(store.documents) - len(whole),
            "chunks": sum(d.count for d in store.documents) - sum(lengths),
        },
        "deleted": len(store) - sum(d.count for d in store.documents),
        "chunks_per_document": {
            "min": min(lengths, default=0),
            "median": float(np.median(lengths)) if lengths else 0.0,
            "max": max(lengths, default=0),
        },
        "sources": dict(sorted(sources.items())),
        "norm": {
            name: float(getattr(norms, name)()) if norms.size else 0.0
            for name in ("mean", "std", "min", "max")
        },
        "shards": [{k: s[k] for k in ("name", "rows", "documents", "path")} for s in store.info["shards"]],
        "bytes": sum(f.stat().st_size for f in files),
    }
