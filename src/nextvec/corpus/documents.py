"""Sources on disk -> a stream of documents. One reader per format in `readers/`; this is their front."""

from __future__ import annotations

import codecs
import importlib.util
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nextvec.corpus.readers.base import (
    COMPRESSIONS,
    MAX_DOCUMENT_BYTES,
    RawDocument,
    ReaderOptions,
    ReadReport,
    SourceDocument,
    normalise_text,
    open_stream,
    too_long,
)
from nextvec.corpus.readers.files import (
    plain_stem,
    read_csv,
    read_html_file,
    read_json,
    read_jsonl,
    read_markdown_file,
    read_parquet,
    read_text_file,
)
from nextvec.corpus.readers.mediawiki import read_mediawiki
from nextvec.corpus.readers.office import EXTRA, can_read_office, read_office_file
from nextvec.corpus.readers.rst import read_rst_file
from nextvec.errors import DocumentError, MissingDependencyError

__all__ = ["ReadReport", "ReaderOptions", "SourceDocument", "normalise_text", "read_source"]

Reader = Callable[[Path, str, ReaderOptions, ReadReport], Iterator[RawDocument]]

READERS: dict[str, Reader] = {
    ".txt": read_text_file,
    ".md": read_markdown_file,
    ".markdown": read_markdown_file,
    ".html": read_html_file,
    ".htm": read_html_file,
    ".rst": read_rst_file,
    ".jsonl": read_jsonl,
    ".json": read_json,
    ".csv": read_csv,
    ".tsv": read_csv,
    ".parquet": read_parquet,
    ".xml": read_mediawiki,
    ".pdf": read_office_file,
    ".docx": read_office_file,
    ".epub": read_office_file,
}
WHOLE: tuple[Reader, ...] = (
    read_text_file,
    read_markdown_file,
    read_html_file,
    read_rst_file,
    read_office_file,
)
"""Readers of files that are one document each."""
SNIFFED_BYTES = 4096


@dataclass(frozen=True)
class _File:
    path: Path
    read: Reader
    doc_id: str
    source: str


def read_source(
    sources: str | Path | Sequence[str | Path],
    *,
    options: ReaderOptions | None = None,
    report: ReadReport | None = None,
) -> Iterator[SourceDocument]:
    """Documents of files and folders, in the order given; folders recursively, sorted by path.

    Formats, by extension: .txt, .md, .html, .rst, .jsonl, .json, .csv, .tsv, .parquet, MediaWiki dumps
    (.xml) and, with markitdown, .pdf, .docx and .epub; each also as .gz, .bz2 or .zst. A file without an
    extension is plain text if it looks like it, a compressed one a dump if it begins like one. Ids are the
    path within the folder (or the file's name), the id column, or WIKI/PAGE. Paths and kinds are checked at
    the call; documents stream afterwards, one in memory at a time.

    Args:
        options: see ReaderOptions.
        report: is filled while reading with what was read, and what was skipped and why.
    Raises:
        DocumentError: no such path, a folder without documents, an unknown extension; while streaming: a
            missing column, broken JSON, CSV or XML, undecodable bytes, an empty or too long document, an id
            seen before. It names file and row.
    """
    options = ReaderOptions() if options is None else options
    report = ReadReport() if report is None else report
    given = [sources] if isinstance(sources, (str, Path)) else list(sources)
    if not given:
        raise DocumentError("no source given", remedy="name a folder or a file")
    files = _without_links([file for path in given for file in _find(Path(path), report)], report)
    return _stream(files, options, report)


def _without_links(files: list[_File], report: ReadReport) -> list[_File]:
    """Leave out (and count) links to a file that is read anyway, itself or by an earlier link."""
    real = {file.path.resolve() for file in files if not file.path.is_symlink()}
    kept = []
    for file in files:
        if file.path.is_symlink():
            if file.path.resolve() in real:
                report.skip("links to a document that is read already")
                continue
            real.add(file.path.resolve())
        kept.append(file)
    return kept


def _stream(files: list[_File], options: ReaderOptions, report: ReadReport) -> Iterator[SourceDocument]:
    seen: dict[str, Path] = {}
    failed: DocumentError | None = None
    for file in files:
        for raw in _raw(file, options, report):
            if isinstance(raw, DocumentError):
                failed = failed or raw
                report.skip("files that could not be read")
                report.unread.append(str(raw))
                continue
            document = _finish(raw, file, options, report)
            if document is None:
                continue
            if document.doc_id in seen:
                raise DocumentError(
                    f"document id '{document.doc_id}' was seen before, in {seen[document.doc_id]}",
                    where=raw.where,
                    remedy="make ids unique, or put the source's name before them with --qualify-ids",
                )
            seen[document.doc_id] = file.path
            report.documents += 1
            report.characters += len(document.text)
            yield document
            if report.documents == options.limit:
                return
    if failed is not None and not report.documents:
        raise failed


def _raw(file: _File, options: ReaderOptions, report: ReadReport) -> Iterator[RawDocument | DocumentError]:
    """What a reader finds; and, unless `strict`, why a file that is one document cannot be read."""
    try:
        yield from file.read(file.path, file.doc_id, options, report)
    except DocumentError as e:
        if options.strict or file.read not in WHOLE:
            raise
        yield e


def _finish(
    raw: RawDocument, file: _File, options: ReaderOptions, report: ReadReport
) -> SourceDocument | None:
    """Normalise and check one document; None (and counted) where it is to be skipped."""
    try:
        size = len(raw.text.encode("utf-8")) + len(f"{raw.doc_id}{raw.title}{raw.source}".encode())
    except UnicodeEncodeError:
        raise DocumentError(
            "holds half of a surrogate pair, which is not a character", where=raw.where, remedy="remove it"
        ) from None
    if size > MAX_DOCUMENT_BYTES:
        raise too_long(raw.where)
    text = normalise_text(raw.text)
    if not text:
        if raw.empty_is_normal or options.skip_empty:
            report.skip("empty")
            return None
        raise DocumentError(
            "document without text",
            where=raw.where,
            remedy="remove it, or give --skip-empty",
        )
    if len(text) < options.min_characters:
        report.skip(f"shorter than {options.min_characters} characters")
        return None
    source = _one_line(options.source or raw.source or file.source)
    doc_id = _one_line(raw.doc_id)
    if not doc_id:
        raise DocumentError("document with a blank id", where=raw.where, remedy="give every document an id")
    if options.qualify_ids:
        doc_id = f"{source}/{doc_id}"
    return SourceDocument(doc_id, source, _one_line(raw.title), text, raw.page)


def _find(path: Path, report: ReadReport) -> list[_File]:
    """The files of one source given by the user."""
    if path.is_dir():
        return _find_in_folder(path, report)
    if not path.exists():
        raise DocumentError("no such file or folder", where=path, remedy="check the path")
    if not path.is_file():
        raise DocumentError("neither a file nor a folder", where=path, remedy="name a regular file")
    reader = _reader_of(path)
    if reader is None:
        raise DocumentError(
            f"unknown extension '{path.suffix}'", where=path, remedy=f"known are {', '.join(READERS)}"
        )
    return [_File(path, reader, path.name, plain_stem(path))]


def _find_in_folder(folder: Path, report: ReadReport) -> list[_File]:
    source = folder.resolve().name or "root"
    found = []

    def refuse(error: OSError) -> None:
        raise DocumentError(
            f"cannot be listed ({error.strerror})", where=error.filename, remedy="check its rights"
        )

    for parent, subfolders, names in os.walk(folder, onerror=refuse):
        for name in [n for n in subfolders if n.startswith(".") or (Path(parent) / n).is_symlink()]:
            report.skip("hidden or linked folders")
            subfolders.remove(name)
        for name in names:
            path = Path(parent) / name
            if name.startswith("."):
                report.skip("hidden files")
            elif not path.is_file():
                report.skip("things that are not files")
            elif (reader := _reader_of(path)) is None:
                report.skip(f"files with unknown extension '{path.suffix}'")
            elif reader is read_office_file and not can_read_office():
                report.skip(f"files of a kind that needs: {EXTRA}")
            else:
                found.append(_File(path, reader, path.relative_to(folder).as_posix(), source))
    if not found:
        raise DocumentError(
            "folder without documents", where=folder, remedy=f"put files in it: {', '.join(READERS)}"
        )
    return sorted(found, key=lambda file: file.doc_id)


def _reader_of(path: Path) -> Reader | None:
    """The reader of a file by its extension, under a compression if there is one."""
    suffix, compressed = path.suffix.lower(), path.suffix.lower() in COMPRESSIONS
    if compressed:
        suffix = Path(path.stem).suffix.lower()
    if suffix in READERS or (suffix and not compressed):
        return READERS.get(suffix)
    with open_stream(path) as stream:
        start = stream.read(SNIFFED_BYTES)
    if compressed and b"<mediawiki" in start:
        return read_mediawiki
    return read_text_file if not suffix and _looks_like_text(start) else None


def _looks_like_text(start: bytes) -> bool:
    """Whether a file that begins so is UTF-8 text without control characters; its end may be cut."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(start)
    except UnicodeDecodeError:
        return False
    return bool(text) and all(c.isprintable() or c in "\n\r\t\f\ufeff" for c in text)


def _one_line(text: str) -> str:
    return " ".join(normalise_text(text).split())


DUMP = "test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"

# Stubs and disambiguation pages are too short for a context of five chunks.
MIN_CHARACTERS = 2000


def demo_source() -> Path:
    """The demo corpus: about 100 articles of the English Wikipedia (CC BY-SA 3.0, by its contributors) that
    the gensim wheel carries as test data. gensim is located, not imported. Raises MissingDependencyError."""
    spec = importlib.util.find_spec("gensim")
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        path = Path(folder) / DUMP
        if path.is_file():
            return path
    found = "is not installed" if spec is None else "carries no test data in this version"
    raise MissingDependencyError(
        f"the demo corpus is part of gensim, which {found}", remedy="pip install nextvec[demo]"
    )


def demo_options() -> ReaderOptions:
    """How the demo reads it: articles long enough for windows."""
    return ReaderOptions(min_characters=MIN_CHARACTERS)
