"""JSONL, JSON, CSV, TSV and Parquet: one row, one document. Plain text, Markdown and HTML: one file, one.

The columns of the Hugging Face data set `wikimedia/wikipedia` (id, url, title, text) need no options."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nextvec.corpus.readers.base import (
    COMPRESSIONS,
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
            raise DocumentError(
                f"no column '{wanted[0]}' (there are: {have})",
                where=where,
                remedy=f"name the {role} column: --{role}-column NAME",
            )

        own = (options.text_column, options.title_column, options.source_column)
        numbered = set(present) <= {"text", "title", "source", *own}
        doc_id = choose(options.id_column, ("id", "doc_id"), "id", not numbered)
        text = choose(options.text_column, ("text",), "text", True)
        assert text is not None
        title = choose(options.title_column, ("title",), "title", False)
        return cls(doc_id, text, title, choose(options.source_column, ("source",), "source", False))

    def names(self) -> list[str]:
        """The columns to read."""
        return list(
            dict.fromkeys(n for n in (self.doc_id, self.text, self.title, self.source) if n is not None)
        )

    def document(self, row: Mapping[str, Any], where: str, number: int) -> RawDocument:
        """Row `number` as a document. Raises DocumentError for an id or a text that cannot be one."""
        doc_id = number if self.doc_id is None else row[self.doc_id]
        text = row[self.text]
        if isinstance(doc_id, bool) or not isinstance(doc_id, (str, int)) or doc_id == "":
            raise DocumentError(
                f"'{self.doc_id}' is {doc_id!r}"[:200],
                where=where,
                remedy="give every row a text or a whole number",
            )
        if text is None:
            text = ""
        if not isinstance(text, str):
            raise DocumentError(
                f"'{self.text}' is {type(text).__name__}, not text",
                where=where,
                remedy="name the text column: --text-column NAME",
            )
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


def read_jsonl(path: Path, doc_id: str, options: ReaderOptions, report: ReadReport) -> Iterator[RawDocument]:
    """One JSON object a line; blank lines are passed over. Every line has the columns of its own object."""
    count = 0
    for number, line in read_lines(path, options.encoding):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as e:
            reason = getattr(e, "msg", None) or str(e)
            raise DocumentError(
                f"is not JSON ({reason})", where=where, remedy="write one JSON object a line"
            ) from None
        if not isinstance(row, dict):
            raise DocumentError(
                f"is a JSON {type(row).__name__}, not an object",
                where=where,
                remedy="write one JSON object a line",
            )
        yield Columns.find(row, options, where).document(row, where, count)
        count += 1


def read_json(path: Path, doc_id: str, options: ReaderOptions, report: ReadReport) -> Iterator[RawDocument]:
    """An array of objects, or of texts; or one object, which is one document. Of at most 64 MiB: longer ones
    are written as JSONL."""
    try:
        held = json.loads(decode(read_bytes(path), options.encoding, path).removeprefix("\ufeff"))
    except (ValueError, RecursionError) as e:
        reason = getattr(e, "msg", None) or str(e)
        raise DocumentError(f"is not JSON ({reason})", where=path, remedy="correct it") from None
    for number, item in enumerate(held if isinstance(held, list) else [held]):
        where = f"{path}: item {number}"
        row = {options.text_column or "text": item} if isinstance(item, str) else item
        if not isinstance(row, dict):
            raise DocumentError(
                f"is a JSON {type(row).__name__}, not an object",
                where=where,
                remedy="write an array of objects, or of texts",
            )
        yield Columns.find(row, options, where).document(row, where, number)


def read_csv(path: Path, doc_id: str, options: ReaderOptions, report: ReadReport) -> Iterator[RawDocument]:
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
    count = 0
    header: list[str] | None = None
    columns: Columns | None = None
    while True:
        number = rows.line_num + before
        where = f"{path}:{number}"
        try:
            row = next(rows, None)
        except csv.Error as e:
            if "field larger" in str(e):
                raise too_long(where) from None
            raise DocumentError(
                f"is not CSV ({e})", where=where, remedy="correct the quotes of this row"
            ) from None
        if row is None:
            return
        if not row:
            continue
        if header is None or columns is None:
            header, columns = row, Columns.find(row, options, where)
            if len(set(header)) < len(header):
                raise DocumentError("two columns have the same name", where=where, remedy="rename one")
            continue
        if len(row) != len(header):
            raise DocumentError(
                f"has {len(row)} fields, the header {len(header)}",
                where=where,
                remedy="correct or quote this row",
            )
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


def read_parquet(
    path: Path, doc_id: str, options: ReaderOptions, report: ReadReport
) -> Iterator[RawDocument]:
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
        raise DocumentError(
            f"cannot be read as Parquet after row {row} ({reason})",
            where=path,
            remedy="fetch or write it again",
        ) from None


# What is not the text of a page. `head` holds the title, read on its own.
DROPPED_TAGS = (
    "head", "script", "style", "noscript", "template", "nav", "footer", "aside", "form", "button",
    "select", "svg", "iframe",
)  # fmt: skip
BLOCK_TAGS = (
    "address", "article", "blockquote", "body", "caption", "center", "dd", "details", "div", "dl", "dt",
    "figcaption", "figure", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "html", "main", "ol", "p",
    "pre", "section", "summary", "table", "tr", "ul",
)  # fmt: skip
MAX_UNENDED = 200
# Landmarks that are furniture whatever their tag (WAI-ARIA), and styles that show nothing.
FURNITURE_ROLES = ("navigation", "contentinfo", "search", "menu", "menubar")
_NOT_SHOWN = re.compile(r"(?:^|;)\s*(?:display\s*:\s*none|visibility\s*:\s*hidden)\b", re.IGNORECASE)
HEADING_TAGS = ("h1", "h2", "h3", "h4", "h5", "h6")

if TYPE_CHECKING:
    from bs4 import BeautifulSoup, Tag

_FRONT_MATTER = re.compile(r"\A---\n.*?\n---(?:\n|\Z)", re.DOTALL)
_BLANKS = re.compile(r"\s+")


def read_text_file(
    path: Path, doc_id: str, options: ReaderOptions, report: ReadReport
) -> Iterator[RawDocument]:
    """A .txt file. Its title is the file's name without suffixes."""
    text = decode(read_bytes(path), options.encoding, path)
    yield RawDocument(doc_id, plain_stem(path), text, path)


def read_html_file(
    path: Path, doc_id: str, options: ReaderOptions, report: ReadReport
) -> Iterator[RawDocument]:
    """An HTML file, in the encoding it declares. Its title is <title>, else the first <h1>."""
    from bs4.dammit import EncodingDetector

    data = read_bytes(path)
    declared = EncodingDetector.find_declared_encoding(data, is_html=True, search_entire_document=False)
    try:
        html = decode(data, declared or options.encoding, path)
    except LookupError:
        raise DocumentError(
            f"declares the unknown encoding '{declared}'", where=path, remedy="correct its meta tag"
        ) from None
    title, text = html_text(html, options, report, path)
    yield RawDocument(doc_id, title or plain_stem(path), text, path, page=True)


def read_markdown_file(
    path: Path, doc_id: str, options: ReaderOptions, report: ReadReport
) -> Iterator[RawDocument]:
    """A Markdown file (CommonMark with tables): rendered to HTML, then read as such, so that no markup is
    left; code blocks stay. Front matter is dropped. Its title is the first top heading."""
    source = decode(read_bytes(path), options.encoding, path).removeprefix("\ufeff").replace("\r\n", "\n")
    title, text = markdown_text(_FRONT_MATTER.sub("", source), options, report, path)
    yield RawDocument(doc_id, title or plain_stem(path), text, path)


def markdown_text(source: str, options: ReaderOptions, report: ReadReport, where: Path) -> tuple[str, str]:
    """Title and text of Markdown."""
    from markdown_it import MarkdownIt

    html = MarkdownIt("commonmark").enable("table").render(source)
    return html_text(html, options, report, where)


def html_text(html: str, options: ReaderOptions, report: ReadReport, where: Path) -> tuple[str, str]:
    """Title and text of an HTML page: a paragraph per block element, a line "- ..." per list item, table
    cells separated by blanks; scripts, styles, navigation, lists of a header, what is hidden, forms and
    comments left out."""
    from bs4 import BeautifulSoup

    unended = html.count("<", html.rfind(">") + 1)
    if unended > MAX_UNENDED:  # the parser looks for the end of each to the end of the page
        raise DocumentError(
            f"HTML that ends in {unended:,} tags without an end", where=where, remedy="correct the page"
        )
    try:
        soup = BeautifulSoup(html, "html.parser")
        title_tag = soup.title or soup.h1
        title = " ".join(title_tag.get_text(" ").split()) if title_tag else ""
        for tag in soup(_is_furniture):
            tag.decompose()
        if not options.headings:
            for tag in soup(HEADING_TAGS):
                report.headings += 1
                tag.decompose()
        return title, _blocks_text(soup)
    except RecursionError:
        raise DocumentError("HTML nested too deeply", where=where, remedy="simplify the page") from None


def _is_furniture(tag: Tag) -> bool:
    """Whether an element is of the page and not of its text. Scripts hide whole pages until they run."""
    if tag.name in ("html", "body", "main"):
        return False
    if tag.name in DROPPED_TAGS or str(tag.get("role", "")).strip().lower() in FURNITURE_ROLES:
        return True
    hidden = tag.get("hidden")
    # hidden="until-found" is text that is folded away
    if hidden is not None and str(hidden).lower() != "until-found":
        return True
    if _NOT_SHOWN.search(str(tag.get("style", ""))):
        return True
    return tag.name in ("ul", "ol", "menu") and tag.find_parent("header") is not None


def _blocks_text(soup: BeautifulSoup) -> str:
    """The strings of the page, with a paragraph break wherever the nearest block element changes."""
    from bs4 import Tag
    from bs4.element import NavigableString

    out: list[str] = []
    line: list[str] = []
    block: Tag | None = None
    item: Tag | None = None

    def flush() -> None:
        text = "".join(line)
        if block is None or block.name != "pre":
            text = "\n".join(" ".join(line.split()) for line in text.split("\n")).strip()
        out.append(text)
        line.clear()

    # Of each tag the nearest block and list item, at it or above: looked up, not searched for upwards, which
    # takes time with the square of what is nested.
    blocks: dict[int, Tag | None] = {}
    items: dict[int, Tag | None] = {}
    for node in soup.descendants:
        above = id(node.parent)
        if isinstance(node, Tag):
            blocks[id(node)] = node if node.name in (*BLOCK_TAGS, "li") else blocks.get(above)
            items[id(node)] = node if node.name == "li" else items.get(above)
            if node.name == "br":
                line.append("\n")
            elif node.name in ("td", "th"):
                line.append(" ")
        elif type(node) is NavigableString:
            now = blocks.get(above)
            preformatted = now is not None and now.name == "pre"
            text = str(node) if preformatted else _BLANKS.sub(" ", node)
            if now is not block and text.strip():
                flush()
                now_item = items.get(id(now))
                same_list = now_item is not None and item is not None
                same_table = now is not None and block is not None and now.name == block.name == "tr"
                out.append("\n" if same_list or same_table else "\n\n")
                if now_item is not None and now_item is not item:
                    line.append("- ")
                block, item = now, now_item
            line.append(text)
    flush()
    return "".join(out).strip()


def plain_stem(path: Path) -> str:
    """The file's name without its suffixes of kind and compression."""
    name = path.name
    for compression in COMPRESSIONS:
        if name.lower().endswith(compression):
            name = name[: -len(compression)]
    return Path(name).stem
