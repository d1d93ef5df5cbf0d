"""The first pass over documents that go into a store, before anything is written: what recurs in many of
them, which language they are in, which are new, and how each is cut."""

from __future__ import annotations

import json
import logging
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import IO

import numpy as np

from nextvec.corpus.arrow_tables import NewDocument
from nextvec.corpus.chunking import Chunk, Chunker, new_views, view_id
from nextvec.corpus.encoders import Encoder
from nextvec.corpus.encoders.base import WORTH_SAYING, unknown_share
from nextvec.corpus.fingerprints import minhash_text, text_key, text_sha256
from nextvec.corpus.readers.base import ReadReport, SourceDocument
from nextvec.corpus.spans import paragraph_spans
from nextvec.errors import ConfigError, DocumentError, EncoderError, StoreError
from nextvec.progress import Progress
from nextvec.text import shorten

log = logging.getLogger("nextvec.corpus")

SAMPLED = 256
"""Chunks at least of which the language is looked at, where there are so many."""
KNOWN = "in the store already"
EMPTY = "without a chunk"
KNOWN_VIEW = "views in the store already"
ALIKE = "views cut like the original or another view"


# Passages that stand in many documents: footers, notices and menus that markup does not tell apart.
#
# They are counted by paragraph, before anything is cut, so that a footer too short to be a chunk of its own
# is found too. A chunk that stands in documents of train and of test is no fault of the split, but a target
# that a model has seen; and it makes pages resemble one another that share nothing else.

FEWEST_DOCUMENTS = 3
"""A paragraph recurs that stands in so many documents of different text."""
WHOLE = 0.5
"""A document of which more than this would go is a copy of another, which is no boilerplate: it stays."""
LISTED = 20
EXCERPT = 120


@dataclass(frozen=True)
class RecurringPassage:
    """A paragraph of many documents.

    Attributes:
        documents: of different text that hold it.
        left_out: documents added to the store without it.
    """

    text: str
    documents: int
    left_out: int


class Boilerplate:
    """Counts the paragraphs of all documents first, then takes the recurring ones out of each."""

    def __init__(self) -> None:
        self._keys = array("Q")  # once a document
        self._texts: set[int] = set()
        self._recurring: dict[int, int] = {}  # key -> documents
        self._first: dict[int, str] = {}
        self._left_out: Counter[int] = Counter()

    def count(self, text: str) -> None:
        """Take in one document. Equal documents count once."""
        keys = {text_key(text[a:b]) for a, b in paragraph_spans(text)}
        whole = hash(frozenset(keys))
        if whole not in self._texts:
            self._texts.add(whole)
            self._keys.extend(keys)

    def close(self) -> None:
        """All documents are counted."""
        found, counts = np.unique(np.frombuffer(self._keys, np.uint64), return_counts=True)
        often = counts >= FEWEST_DOCUMENTS
        self._recurring = dict(zip(found[often].tolist(), counts[often].tolist(), strict=True))
        self._keys = array("Q")
        self._texts.clear()

    def without(self, text: str, *, drop: bool) -> str:
        """The text without its recurring paragraphs, or with them where they are only to be counted."""
        if not self._recurring:
            return text
        kept, gone = [], []
        for a, b in paragraph_spans(text):
            paragraph = text[a:b]
            key = text_key(paragraph)
            if key in self._recurring:
                self._first.setdefault(key, paragraph)
                gone.append(key)
            else:
                kept.append(paragraph)
        left = "\n\n".join(kept)
        if not gone or not drop or len(left) < WHOLE * len(text):
            return text
        self._left_out.update(set(gone))
        return left

    def met(self) -> list[RecurringPassage]:
        """The recurring paragraphs of the documents given to `without`, the most frequent first."""
        passages = [
            RecurringPassage(shorten(text, EXCERPT), self._recurring[key], self._left_out[key])
            for key, text in self._first.items()
        ]
        return sorted(passages, key=lambda passage: -passage.documents)


def is_known(doc_id: str, sha256: str, known: dict[str, str], where: str | Path) -> bool:
    """Whether the store has this document. Raises StoreError when it has it with another text."""
    have = known.get(doc_id)
    if have is not None and have != sha256:
        remedy = "put it in the old one's place with --replace, or give it another id"
        raise StoreError(f"document '{doc_id}' is there with another text", where=where, remedy=remedy)
    return have is not None


@dataclass
class Survey:
    """The first pass: reads every document, then cuts it and puts what the store lacks into the spool, one
    JSON line each.

    Attributes:
        phases: of the views that are wanted; drop_boilerplate, replace_changed: as in `ingest`.
        known: doc_id -> sha256 of what the store holds or will; original_of: the views among them.
        seen: documents read; documents, views, chunks: to add.
    """

    chunker: Chunker
    phases: Sequence[Fraction]
    drop_boilerplate: bool | None
    known: dict[str, str]
    original_of: dict[str, str]
    spool: IO[str]
    report: ReadReport
    replace_changed: bool = False
    seen: int = 0
    documents: int = 0
    views: int = 0
    chunks: int = 0
    replaced: int = 0
    boilerplate: Boilerplate = field(default_factory=Boilerplate)
    sample: list[str] = field(default_factory=list)
    every: int = 1

    def read(self, documents: Iterable[SourceDocument], unread: IO[str], *, quiet: bool) -> None:
        """All of them; the spool is then at its beginning again. Raises DocumentError where there is none.

        What recurs is known when all are read: until then they wait in `unread`.
        """
        # On a terminal only: reading is short, and what follows tells how many there are.
        with Progress("read", None, "documents", quiet=quiet) as progress:
            for document in documents:
                self.seen += 1
                progress.advance()
                self.boilerplate.count(document.text)
                unread.write(json.dumps(astuple(document)) + "\n")
            if self.seen == 0:
                left_out = "; ".join(f"{n} {reason}" for reason, n in sorted(self.report.skipped.items()))
                message = "no document to ingest" + (f" (left out: {left_out})" if left_out else "")
                raise DocumentError(message, remedy="check the sources and options")
        self.boilerplate.close()
        unread.seek(0)
        for line in unread:
            self._add(SourceDocument(*json.loads(line)))
        self.spool.seek(0)

    def _add(self, document: SourceDocument) -> None:
        sha256 = text_sha256(document.text)
        self._check_name(document.doc_id, None)
        if self.replace_changed and self.known.get(document.doc_id, sha256) != sha256:
            self._drop(document.doc_id)
        there = is_known(document.doc_id, sha256, self.known, f"source {document.source}")
        if there:
            self.report.skip(KNOWN)
            if not self.phases:
                return
        drop = document.page if self.drop_boilerplate is None else self.drop_boilerplate
        document = replace(document, text=self.boilerplate.without(document.text, drop=drop))
        chunks = self.chunker.chunk(document.text)
        if not chunks:
            self.report.skip(EMPTY)
            return
        if not there:
            self.known[document.doc_id] = sha256
            self._put(document, document.doc_id, chunks, None)
            self.documents += 1
        self._add_views(document, chunks)

    def _drop(self, doc_id: str) -> None:
        """Go on as if the store had neither this document nor its views: the writer deletes them."""
        self.replaced += 1
        for name in [doc_id, *(view for view, original in self.original_of.items() if original == doc_id)]:
            self.known.pop(name)
            self.original_of.pop(name, None)

    def _add_views(self, document: SourceDocument, chunks: list[Chunk]) -> None:
        def stored(phase: Fraction) -> bool:
            return view_id(document.doc_id, phase) in self.original_of

        found, alike = new_views(self.chunker, document.text, chunks, self.phases, stored)
        for reason, count in ((ALIKE, alike), (KNOWN_VIEW, len(self.phases) - len(found) - alike)):
            if count:
                self.report.skip(reason, count)
        for phase, cut in found:
            name = view_id(document.doc_id, phase)
            self._check_name(name, document.doc_id)
            self.original_of[name] = document.doc_id
            self._put(document, name, cut, document.doc_id)
            self.views += 1

    def _check_name(self, doc_id: str, view_of: str | None) -> None:
        """Raise StoreError where the id of a view is that of a document."""
        original = self.original_of.get(doc_id) if view_of is None else view_of
        if original is not None and (view_of is None or doc_id in self.known):
            message = f"document '{doc_id}' has the id of a view of '{original}'"
            raise StoreError(message, where="phases", remedy="give the document another id")

    def _put(self, document: SourceDocument, doc_id: str, chunks: list[Chunk], view_of: str | None) -> None:
        sha256 = self.known[doc_id] = self.known[document.doc_id]
        for number, chunk in enumerate(chunks, self.chunks):
            if number % self.every == 0:
                self.sample.append(chunk.text)
        if len(self.sample) > 2 * SAMPLED:  # spread over all of them, however many come
            self.sample, self.every = self.sample[::2], 2 * self.every
        self.chunks += len(chunks)
        spans = [(c.text, c.gap, c.start, c.end) for c in chunks]
        row = (doc_id, document.source, document.title, sha256, view_of, document.text, spans)
        self.spool.write(json.dumps(row) + "\n")


def unspool(spool: IO[str]) -> Iterator[NewDocument]:
    """What `Survey` put into the spool."""
    for line in spool:
        doc_id, source, title, sha256, view_of, text, spans = json.loads(line)
        texts, gaps, starts, ends = zip(*spans, strict=True)
        hashes = sha256, minhash_text(text)
        yield NewDocument(doc_id, source, title, *hashes, texts, gaps, starts, ends, view_of)


# Which language a text seems to be in: enough to notice a chunker that was told another one.

FEWEST_WORDS = 50
SHARE = 0.1
"""Of the words, those that tell a language: running text has 20 to 30 %, of another language 1 to 3."""
TWICE = 2.0
_WORD = re.compile(r"[^\W\d_]+")
# Frequent short words, left out where two of these languages share them.
_TELLING = {
    "en": "the of and to in is that it was for with as be this are from by which",
    "de": "der die und das ist nicht ein eine mit dem den des zu auf für auch sich wird",
    "fr": "le les et des est une du dans que qui pour pas sur au avec ce sont il",
    "es": "el los las y una por con para como más pero su al lo es del",
    "it": "il di che è della per non sono nel gli alla dei anche si",
    "nl": "het een van en niet zijn dat voor op te met ook aan werd",
    "pt": "o os do da em um uma não com para mais dos ao foi são",
    "sv": "och att det som är på av för inte den till ett har",
    "pl": "i w na nie się jest do że z oraz przez jak od",
}
_WORDS = {language: frozenset(words.split()) for language, words in _TELLING.items()}


def guess_language(texts: Iterable[str]) -> str | None:
    """ISO 639 code of one of nine languages of Latin script; None where no one stands out."""
    words = Counter(word for text in texts for word in _WORD.findall(text.lower()))
    total = words.total()
    if total < FEWEST_WORDS:
        return None
    found = sorted(
        ((sum(words[word] for word in telling), language) for language, telling in _WORDS.items()),
        reverse=True,
    )
    (best, language), (second, _) = found[:2]
    return language if best > SHARE * total and best > TWICE * second else None


def check_language(encoder: Encoder, chunker: Chunker, sample: Sequence[str], most_unknown: float) -> None:
    """Say where texts are in another language than the encoder or the chunker was made for.

    Raises:
        ConfigError: `most_unknown` is not a share.
        EncoderError: more than `most_unknown` of the sample's tokens are unknown to the encoder.
    """
    if not 0 <= most_unknown <= 1:
        raise ConfigError(f"{most_unknown:g} is not a share", where="--most-unknown", remedy="give 0 to 1")
    share = unknown_share(encoder, sample)
    message = f"{100 * (share or 0):.0f} % of the tokens are unknown to the encoder '{encoder.name}'"
    other = "choose one made for their language: --encoder NAME (a hub name or a folder), or --endpoint URL"
    if share is not None and share > most_unknown:
        remedy = f"{other}; or go on as they are with --most-unknown {share + 0.05:.1f}"
        raise EncoderError(message, where="texts", remedy=remedy)
    if share is not None and share > WORTH_SAYING:
        log.warning("%s; %s", message, other)
    language = chunker.describe().get("language")
    guessed = guess_language(sample)
    if language is not None and guessed is not None and guessed != language:
        log.warning(
            "the texts look like '%s' and are cut into sentences by the rules of '%s': "
            "--chunk-option language=%s",
            guessed,
            language,
            guessed,
        )
