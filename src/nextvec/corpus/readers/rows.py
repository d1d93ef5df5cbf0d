"""JSONL, JSON, CSV, TSV and Parquet: one row, one document.

The columns of the Hugging Face data set `wikimedia/wikipedia` (id, url, title, text) need no options."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from nextvec.corpus.readers.base import (
    MAX_DOCUMENT_BYTES,
    RawDocument,
    ReaderOptions,
    ReadReport,
    decode,
    plain_file,
    read_bytes,
    read_lines,
    too_long,
)
from nextvec.errors import DocumentError

# Rows of a Parquet batch held in memory at once: few, since each may be as long as a document may be.
BATCH_ROWS = 16


@dataclass(frozen=True)
class Columns:
    """Which column holds what; None where the material has no such column."""

    doc_id: str | None
    text: str
    title: str | None
    source: str | None

    @classmethod
    def find(cls, names: Iterable[str], options: ReaderOptions, where: str | Path) -> Columns:
        """Choose among a table's column names. What has no other columns than text, title and source has its
        row numbers for ids, from 0. Raises DocumentError for a column that is missing."""
        present = list(names)

        def choose(named: str | None, defaults: tuple[str, ...], role: str, needed: bool) -> str | None:
            wanted = (named,) if named is not None else defaults
            for name in wanted:
                if name in present:
                    return name
            if named is None and not needed:
                return None
            have = ", ".join(f"'{n}'" for n in present[:12]) or "none"
            remedy = f"name the {role} column: --{role}-column NAME"
            raise DocumentError(f"no column '{wanted[0]}' (there are: {have})", where=where, remedy=remedy)

        own = (options.text_column, options.title_column, options.source_column)
        numbered = set(present) <= {"text", "title", "source", *own}
        doc_id = choose(options.id_column, ("id", "doc_id"), "id", not numbered)
        text = choose(options.text_column, ("text",), "text", True)
        assert text is not None
        title = choose(options.title_column, ("title",), "title", False)
        return cls(doc_id, text, title, choose(options.source_column, ("source",), "source", False))

    def names(self) -> list[str]:
        """The columns to read."""
        return list(dict.fromkeys(name for name in vars(self).values() if name is not None))

    def document(self, row: Mapping[str, Any], where: str, number: int) -> RawDocument:
        """Row `number` as a document. Raises DocumentError for an id or a text that cannot be one."""
        doc_id = number if self.doc_id is None else row[self.doc_id]
        text = row[self.text]
        if isinstance(doc_id, bool) or not isinstance(doc_id, (str, int)) or doc_id == "":
            remedy = "give every row a text or a whole number"
            raise DocumentError(f"'{self.doc_id}' is {doc_id!r}"[:200], where=where, remedy=remedy)
        if text is None:
            text = ""
        if not isinstance(text, str):
            message = f"'{self.text}' is {type(text).__name__}, not text"
            raise DocumentError(message, where=where, remedy="name the text column: --text-column NAME")
        # NULL is how CSV and Parquet say that there is no title.
        title = row[self.title] if self.title is not None else None
        source = row[self.source] if self.source is not None else None
        return RawDocument(
            str(doc_id),
            "" if title is None else str(title),
            text,
            where,
            None if source is None or source == "" else str(source),
        )


def read_jsonl(path: Path, options: ReaderOptions, report: ReadReport) -> Iterator[RawDocument]:
    """One JSON object a line; blank lines are passed over. Every line has the columns of its own object."""
    lines = ((number, line) for number, line in read_lines(path, options.encoding) if line.strip())
    for count, (number, line) in enumerate(lines):
        where, remedy = f"{path}:{number}", "write one JSON object a line"
        yield _object(_parsed(line, where, remedy), count, options, where, remedy)


def read_json(path: Path, options: ReaderOptions, report: ReadReport) -> Iterator[RawDocument]:
    """An array of objects, or of texts; or one object, which is one document. Of at most 64 MiB: longer ones
    are written as JSONL."""
    text = decode(read_bytes(path), options.encoding, path).removeprefix("\ufeff")
    held = _parsed(text, path, "correct it")
    for number, item in enumerate(held if isinstance(held, list) else [held]):
        row = {options.text_column or "text": item} if isinstance(item, str) else item
        remedy = "write an array of objects, or of texts"
        yield _object(row, number, options, f"{path}: item {number}", remedy)


def _parsed(text: str, where: str | Path, remedy: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as e:
        reason = getattr(e, "msg", None) or str(e)
        raise DocumentError(f"is not JSON ({reason})", where=where, remedy=remedy) from None


def _object(row: Any, number: int, options: ReaderOptions, where: str, remedy: str) -> RawDocument:
    if not isinstance(row, dict):
        message = f"is a JSON {type(row).__name__}, not an object"
        raise DocumentError(message, where=where, remedy=remedy)
    return Columns.find(row, options, where).document(row, where, number)


def read_csv(path: Path, options: ReaderOptions, report: ReadReport) -> Iterator[RawDocument]:
    """RFC 4180: a header row, quoted fields may hold line breaks; commas, or another delimiter that the
    header tells (see `ReaderOptions.delimiter`)."""
    # The limit is one for the whole process: it is only ever raised.
    csv.field_size_limit(max(csv.field_size_limit(), MAX_DOCUMENT_BYTES))
    lines = (line for _, line in read_lines(path, options.encoding))
    first, delimiter, before = next(lines, ""), options.delimiter, 1
    if re.fullmatch(r"sep=.\r?\n?", first):  # as Excel writes it
        first, delimiter, before = next(lines, ""), delimiter or first[4], 2
    delimiter = delimiter or _delimiter(first, path, options)
    rows = csv.reader(chain([first], lines), delimiter=delimiter, strict=True)
    header: list[str] = []
    count = 0
    while True:
        where = f"{path}:{rows.line_num + before}"
        try:
            row = next(rows, None)
        except csv.Error as e:
            if "field larger" in str(e):
                raise too_long(where) from None
            remedy = "correct the quotes of this row"
            raise DocumentError(f"is not CSV ({e})", where=where, remedy=remedy) from None
        if row is None:
            return
        if not row:
            continue
        if not header:
            header, columns = row, Columns.find(row, options, where)
            if len(set(header)) < len(header):
                raise DocumentError("two columns have the same name", where=where, remedy="rename one")
            continue
        if len(row) != len(header):
            message = f"has {len(row)} fields, the header {len(header)}"
            raise DocumentError(message, where=where, remedy="correct or quote this row")
        yield columns.document(dict(zip(header, row, strict=True)), where, count)
        count += 1


def _delimiter(header: str, path: Path, options: ReaderOptions) -> str:
    if ".tsv" in (s.lower() for s in path.suffixes):
        return "\t"
    for mark in (",", ";", "\t", "|"):
        names = next(csv.reader([header], delimiter=mark), [])
        if len(names) > 1 and (options.text_column or "text") in names:
            return mark
    return ","


def read_parquet(path: Path, options: ReaderOptions, report: ReadReport) -> Iterator[RawDocument]:
    """Read a few rows at a time; only the columns needed."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = 0
    try:
        with plain_file(path) as plain, pq.ParquetFile(plain) as file:
            columns = Columns.find(file.schema_arrow.names, options, path)
            for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=columns.names()):
                for values in batch.to_pylist():
                    yield columns.document(values, f"{path}: row {row}", row)
                    row += 1
    except (pa.ArrowException, OSError, UnicodeDecodeError) as e:
        reason = str(e).splitlines()[0][:200] if str(e) else type(e).__name__
        message = f"cannot be read as Parquet after row {row} ({reason})"
        raise DocumentError(message, where=path, remedy="fetch or write it again") from None
