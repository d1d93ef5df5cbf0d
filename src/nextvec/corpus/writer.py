"""Writing a store, one shard at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from nextvec.corpus.arrays import write_header
from nextvec.corpus.arrow_tables import (
    NewDocument,
    chunk_table,
    document_table,
    to_stored,
    write_dataset_card,
)
from nextvec.corpus.layout import (
    DAMAGED,
    DOCUMENT_SCHEMA,
    DTYPES,
    FORMAT,
    MANIFEST,
    SHARD_NAME,
    VIEW_SCHEMA,
    WITH_DELETED,
    ShardFiles,
    open_shard,
    read_documents,
    read_manifest,
    unknown_document,
    verify_shard,
)
from nextvec.disk import atomic_path, check_sha256, is_own, locked, sha256_file, write_json
from nextvec.errors import DocumentError, EncoderMismatchError, StoreError, VectorError

ANOTHER = "ingest into another store"
PARTS = ("vectors", "chunks", "documents")


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
        self._places: dict[str, tuple[int, int]] = {}
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
        for number, shard in enumerate(have["shards"]):
            open_shard(self.path, shard, have["dimension"], have["dtype"])
            file = ShardFiles.of(self.path, shard["name"]).documents
            check_sha256(file, shard["documents_sha256"], StoreError, DAMAGED)
            table = read_documents(file, shard["documents"]).select(["doc_id", "sha256", "view_of"])
            named = zip(*(column.to_pylist() for column in table.columns), strict=True)
            self._note(number, named, set(shard.get("deleted", ())))
        self.info = have

    def _note(
        self, shard: int, documents: Iterable[tuple[str, str, str | None]], deleted: Collection[int] = ()
    ) -> None:
        """Remember the documents (id, sha256, view_of) of a shard but those deleted."""
        for number, (doc_id, sha256, view_of) in enumerate(documents):
            if number not in deleted:
                self.known[doc_id] = sha256
                self._places[doc_id] = (shard, number)
                if view_of is not None:
                    self.views[doc_id] = view_of

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
        if self._locked:
            return
        self._held.enter_context(locked(self.path))
        self._locked = True
        # Between the look at the manifest and the lock another writer may have been here.
        found = read_manifest(self.path)["shards"] if (self.path / MANIFEST).exists() else []
        if found != self.info["shards"]:
            raise StoreError("was changed by another process", where=self.path, remedy="start again")
        self._sweep()

    def _sweep(self) -> None:
        """Remove what a killed writer left: shards that no manifest names."""
        named = {shard["name"] for shard in self.info["shards"]}
        for folder in (self.path / part for part in PARTS):
            if not folder.is_dir():
                continue
            for file in folder.iterdir():
                if SHARD_NAME.fullmatch(file.stem) and file.stem not in named:
                    file.unlink()

    def delete(self, doc_ids: Iterable[str]) -> int:
        """Delete documents, with their views; their rows stay until the store is compacted.

        Returns: how many documents are gone, views included.
        Raises:
            StoreError: no document of that id, or the id of a view. Nothing is deleted then.
        """
        wanted = list(dict.fromkeys(doc_ids))
        for doc_id in wanted:
            if doc_id not in self.known or doc_id in self.views:
                if doc_id not in self.known:
                    whole = [each for each in self.known if each not in self.views]
                    raise unknown_document(doc_id, whole, self.path)
                remedy = f"delete '{self.views[doc_id]}', which it is a view of"
                raise StoreError(f"'{doc_id}' is a view", where=self.path, remedy=remedy)
        self._take_lock()
        gone = self._with_views(wanted)
        self._commit(self._without(self.info, gone))
        self._forget(gone)
        return len(gone)

    def _with_views(self, doc_ids: Iterable[str]) -> list[str]:
        whole = set(doc_ids)
        return [*whole, *(view for view, original in self.views.items() if original in whole)]

    def _without(self, info: Mapping[str, Any], gone: Iterable[str]) -> dict[str, Any]:
        """The manifest in which these documents are deleted."""
        numbers: dict[int, set[int]] = {}
        for shard, number in (self._places[doc_id] for doc_id in gone):
            numbers.setdefault(shard, set()).add(number)
        if not numbers:
            return dict(info)
        shards = [
            {**shard, "deleted": sorted({*shard.get("deleted", ()), *numbers[i]})} if i in numbers else shard
            for i, shard in enumerate(info["shards"])
        ]
        return {**info, "format": WITH_DELETED, "shards": shards}

    def _forget(self, gone: Iterable[str]) -> None:
        for doc_id in gone:
            del self.known[doc_id], self._places[doc_id]
            self.views.pop(doc_id, None)

    def _commit(self, info: dict[str, Any]) -> None:
        write_json(self.path / MANIFEST, info, sealed=True)
        self.info = info
        write_dataset_card(self.path, info)

    def compact(self) -> int:
        """Write every shard with deleted documents anew, without them. Returns the rows that are gone.

        The manifest changes once, when all of them are written; a crash before leaves the store as it was.
        """
        self._take_lock()
        shards: list[dict[str, Any]] = []
        before, fresh = self.info["chunks"], self._fresh()
        for shard in self.info["shards"]:
            if not shard.get("deleted"):
                shards.append(shard)
            elif len(shard["deleted"]) < shard["documents"]:
                shards.append(self._rewritten(shard, f"{fresh:04d}"))
                fresh += 1
        totals = {key: sum(s[part] for s in shards) for key, part in (("chunks", "rows"), ("documents",) * 2)}
        self._commit({**self.info, "format": FORMAT, "shards": shards, **totals})
        self._sweep()
        self.known, self.views, self._places = {}, {}, {}
        self._adopt()
        return int(before - self.info["chunks"])

    def _fresh(self) -> int:
        """A number that no shard has."""
        return 1 + max((int(shard["name"]) for shard in self.info["shards"]), default=-1)

    def _rewritten(self, shard: Mapping[str, Any], name: str) -> dict[str, Any]:
        """A shard's living documents as the shard `name`."""
        verify_shard(self.path, shard)
        vectors, chunks, _ = open_shard(self.path, shard, self.info["dimension"], self.info["dtype"])
        table = read_documents(ShardFiles.of(self.path, shard["name"]).documents, shard["documents"])
        gone = set(shard["deleted"])
        table = table.take(pa.array([n for n in range(len(table)) if n not in gone], pa.int64()))
        first, count = table["first"].to_numpy(), table["count"].to_numpy()
        rows = np.concatenate([np.arange(a, a + n) for a, n in zip(first, count, strict=True)])
        begins = pa.array(np.concatenate([[0], np.cumsum(count)[:-1]]), pa.int64())
        table = table.set_column(VIEW_SCHEMA.get_field_index("first"), "first", begins)
        if not any(table["view_of"].is_valid().to_pylist()):
            table = table.select(DOCUMENT_SCHEMA.names)
        table = table.cast(DOCUMENT_SCHEMA if table.num_columns == len(DOCUMENT_SCHEMA) else VIEW_SCHEMA)
        return self._written(name, vectors[rows], chunks.read().take(pa.array(rows)), table, shard["path"])

    def add_shard(
        self, documents: Sequence[NewDocument], vectors: NDArray[Any], *, path: str, replace: bool = False
    ) -> None:
        """Write one shard: the documents' chunks in order, and their vectors.

        Args:
            documents: at least one, each with at least one chunk, none of a doc_id the store has (unless
                `replace`); a view after its original.
            vectors: [n, D] of any float dtype, one row a chunk.
            path: how the vectors were made, e.g. "cpu bfloat16"; recorded with the shard.
            replace: documents that the store has under these ids are deleted, with their views, in the same
                write.
        Raises:
            VectorError: wrong shape, NaN, infinity, a zero row or one that float16 cannot hold; the
                message names the row. DocumentError: an empty document, an id given twice, a view without
                its original or of another text, or text that is not Unicode. Nothing is written then.
        """
        chunks = chunk_table(documents)
        originals = [d.doc_id for d in documents if d.view_of is None and d.doc_id in self.known]
        gone = self._with_views(originals) if replace else []
        self._check_ids(documents, gone)
        stored = to_stored(vectors, chunks, self.info["dimension"], self.info["dtype"])
        table = document_table(documents)
        self._take_lock()
        shard = self._written(f"{self._fresh():04d}", stored, chunks, table, path)
        info = self._without(self.info, gone)
        info["shards"] = [*info["shards"], shard]
        info["documents"] += len(documents)
        info["chunks"] += len(stored)
        self._commit(info)
        self._forget(gone)
        self._note(len(info["shards"]) - 1, ((d.doc_id, d.sha256, d.view_of) for d in documents))

    def _written(
        self, name: str, stored: NDArray[Any], chunks: pa.Table, table: pa.Table, path: str
    ) -> dict[str, Any]:
        """Write the files of the shard `name`; returns its entry in the manifest."""
        files = ShardFiles.of(self.path, name)
        with atomic_path(files.vectors) as temporary, temporary.open("wb") as f:
            write_header(f, stored.shape, stored.dtype)
            stored.tofile(f)
        for file, rows in ((files.chunks, chunks), (files.documents, table)):
            with atomic_path(file) as temporary:
                pq.write_table(rows, temporary, compression="zstd", row_group_size=2**16)
        return {
            "name": name,
            "rows": len(stored),
            "documents": len(table),
            **{f"{part}_sha256": sha256_file(getattr(files, part)) for part in PARTS},
            "path": path,
        }

    def _check_ids(self, documents: Sequence[NewDocument], gone: Sequence[str] = ()) -> None:
        staying = self.known.keys() - set(gone)
        hashes = {i: self.known[i] for i in staying if i not in self.views}
        seen: set[str] = set()
        for document in documents:
            if document.doc_id in staying or document.doc_id in seen:
                message = f"document '{document.doc_id}' is there already"
                raise DocumentError(message, where=self.path, remedy="give every document its own id")
            seen.add(document.doc_id)
            if document.view_of is None:
                hashes[document.doc_id] = document.sha256
            elif hashes.get(document.view_of) != document.sha256:
                message = f"document '{document.doc_id}' is not a view of '{document.view_of}' as stored here"
                remedy = "write the original first, and views of the same text"
                raise DocumentError(message, where=self.path, remedy=remedy)


def check_place(path: Path) -> None:
    """Raise StoreError where there can be no store: at or under a file, or in a folder of other files."""
    nearest = next(p for p in (path, *path.absolute().parents) if p.exists())
    if not nearest.is_dir():
        raise StoreError("is a file, not a folder", where=nearest, remedy="give another folder")
    if nearest != path or (path / MANIFEST).exists():
        return
    if any(p.name not in PARTS and not is_own(p) for p in path.iterdir()):
        remedy = "give a new or empty folder"
        raise StoreError("holds other files and no store.json", where=path, remedy=remedy)


def check_encoder(path: Path, encoder: Mapping[str, Any], dimension: int) -> None:
    """Raise EncoderMismatchError when the store at `path`, if there is one, is of another encoder."""
    if (path / MANIFEST).exists():
        have = read_manifest(path)
        if have["encoder"]["fingerprint"] != encoder["fingerprint"]:
            theirs = f"'{have['encoder'].get('name')}' ({have['dimension']} dimensions)"
            ours = f"'{encoder.get('name')}' ({dimension})"
            message = (
                f"store is of encoder {theirs}, the new vectors are of {ours}: their fingerprints differ"
            )
            named_only = encoder.get("verified") is False and have["encoder"].get("verified") is not False
            remedy = f"prove the encoder (--verify-encoder), or {ANOTHER}" if named_only else ANOTHER
            raise EncoderMismatchError(message, where=path, remedy=remedy)


def check_compatible(path: Path, have: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise when vectors described by `wanted` (keys as in store.json) must not join the store `have`."""
    check_encoder(path, wanted["encoder"], wanted["dimension"])
    for key in ("dimension", "dtype", "normalised", "encoder_normalises"):
        if have[key] != wanted[key]:
            message = f"{key} of the store is {have[key]}, of the new vectors {wanted[key]}"
            raise VectorError(message, where=path, remedy=ANOTHER)
    if have["chunker"] != wanted["chunker"]:
        message = f"store was cut by {have['chunker']}, the new chunks by {dict(wanted['chunker'])}"
        raise StoreError(message, where=path, remedy="use the store's chunker or another store")
