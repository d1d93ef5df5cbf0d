"""PDF, Word and EPUB: one file, one document. Microsoft's markitdown reads them (`nextvec[documents]`)."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

from nextvec.corpus.readers.base import RawDocument, ReaderOptions, ReadReport, plain_file
from nextvec.corpus.readers.files import markdown_text, plain_stem
from nextvec.errors import DocumentError, MissingDependencyError

EXTRA = "pip install 'nextvec[documents]'"

BEGINNING = {".pdf": b"%PDF-", ".docx": b"PK\x03\x04", ".epub": b"PK\x03\x04"}
CONVERTERS = {".pdf": "PdfConverter", ".docx": "DocxConverter", ".epub": "EpubConverter"}
SNIFFED_BYTES = 1024


def can_read_office() -> bool:
    """Whether markitdown is installed."""
    return importlib.util.find_spec("markitdown") is not None


def read_office_file(
    path: Path, doc_id: str, options: ReaderOptions, report: ReadReport
) -> Iterator[RawDocument]:
    """A .pdf, .docx or .epub file. Its title is the file's own or, in Word, the first top heading; pages of a
    PDF are text as they stand, without what is drawn.

    Raises:
        DocumentError: a file that markitdown cannot read. MissingDependencyError: it is not installed.
    """
    if not can_read_office():
        raise MissingDependencyError("needs markitdown", where=path, remedy=EXTRA)
    from markitdown import MarkItDown, converters

    # Only the reader of this kind: with all of them a damaged file is read as plain text.
    reader = MarkItDown(enable_builtins=False, enable_plugins=False)
    with plain_file(path) as plain:
        with plain.open("rb") as f:
            start = f.read(SNIFFED_BYTES)
        reader.register_converter(getattr(converters, CONVERTERS[plain.suffix.lower()])())
        if BEGINNING[plain.suffix.lower()] not in start:  # else it would be read as whatever it looks like
            raise DocumentError(f"is no {plain.suffix} file", where=path, remedy="save it anew")
        try:
            found = reader.convert_local(str(plain))
        except Exception as e:  # noqa: BLE001 - of any of its parsers: whatever it is, the file is at fault
            reason = str(e).strip().split("\n")[-1][:200] or type(e).__name__
            raise DocumentError(f"cannot be read ({reason})", where=path, remedy="save it anew") from None
        if plain.suffix.lower() == ".pdf":
            title, text = "", str(found.markdown)
        else:
            title, text = markdown_text(str(found.markdown), options, report, path)
    yield RawDocument(doc_id, str(found.title or "") or title or plain_stem(path), text, path)
