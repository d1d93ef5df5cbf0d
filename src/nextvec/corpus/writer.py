"""Writing a store, one shard at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from nextvec.corpus.arrays import write_header
from nextvec.corpus.fingerprints import (
    MinHash,
    minhash_text,
    minhash_vectors,
    pack,
    text_sha256,
    vectors_sha256,
)
from nextvec.corpus.layout import (
    CHUNK_SCHEMA,
    DAMAGED,
    DOCUMENT_SCHEMA,
    DTYPES,
    FORMAT,
    MANIFEST,
    SHARD_NAME,
    VIEW_SCHEMA,
    ShardFiles,
    open_shard,
    read_documents,
    read_manifest,
)
from nextvec.disk import atomic_path, check_sha256, is_own, locked, sha256_file, write_json
from nextvec.errors import DocumentError, EncoderMismatchError, StoreError, VectorError


@dataclass(frozen=True)
class NewDocument:
    """A document on its way into a store: parallel lists, one entry a chunk.

    `gaps[i]` is the whitespace between chunk i-1 (or the document's start) and chunk i, so that joining
    gap + text over the chunks gives the document back; `starts`, `ends` are offsets into that text. A view
    (`nextvec.corpus.views`) has the text, and so the hashes, of the document `view_of`.
    """

    doc_id: str
    source: str
    title: str
    sha256: str
    minhash: MinHash
    texts: Sequence[str]
    gaps: Sequence[str]
    starts: Sequence[int]
    ends: Sequence[int]
    view_of: str | None = None

    @classmethod
    def from_chunks(
        cls, doc_id: str, texts: Sequence[str], *, source: str = "", title: str = "", gap: str = " "
    ) -> NewDocument:
        """A document known by its chunks only; they are joined by `gap`."""
        gaps = ["" if i == 0 else gap for i in range(len(texts))]
        ends = list(accumulate(len(g) + len(t) for g, t in zip(gaps, texts, strict=True)))
        starts = [end - len(text) for end, text in zip(ends, texts, strict=True)]
        whole = gap.join(texts)
        return cls(doc_id, source, title, text_sha256(whole), minhash_text(whole), texts, gaps, starts, ends)

    @classmethod
    def without_text(
        cls, doc_id: str, vectors: NDArray[Any], *, source: str = "", title: str = ""
    ) -> NewDocument:
        """A document of which only the vectors [T, D] are known: its hashes are over their bytes."""
        n = len(vectors)
        sha256, minhash = vectors_sha256(vectors), minhash_vectors(vectors)
        return cls(doc_id, source, title, sha256, minhash, [""] * n, [""] * n, [0] * n, [0] * n)


class StoreWriter:
    """Creates a store or adds to one. A context manager: it holds a lock on the folder while it is open.

    Args:
        path: the store's folder; made with the first shard, never before.
        encoder: description with at least "name" and "fingerprint".
        dimension: D.
        chunker: description of how the documents were cut.
        dtype: "float16" or "float32" on disk (of a new store).
        normalised: the vectors are already of unit length, as imported.
        encoder_normalises: the published encoder ends with an L2 normalisation.
    Raises:
        EncoderMismatchError: the store is of another encoder.
        VectorError: it has another dimension, dtype or is (not) normalised.
        StoreError: another chunker, a folder that is not a store or a damaged one.
        BusyError: another writer is at work.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        encoder: Mapping[str, Any],
        dimension: int,
        chunker: Mapping[str, Any],
        dtype: str = "float16",
        normalised: bool = False,
        encoder_normalises: bool = True,
    ) -> None:
        self.path = Path(path)
        self.known: dict[str, str] = {}
        self.views: dict[str, str] = {}
        self._held = ExitStack()
        self._locked = False
        if dtype not in DTYPES:
            raise VectorError(f"dtype {dtype!r} cannot be stored", remedy="choose float16 or float32")
        self.info: dict[str, Any] = {
            "format": FORMAT,
            "encoder": dict(encoder),
            "dimension": dimension,
            "dtype": dtype,
            "normalised": normalised,
            "encoder_normalises": encoder_normalises,
            "chunker": dict(chunker),
            "documents": 0,
            "chunks": 0,
            "shards": [],
        }
        check_place(self.path)
        if (self.path / MANIFEST).exists():
            self._adopt()

    def _adopt(self) -> None:
        """Take over the store in the folder, after checking that it fits."""
        have = read_manifest(self.path)
        check_compatible(self.path, have, self.info)
        for shard in have["shards"]:
            open_shard(self.path, shard, have["dimension"], have["dtype"])
            file = ShardFiles.of(self.path, shard["name"]).documents
            check_sha256(file, shard["documents_sha256"], StoreError, DAMAGED)
            table = read_documents(file, shard["documents"])
            ids, view_of = table["doc_id"].to_pylist(), table["view_of"].to_pylist()
            self.known.update(zip(ids, table["sha256"].to_pylist(), strict=True))
            self.views.update((i, o) for i, o in zip(ids, view_of, strict=True) if o is not None)
        self.info = have

    def __enter__(self) -> Self:
        if self.path.is_dir():
            self._take_lock()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.close()
        self._locked = False

    def _take_lock(self) -> None:
        self._held.enter_context(locked(self.path))
        self._locked = True
        self._check_unchanged()
        self._sweep()

    def _check_unchanged(self) -> None:
        """Between the look at the manifest and the lock another writer may have been here."""
        found = len(read_manifest(self.path)["shards"]) if (self.path / MANIFEST).exists() else 0
        if found != len(self.info["shards"]):
            raise StoreError("was changed by another process", where=self.path, remedy="start again")

    def _sweep(self) -> None:
        """Remove what a killed writer left: shards that no manifest names."""
        for folder in (self.path / part for part in ("vectors", "chunks", "documents")):
            if not folder.is_dir():
                continue
            for file in folder.iterdir():
                if SHARD_NAME.fullmatch(file.stem) and int(file.stem) >= len(self.info["shards"]):
                    file.unlink()

    def add_shard(self, documents: Sequence[NewDocument], vectors: NDArray[Any], *, path: str) -> None:
        """Write one shard: the documents' chunks in order, and their vectors.

        Args:
            documents: at least one, each with at least one chunk, none of a doc_id the store has; a view
                after its original.
            vectors: [n, D] of any float dtype, one row a chunk.
            path: how the vectors were made, e.g. "cpu bfloat16"; recorded with the shard.
        Raises:
            VectorError: wrong shape, NaN, infinity, a zero row or one that float16 cannot hold; the
                message names the row. DocumentError: an empty document, an id given twice, a view without
                its original or of another text, or text that is not Unicode. Nothing is written then.
        """
        chunks = chunk_table(documents)
        self._check_ids(documents)
        stored = to_stored(vectors, chunks, self.info["dimension"], self.info["dtype"])
        table = document_table(documents)
        if not self._locked:
            self._take_lock()
        name = f"{len(self.info['shards']):04d}"
        files = ShardFiles.of(self.path, name)
        with atomic_path(files.vectors) as temporary, temporary.open("wb") as f:
            write_header(f, stored.shape, stored.dtype)
            stored.tofile(f)
        for file, rows in ((files.chunks, chunks), (files.documents, table)):
            with atomic_path(file) as temporary:
                pq.write_table(rows, temporary, compression="zstd", row_group_size=2**16)
        shard = {
            "name": name,
            "rows": len(stored),
            "documents": len(documents),
            "vectors_sha256": sha256_file(files.vectors),
            "chunks_sha256": sha256_file(files.chunks),
            "documents_sha256": sha256_file(files.documents),
            "path": path,
        }
        info = dict(self.info)
        info["shards"] = [*info["shards"], shard]
        info["documents"] += len(documents)
        info["chunks"] += len(stored)
        write_json(self.path / MANIFEST, info)
        self.info = info
        self.known.update((d.doc_id, d.sha256) for d in documents)
        self.views.update((d.doc_id, d.view_of) for d in documents if d.view_of is not None)

    def _check_ids(self, documents: Sequence[NewDocument]) -> None:
        hashes = {i: sha256 for i, sha256 in self.known.items() if i not in self.views}
        seen: set[str] = set()
        for document in documents:
            if document.doc_id in self.known or document.doc_id in seen:
                raise DocumentError(
                    f"document '{document.doc_id}' is there already",
                    where=self.path,
                    remedy="give every document its own id",
                )
            seen.add(document.doc_id)
            if document.view_of is None:
                hashes[document.doc_id] = document.sha256
            elif hashes.get(document.view_of) != document.sha256:
                raise DocumentError(
                    f"document '{document.doc_id}' is not a view of '{document.view_of}' as stored here",
                    where=self.path,
                    remedy="write the original first, and views of the same text",
                )


def check_place(path: Path) -> None:
    """Raise StoreError where there can be no store: at or under a file, or in a folder of other files."""
    nearest = next(p for p in (path, *path.absolute().parents) if p.exists())
    if not nearest.is_dir():
        raise StoreError("is a file, not a folder", where=nearest, remedy="give another folder")
    if nearest != path or (path / MANIFEST).exists():
        return
    if any(p.name not in ("vectors", "chunks", "documents") and not is_own(p) for p in path.iterdir()):
        raise StoreError(
            "holds other files and no store.json", where=path, remedy="give a new or empty folder"
        )


def check_encoder(path: Path, encoder: Mapping[str, Any], dimension: int) -> None:
    """Raise EncoderMismatchError when the store at `path`, if there is one, is of another encoder."""
    if (path / MANIFEST).exists():
        have = read_manifest(path)
        if have["encoder"]["fingerprint"] != encoder["fingerprint"]:
            raise EncoderMismatchError(
                f"store is of encoder '{have['encoder'].get('name')}' ({have['dimension']} dimensions), "
                f"the new vectors are of '{encoder.get('name')}' ({dimension}): their fingerprints differ",
                where=path,
                remedy="ingest into another store",
            )


def check_compatible(path: Path, have: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise when vectors described by `wanted` (keys as in store.json) must not join the store `have`."""
    check_encoder(path, wanted["encoder"], wanted["dimension"])
    for key in ("dimension", "dtype", "normalised", "encoder_normalises"):
        if have[key] != wanted[key]:
            raise VectorError(
                f"{key} of the store is {have[key]}, of the new vectors {wanted[key]}",
                where=path,
                remedy="ingest into another store",
            )
    if have["chunker"] != wanted["chunker"]:
        raise StoreError(
            f"store was cut by {have['chunker']}, the new chunks by {dict(wanted['chunker'])}",
            where=path,
            remedy="use the store's chunker or another store",
        )


def chunk_table(documents: Sequence[NewDocument]) -> pa.Table:
    """The chunks of the documents as the store's table. Raises DocumentError."""
    for d in documents:
        if not d.texts or not len(d.texts) == len(d.gaps) == len(d.starts) == len(d.ends):
            raise DocumentError(
                f"document '{d.doc_id}' has no chunks or uneven columns", remedy="leave it out"
            )
    flat: dict[str, Callable[[NewDocument], Iterable[Any]]] = {
        "doc_id": lambda d: [d.doc_id] * len(d.texts),
        "position": lambda d: range(len(d.texts)),
        "text": lambda d: d.texts,
        "source": lambda d: [d.source] * len(d.texts),
        "title": lambda d: [d.title] * len(d.texts),
        "start": lambda d: d.starts,
        "end": lambda d: d.ends,
        "gap": lambda d: d.gaps,
    }
    columns = {name: [v for d in documents for v in get(d)] for name, get in flat.items()}
    return _table(columns, CHUNK_SCHEMA)


def document_table(documents: Sequence[NewDocument]) -> pa.Table:
    """The documents as the store's table; `first` counts from the shard's first row."""
    counts = [len(d.texts) for d in documents]
    columns: dict[str, list[Any]] = {
        "doc_id": [d.doc_id for d in documents],
        "source": [d.source for d in documents],
        "title": [d.title for d in documents],
        "sha256": [d.sha256 for d in documents],
        "first": [0, *accumulate(counts)][: len(counts)],
        "count": counts,
        "minhash": [pack(d.minhash) for d in documents],
    }
    views = [d.view_of for d in documents]
    if any(views):
        return _table(columns | {"view_of": views}, VIEW_SCHEMA)
    return _table(columns, DOCUMENT_SCHEMA)


def _table(columns: Mapping[str, list[Any]], schema: pa.Schema) -> pa.Table:
    try:
        return pa.table(dict(columns), schema=schema)
    except (pa.ArrowException, UnicodeEncodeError) as e:
        raise DocumentError(
            f"text cannot be stored ({e})", remedy="clean the text: it must be Unicode"
        ) from None


def to_stored(vectors: NDArray[Any], chunks: pa.Table, dimension: int, dtype: str) -> NDArray[Any]:
    """The vectors [n, D] in the store's dtype, every row finite and not zero. Raises VectorError."""
    if vectors.ndim != 2 or vectors.shape != (chunks.num_rows, dimension):
        raise VectorError(
            f"vectors are {list(vectors.shape)}, the store needs [{chunks.num_rows}, {dimension}]",
            remedy="give one vector of that dimension for every chunk",
        )
    with np.errstate(over="ignore", invalid="ignore"):
        stored = np.ascontiguousarray(vectors, dtype=np.dtype(dtype))

    def name(row: int) -> str:
        chunk = chunks.slice(row, 1).to_pylist()[0]
        return f"vector of chunk {chunk['position']} of document '{chunk['doc_id']}'"

    bad = ~np.isfinite(vectors).all(axis=1)
    if bad.any():
        raise VectorError(
            "is NaN or infinite", where=name(int(bad.argmax())), remedy="fix or leave out that row"
        )
    over = ~np.isfinite(stored).all(axis=1)
    if over.any():
        raise VectorError(
            f"does not fit {dtype}", where=name(int(over.argmax())), remedy="store float32 (--dtype)"
        )
    zero = ~stored.any(axis=1)
    if zero.any():
        raise VectorError("is zero", where=name(int(zero.argmax())), remedy="fix or leave out that row")
    return stored
