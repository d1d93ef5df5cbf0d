"""What every reader shares: the document it yields, its options, its report, and text normalisation."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from nextvec.errors import ConfigError

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
    """

    doc_id: str
    source: str
    title: str
    text: str


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

    def __post_init__(self) -> None:
        if self.min_characters < 0:
            raise ConfigError("min_characters is negative", remedy="give 0 or more")
        if self.limit is not None and self.limit < 1:
            raise ConfigError("limit is below 1", remedy="give 1 or more, or leave it out")
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
    """

    documents: int = 0
    characters: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    headings: int = 0

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
    """

    doc_id: str
    title: str
    text: str
    where: str | Path
    source: str | None = None
    empty_is_normal: bool = False


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
