"""Opening files that may be compressed, damaged, huge or a decompression bomb."""

from __future__ import annotations

import bz2
import codecs
import contextlib
import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from nextvec.corpus.readers.base import MAX_DOCUMENT_BYTES
from nextvec.errors import DocumentError

COMPRESSIONS = (".gz", ".bz2")

# Text compresses 3 to 20 times, very repetitive JSONL some 100 times; a bomb 1,000 times and more. Below
# the free amount nothing is refused, so that a small file of one word repeated can still be read.
MAX_RATIO = 400
FREE_BYTES = 64 * 2**20
BLOCK_BYTES = 2**20


class BoundedStream:
    """Reads a file, decompressing .gz and .bz2, and refuses a decompression bomb.

    Raises:
        DocumentError: the file is damaged, truncated, or grows more than MAX_RATIO times.
    """

    def __init__(self, path: Path, raw: IO[bytes]) -> None:
        self.path, self.raw, self.produced = path, raw, 0
        self.size = path.stat().st_size
        self.stream: IO[bytes] | gzip.GzipFile | bz2.BZ2File
        if path.suffix.lower() == ".gz":
            self.stream = gzip.GzipFile(fileobj=raw)
        elif path.suffix.lower() == ".bz2":
            self.stream = bz2.BZ2File(raw)
        else:
            self.stream = raw

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
            raise DocumentError(
                f"a decompression bomb (more than {MAX_RATIO} times its size)",
                where=self.path,
                remedy="decompress it yourself if you trust it",
            )
        return data

    @contextlib.contextmanager
    def _damage(self) -> Iterator[None]:
        try:
            yield
        except (OSError, EOFError, zlib.error) as e:
            raise DocumentError(
                f"is damaged or truncated ({e})", where=self.path, remedy="fetch it again"
            ) from None


@contextlib.contextmanager
def open_stream(path: Path) -> Iterator[BoundedStream]:
    """Open a file for bounded, decompressed reading. Raises DocumentError naming it."""
    try:
        raw = path.open("rb")
    except OSError as e:
        raise DocumentError(
            f"cannot be opened ({e.strerror})", where=path, remedy="check the path and its rights"
        ) from None
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


def read_lines(path: Path, encoding: str) -> Iterator[tuple[int, str]]:
    """Lines, with their ends, and their numbers from 1; decoded strictly, of at most MAX_DOCUMENT_BYTES."""
    if codecs.lookup(encoding).name in ("utf-16", "utf-32"):
        raise DocumentError(
            f"{encoding} cannot be read line by line", where=path, remedy="convert the file to UTF-8"
        )
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
        raise DocumentError(
            f"byte 0x{data[e.start]:02x} in line {line} is not {encoding}"
            if line > 1 or isinstance(where, Path)
            else f"byte 0x{data[e.start]:02x} is not {encoding}",
            where=where,
            remedy="convert the file to UTF-8 or name its encoding",
        ) from None


def too_long(where: str | Path) -> DocumentError:
    """The error for a document, line or field above the bound."""
    return DocumentError(
        f"longer than {MAX_DOCUMENT_BYTES >> 20} MiB", where=where, remedy="split it into smaller documents"
    )
