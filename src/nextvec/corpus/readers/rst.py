"""reStructuredText, Sphinx's roles and directives included: one file, one document.

Ours rather than docutils 0.22: that drops what it has no directive or role for, and a documentation site has
many of Sphinx and of its own; we keep the words of what we do not know."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from nextvec.corpus.readers.base import RawDocument, ReaderOptions, ReadReport, decode, read_bytes
from nextvec.corpus.readers.files import plain_stem

DROPPED = (
    "contents", "toctree", "image", "figure", "raw", "index", "include", "literalinclude", "highlight",
    "meta", "default-role", "module", "currentmodule", "automodule", "autoclass", "autofunction", "title",
    "sectionauthor",
)  # fmt: skip
"""Directives of which nothing is text."""
CODE = ("code", "code-block", "sourcecode", "parsed-literal", "math", "prompt", "doctest", "testcode")
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


def read_rst_file(
    path: Path, doc_id: str, options: ReaderOptions, report: ReadReport
) -> Iterator[RawDocument]:
    """A .rst file. Its title is the first heading."""
    source = decode(read_bytes(path), options.encoding, path).removeprefix("\ufeff").replace("\r\n", "\n")
    title, text = rst_text(source.expandtabs(8), options, report)
    yield RawDocument(doc_id, title or plain_stem(path), text, path)


def rst_text(source: str, options: ReaderOptions, report: ReadReport) -> tuple[str, str]:
    """Title and text of reStructuredText: no markup, no comments, targets, pictures or tables of contents."""
    lines = source.split("\n")
    out: list[str] = []
    title, at = "", 0
    while at < len(lines):
        line, indent = lines[at].strip(), _indent(lines[at])
        below = lines[at + 1].strip() if at + 1 < len(lines) else ""
        if _RULE.match(
            line
        ):  # over a heading, or between paragraphs: the heading is told by what is under it
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
    if found is None or found[1] in DROPPED:
        return _end(lines, at + 1, indent)
    out.append("" if found[1] in CODE else _plain(found[2] or ""))
    at += 1
    while at < len(lines) and _OPTION.match(lines[at].strip()) and _indent(lines[at]) > indent:
        at += 1
    return _verbatim(lines, at, indent, out) if found[1] in CODE else at


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
