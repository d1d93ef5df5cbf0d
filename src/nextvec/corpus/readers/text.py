"""Plain text, Markdown and HTML files: one file, one document."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from nextvec.corpus.readers.base import RawDocument, ReaderOptions, ReadReport
from nextvec.corpus.readers.streams import COMPRESSIONS, decode, read_bytes
from nextvec.errors import DocumentError

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
    yield RawDocument(doc_id, title or plain_stem(path), text, path)


def read_markdown_file(
    path: Path, doc_id: str, options: ReaderOptions, report: ReadReport
) -> Iterator[RawDocument]:
    """A Markdown file (CommonMark with tables): rendered to HTML, then read as such, so that no markup is
    left; code blocks stay. Front matter is dropped. Its title is the first top heading."""
    from markdown_it import MarkdownIt

    source = decode(read_bytes(path), options.encoding, path).removeprefix("\ufeff").replace("\r\n", "\n")
    html = MarkdownIt("commonmark").enable("table").render(_FRONT_MATTER.sub("", source))
    title, text = html_text(html, options, report, path)
    yield RawDocument(doc_id, title or plain_stem(path), text, path)


def html_text(html: str, options: ReaderOptions, report: ReadReport, where: Path) -> tuple[str, str]:
    """Title and text of an HTML page: a paragraph per block element, a line "- ..." per list item, table
    cells separated by blanks; scripts, styles, navigation, forms and comments left out."""
    from bs4 import BeautifulSoup

    try:
        soup = BeautifulSoup(html, "html.parser")
        title_tag = soup.title or soup.h1
        title = " ".join(title_tag.get_text(" ").split()) if title_tag else ""
        for tag in soup(DROPPED_TAGS):
            tag.decompose()
        if not options.headings:
            for tag in soup(HEADING_TAGS):
                report.headings += 1
                tag.decompose()
        return title, _blocks_text(soup)
    except RecursionError:
        raise DocumentError("HTML nested too deeply", where=where, remedy="simplify the page") from None


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

    for node in soup.descendants:
        if isinstance(node, Tag):
            if node.name == "br":
                line.append("\n")
            elif node.name in ("td", "th"):
                line.append(" ")
        elif type(node) is NavigableString:
            now = node.find_parent((*BLOCK_TAGS, "li"))
            preformatted = now is not None and now.name == "pre"
            text = str(node) if preformatted else _BLANKS.sub(" ", node)
            if now is not block and text.strip():
                flush()
                now_item = now.find_parent("li") if now is not None and now.name != "li" else now
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
