"""Documents that a Python program holds -> a store: texts, lists of chunks, tables of rows. And a table on
disk whose rows hold a whole document, its chunks and their vectors in lists, as Meta's Large Concept Model
is given it.

Both are brought into a form that `ingest` and `import_vectors` read, in a folder beside the store that is
gone at the end; so whatever these check is checked here too."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from nextvec.corpus.chunking import Chunker, make_chunker
from nextvec.corpus.encoders import Encoder, EncoderConfig, load_encoder
from nextvec.corpus.encoders.base import MOST_UNKNOWN
from nextvec.corpus.imports import ImportReport, import_vectors, parquet
from nextvec.corpus.ingest import IngestReport, ingest
from nextvec.corpus.survey import check_language
from nextvec.errors import ConfigError, DocumentError, NextvecError, VectorError

IDS, TEXTS = ("id", "doc_id"), ("text", "texts", "chunks", "sentences", "text_sentences")
TABLES = ("to_dicts", "to_pylist")
"""How polars and pyarrow give the rows of a table."""
VECTOR_COLUMNS, LCM_VECTORS = ("vectors", "embeddings"), "_emb"
READ_ROWS = 64
DOCUMENTS = "documents.jsonl"
VECTORS, CHUNKS = "vectors.npy", "chunks.parquet"


@dataclass(frozen=True)
class Row:
    """One document: a text to be cut, or its chunks, with vectors [n, D] or without."""

    doc_id: str
    title: str
    source: str
    content: str | list[str]
    vectors: NDArray[Any] | None = None


def store_documents(
    documents: Any,
    out: str | Path,
    *,
    encoder: str | Encoder | EncoderConfig | None = None,
    chunker: str | Chunker = "words",
    dtype: str = "float16",
    most_unknown: float = MOST_UNKNOWN,
    quiet: bool = True,
) -> IngestReport | ImportReport:
    """Put documents that are in memory into a store, new or existing.

    Args:
        documents: texts (`list[str]`), which are cut; lists of chunks (`list[list[str]]`), which are taken as
            they are; or rows: dictionaries, a pandas or polars DataFrame, a pyarrow Table, a
            `datasets.Dataset`. Of rows the columns id (or doc_id; else documents are numbered from 0), text
            (a text, or a list of chunks), title and source are read, and vectors (or embeddings, or a name
            that ends in _emb): of each chunk one.
        encoder: a name, a folder, a configuration or an encoder; by default the packaged one. Of documents
            that come with vectors it is only a name, and without it they are those of an unknown encoder.
        chunker: a kind (`make_chunker`) or a chunker.
        dtype, most_unknown: as in `ingest`.
    Raises:
        DocumentError: nothing that is such documents, or texts beside lists of chunks; the row is named.
        StoreError, EncoderError, VectorError: as `ingest` and `import_vectors`.
    """
    rows = list(_rows(documents))
    if not rows:
        raise DocumentError("no document to ingest", where="documents", remedy="give one at least")
    kinds = {(isinstance(row.content, str), row.vectors is not None) for row in rows}
    if len(kinds) > 1 or (True, True) in kinds:
        message = "some are texts and some lists of chunks, or only some have vectors"
        remedy = "give texts alone, or lists of chunks alone, with vectors for all or none"
        raise DocumentError(message, where="documents", remedy=remedy)
    [(whole, embedded)] = kinds
    if embedded and not (encoder is None or isinstance(encoder, str)):
        remedy = "give the name of the encoder they are of"
        raise ConfigError("the documents come with vectors", where="encoder", remedy=remedy)
    with _beside(Path(out)) as folder:
        if embedded:
            return _import(
                folder, lambda: rows, out, "documents", encoder_name=encoder, dtype=dtype, quiet=quiet
            )
        config = EncoderConfig(encoder) if isinstance(encoder, str) else encoder or EncoderConfig()
        cutter = make_chunker(chunker) if isinstance(chunker, str) else chunker
        if whole:
            with (folder / DOCUMENTS).open("w", encoding="ascii") as f:
                for row in rows:
                    held = {"id": row.doc_id, "title": row.title, "source": row.source, "text": row.content}
                    f.write(json.dumps(held) + "\n")
            options: dict[str, Any] = {"dtype": dtype, "most_unknown": most_unknown, "quiet": quiet}
            return ingest(folder / DOCUMENTS, out, encoder=config, chunker=cutter, **options)
        made = load_encoder(config) if isinstance(config, EncoderConfig) else config
        texts = [text for row in rows for text in row.content]
        check_language(made, cutter, texts, most_unknown)
        parts = np.split(made.encode(texts), np.cumsum([len(row.content) for row in rows])[:-1])
        with_vectors = [replace(row, vectors=part) for row, part in zip(rows, parts, strict=True)]
        return _import(folder, lambda: with_vectors, out, "documents", encoder=made, dtype=dtype, quiet=quiet)


def import_lists(path: Path, out: str | Path, **options: Any) -> ImportReport:
    """Put a Parquet file into a store whose rows are documents: a column of lists of texts, one of lists of
    vectors (as the LCM's `text_sentences` and `text_sentences_sonar_emb`) and, if there, id or doc_id (else
    rows are numbered from 0), title and source. Other columns are left.

    Args:
        options: as `import_vectors` takes them.
    Raises:
        DocumentError: no such columns, or several; a row with another number of vectors than of texts.
        VectorError: vectors of several dimensions. And what `import_vectors` raises.
    """
    with parquet(path):
        file = pq.ParquetFile(path)
    with file, _beside(Path(out)) as folder:
        texts, vectors = _list_columns(file.schema_arrow, path)
        names = [n for n in (*IDS, "title", "source") if n in file.schema_arrow.names]

        def rows() -> Iterator[Row]:
            with parquet(path):  # what is wrong with the store that is written is no fault of this file
                batches = file.iter_batches(READ_ROWS, columns=[*names, texts, vectors])
                held = chain.from_iterable(batch.to_pylist() for batch in batches)
                for number, row in enumerate(held):
                    taken = {**row, "text": row[texts], "vectors": row[vectors]}
                    yield _row(taken, number, f"{path}: row {number}")

        return _import(folder, rows, out, path, **options)


def _list_columns(schema: pa.Schema, path: Path) -> tuple[str, str]:
    """The column of lists of texts, and the one of lists of vectors."""

    def inner(kind: pa.DataType) -> pa.DataType | None:
        lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
        return kind.value_type if any(is_list(kind) for is_list in lists) else None

    texts, vectors = [], []
    for field in schema:
        held = inner(field.type)
        if held is not None and (pa.types.is_string(held) or pa.types.is_large_string(held)):
            texts.append(field.name)
        elif held is not None and (number := inner(held)) is not None and pa.types.is_floating(number):
            vectors.append(field.name)
    for found, what in ((texts, "texts"), (vectors, "vectors")):
        if len(found) != 1:
            columns_found = ", ".join(found) or "none"
            message = f"one column of lists of {what} is needed, there are: {columns_found}"
            remedy = "write a file with one of each, or give --vectors and --chunks"
            raise DocumentError(message, where=path, remedy=remedy)
    return texts[0], vectors[0]


def _rows(documents: Any) -> Iterator[Row]:
    """Whatever documents were given, one by one."""
    table = any(hasattr(documents, method) for method in TABLES)
    if isinstance(documents, (str, bytes, Mapping)) or not (table or hasattr(documents, "__iter__")):
        message = f"{type(documents).__name__} is not a list of documents"
        remedy = "give texts, lists of chunks, or a table; of files on disk: nextvec.corpus.ingest.ingest"
        raise DocumentError(message, where="documents", remedy=remedy)
    for number, item in enumerate(_items(documents)):
        where = f"documents[{number}]"
        if isinstance(item, Mapping):
            yield _row(item, number, where)
        else:
            yield Row(str(number), "", "documents", _content(item, where))


def _items(documents: Any) -> Iterable[Any]:
    """The rows of a table; of anything else what it is made of."""
    rows: Iterable[Any] = documents
    if hasattr(documents, "iterrows"):  # pandas
        rows = documents.to_dict("records")
    for method in TABLES:
        if hasattr(documents, method):
            rows = getattr(documents, method)()
    return rows


def _row(row: Mapping[str, Any], number: int, where: str) -> Row:
    held = next((name for name in TEXTS if name in row), None)
    if held is None:
        have = ", ".join(f"'{name}'" for name in list(row)[:12]) or "none"
        raise DocumentError(f"no column 'text' (there are: {have})", where=where, remedy="rename the column")
    content = _content(row[held], where)
    name = next((row[key] for key in IDS if key in row), number)
    if not _text(name):
        raise DocumentError("has no id", where=where, remedy="give every row an id, or leave the column out")
    vectors = next((row[key] for key in row if key in VECTOR_COLUMNS or key.endswith(LCM_VECTORS)), None)
    found = None
    if vectors is not None:
        try:
            found = np.asarray([np.asarray(v, dtype=np.float32) for v in vectors])
        except (TypeError, ValueError) as e:
            message = f"is not a list of vectors ({e})"
            raise VectorError(message, where=where, remedy="give [chunks, D]") from None
        if isinstance(content, str) or len(found) != len(content):
            count = 1 if isinstance(content, str) else len(content)
            message = f"has {len(found)} vectors for {count} chunks"
            raise DocumentError(message, where=where, remedy="give one for each chunk")
    return Row(str(name), _text(row.get("title")), _text(row.get("source")) or "documents", content, found)


def _text(value: Any) -> str:
    """A cell as a text; empty where a table has None or, as pandas does, NaN."""
    return "" if value is None or value != value else str(value)


def _content(value: Any, where: str) -> str | list[str]:
    if isinstance(value, str):
        return value
    listed = value.tolist() if isinstance(value, np.ndarray) else value
    if isinstance(listed, Sequence) and all(isinstance(text, str) for text in listed):
        return list(listed)
    message = f"{type(value).__name__} is neither a text nor a list of texts"
    raise DocumentError(message, where=where, remedy="give str or list[str]")


def _dimension(row: Row) -> int:
    if row.vectors is None or row.vectors.ndim != 2:
        raise VectorError("has no vectors [chunks, D]", where=row.doc_id, remedy="give one for each chunk")
    return int(row.vectors.shape[1])


def _import(
    folder: Path, rows: Callable[[], Iterable[Row]], out: str | Path, where: str | Path, **options: Any
) -> ImportReport:
    """Write the pair of files that `import_vectors` reads, row by row, and import them."""
    first = next((row for row in rows() if row.content), None)
    if first is None:
        raise DocumentError("no document to ingest", where=where, remedy="give one with chunks")
    dimension = _dimension(first)
    count = sum(len(row.content) for row in rows())
    array = open_memmap(folder / VECTORS, "w+", np.float32, (count, dimension))
    kinds = {"doc_id": pa.string(), "position": pa.int64(), "text": pa.string(), "source": pa.string()}
    schema = pa.schema([*kinds.items(), ("title", pa.string())])
    at = 0
    with pq.ParquetWriter(folder / CHUNKS, schema) as writer:
        for row in (row for row in rows() if row.content):
            n = len(row.content)
            if _dimension(row) != dimension:
                message = f"has vectors of dimension {_dimension(row)}, those before of {dimension}"
                raise VectorError(message, where=row.doc_id, remedy="give vectors of one encoder")
            array[at : at + n] = row.vectors
            columns = [[row.doc_id] * n, range(n), list(row.content), [row.source] * n, [row.title] * n]
            made = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
            writer.write_table(pa.table(made, schema))
            at += n
    array.flush()
    return import_vectors(folder / VECTORS, folder / CHUNKS, out, **options)


@contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """A folder on the disk of the store, gone at the end; what is wrong in it is said of `documents`."""
    parent = next(p for p in out.absolute().parents if p.is_dir())
    folder = Path(tempfile.mkdtemp(prefix=".nextvec-", dir=parent))
    try:
        yield folder
    except NextvecError as e:
        for name in (DOCUMENTS, VECTORS, CHUNKS):
            e.where = None if e.where is None else e.where.replace(str(folder / name), "documents")
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
