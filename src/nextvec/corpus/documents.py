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
    plain_stem,
    too_long,
)
from nextvec.corpus.readers.mediawiki import read_mediawiki
from nextvec.corpus.readers.pages import (
    EXTRA,
    OFFICE,
    can_read_office,
    read_html,
    read_markdown,
    read_office,
    read_rst,
    read_text,
)
from nextvec.corpus.readers.rows import read_csv, read_json, read_jsonl, read_parquet
from nextvec.errors import DocumentError, MissingDependencyError

__all__ = ["ReadReport", "ReaderOptions", "SourceDocument", "normalise_text", "read_source"]

HTML = (".html", ".htm")
WHOLE: dict[str, Callable[[Path, ReaderOptions, ReadReport], tuple[str, str]]] = {
    ".txt": read_text,
    **dict.fromkeys((".md", ".markdown"), read_markdown),
    **dict.fromkeys(HTML, read_html),
    ".rst": read_rst,
    **dict.fromkeys(OFFICE, read_office),
}
"""Title and text of files that are one document each; without a title it is the file's name."""
ROWS: dict[str, Callable[[Path, ReaderOptions, ReadReport], Iterator[RawDocument]]] = {
    ".jsonl": read_jsonl,
    ".json": read_json,
    ".csv": read_csv,
    ".tsv": read_csv,
    ".parquet": read_parquet,
    ".xml": read_mediawiki,
}
KINDS = (*WHOLE, *ROWS)
SNIFFED_BYTES = 4096


@dataclass(frozen=True)
class _File:
    path: Path
    kind: str
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
                message = f"document id '{document.doc_id}' was seen before, in {seen[document.doc_id]}"
                remedy = "make ids unique, or put the source's name before them with --qualify-ids"
                raise DocumentError(message, where=raw.where, remedy=remedy)
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
    if file.kind in ROWS:
        yield from ROWS[file.kind](file.path, options, report)
        return
    try:
        title, text = WHOLE[file.kind](file.path, options, report)
    except DocumentError as e:
        if options.strict:
            raise
        yield e
    else:
        title = title or plain_stem(file.path)
        yield RawDocument(file.doc_id, title, text, file.path, page=file.kind in HTML)


def _finish(
    raw: RawDocument, file: _File, options: ReaderOptions, report: ReadReport
) -> SourceDocument | None:
    """Normalise and check one document; None (and counted) where it is to be skipped."""
    source = _one_line(options.source or raw.source or file.source)
    try:
        size = len(raw.text.encode()) + len(f"{raw.doc_id}{raw.title}{source}".encode())
    except UnicodeEncodeError:
        message = "holds half of a surrogate pair, which is not a character"
        raise DocumentError(message, where=raw.where, remedy="remove it") from None
    if size > MAX_DOCUMENT_BYTES:
        raise too_long(raw.where)
    text = normalise_text(raw.text)
    if not text:
        if raw.empty_is_normal or options.skip_empty:
            report.skip("empty")
            return None
        remedy = "remove it, or give --skip-empty"
        raise DocumentError("document without text", where=raw.where, remedy=remedy)
    if len(text) < options.min_characters:
        report.skip(f"shorter than {options.min_characters} characters")
        return None
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
    kind = _kind_of(path)
    if kind is None:
        remedy = f"known are {', '.join(KINDS)}"
        raise DocumentError(f"unknown extension '{path.suffix}'", where=path, remedy=remedy)
    return [_File(path, kind, path.name, plain_stem(path))]


def _find_in_folder(folder: Path, report: ReadReport) -> list[_File]:
    source = folder.resolve().name or "root"
    found = []

    def refuse(error: OSError) -> None:
        message = f"cannot be listed ({error.strerror})"
        raise DocumentError(message, where=error.filename, remedy="check its rights")

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
            elif (kind := _kind_of(path)) is None:
                report.skip(f"files with unknown extension '{path.suffix}'")
            elif kind in OFFICE and not can_read_office():
                report.skip(f"files of a kind that needs: {EXTRA}")
            else:
                found.append(_File(path, kind, path.relative_to(folder).as_posix(), source))
    if not found:
        remedy = f"put files in it: {', '.join(KINDS)}"
        raise DocumentError("folder without documents", where=folder, remedy=remedy)
    return sorted(found, key=lambda file: file.doc_id)


def _kind_of(path: Path) -> str | None:
    """The kind of a file by its extension, under a compression if there is one; one of `KINDS`."""
    suffix, compressed = path.suffix.lower(), path.suffix.lower() in COMPRESSIONS
    if compressed:
        suffix = Path(path.stem).suffix.lower()
    if suffix in KINDS or (suffix and not compressed):
        return suffix if suffix in KINDS else None
    with open_stream(path) as stream:
        start = stream.read(SNIFFED_BYTES)
    if compressed and b"<mediawiki" in start:
        return ".xml"
    return ".txt" if not suffix and _looks_like_text(start) else None


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
    message = f"the demo corpus is part of gensim, which {found}"
    raise MissingDependencyError(message, remedy="pip install nextvec[demo]")


def demo_options() -> ReaderOptions:
    """How the demo reads it: articles long enough for windows."""
    return ReaderOptions(min_characters=MIN_CHARACTERS)
