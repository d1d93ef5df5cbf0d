"""Files that are one document each, as title and text: plain text, Markdown, HTML, reStructuredText, and what
offices write."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import TYPE_CHECKING

from nextvec.corpus.readers.base import ReaderOptions, ReadReport, decode, plain_file, read_bytes
from nextvec.errors import DocumentError, MissingDependencyError

if TYPE_CHECKING:
    from bs4 import BeautifulSoup, Tag

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

_FRONT_MATTER = re.compile(r"\A---\n.*?\n---(?:\n|\Z)", re.DOTALL)
_BLANKS = re.compile(r"\s+")


def read_text(path: Path, options: ReaderOptions, report: ReadReport) -> tuple[str, str]:
    """A .txt file, which has no title."""
    return "", decode(read_bytes(path), options.encoding, path)


def read_html(path: Path, options: ReaderOptions, report: ReadReport) -> tuple[str, str]:
    """An HTML file, in the encoding it declares. Its title is <title>, else the first <h1>."""
    from bs4.dammit import EncodingDetector

    data = read_bytes(path)
    declared = EncodingDetector.find_declared_encoding(data, is_html=True, search_entire_document=False)
    try:
        html = decode(data, declared or options.encoding, path)
    except LookupError:
        message = f"declares the unknown encoding '{declared}'"
        raise DocumentError(message, where=path, remedy="correct its meta tag") from None
    return html_text(html, options, report, path)


def read_markdown(path: Path, options: ReaderOptions, report: ReadReport) -> tuple[str, str]:
    """A Markdown file (CommonMark with tables): rendered to HTML, then read as such, so that no markup is
    left; code blocks stay. Front matter is dropped. Its title is the first top heading."""
    return markdown_text(_FRONT_MATTER.sub("", _source(path, options)), options, report, path)


def _source(path: Path, options: ReaderOptions) -> str:
    source = decode(read_bytes(path), options.encoding, path)
    return source.removeprefix("\ufeff").replace("\r\n", "\n")


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
        message = f"HTML that ends in {unended:,} tags without an end"
        raise DocumentError(message, where=where, remedy="correct the page")
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


# PDF, Word and EPUB: Microsoft's markitdown reads them (`nextvec[documents]`).

EXTRA = "pip install 'nextvec[documents]'"

OFFICE = {
    ".pdf": (b"%PDF-", "PdfConverter"),
    ".docx": (b"PK\x03\x04", "DocxConverter"),
    ".epub": (b"PK\x03\x04", "EpubConverter"),
}
"""How a file of the kind begins, and which of markitdown's converters reads it."""
SNIFFED_BYTES = 1024


def can_read_office() -> bool:
    """Whether markitdown is installed."""
    return importlib.util.find_spec("markitdown") is not None


def read_office(path: Path, options: ReaderOptions, report: ReadReport) -> tuple[str, str]:
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
        kind = plain.suffix.lower()
        beginning, converter = OFFICE[kind]
        with plain.open("rb") as f:
            start = f.read(SNIFFED_BYTES)
        reader.register_converter(getattr(converters, converter)())
        if beginning not in start:  # else it would be read as whatever it looks like
            raise DocumentError(f"is not a {plain.suffix} file", where=path, remedy="save it again")
        try:
            found = reader.convert_local(str(plain))
        except Exception as e:  # noqa: BLE001 - of any of its parsers: whatever it is, the file is at fault
            reason = str(e).strip().split("\n")[-1][:200] or type(e).__name__
            raise DocumentError(f"cannot be read ({reason})", where=path, remedy="save it again") from None
        title, text = "", str(found.markdown)
        if kind != ".pdf":
            title, text = markdown_text(text, options, report, path)
    return str(found.title or "") or title, text


# reStructuredText, Sphinx's roles and directives included. Ours rather than docutils 0.22: that drops what it
# has no directive or role for, and a documentation site has many of Sphinx and of its own; we keep the words
# of what we do not know.

DROPPED_DIRECTIVES = (
    "contents", "toctree", "image", "figure", "raw", "index", "include", "literalinclude", "highlight",
    "meta", "default-role", "module", "currentmodule", "automodule", "autoclass", "autofunction", "title",
    "sectionauthor",
)  # fmt: skip
"""Directives of which nothing is text."""
CODE_DIRECTIVES = (
    "code",
    "code-block",
    "sourcecode",
    "parsed-literal",
    "math",
    "prompt",
    "doctest",
    "testcode",
)
"""Directives whose argument is a language, and whose content stays as it is."""
_DIRECTIVE = re.compile(r"\.\.\s+([\w:+.-]+)::(?:\s+(.*))?$")
_NOTE = re.compile(r"\.\.\s+\[[^\]]+\]\s+(.*)$")
_OPTION = re.compile(r":[\w-]+:(\s|$)")
_RULE = re.compile(r"([=\-`:.'\"~^_*+#<>])\1{2,}$")
_BORDER = re.compile(r"(?=.*[=\-]{2})[\s=+\-|]+$")
_INLINE = (
    (re.compile(r"(?::[\w:+.-]+:)?`([^`<]+?)\s*<[^`>]+>`_{0,2}"), r"\1"),
    (re.compile(r"``(.+?)``"), r"\1"),
    (re.compile(r":[\w:+.-]+:`~(?:[^`]*\.)?([^`]+)`"), r"\1"),
    (re.compile(r":[\w:+.-]+:`!?([^`]+)`"), r"\1"),
    (re.compile(r"`([^`]+)`_{0,2}"), r"\1"),
    (re.compile(r"\*\*(\S(?:.*?\S)?)\*\*"), r"\1"),
    (re.compile(r"(?<!\w)\*(\S(?:[^*]*\S)?)\*(?!\w)"), r"\1"),
    (re.compile(r"\s?\[(?:\d+|#\w*|\*)\]_"), ""),
    (re.compile(r"\|(\w[^|]*)\|"), r"\1"),
)


def read_rst(path: Path, options: ReaderOptions, report: ReadReport) -> tuple[str, str]:
    """A .rst file. Its title is the first heading."""
    return rst_text(_source(path, options).expandtabs(8), options, report)


def rst_text(source: str, options: ReaderOptions, report: ReadReport) -> tuple[str, str]:
    """Title and text of reStructuredText: no markup, no comments, targets, pictures or tables of contents."""
    lines = source.split("\n")
    out: list[str] = []
    title, at = "", 0
    while at < len(lines):
        line, indent = lines[at].strip(), _indent(lines[at])
        below = lines[at + 1].strip() if at + 1 < len(lines) else ""
        if _RULE.match(line):  # over a heading, which is told by what is under it, or between paragraphs
            at += 1
        elif line and _RULE.match(below) and len(below) >= len(line) - 1:
            title = title or _plain(line)
            if options.headings:
                out += ["", _plain(line), ""]
            else:
                report.headings += 1
            at += 2
        elif line.startswith(".. ") or line == "..":
            at = _explicit(lines, at, indent, out)
        elif _BORDER.match(line):
            at += 1
        elif line.endswith("::"):
            out.append(_plain(line[:-1]) if line != "::" else "")
            at = _verbatim(lines, at + 1, indent, out)
        else:
            row = line.strip("| ") if line.startswith("|") else line
            out.append(_plain(row))
            at += 1
    return title, "\n".join(out)


def _explicit(lines: list[str], at: int, indent: int, out: list[str]) -> int:
    """What begins with two dots: a directive, a footnote, or a comment. Returns where to go on."""
    line = lines[at].strip()
    note, found = _NOTE.match(line), _DIRECTIVE.match(line)
    if note:
        out.append(_plain(note[1]))
        return at + 1
    if found is None or found[1] in DROPPED_DIRECTIVES:
        return _end(lines, at + 1, indent)
    out.append("" if found[1] in CODE_DIRECTIVES else _plain(found[2] or ""))
    at += 1
    while at < len(lines) and _OPTION.match(lines[at].strip()) and _indent(lines[at]) > indent:
        at += 1
    return _verbatim(lines, at, indent, out) if found[1] in CODE_DIRECTIVES else at


def _verbatim(lines: list[str], at: int, indent: int, out: list[str]) -> int:
    """Take the block that is indented deeper as it is. Returns its end."""
    end = _end(lines, at, indent)
    out += lines[at:end]
    return end


def _end(lines: list[str], at: int, indent: int) -> int:
    """Where a block ends whose lines are blank or indented deeper."""
    while at < len(lines) and (not lines[at].strip() or _indent(lines[at]) > indent):
        at += 1
    return at


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _plain(text: str) -> str:
    """Without inline markup."""
    for pattern, kept in _INLINE:
        text = pattern.sub(kept, text)
    return text
