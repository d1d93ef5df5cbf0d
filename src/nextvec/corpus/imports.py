"""Already embedded material -> store: an .npy of vectors beside a Parquet table of the chunks."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from nextvec.corpus.arrays import map_npy
from nextvec.corpus.arrow_tables import NewDocument
from nextvec.corpus.encoders.base import UNKNOWN_CHUNKER, UNKNOWN_ENCODER, Encoder, digest
from nextvec.corpus.fingerprints import minhash_texts, text_sha256, vectors_sha256
from nextvec.corpus.ingest import shards
from nextvec.corpus.survey import KNOWN, is_known
from nextvec.corpus.writer import StoreWriter, check_encoder, check_place
from nextvec.errors import DocumentError, EncoderError, EncoderMismatchError, NextvecError, VectorError
from nextvec.progress import Progress

IMPORT_SHARD_CHUNKS = 65536
UNIT_TOLERANCE = 1e-2
"""Vectors rounded to bfloat16 are off unit length by up to 0.004."""
SAMPLE = 32
_SHA256 = re.compile(r"[0-9a-f]{64}")
_READ_ROWS = 16384
_NAMES = ("source", "title")
_BLOCK_ROWS = 8192
IMPORTED = {"kind": UNKNOWN_CHUNKER}


@dataclass(frozen=True)
class ImportReport:
    """What an import did.

    Attributes:
        documents, chunks: added by this run.
        skipped: reason -> documents left out.
        normalised: the vectors are of unit length.
        verified: a sample of the texts was encoded anew and agreed.
    """

    store: str
    documents: int
    chunks: int
    skipped: dict[str, int]
    normalised: bool
    verified: bool


@dataclass(frozen=True)
class _Rows:
    """One document of the table: its rows are `first` .. `first + count - 1`. `parts` are its texts: they
    are made into Python's where they are asked for."""

    doc_id: str
    source: str
    title: str
    first: int
    parts: list[pa.Array]

    def vectors(self, array: NDArray[Any]) -> NDArray[Any]:
        """[count, D] its rows of all."""
        return array[self.first : self.first + self.count]

    @property
    def count(self) -> int:
        """Chunks."""
        return sum(map(len, self.parts))

    @cached_property
    def texts(self) -> list[str]:
        """One a chunk."""
        return [text for part in self.parts for text in part.to_pylist()]


def import_vectors(
    vectors: str | Path,
    chunks: str | Path,
    out: str | Path,
    *,
    encoder: Encoder | None = None,
    encoder_name: str | None = None,
    encoder_sha256: str | None = None,
    encoder_normalises: bool | None = None,
    dtype: str | None = None,
    shard_chunks: int = IMPORT_SHARD_CHUNKS,
    quiet: bool = False,
) -> ImportReport:
    """Put vectors [n, D] and the chunks they belong to into a store, new or existing.

    The vectors are memory-mapped and everything is checked before anything is written. Whose vectors they
    are is either proved (`encoder`: a sample of texts is encoded anew and compared, and the store carries
    that encoder's fingerprint) or taken on trust and recorded as unverified (`encoder_name`; without a name,
    as those of an unknown encoder, which nothing that reads a text can go on from).

    Args:
        vectors: an .npy of float16, float32 or float64.
        chunks: Parquet with doc_id, position (from 0 in every document), text, source and, if there, title;
            row i belongs to vector i, the rows of a document stand together and in order.
        encoder_name, encoder_sha256: its name, and the sha256 of its weights where that is known.
        encoder_normalises: the published encoder ends with an L2 norm. By default: when the vectors are unit.
        dtype: on disk; by default float16 for float16, else float32.
    Raises:
        VectorError: unreadable vectors, another number of rows than the table, NaN, infinity, zero (the
            row is named). DocumentError: missing columns, positions or documents out of order (the row is
            named). EncoderError, EncoderMismatchError: no such sha256, or the sample disagrees.
            StoreError: see `StoreWriter`.
    """
    array, table = open_npy(Path(vectors)), _open_chunks(Path(chunks))
    if len(array) != table.metadata.num_rows:
        message = f"{len(array)} vectors for {table.metadata.num_rows} chunks of {chunks}"
        raise VectorError(message, where=vectors, remedy="give one row of each for every chunk")
    if encoder is None:
        description = describe_encoder(encoder_name, encoder_sha256, array.shape[1])
    else:
        description = encoder.fingerprint
    check_place(Path(out))
    check_encoder(Path(out), description, array.shape[1])
    normalised = check_vectors(array, str(vectors), quiet=quiet)
    normalises = encoder_normalises
    if encoder is not None:
        _compare(encoder, array, _documents(table, Path(chunks)), str(vectors))
        normalises = encoder.normalises
    with imported_writer(out, description, array, dtype, normalised, normalises) as writer:
        wanted, skipped = _survey(_documents(table, Path(chunks)), array, writer.known, str(chunks))
        total = sum(wanted.values())
        with Progress("import", total, "chunks", quiet=quiet) as progress:
            documents = (d for d in _documents(table, Path(chunks)) if d.doc_id in wanted)
            for batch in shards(documents, shard_chunks, lambda d: d.count):
                vectors_of = np.concatenate([rows.vectors(array) for rows in batch])
                writer.add_shard(_new_documents(batch, array), vectors_of, path="imported")
                progress.advance(len(vectors_of))
    return ImportReport(
        str(out), len(wanted), total, {KNOWN: skipped} if skipped else {}, normalised, encoder is not None
    )


def imported_writer(
    out: str | Path,
    encoder: dict[str, Any],
    vectors: NDArray[Any],
    dtype: str | None,
    normalised: bool,
    normalises: bool | None,
) -> StoreWriter:
    """A writer for `vectors` [n, D] that came from elsewhere.

    dtype: on disk; None: float16 for float16, else float32. normalises: whether their encoder ends with an L2
    norm; None: when they are unit.
    """
    return StoreWriter(
        out,
        encoder=encoder,
        dimension=vectors.shape[1],
        chunker=IMPORTED,
        dtype=dtype or ("float16" if vectors.dtype == np.float16 else "float32"),
        normalised=normalised,
        encoder_normalises=normalised if normalises is None else normalises,
    )


def describe_encoder(name: str | None, sha256: str | None, dimension: int) -> dict[str, Any]:
    """The description of an encoder that is only known by name, or not at all. Raises EncoderError.

    Vectors of two unknown encoders of one dimension are taken for those of one: nothing tells them apart.
    """
    if name is None:
        if sha256 is not None:
            raise EncoderError("a sha256 of an encoder without a name", remedy="name it with --encoder")
        name = UNKNOWN_ENCODER
    if not name.strip():
        raise EncoderError("the encoder's name is empty", remedy="name it with --encoder, or leave it out")
    if sha256 is not None and not _SHA256.fullmatch(sha256):
        raise EncoderError(f"'{sha256}' is not a sha256", remedy="give the 64 hex digits of the weights file")
    identity = {"name": name, "weights_sha256": sha256, "dimension": dimension}
    return {"kind": "imported", "fingerprint": digest(identity), "verified": False, **identity}


def open_npy(path: Path) -> NDArray[Any]:
    """Memory-map an .npy of floats [n, D]. Raises VectorError."""
    try:
        array = map_npy(path)
    except FileNotFoundError:
        raise VectorError("not found", where=path, remedy="check the path") from None
    except (OSError, ValueError) as e:
        message = f"is truncated or not an .npy of numbers ({e})"
        raise VectorError(message, where=path, remedy="save it again") from None
    if array.ndim != 2 or array.dtype.kind != "f" or array.dtype.itemsize > 8 or 0 in array.shape:
        remedy = "give float16, 32 or 64 of shape [n, D]"
        raise VectorError(f"holds {array.dtype} {list(array.shape)}", where=path, remedy=remedy)
    return array


def check_vectors(array: NDArray[Any], where: str, *, quiet: bool = True) -> bool:
    """Check that every row is finite and not zero; returns whether all are of unit length.

    Raises:
        VectorError: naming the first row at fault.
    """
    unit = True
    with Progress("check", len(array), "vectors", quiet=quiet) as progress:
        for start in range(0, len(array), _BLOCK_ROWS):
            block = array[start : start + _BLOCK_ROWS].astype(np.float64)
            norms = np.linalg.norm(block, axis=1)
            for bad, what in ((~np.isfinite(norms), "is NaN or infinite"), (norms == 0, "is zero")):
                if bad.any():
                    row = start + int(bad.argmax())
                    raise VectorError(what, where=f"{where}: row {row}", remedy="fix or leave out that row")
            unit = unit and bool(np.all(np.abs(norms - 1) < UNIT_TOLERANCE))
            progress.advance(len(block))
    return unit


@contextmanager
def parquet(path: Path) -> Iterator[None]:
    """What is wrong with a Parquet file that is read inside becomes a DocumentError."""
    try:
        yield
    except NextvecError:
        raise
    except FileNotFoundError:
        raise DocumentError("not found", where=path, remedy="check the path") from None
    except (pa.ArrowException, OSError, ValueError) as e:
        message = f"is damaged, or not Parquet ({e})"
        raise DocumentError(message, where=path, remedy="save it again") from None


def _open_chunks(path: Path) -> pq.ParquetFile:
    with parquet(path):
        file = pq.ParquetFile(path, memory_map=True)
    missing = {"doc_id", "position", "text", "source"} - set(file.schema_arrow.names)
    if missing:
        raise DocumentError(f"lacks the column {', '.join(sorted(missing))}", where=path, remedy="add it")
    return file


def _documents(file: pq.ParquetFile, path: Path) -> Iterator[_Rows]:
    """The table's documents in order, checked as they stream. Raises DocumentError naming the row."""
    columns = [c for c in ("doc_id", "position", "text", "source", "title") if c in file.schema_arrow.names]
    seen: set[str] = set()
    current: _Rows | None = None
    row = 0
    with parquet(path):
        for batch in file.iter_batches(_READ_ROWS, columns=columns):
            ids, positions = _checked(batch, path, row)
            begins = [i for i in range(len(ids)) if i == 0 or ids[i] != ids[i - 1]]
            for begin, end in itertools.pairwise([*begins, len(ids)]):
                doc_id = ids[begin]
                if current is None or doc_id != current.doc_id:
                    if current is not None:
                        yield current
                    if doc_id in seen:
                        where = f"{path}: row {row + begin}"
                        message = f"document '{doc_id}' goes on after another"
                        raise DocumentError(message, where=where, remedy="sort rows by document and position")
                    seen.add(doc_id)
                    first = batch.slice(begin, 1).select([c for c in _NAMES if c in columns]).to_pylist()[0]
                    source, title = (str(first.get(name) or "") for name in _NAMES)
                    current = _Rows(doc_id, source, title, row + begin, [])
                _check_positions(positions[begin:end], current, f"{path}: row", row + begin)
                current.parts.append(batch["text"][begin:end])
            row += len(ids)
    if current is not None:
        yield current


def _checked(batch: pa.RecordBatch, path: Path, first: int) -> tuple[list[str], list[int]]:
    """Ids and positions of a batch whose first row is number `first`. Raises DocumentError."""
    ids, positions = batch["doc_id"].to_pylist(), batch["position"].to_pylist()
    missing = any(batch[name].null_count for name in ("doc_id", "position", "text"))
    if missing or not pa.types.is_integer(batch["position"].type) or not _is_text(batch["text"].type):
        for i, text in enumerate(batch["text"].to_pylist()):
            if ids[i] is None or not isinstance(positions[i], int) or not isinstance(text, str):
                message, where = "doc_id, position or text is missing or of another type", f"{path}: row"
                raise DocumentError(message, where=f"{where} {first + i}", remedy="fill in that row")
    return [str(doc_id) for doc_id in ids], positions


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _check_positions(positions: list[int], document: _Rows, where: str, first: int) -> None:
    """Raise DocumentError unless these go on counting the document's chunks; the first is of row `first`."""
    due = document.count
    if positions != list(range(due, due + len(positions))):
        at = next(i for i, position in enumerate(positions) if position != due + i)
        message = f"position {positions[at]} of document '{document.doc_id}' where {due + at} is due"
        remedy = "number the chunks of every document 0, 1, 2, ... in order"
        raise DocumentError(message, where=f"{where} {first + at}", remedy=remedy)


def _new_documents(batch: Sequence[_Rows], array: NDArray[Any]) -> list[NewDocument]:
    minhashes = iter(minhash_texts(rows.texts for rows in batch if any(rows.texts)))
    made = []
    for rows in batch:
        names = {"source": rows.source, "title": rows.title}
        if any(rows.texts):
            made.append(NewDocument.from_chunks(rows.doc_id, rows.texts, next(minhashes), **names))
        else:
            made.append(NewDocument.without_text(rows.doc_id, rows.vectors(array), **names))
    return made


def _survey(
    documents: Iterator[_Rows], array: NDArray[Any], known: dict[str, str], where: str
) -> tuple[dict[str, int], int]:
    """Walk through all documents before anything is written.

    Returns:
        doc_id -> chunks of the documents to add, and the number of documents the store has already.
    """
    wanted: dict[str, int] = {}
    skipped = 0
    for rows in documents:
        if rows.doc_id in known and is_known(rows.doc_id, _sha256(rows, array), known, where):
            skipped += 1
        else:
            wanted[rows.doc_id] = rows.count
    return wanted, skipped


def _sha256(rows: _Rows, array: NDArray[Any]) -> str:
    """The hash that `_new_documents` will give it."""
    if any(rows.texts):
        return text_sha256(" ".join(rows.texts))
    return vectors_sha256(rows.vectors(array))


def _compare(encoder: Encoder, array: NDArray[Any], documents: Iterator[_Rows], where: str) -> None:
    """Encode up to 32 texts spread over the table and compare. Raises EncoderMismatchError, VectorError."""
    if array.shape[1] != encoder.dimension:
        message = f"vectors are of dimension {array.shape[1]}, '{encoder.name}' gives {encoder.dimension}"
        raise VectorError(message, where=where, remedy="name the right encoder")
    chosen = set(np.linspace(0, len(array) - 1, min(SAMPLE, len(array))).astype(int).tolist())
    sample = {r.first + i: t for r in documents for i, t in enumerate(r.texts) if r.first + i in chosen}
    rows = sorted(row for row, text in sample.items() if text.strip())
    if not rows:
        message, remedy = "has no texts to compare the encoder with", "name the encoder unproved"
        raise EncoderError(message, where=where, remedy=remedy)
    fresh = encoder.encode([sample[r] for r in rows]).astype(np.float64)
    given = array[rows].astype(np.float64)
    cosines = (fresh * given).sum(1) / (np.linalg.norm(fresh, axis=1) * np.linalg.norm(given, axis=1))
    if cosines.min() < 0.99:
        worst = rows[int(cosines.argmin())]
        message = f"vector is not '{encoder.name}' of its text (cosine {cosines.min():.3f})"
        remedy = "name the right encoder, or check that vectors and chunks are aligned"
        raise EncoderMismatchError(message, where=f"{where}: row {worst}", remedy=remedy)
