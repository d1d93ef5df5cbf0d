"""The store's layout on disk, and the checks that every opening makes.

    STORE/store.json             the manifest, always written last
    STORE/vectors/0000.npy       float16 or float32 [n, D]: raw encoder output
    STORE/chunks/0000.parquet    one row a chunk, row i belongs to vector i
    STORE/documents/0000.parquet one row a document, in the order of its chunks; the column `view_of` only in
                                 shards that hold views (a version that knew none refuses them, as it should)
    STORE/README.md              its card as a Hugging Face dataset

Documents are deleted by the manifest: `shards[i].deleted` lists their numbers within the shard, until
`nextvec compact` writes the shard anew. Such a store has format 2, which a version that knew none refuses.

This is the LAION layout that embedding-reader, autofaiss and clip-retrieval read."""

from __future__ import annotations

import difflib
import itertools
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import DTypeLike, NDArray

from nextvec.corpus.arrays import map_npy
from nextvec.disk import check_sha256, read_json, sha256_file
from nextvec.errors import StoreError
from nextvec.seals import CHANGED

FORMAT, WITH_DELETED = 1, 2
MANIFEST = "store.json"
DTYPES = ("float16", "float32")
AGAIN = "ingest the store anew"
DAMAGED = "copy the store again or ingest it anew"
SHARD_NAME = re.compile(r"\d{4,9}")

CHUNK_SCHEMA = pa.schema(
    [
        ("doc_id", pa.string()),
        ("position", pa.int32()),
        ("text", pa.string()),
        ("source", pa.string()),
        ("title", pa.string()),
        ("start", pa.int64()),
        ("end", pa.int64()),
        ("gap", pa.string()),
    ]
)
DOCUMENT_SCHEMA = pa.schema(
    [
        ("doc_id", pa.string()),
        ("source", pa.string()),
        ("title", pa.string()),
        ("sha256", pa.string()),
        ("first", pa.int64()),
        ("count", pa.int64()),
        ("minhash", pa.binary(256)),
    ]
)
VIEW_SCHEMA = DOCUMENT_SCHEMA.append(pa.field("view_of", pa.string()))
_MANIFEST_KEYS: dict[str, type] = {
    **dict.fromkeys(("encoder", "chunker"), dict),
    **dict.fromkeys(("dimension", "documents", "chunks"), int),
    **dict.fromkeys(("normalised", "encoder_normalises"), bool),
    "dtype": str,
    "shards": list,
}
_SHARD_KEYS: dict[str, type] = {
    **dict.fromkeys(("name", "vectors_sha256", "chunks_sha256", "documents_sha256", "path"), str),
    **dict.fromkeys(("rows", "documents"), int),
}


def unknown_document(doc_id: str, known: Collection[str], store: Path) -> StoreError:
    """The error of an id that no document of a store has, with those that it may stand for."""
    near = difflib.get_close_matches(doc_id, known, 3) or list(itertools.islice(known, 3))
    ids = ", ".join(f"'{each}'" for each in near)
    return StoreError(f"has no document '{doc_id}'", where=store, remedy=f"give the id of one, such as {ids}")


def damaged(message: str, path: Path) -> StoreError:
    """The error of a store that is not as it was written."""
    return StoreError(message, where=path, remedy=DAMAGED)


@dataclass(frozen=True)
class ShardFiles:
    """The three files of one shard."""

    vectors: Path
    chunks: Path
    documents: Path

    @classmethod
    def of(cls, store: Path, name: str) -> ShardFiles:
        """The files of shard `name` ("0000") in the folder `store`."""
        return cls(
            store / "vectors" / f"{name}.npy",
            store / "chunks" / f"{name}.parquet",
            store / "documents" / f"{name}.parquet",
        )


def read_manifest(store: Path) -> dict[str, Any]:
    """Read and check store.json. Raises StoreError naming the file and the key."""
    path = store / MANIFEST
    if not path.is_file():
        if (store / "config.toml").is_file() and (store / "model.safetensors").is_file():
            remedy = f"give the store it was trained on; what reads a run: nextvec verify {store}"
            raise StoreError("is a run, not a store", where=store, remedy=remedy)
        remedy = "make one: nextvec ingest"
        raise StoreError("is not a store (it has no store.json)", where=store, remedy=remedy)
    info = read_json(path, StoreError, remedy=DAMAGED)
    if not isinstance(info, dict) or info.get("format") not in (FORMAT, WITH_DELETED):
        found = info.get("format") if isinstance(info, dict) else None
        message = f"is of format {found!r}, this version reads {FORMAT} and {WITH_DELETED}"
        raise StoreError(message, where=path, remedy=AGAIN)
    _check_keys(info, _MANIFEST_KEYS, path, "")
    for i, shard in enumerate(info["shards"]):
        if not isinstance(shard, dict):
            raise damaged(f"shard {i} is not a table", path)
        _check_keys(shard, _SHARD_KEYS, path, f"shards[{i}].")
        if not SHARD_NAME.fullmatch(shard["name"]):
            raise damaged(f"shard {i} has the name {shard['name']!r}", path)
        if not all(type(n) is int and 0 <= n < shard["documents"] for n in shard.get("deleted", ())):
            raise damaged(f"shard {i} has deleted documents that it lacks", path)
    if info["dtype"] not in DTYPES:
        raise damaged(f"holds dtype {info['dtype']!r}, not float16 or float32", path)
    if not isinstance(info["encoder"].get("fingerprint"), str):
        raise damaged("key 'encoder.fingerprint' is missing", path)
    for key, part in (("chunks", "rows"), ("documents", "documents")):
        if info[key] != sum(shard[part] for shard in info["shards"]):
            raise damaged(f"'{key}' is not the sum of its shards", path)
    return info


def _check_keys(table: Mapping[str, Any], keys: Mapping[str, type], path: Path, prefix: str) -> None:
    for key, kind in keys.items():
        value = table.get(key)
        wrong = not isinstance(value, kind) or (kind is int and isinstance(value, bool))
        if wrong or (isinstance(value, int) and value < 0):
            raise damaged(f"key '{prefix}{key}' is missing or not a {kind.__name__}", path)


def open_vectors(path: Path, rows: int, dimension: int, dtype: str) -> NDArray[Any]:
    """Memory-map one shard's vectors [rows, dimension], read-only.

    Raises:
        StoreError: missing, truncated, longer than it should be, or of another shape or dtype.
    """
    try:
        mapped = map_npy(path, whole=True)
    except FileNotFoundError:
        raise damaged("shard file is missing", path) from None
    except (OSError, ValueError) as e:
        message = f"shard is truncated, longer than it should be or not an .npy file ({e})"
        raise damaged(message, path) from None
    if mapped.shape != (rows, dimension) or mapped.dtype != np.dtype(dtype) or not mapped.flags.c_contiguous:
        problem = f"holds {mapped.dtype} {list(mapped.shape)}, store.json has {dtype} [{rows}, {dimension}]"
        raise damaged(problem, path)
    return mapped


def open_table(path: Path, rows: int, *schemas: pa.Schema) -> pq.ParquetFile:
    """Open one shard's Parquet file of one of these schemas, reading its footer only. Raises StoreError as
    `open_vectors` does."""
    try:
        file = pq.ParquetFile(path, memory_map=True)
    except FileNotFoundError:
        raise damaged("shard file is missing", path) from None
    except (pa.ArrowException, OSError, ValueError) as e:
        raise damaged(f"shard is truncated or not Parquet ({e})", path) from None
    if file.metadata.num_rows != rows:
        raise damaged(f"holds {file.metadata.num_rows} rows, store.json has {rows}", path)
    if not any(file.schema_arrow.equals(schema) for schema in schemas):
        names = ", ".join(schemas[0].names)
        raise damaged(f"has other columns than {names}", path)
    return file


def open_shard(
    store: Path, shard: Mapping[str, Any], dimension: int, dtype: str
) -> tuple[NDArray[Any], pq.ParquetFile, pq.ParquetFile]:
    """Vectors, chunks and documents of one shard, checked for size, shape and columns. Raises StoreError."""
    files = ShardFiles.of(store, shard["name"])
    return (
        open_vectors(files.vectors, shard["rows"], dimension, dtype),
        open_table(files.chunks, shard["rows"], CHUNK_SCHEMA),
        open_table(files.documents, shard["documents"], DOCUMENT_SCHEMA, VIEW_SCHEMA),
    )


def read_documents(path: Path, rows: int) -> pa.Table:
    """One shard's documents; `view_of` is null in all rows where the file lacks it. Raises StoreError."""
    table = read_table(path, rows, DOCUMENT_SCHEMA, VIEW_SCHEMA)
    if "view_of" in table.column_names:
        return table
    return table.append_column(VIEW_SCHEMA.field("view_of"), pa.nulls(rows, pa.string()))


def read_table(path: Path, rows: int, *schemas: pa.Schema, columns: list[str] | None = None) -> pa.Table:
    """Read one shard's Parquet file, which is of one of these schemas, or some columns. Raises StoreError."""
    file = open_table(path, rows, *schemas)
    try:
        return file.read(columns=columns)
    except (pa.ArrowException, OSError, ValueError) as e:
        raise damaged(f"shard cannot be decoded ({e})", path) from None


def numbers(column: pa.ChunkedArray) -> NDArray[Any]:
    """A column of numbers, none of them missing. By DLPack: pyarrow's own ways to numpy and back import
    pandas, which takes longer than to open most stores."""
    return np.from_dlpack(column.combine_chunks())


def number_column(values: IntArray) -> pa.Array:
    """The other way."""
    return pa.Array.from_buffers(pa.int64(), len(values), [None, pa.py_buffer(np.ascontiguousarray(values))])


def verify_shard(store: Path, shard: Mapping[str, Any]) -> None:
    """Compare the sha256 of a shard's three files with the manifest's. Raises StoreError naming the file."""
    files = ShardFiles.of(store, shard["name"])
    for part in ("vectors", "chunks", "documents"):
        path: Path = getattr(files, part)
        if sha256_file(path) != shard[f"{part}_sha256"]:
            raise damaged(CHANGED, path)


FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]


def widen(values: NDArray[Any]) -> FloatArray:
    """float16 or float32 -> float32, exactly, for finite values.

    numpy converts float16 one value at a time, torch by the processor's own instruction; what is about stores
    alone does without torch (it takes seconds to import). Shifting the bits into float32's fields and scaling
    by 2^112 (the difference of the exponent biases) is exact, subnormals included, and faster than numpy too.
    """
    if values.dtype != np.float16:
        return values.astype(np.float32, copy=False)
    if (torch := sys.modules.get("torch")) and hasattr(torch, "compile"):  # imported, to its end
        tensor = torch.from_numpy(values if values.flags.writeable else values.copy())
        found: FloatArray = tensor.float().numpy()
        return found
    bits = values.view(np.int16).astype(np.int32)
    bits <<= 13
    bits &= np.int32(-0x70002000)  # 0x8fffe000: the sign, five exponent bits, ten fraction bits
    wide: FloatArray = bits.view(np.float32)
    wide *= np.float32(2.0**112)
    return wide


class Vectors:
    """A read-only [n, D] array; whatever its dtype on disk, what is read from it is float32.

    Args:
        files: one .npy file a shard.
        rows: rows of each.
        dimension: D.
        stored_dtype: "float16" or "float32".
        digests: sha256 of each file; a file is read whole and compared when the first of its rows is
            asked for, once a process.
    Raises:
        StoreError: a shard file that is missing, truncated or of another shape.
    """

    def __init__(
        self,
        files: Sequence[Path],
        rows: Sequence[int],
        dimension: int,
        stored_dtype: str,
        digests: Sequence[str] = (),
    ) -> None:
        self._made_of = (tuple(files), tuple(rows), dimension, stored_dtype, tuple(digests))
        self._unchecked = dict(enumerate(zip(files, digests, strict=True))) if digests else {}
        self._shards = [open_vectors(f, n, dimension, stored_dtype) for f, n in zip(files, rows, strict=True)]
        self._starts = np.concatenate([[0], np.cumsum(rows, dtype=np.int64)]).astype(np.int64)
        self.shape = (int(self._starts[-1]), dimension)
        self.dtype = np.dtype(np.float32)
        self.stored_dtype = stored_dtype
        self.ndim = 2

    def __reduce__(self) -> tuple[Any, ...]:
        # A worker process maps the files again instead of receiving their contents.
        return (Vectors, self._made_of)

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"Vectors({self.shape[0]} x {self.shape[1]}, {self.stored_dtype} on disk)"

    def _shard(self, number: int) -> NDArray[Any]:
        """The shard's rows, as they were written. Raises StoreError."""
        if number in self._unchecked:
            path, digest = self._unchecked[number]
            check_sha256(path, digest, StoreError, DAMAGED)
            self._unchecked.pop(number, None)
        return self._shards[number]

    def gather(self, rows: NDArray[np.integer[Any]]) -> FloatArray:
        """The vectors of `rows` (any shape [...], in any order) as float32 [..., D].

        Raises:
            IndexError: a row outside 0..n-1 (negative rows are an error here, not a count from the end).
        """
        rows = np.asarray(rows)
        if rows.size == 0:
            return np.empty((*rows.shape, self.shape[1]), np.float32)
        low, high = int(rows.min()), int(rows.max())
        if low < 0 or high >= self.shape[0]:
            raise IndexError(f"row {low if low < 0 else high} of {self.shape[0]} vectors")
        first, last = (int(np.searchsorted(self._starts, r, side="right")) - 1 for r in (low, high))
        if first == last:
            return widen(self._shard(first).take(rows - self._starts[first], axis=0))
        return self._gather_across(rows)

    def _gather_across(self, rows: NDArray[np.integer[Any]]) -> FloatArray:
        flat = rows.reshape(-1)
        order = np.argsort(flat, kind="stable")
        ordered = flat[order]
        cuts = np.searchsorted(ordered, self._starts)
        out = np.empty((flat.size, self.shape[1]), np.float32)
        for shard in np.flatnonzero(np.diff(cuts)):
            part = slice(cuts[shard], cuts[shard + 1])
            rows_of = ordered[part] - self._starts[shard]
            out[order[part]] = widen(self._shard(int(shard)).take(rows_of, axis=0))
        return out.reshape(*rows.shape, self.shape[1])

    def __getitem__(self, key: Any) -> FloatArray:
        """int -> [D]; slice, list, int or bool array -> [..., D]. Negative rows count from the end."""
        n = self.shape[0]
        if isinstance(key, slice):
            start, stop, step = key.indices(n)
            return self._block(start, stop) if step == 1 else self.gather(np.arange(start, stop, step))
        rows = np.asarray(key)
        if rows.dtype == np.bool_:
            if rows.shape != (n,):
                raise IndexError(f"mask of shape {rows.shape} on {n} vectors")
            return self.gather(np.flatnonzero(rows))
        if rows.dtype.kind not in "iu":
            raise IndexError("rows are given as an int, a slice or an array of int or bool")
        return self.gather(np.where(rows < 0, rows + n, rows))

    def _block(self, start: int, stop: int) -> FloatArray:
        out = np.empty((max(stop - start, 0), self.shape[1]), np.float32)
        for shard, (low, high) in enumerate(zip(self._starts[:-1], self._starts[1:], strict=True)):
            a, b = max(start, int(low)), min(stop, int(high))
            if a < b:
                out[a - start : b - start] = widen(self._shard(shard)[a - low : b - low])
        return out

    def blocks(self, size: int = 8192) -> Iterator[tuple[int, FloatArray]]:
        """(first row, float32 [<= size, D]) over the whole store, without loading it."""
        for start in range(0, self.shape[0], size):
            yield start, self._block(start, min(start + size, self.shape[0]))

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("the vectors lie in several files: an array of them is always a copy")
        return self._block(0, self.shape[0]).astype(dtype or np.float32, copy=False)
