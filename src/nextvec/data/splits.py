"""Splits by document. There is no function here that splits windows, and none anywhere else: windows of one
article in both train and validation is how a validation cosine of 0.59 became 0.04 on new articles."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nextvec.config import Checked, number
from nextvec.corpus.chunking import originals
from nextvec.disk import read_json
from nextvec.errors import SplitError

if TYPE_CHECKING:
    from nextvec.corpus.store import Document, Store


class NearDuplicates:
    """Which documents' MinHash signatures resemble one another, without comparing all pairs.

    The estimated Jaccard similarity of two signatures of P hashes is the share of equal hashes (Broder 1997).
    Two that reach `threshold` differ in at most m = P - ceil(threshold P) places, so of any m + 1 bands at
    least one is equal in both (pigeonhole): unlike locality-sensitive hashing tuned by probability, the
    banding misses nothing. Candidates are then compared in full.

    Args:
        minhashes: uint32 [n, P], one row a document, in store order.
        threshold: in (0, 1].
    Attributes:
        signature_of: for each document the number of its signature; equal signatures share one.
    """

    def __init__(self, minhashes: NDArray[np.uint32], threshold: float) -> None:
        numbers: dict[bytes, int] = {}
        firsts: list[int] = []
        self.signature_of: list[int] = []
        for i, row in enumerate(minhashes):
            number = numbers.setdefault(row.tobytes(), len(numbers))
            if number == len(firsts):
                firsts.append(i)
            self.signature_of.append(number)
        self._like = _resembling(minhashes[np.array(firsts, dtype=np.int64)], threshold)

    def signatures_like(self, document: int) -> list[int]:
        """Numbers of the signatures that resemble this document's, its own among them."""
        return self._like[self.signature_of[document]]


def _resembling(signatures: NDArray[np.uint32], threshold: float) -> list[list[int]]:
    """For each distinct signature, those with at least `threshold` of the hashes equal, itself among them."""
    count, hashes = signatures.shape
    needed = math.ceil(threshold * hashes - 1e-9)
    edges = np.linspace(0, hashes, hashes - needed + 2).astype(int)
    bands = [(int(a), int(b)) for a, b in itertools.pairwise(edges)]
    buckets: list[dict[bytes, list[int]]] = [{} for _ in bands]
    like: list[list[int]] = [[i] for i in range(count)]
    shared = np.zeros(count, dtype=bool)  # most documents resemble no other: they are told apart at once
    for a, b in bands:
        _, which, times = np.unique(signatures[:, a:b], axis=0, return_inverse=True, return_counts=True)
        shared |= times[which.ravel()] > 1
    for i in np.flatnonzero(shared).tolist():
        candidates: set[int] = set()
        for bucket, (a, b) in zip(buckets, bands, strict=True):
            members = bucket.setdefault(signatures[i, a:b].tobytes(), [])
            candidates.update(members)
            members.append(i)
        rows = np.array(sorted(candidates), dtype=np.int64)
        equal = (signatures[rows] == signatures[i]).sum(axis=1)
        for row in rows[equal >= needed].tolist():
            like[i].append(row)
            like[row].append(i)
    return like


SPLITS = ("train", "validation", "test")
UNUSED = "unused"  # a list of a split file: documents that no split takes
MOST_FOLDS = 100


@dataclass(frozen=True)
class SplitConfig(Checked):
    """How documents are divided.

    Attributes:
        file: a JSON file `{"train": [ids], "validation": [ids], "test": [ids]}`; it decides alone when
            given. Each document must stand in it; those under "unused" are in no split.
        validation, test: the shares of documents that go there; the rest is train.
        salt: another salt gives another division.
        near_duplicate: estimated Jaccard similarity from which two documents count as one text and are kept
            in one split; 1.0 turns the grouping off.
        folds, fold: cross-validation. Documents are dealt into so many folds, 3 at least, in the order of the
            hashes of their ids: number `fold` is test, the next one validation, the others are train, and the
            shares above count for nothing. 0 folds: no cross-validation. Unlike shares, folds are of the
            store as it is: a document more deals them anew.
    """

    file: str | None = None
    validation: float = number(0.1, least=0, below=1)
    test: float = number(0.1, least=0, below=1)
    salt: str = "nextvec"
    near_duplicate: float = number(0.8, above=0, most=1)
    folds: int = number(0, least=0, most=MOST_FOLDS)
    fold: int = number(0, least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.validation + self.test >= 1:
            raise ValueError("validation and test must leave something for train")
        if self.folds in (1, 2) or self.fold >= max(self.folds, 1):
            raise ValueError(f"fold {self.fold} of {self.folds} folds; there are 3 at least, numbered from 0")
        if self.folds and self.file is not None:
            raise ValueError("a split file divides documents once, not into folds; give one of the two")


@dataclass(frozen=True)
class Split:
    """Indices into `store.documents`, ascending, disjoint.

    `quarantined` documents resemble documents of two splits; they belong to none. `views` are those of train
    that are views (`nextvec.corpus.chunking`): a view goes where its original goes, and anywhere but in train
    only originals stand.
    """

    train: tuple[int, ...]
    validation: tuple[int, ...]
    test: tuple[int, ...]
    quarantined: tuple[int, ...] = ()
    views: frozenset[int] = frozenset()

    def of(self, name: str) -> tuple[int, ...]:
        """The documents of one split, of train with its views; "all" is every original, the quarantined too.
        Raises SplitError."""
        if name == "all":
            whole = self.train + self.validation + self.test + self.quarantined
            return tuple(sorted(i for i in whole if i not in self.views))
        if name not in SPLITS:
            raise SplitError(f"there is no split '{name}'", remedy=f"choose one of: {', '.join(SPLITS)}, all")
        documents: tuple[int, ...] = getattr(self, name)
        return documents

    def evaluated(self, name: str) -> tuple[int, ...]:
        """What an evaluation set on that split is made of: its originals, of train too. Raises SplitError."""
        return tuple(i for i in self.of(name) if i not in self.views)


def split_documents(store: Store, config: SplitConfig, sources: Sequence[str] = ()) -> Split:
    """Divide the documents of a store.

    Documents are taken in the store's order. One that resembles earlier documents of one split joins it; of
    several splits, it is quarantined; else the hash of its own id decides. So a document's place depends on
    nothing that comes after it: appending moves nothing. A view has no say and goes with its original.

    `sources` limits the answer, not the division: a document is in the same split whichever sources a command
    looks at. With a split file, every original of those sources must stand in it exactly once (views may, in
    the same split as their original); ids that the
    store does not hold are an error, unless `sources` is given (the file then describes a larger collection).

    Raises:
        SplitError: an unknown source; a file that is not as above, naming file and id.
    """
    chosen = _of_sources(store, sources)
    if config.file is not None:
        return _from_file(store, Path(config.file), chosen, limited=bool(sources))
    placed = _place(store, config)
    return _split(store, {i: placed[i] for i in chosen})


MOST_FITTED = 2**20
"""Chunks that are enough for whatever is fitted in closed form, of some thousand numbers."""


def fitting_documents(store: Store, documents: Sequence[int], most: int = MOST_FITTED) -> Sequence[int]:
    """As many of these documents (indices into `store.documents`), evenly spaced, as have about `most` chunks
    in all: time and memory of a fit do not grow with a store beyond that."""
    chunks = sum(store.documents[i].count for i in documents)
    if chunks <= most:
        return documents
    keep = max(1, len(documents) * most // chunks)
    return [documents[i] for i in np.linspace(0, len(documents) - 1, keep).astype(int)]


def own_split(doc_id: str, config: SplitConfig) -> str:
    """Where the hash of the id alone puts a document: sha256(salt + id) as a fraction of its range.

    Test takes the low end, so that changing the share of validation moves no test document.
    """
    fraction = _hash(doc_id, config) / 2**64
    if fraction < config.test:
        return "test"
    return "validation" if fraction < config.test + config.validation else "train"


def _hash(doc_id: str, config: SplitConfig) -> int:
    return int.from_bytes(hashlib.sha256((config.salt + doc_id).encode()).digest()[:8], "big")


def own_splits(ids: Sequence[str], config: SplitConfig) -> list[str]:
    """Where the ids alone put documents: by `own_split`, or dealt into folds."""
    if not config.folds:
        return [own_split(doc_id, config) for doc_id in ids]
    placed = [""] * len(ids)
    for rank, at in enumerate(sorted(range(len(ids)), key=lambda i: (_hash(ids[i], config), ids[i]))):
        ahead = (rank - config.fold) % config.folds
        placed[at] = "test" if ahead == 0 else "validation" if ahead == 1 else "train"
    return placed


def _of_sources(store: Store, sources: Sequence[str]) -> list[int]:
    for source in sources:
        if source not in store.sources:
            remedy = f"its sources are: {', '.join(store.sources)}"
            raise SplitError(f"no document of source '{source}'", where=store.path, remedy=remedy)
    return [i for i, d in enumerate(store.documents) if not sources or d.source in sources]


def _place(store: Store, config: SplitConfig) -> list[str | None]:
    """The split of every document in store order, a view's being its original's; None is quarantined."""
    whose = originals(store.documents)
    whole = np.unique(whose)
    own = own_splits([store.documents[i].doc_id for i in whole.tolist()], config)
    placed: list[str | None] = [*own]
    if config.near_duplicate < 1:
        placed = _place_originals(store, config, whole, own)
    return [placed[at] for at in np.searchsorted(whole, whose).tolist()]


def _place_originals(
    store: Store, config: SplitConfig, whole: NDArray[np.int64], own: Sequence[str]
) -> list[str | None]:
    """The split of each of `whole`, the indices of all originals, ascending; `own` is where their ids put
    them."""
    resembling = NearDuplicates(store.minhashes()[whole], config.near_duplicate)
    # Documents with equal signatures resemble the same others, so splits are kept per signature.
    splits_of: dict[int, set[str]] = {}
    placed: list[str | None] = []
    for i in range(len(whole)):
        seen: set[str] = set()
        for signature in resembling.signatures_like(i):
            seen |= splits_of.get(signature, set())
        if len(seen) > 1:
            placed.append(None)
            continue
        place = seen.pop() if seen else own[i]
        splits_of.setdefault(resembling.signature_of[i], set()).add(place)
        placed.append(place)
    return placed


def _from_file(store: Store, path: Path, chosen: Iterable[int], *, limited: bool) -> Split:
    where = _read_split_file(path)
    known = {d.doc_id for d in store.documents}
    for doc_id in () if limited else where:
        if doc_id not in known:
            message = f"document '{doc_id}' is not in the store {store.path}"
            remedy = "remove it from the file, or limit the command to sources"
            raise SplitError(message, where=path, remedy=remedy)
    placed: dict[int, str | None] = {}
    for i in chosen:
        document: Document = store.documents[i]
        original = document.original
        if original not in where:
            message = f"document '{original}' of source '{document.source}' is in no split"
            remedy = f'add it to the file ("{UNUSED}": leaves it out), or limit the command to other sources'
            raise SplitError(message, where=path, remedy=remedy)
        placed[i] = where[original]
        if where.get(document.doc_id, placed[i]) != placed[i]:
            message = f"'{document.doc_id}' is a view of '{original}' and in another split"
            raise SplitError(message, where=path, remedy="name originals only: views go with them")
    return _split(store, {i: place for i, place in placed.items() if place != UNUSED})


def _split(store: Store, placed: Mapping[int, str | None]) -> Split:
    views = {i for i in placed if store.documents[i].view_of is not None}

    def of(name: str | None) -> tuple[int, ...]:
        return tuple(i for i, place in placed.items() if place == name and i not in views)

    train = tuple(i for i, place in placed.items() if place == "train")
    return Split(train, of("validation"), of("test"), of(None), frozenset(views.intersection(train)))


def _read_split_file(path: Path) -> dict[str, str]:
    """Document id -> split name. Raises SplitError naming the file and what is wrong in it."""
    shape = 'write {"train": [ids], "validation": [ids], "test": [ids]}'
    content: Any = read_json(path, SplitError, remedy=shape)
    if not isinstance(content, Mapping) or "train" not in content:
        raise SplitError("is not a split file", where=path, remedy=shape)
    where: dict[str, str] = {}
    for name, ids in content.items():
        if name not in (*SPLITS, UNUSED):
            raise SplitError(f"there is no split '{name}'", where=path, remedy=shape)
        if not isinstance(ids, list) or not all(isinstance(i, str) for i in ids):
            raise SplitError(f"'{name}' is not a list of document ids", where=path, remedy=shape)
        for doc_id in ids:
            if doc_id in where:
                again = "twice in" if where[doc_id] == name else f"in {where[doc_id]} and in"
                message = f"document '{doc_id}' stands {again} {name}"
                raise SplitError(message, where=path, remedy="keep it in one place")
            where[doc_id] = name
    return where
