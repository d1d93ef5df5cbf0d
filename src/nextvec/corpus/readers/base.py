"""What every reader shares: the document it yields, its options, its report, text normalisation, and opening
files that may be compressed, damaged, huge or a decompression bomb."""

from __future__ import annotations

import bz2
import codecs
import contextlib
import gzip
import io
import re
import tempfile
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from nextvec.errors import ConfigError, DocumentError

MAX_DOCUMENT_BYTES = 64 * 2**20
"""Longest document, line or field any reader holds in memory."""


@dataclass(frozen=True)
class SourceDocument:
    """One document as it goes into a store.

    Attributes:
        doc_id: unique within the store.
        source: the corpus it comes from (a folder, a file, a wiki).
        title: for people; may be empty.
        text: normalised by `normalise_text`, never empty.
        page: read from HTML, where footers and menus recur that the markup does not tell apart.
    """

    doc_id: str
    source: str
    title: str
    text: str
    page: bool = False


@dataclass(frozen=True)
class ReaderOptions:
    """How sources are read.

    Attributes:
        source: source name of every document; by default the source column, else the folder, file or wiki.
        id_column, title_column, text_column, source_column: names in JSONL, CSV and Parquet. By default `id`
            (or `doc_id`), `title` and `source` (both may be missing) and `text`; one named here must exist.
        encoding: of text files, JSONL, CSV and of HTML that declares none. A byte order mark is dropped.
        headings: keep headings of Markdown, HTML and wikis as paragraphs of their own. Left out by default
            (and counted): a heading is too short for a chunk, so it would end that of the section before.
        min_characters: shorter documents are skipped and counted.
        skip_empty: skip and count documents without text instead of stopping at them. Wiki pages that are
            empty once cleaned are always skipped and counted.
        qualify_ids: make ids unique across sources by writing `source/id`.
        limit: stop after this many documents.
        delimiter: between the fields of a CSV; by default the one of , ; | and tab that gives the header a
            text column.
        strict: a file of one document that cannot be read is an error; else it is left out and listed in the
            report. A broken row of a table is an error either way: what comes after it would be lost.
    """

    source: str | None = None
    id_column: str | None = None
    title_column: str | None = None
    text_column: str | None = None
    source_column: str | None = None
    encoding: str = "utf-8"
    headings: bool = False
    min_characters: int = 0
    skip_empty: bool = False
    qualify_ids: bool = False
    limit: int | None = None
    delimiter: str | None = None
    strict: bool = True

    def __post_init__(self) -> None:
        if self.min_characters < 0:
            raise ConfigError("min_characters is negative", remedy="give 0 or more")
        if self.limit is not None and self.limit < 1:
            raise ConfigError("limit is below 1", remedy="give 1 or more, or leave it out")
        if self.delimiter is not None and len(self.delimiter) != 1:
            raise ConfigError(f"'{self.delimiter}' is not a delimiter", remedy="give one character")
        if self.source is not None and not self.source.strip():
            raise ConfigError("source is empty", remedy="give a name, or leave it out")
        try:
            "".encode(self.encoding)
        except LookupError:
            raise ConfigError(f"unknown encoding '{self.encoding}'", remedy="try utf-8 or latin-1") from None


@dataclass
class ReadReport:
    """What a reading did: nothing is left out without being counted here.

    Attributes:
        documents: documents yielded.
        characters: their characters.
        skipped: reason -> number of documents or files left out whole.
        headings: headings left out of documents that were read.
        unread: files that could not be read, each with the reason.
    """

    documents: int = 0
    characters: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    headings: int = 0
    unread: list[str] = field(default_factory=list)

    def skip(self, reason: str, count: int = 1) -> None:
        """Count something left out whole."""
        self.skipped[reason] += count

    def __str__(self) -> str:
        text = f"{self.documents} documents read, {self.characters} characters"
        if self.skipped:
            reasons = ", ".join(f"{n} {reason}" for reason, n in sorted(self.skipped.items()))
            text += f"; skipped: {reasons}"
        if self.headings:
            text += f"; {self.headings} headings left out"
        return text


@dataclass(frozen=True)
class RawDocument:
    """A document as a reader finds it, before normalisation and checks.

    Attributes:
        where: file and row, for errors.
        source: None where the material names none.
        empty_is_normal: an empty text is skipped and counted whatever the options say.
        page: read from HTML.
    """

    doc_id: str
    title: str
    text: str
    where: str | Path
    source: str | None = None
    empty_is_normal: bool = False
    page: bool = False


# Line separators of every kind, characters without a place in text, and runs of blank lines.
_LINE_BREAK = re.compile("\r\n|[\r\v\f\x85\u2028\u2029]")
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ufeff\u00ad]")
_BLANK_LINES = re.compile(r"\n{3,}")


def normalise_text(text: str) -> str:
    r"""NFC; line ends as \n; tabs as blanks; no control character, byte order mark or soft hyphen; no
    blanks at line ends; paragraphs separated by exactly one blank line; stripped. Idempotent."""
    text = _LINE_BREAK.sub("\n", text).replace("\t", " ")
    text = unicodedata.normalize("NFC", _CONTROL.sub("", text))
    lines = "\n".join(line.rstrip() for line in text.split("\n"))
    return _BLANK_LINES.sub("\n\n", lines).strip()


COMPRESSIONS = (".gz", ".bz2", ".zst")

# Text compresses 3 to 20 times, very repetitive JSONL some 100 times; a bomb 1,000 times and more. Below
# the free amount nothing is refused, so that a small file of one word repeated can still be read.
MAX_RATIO = 400
FREE_BYTES = 64 * 2**20
BLOCK_BYTES = 2**20


class BoundedStream:
    """Reads a file, decompressing .gz, .bz2 and .zst, and refuses a decompression bomb.

    Raises:
        DocumentError: the file is damaged, truncated, or grows more than MAX_RATIO times.
    """

    def __init__(self, path: Path, raw: IO[bytes]) -> None:
        self.path, self.raw, self.produced = path, raw, 0
        self.size = path.stat().st_size
        self.stream: IO[bytes] | gzip.GzipFile | bz2.BZ2File | io.BufferedReader = raw
        kind = path.suffix.lower()
        if kind == ".gz":
            self.stream = gzip.GzipFile(fileobj=raw)
        elif kind == ".bz2":
            self.stream = bz2.BZ2File(raw)
        elif kind == ".zst":
            import pyarrow as pa

            self.stream = io.BufferedReader(pa.CompressedInputStream(raw, "zstd"))

    def read(self, size: int = BLOCK_BYTES) -> bytes:
        """At most `size` bytes; none at the end of the file."""
        with self._damage():
            data = self.stream.read(size)
        return self._count(data)

    def readline(self, limit: int) -> bytes:
        """The next line with its end, cut after `limit` bytes."""
        with self._damage():
            data = self.stream.readline(limit)
        return self._count(data)

    def _count(self, data: bytes) -> bytes:
        self.produced += len(data)
        if self.stream is not self.raw and self.produced > FREE_BYTES + MAX_RATIO * self.size:
            message = f"a decompression bomb (more than {MAX_RATIO} times its size)"
            remedy = "decompress it yourself if you trust it"
            raise DocumentError(message, where=self.path, remedy=remedy)
        return data

    @contextlib.contextmanager
    def _damage(self) -> Iterator[None]:
        try:
            yield
        except (OSError, EOFError, zlib.error) as e:
            message = f"is damaged or truncated ({e})"
            raise DocumentError(message, where=self.path, remedy="fetch it again") from None


@contextlib.contextmanager
def open_stream(path: Path) -> Iterator[BoundedStream]:
    """Open a file for bounded, decompressed reading. Raises DocumentError naming it."""
    try:
        raw = path.open("rb")
    except OSError as e:
        remedy = "check the path and its rights"
        raise DocumentError(f"cannot be opened ({e.strerror})", where=path, remedy=remedy) from None
    with raw:
        yield BoundedStream(path, raw)


def read_bytes(path: Path) -> bytes:
    """A whole file as one document, decompressed, of at most MAX_DOCUMENT_BYTES."""
    with open_stream(path) as stream:
        blocks = []
        while block := stream.read():
            blocks.append(block)
            if stream.produced > MAX_DOCUMENT_BYTES:
                raise too_long(path)
    return b"".join(blocks)


@contextlib.contextmanager
def plain_file(path: Path) -> Iterator[Path]:
    """The file itself or, of a compressed one, what is in it, for as long as it is needed."""
    if path.suffix.lower() not in COMPRESSIONS:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="nextvec-") as folder, open_stream(path) as stream:
        plain = Path(folder) / path.stem
        with plain.open("wb") as out:
            while block := stream.read():
                out.write(block)
        yield plain


def plain_stem(path: Path) -> str:
    """The file's name without its suffixes of kind and compression."""
    name = path.name
    for compression in COMPRESSIONS:
        if name.lower().endswith(compression):
            name = name[: -len(compression)]
    return Path(name).stem


def read_lines(path: Path, encoding: str) -> Iterator[tuple[int, str]]:
    """Lines, with their ends, and their numbers from 1; decoded strictly, of at most MAX_DOCUMENT_BYTES."""
    if codecs.lookup(encoding).name in ("utf-16", "utf-32"):
        remedy = "convert the file to UTF-8"
        raise DocumentError(f"{encoding} cannot be read line by line", where=path, remedy=remedy)
    with open_stream(path) as stream:
        number = 0
        while line := stream.readline(MAX_DOCUMENT_BYTES + 1):
            number += 1
            if len(line) > MAX_DOCUMENT_BYTES:
                raise too_long(f"{path}:{number}")
            text = decode(line, encoding, f"{path}:{number}")
            yield number, text.removeprefix("\ufeff") if number == 1 else text


def decode(data: bytes, encoding: str, where: str | Path) -> str:
    """Decode strictly. Raises DocumentError with the first byte that does not fit."""
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as e:
        line = data.count(b"\n", 0, e.start) + 1
        place = f" in line {line}" if line > 1 or isinstance(where, Path) else ""
        message = f"byte 0x{data[e.start]:02x}{place} is not {encoding}"
        remedy = "convert the file to UTF-8 or name its encoding"
        raise DocumentError(message, where=where, remedy=remedy) from None


def too_long(where: str | Path) -> DocumentError:
    """The error for a document, line or field above the bound."""
    message = f"longer than {MAX_DOCUMENT_BYTES >> 20} MiB"
    return DocumentError(message, where=where, remedy="split it into smaller documents")
