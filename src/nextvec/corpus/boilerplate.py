"""Passages that stand in many documents: footers, notices and menus that markup does not tell apart.

They are counted by paragraph, before anything is cut, so that a footer too short to be a chunk of its own is
found too. A chunk that stands in documents of train and of test is no fault of the split, but a target that a
model has seen; and it makes pages resemble one another that share nothing else."""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass

import numpy as np

from nextvec.corpus.fingerprints import text_key
from nextvec.corpus.spans import paragraph_spans
from nextvec.text import shorten

FEWEST = 3
"""A paragraph recurs that stands in so many documents of different text."""
WHOLE = 0.5
"""A document of which more than this would go is a copy of another, which is no boilerplate: it stays."""
LISTED = 20
EXCERPT = 120


@dataclass(frozen=True)
class RecurringPassage:
    """A paragraph of many documents.

    Attributes:
        text: its beginning.
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
        often = counts >= FEWEST
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
