"""Back ends: engines that hold vectors and name the nearest ones, each under the name that `--index` takes.

An engine only names candidates. Their cosines come from the store, so that one whose copy is damaged can miss
rows, but cannot make a score up.
"""

from __future__ import annotations

import hashlib
import re
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal, Self

import numpy as np
import pyarrow.compute as pc

from nextvec.corpus.layout import FloatArray, IntArray
from nextvec.corpus.store import Store
from nextvec.data.gather import VectorSource, gather_rows
from nextvec.data.trained import digest
from nextvec.errors import RetrievalError
from nextvec.retrieval.index import LEFT_OUT, SPARE, Candidates, ExcludedRows, Index
from nextvec.vectors import unit

TEXTS = {
    "doc_id": "id of the document",
    "position": "of the chunk in its document, from 0",
    "title": "of the document",
    "source": "of the document",
    "text": "of the chunk",
}
"""What a database holds of a chunk beside its place and its vector."""
PREFIX = "nextvec_"
NAME = re.compile(PREFIX + r"[0-9a-f]{16}")
LOAD_BYTES = 2**24
"""So many bytes of vectors are handed to an engine at once."""


def originals(store: Store, documents: Sequence[int] | None = None) -> IntArray:
    """Rows of these documents (indices into `store.documents`), by default of all that are no views."""
    if documents is None:
        documents = [i for i, document in enumerate(store.documents) if document.view_of is None]
    return store.rows_of(sorted(set(documents)))


@dataclass(frozen=True, eq=False)
class IndexSource:
    """Rows of a store that an engine is to hold; what it calls a place is an index into `rows`.

    Attributes:
        rows: [n], ascending.
    """

    store: Store
    rows: IntArray

    @classmethod
    def of(cls, store: Store, documents: Sequence[int] | None = None) -> IndexSource:
        """The chunks that have a text, of these documents; by default of all originals."""
        rows = originals(store, documents)
        lengths = (pc.utf8_length(pc.utf8_trim_whitespace(t["text"])) for _, t in store.chunk_tables())
        written = np.concatenate([n.to_numpy() > 0 for n in lengths] or [np.zeros(0, bool)])
        return cls(store, rows[written[rows]])

    @property
    def vectors(self) -> VectorSource:
        return self.store.vectors

    @property
    def encoder(self) -> str:
        return str(self.store.encoder["fingerprint"])

    @cached_property
    def identity(self) -> str:
        """16 hex digits over the vectors of the store and which of them are held."""
        shards = [shard["vectors_sha256"] for shard in self.store.info["shards"]]
        rows = hashlib.sha256(self.rows.astype("<i8").tobytes()).hexdigest()
        return digest([self.store.fingerprint, shards, rows])

    @property
    def name(self) -> str:
        """Of the table or the collection that holds them, with their texts."""
        return f"{PREFIX}{digest([self.identity, 'texts'])}"

    @property
    def about(self) -> str:
        """What it holds, for whoever finds it in a database."""
        return (
            f"nextvec: {len(self.rows)} chunks of the store {self.store.path.name}, encoder "
            f"{self.store.encoder.get('name')}, {self.vectors.shape[1]} dimensions, unit length"
        )

    def texts(self, start: int, count: int) -> Iterator[tuple[str, int, str | None, str, str]]:
        """What `TEXTS` names, of places start .. start + count - 1."""
        table = self.store.take(self.rows[start : start + count], list(TEXTS))
        yield from zip(*(column.to_pylist() for column in table.columns), strict=True)

    def blocks(self) -> Iterator[tuple[int, FloatArray]]:
        """(place of the first, unit vectors [.., D] of LOAD_BYTES at most)."""
        count = max(1, LOAD_BYTES // (4 * self.vectors.shape[1]))
        for start in range(0, len(self.rows), count):
            yield start, unit(gather_rows(self.vectors, self.rows[start : start + count]))


@dataclass(frozen=True)
class HeldRows:
    """A table or a collection that an index made.

    Attributes:
        name: as `IndexSource.name` gave it.
        rows: how many it holds.
        about: as `IndexSource.about` described it; empty where it was made without.
    """

    name: str
    rows: int
    about: str


def check_held_name(name: str, where: str) -> None:
    """Raises RetrievalError: not a name that an index gives, so not ours to drop."""
    if not NAME.fullmatch(name):
        remedy = "give a name that nextvec index list prints"
        raise RetrievalError(f"'{name}' is not of nextvec", where=where, remedy=remedy)


def check_dimension(source: IndexSource, most: int, where: str) -> None:
    """Raises RetrievalError: vectors of more dimensions than the engine takes."""
    if (dimension := source.vectors.shape[1]) > most:
        message = f"takes vectors of {most} dimensions at most, these have {dimension}"
        raise RetrievalError(message, where=where, remedy="take the index exact or faiss")


def check_filled(source: IndexSource, held: int, what: str, where: str) -> None:
    """Raises RetrievalError: the table or collection `what` holds another number of rows."""
    if held != len(source.rows):
        message = f"the {what} does not hold the {len(source.rows)} rows that it is named after"
        raise RetrievalError(message, where=where, remedy="drop it, and it is loaded again")


class EngineIndex(Index):
    """An index whose candidates an engine names.

    Attributes:
        most: the most candidates that the engine gives for a query.
    """

    most: ClassVar[int] = 2**31 - 1

    def __init__(self, source: IndexSource) -> None:
        super().__init__(source.vectors, source.rows, source.encoder)

    @abstractmethod
    def _ask(self, queries: FloatArray, n: int) -> tuple[FloatArray, IntArray]:
        """Inner products and places, both [Q, n], the best first; place -1 where it found no more."""

    def _candidates(self, queries: FloatArray, k: int, out: ExcludedRows) -> Candidates:
        n = min(k + SPARE + out.most, self.size, self.most)
        scores, places = self._ask(queries, n)
        if places.max(initial=-1) >= self.size:
            message = f"names row {int(places.max())} of {self.size}"
            remedy = "delete what it holds, so that it is loaded again"
            raise RetrievalError(message, where=f"index '{self.name}'", remedy=remedy)
        beyond = np.full(len(queries), -np.inf, dtype=np.float32)
        if self.exact and n < self.size:
            beyond = scores[:, -1]
        lacking = ((0, 0), (0, max(0, k - n)))
        scores, places = np.pad(scores, lacking), np.pad(places, lacking, constant_values=-1)
        missing = places < 0
        scores = np.where(missing | out.among(places), np.float32(LEFT_OUT), scores)
        return Candidates(scores, np.where(missing, 0, places), beyond)


def padded(found: Sequence[tuple[Sequence[float], Sequence[int]]], n: int) -> tuple[FloatArray, IntArray]:
    """Scores and places of each query as arrays [Q, n], -1 for the places that are missing."""
    scores = np.full((len(found), n), LEFT_OUT, dtype=np.float32)
    places = np.full((len(found), n), -1, dtype=np.int64)
    for i, (some, at) in enumerate(found):
        scores[i, : len(some)], places[i, : len(at)] = some, at
    return scores, places


Opening = Callable[[IndexSource, str | None], Index]
"""The index of a source at an address; what is not there yet is loaded."""
Address = Literal["none", "optional", "needed"]


@dataclass(frozen=True)
class Backend:
    """A registered back end.

    Attributes:
        address: whether its name is followed by a colon and where it keeps what it holds.
        summary: what it is, in a line.
    """

    open: Opening
    address: Address
    summary: str


BACKENDS: dict[str, Backend] = {}


def backend(name: str, address: Address = "none") -> Callable[[Opening], Opening]:
    """Register a function as the back end `name`; the first line of its docstring is its summary."""

    def register(function: Opening) -> Opening:
        summary = (function.__doc__ or "").partition("\n")[0]
        if name in BACKENDS or ":" in name or not summary:
            raise ValueError(f"back end '{name}': taken, or holds a colon, or its function has no docstring")
        BACKENDS[name] = Backend(function, address, summary)
        return function

    return register


# The exact index: every row is looked at, in blocks. The reference for every other one.

HELD_BYTES = 2**30
"""Up to so many bytes of unit vectors stay in memory; a larger store is read anew for every search."""


class ExactIndex(Index):
    """Compares every query with every row. Arguments and errors are those of `Index`."""

    name = "exact"
    exact = True

    def __init__(self, vectors: VectorSource, rows: IntArray, encoder: str) -> None:
        super().__init__(vectors, rows, encoder)
        self._held: list[tuple[int, FloatArray]] | None = None

    @classmethod
    def of(cls, store: Store, documents: Sequence[int] | None = None) -> Self:
        """The chunks of these documents (indices into `store.documents`), by default of all originals."""
        return cls(store.vectors, originals(store, documents), str(store.encoder["fingerprint"]))

    def _candidates(self, queries: FloatArray, k: int, out: ExcludedRows) -> Candidates:
        import torch

        most = min(k + SPARE, self.size)
        best = torch.full((len(queries), 0), LEFT_OUT)
        places = torch.zeros((len(queries), 0), dtype=torch.int64)
        given = torch.tensor(queries)
        for start, block in self._blocks():
            similar = given @ torch.from_numpy(block).T
            query, place = out.between(start, start + len(block))
            similar[torch.from_numpy(query), torch.from_numpy(place - start)] = LEFT_OUT
            width = min(most, similar.shape[1])
            value, at = similar.topk(width, dim=1, sorted=False)
            best, kept = torch.cat([best, value], dim=1).topk(min(most, best.shape[1] + width), dim=1)
            places = torch.cat([places, at + start], dim=1).gather(1, kept)
        scores = best.numpy()
        beyond = scores[:, -1] if most < self.size else np.full(len(queries), -np.inf, dtype=np.float32)
        return Candidates(scores, places.numpy(), beyond)

    def _blocks(self) -> Iterator[tuple[int, FloatArray]]:
        if self._held is None and self.size * self.dimension * 4 <= HELD_BYTES:
            self._held = list(super()._blocks())
        yield from super()._blocks() if self._held is None else self._held


@backend("exact")
def _open(source: IndexSource, address: str | None) -> ExactIndex:
    """Every row is looked at, in memory."""
    return ExactIndex(source.vectors, source.rows, source.encoder)
