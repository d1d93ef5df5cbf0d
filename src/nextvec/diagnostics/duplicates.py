"""Duplicates within a store and across its splits: documents by hash and by MinHash, chunks by text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nextvec.corpus.fingerprints import similarity
from nextvec.data.splits import SPLITS, NearDuplicates, Split
from nextvec.data.trained import Keys, chunk_keys
from nextvec.data.windows import IntArray
from nextvec.diagnostics.sections import Level, Verdict
from nextvec.evaluation.evaluation_set import LIMIT
from nextvec.text import shorten

if TYPE_CHECKING:
    from nextvec.corpus.store import Document, Store

LISTED = 20
"""At most so many of each kind are listed; all are counted."""
EXCERPT = 80
MANY_REPEATED = 0.05
_ODD = np.uint64(0x9E3779B97F4A7C15)  # spreads document numbers over 64 bits: a key of (text, document)


@dataclass(frozen=True)
class Twin:
    """A document and an earlier one (or one of another split) that it repeats.

    `similarity` is the estimated share of 5-word sequences in common; `exact` documents have equal texts.
    """

    document: str
    split: str
    like: str
    like_split: str
    similarity: float
    exact: bool


@dataclass(frozen=True)
class SharedChunk:
    """A chunk outside of train whose text also stands in train."""

    document: str
    position: int
    split: str
    text: str


@dataclass(frozen=True)
class Across:
    """How much of a split stands in train: documents (exactly or nearly), chunks by text, and different texts
    of them."""

    split: str
    documents: int
    twins: int
    chunks: int
    shared: int
    texts: int
    shared_texts: int

    @property
    def share(self) -> float:
        """Share of the split's chunks that stand in train."""
        return self.shared / max(self.chunks, 1)

    @property
    def refused(self) -> bool:
        """Whether the leak guard refuses to evaluate it: more than one text, and much of all."""
        return self.shared_texts > max(1, LIMIT * self.texts)


@dataclass(frozen=True)
class Duplicates:
    """What stands more than once.

    Attributes:
        exact, near: documents that repeat an earlier one exactly, or nearly; `within` lists some.
        chunks: all; repeated: those whose text an earlier chunk has; in_document: of these, how many repeat
            a chunk of their own document.
        most_repeated: texts and how often each stands.
        across: one entry a split other than train; `twins` lists documents that resemble one of another
            split, `shared` chunks that stand in train.
        quarantined: documents in no split, because they resemble documents of two.
    """

    documents: int
    exact: int
    near: int
    within: tuple[Twin, ...]
    chunks: int
    repeated: int
    in_document: int
    most_repeated: tuple[tuple[str, int], ...]
    threshold: float
    across: tuple[Across, ...]
    across_documents: int
    twins: tuple[Twin, ...]
    shared: tuple[SharedChunk, ...]
    quarantined: tuple[str, ...]


def find_duplicates(store: Store, documents: Sequence[int], split: Split, threshold: float) -> Duplicates:
    """Look for duplicates among these documents (indices into `store.documents`, ascending).

    Args:
        split: their division.
        threshold: estimated Jaccard similarity from which two documents count as one text.
    """
    places = {i: name for name in SPLITS for i in split.of(name)}
    held = [(store.documents[i], places.get(i, "quarantined")) for i in documents]
    within, twins = _twins(held, store.minhashes()[np.asarray(documents)], threshold)
    rows = store.rows_of(documents)
    owner = np.repeat(np.arange(len(held)), [d.count for d, _ in held])
    keys = chunk_keys(store, rows)
    place = np.array([name for _, name in held])[owner]
    trained = np.unique(keys[place == "train"])
    leaking = np.isin(keys, trained) & np.isin(place, SPLITS[1:])
    return Duplicates(
        documents=len(held),
        exact=sum(t.exact for t in within),
        near=sum(not t.exact for t in within),
        within=tuple(within[:LISTED]),
        chunks=len(rows),
        repeated=len(rows) - len(np.unique(keys)),
        in_document=len(rows) - len(np.unique(keys ^ (owner.astype(np.uint64) * _ODD))),
        most_repeated=_most_repeated(store, rows, keys),
        threshold=threshold,
        across=tuple(
            Across(
                name,
                len(split.of(name)),
                len({t.document for t in twins if t.split == name and t.like_split == "train"}),
                int((place == name).sum()),
                int(leaking[place == name].sum()),
                len(np.unique(keys[place == name])),
                len(np.unique(keys[leaking & (place == name)])),
            )
            for name in SPLITS[1:]
        ),
        across_documents=len({t.document for t in twins}),
        twins=tuple(twins[:LISTED]),
        shared=_shared(store, held, rows, owner, np.flatnonzero(leaking)[:LISTED]),
        quarantined=tuple(store.documents[i].doc_id for i in split.quarantined),
    )


def _twins(
    held: Sequence[tuple[Document, str]], minhashes: np.ndarray, threshold: float
) -> tuple[list[Twin], list[Twin]]:
    """Documents that repeat an earlier one, and documents that resemble one of another split."""
    resembling = NearDuplicates(minhashes, threshold)
    first: dict[tuple[int, str], int] = {}  # signature and split -> the first such document
    for i, (_, place) in enumerate(held):
        first.setdefault((resembling.signature_of[i], place), i)
    texts: dict[str, int] = {}

    def twin(i: int, j: int) -> Twin:
        (one, here), (other, there) = held[i], held[j]
        alike = float(similarity(minhashes[i], minhashes[j]))
        return Twin(one.doc_id, here, other.doc_id, there, alike, one.sha256 == other.sha256)

    within, across = [], []
    for i, (document, place) in enumerate(held):
        like = [first[s, p] for s in resembling.signatures_like(i) for p in _PLACES if (s, p) in first]
        earlier = texts.setdefault(document.sha256, i)
        before = [earlier] if earlier < i else sorted(j for j in like if j < i)
        if before:
            within.append(twin(i, before[0]))
        if place in SPLITS[1:]:
            # what test shares with validation matters too, but train comes first
            others = [j for p in SPLITS[: SPLITS.index(place)] for j in sorted(like) if held[j][1] == p]
            if others:
                across.append(twin(i, others[0]))
    return within, across


_PLACES = (*SPLITS, "quarantined")


def _most_repeated(store: Store, rows: IntArray, keys: Keys) -> tuple[tuple[str, int], ...]:
    _, where, counts = np.unique(keys, return_index=True, return_counts=True)
    top = [i for i in np.argsort(-counts, kind="stable")[:5] if counts[i] > 1]
    texts = store.texts(rows[where[top]])
    return tuple((shorten(text, EXCERPT), int(counts[i])) for text, i in zip(texts, top, strict=True))


def _shared(
    store: Store, held: Sequence[tuple[Document, str]], rows: IntArray, owner: IntArray, which: IntArray
) -> tuple[SharedChunk, ...]:
    found = []
    for i, text in zip(which, store.texts(rows[which]), strict=True):
        document, place = held[owner[i]]
        at = int(rows[i] - document.first)
        found.append(SharedChunk(document.doc_id, at, place, shorten(text, EXCERPT)))
    return tuple(found)


def duplicate_verdicts(found: Duplicates) -> list[Verdict]:
    """What the duplicates mean for training and evaluation."""
    verdicts = [*_within_verdicts(found), *_across_verdicts(found)]
    if found.quarantined:
        names = ", ".join(found.quarantined[:5]) + (" ..." if len(found.quarantined) > 5 else "")
        text = f"{len(found.quarantined)} documents resemble documents of two splits and join none: {names}"
        verdicts.append(Verdict("quarantined", "note", text))
    return verdicts


def _within_verdicts(found: Duplicates) -> list[Verdict]:
    verdicts = []
    level: Level
    if found.exact or found.near:
        text = (
            f"{found.exact} of {found.documents} documents repeat an earlier one exactly, {found.near} nearly"
        )
        text += ": they weigh double"
        level = "warning" if found.exact + found.near > MANY_REPEATED * found.documents else "note"
        verdicts.append(Verdict("duplicate documents", level, text))
    if found.repeated:
        share = found.repeated / found.chunks
        text = f"{found.repeated} chunks ({100 * share:.2f} %) repeat the text of an earlier one"
        text += f", {found.in_document} of them in their own document" if found.in_document else ""
        level = "warning" if share > MANY_REPEATED else "note"
        verdicts.append(Verdict("duplicate chunks", level, text))
    if not verdicts:
        verdicts.append(Verdict("duplicates", "ok", "no document and no chunk stands twice"))
    return verdicts


def _across_verdicts(found: Duplicates) -> list[Verdict]:
    verdicts = []
    if found.across_documents:
        pairs = ", ".join(f"{t.document} ({t.split}) like {t.like} ({t.like_split})" for t in found.twins[:3])
        text = (
            f"duplicates across splits: {found.across_documents} documents of validation and test resemble "
            f"documents of an earlier split: {pairs}{' ...' if found.across_documents > 3 else ''}"
        )
        verdicts.append(Verdict("duplicate documents across splits", "red", text))
    for entry in found.across:
        if not entry.shared:
            continue
        level: Level = "red" if entry.refused else "warning"
        meaning = "to evaluate it is refused" if level == "red" else "the leak guard drops them"
        text = (
            f"duplicates across splits: {entry.shared} of {entry.chunks} chunks of {entry.split} "
            f"({100 * entry.share:.2f} %; {entry.shared_texts} different) also stand in train: {meaning}"
        )
        verdicts.append(Verdict("duplicate chunks across splits", level, text))
    if not verdicts:
        verdicts.append(Verdict("splits", "ok", "no text of validation or test stands in train"))
    return verdicts
