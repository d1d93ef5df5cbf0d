"""A document on its way into a store, and the tables and arrays that shards are made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nextvec.corpus.fingerprints import (
    MinHash,
    minhash_text,
    minhash_vectors,
    pack,
    text_sha256,
    vectors_sha256,
)
from nextvec.corpus.layout import CHUNK_SCHEMA, DOCUMENT_SCHEMA, VIEW_SCHEMA, number_column
from nextvec.errors import DocumentError, VectorError


@dataclass(frozen=True)
class NewDocument:
    """A document on its way into a store: parallel lists, one entry a chunk.

    `gaps[i]` is the whitespace between chunk i-1 (or the document's start) and chunk i, so that joining
    gap + text over the chunks gives the document back; `starts`, `ends` are offsets into that text. A view
    (`nextvec.corpus.views`) has the text, and so the hashes, of the document `view_of`.
    """

    doc_id: str
    source: str
    title: str
    sha256: str
    minhash: MinHash
    texts: Sequence[str]
    gaps: Sequence[str]
    starts: Sequence[int]
    ends: Sequence[int]
    view_of: str | None = None

    @classmethod
    def from_chunks(
        cls,
        doc_id: str,
        texts: Sequence[str],
        minhash: MinHash | None = None,
        *,
        source: str = "",
        title: str = "",
        gap: str = " ",
    ) -> NewDocument:
        """A document known by its chunks only; they are joined by `gap`. minhash: of the whole, if known."""
        gaps = ["" if i == 0 else gap for i in range(len(texts))]
        ends = list(accumulate(len(g) + len(t) for g, t in zip(gaps, texts, strict=True)))
        starts = [end - len(text) for end, text in zip(ends, texts, strict=True)]
        whole = gap.join(texts)
        signature = minhash_text(whole) if minhash is None else minhash
        return cls(doc_id, source, title, text_sha256(whole), signature, texts, gaps, starts, ends)

    @classmethod
    def without_text(
        cls, doc_id: str, vectors: NDArray[Any], *, source: str = "", title: str = ""
    ) -> NewDocument:
        """A document of which only the vectors [T, D] are known: its hashes are over their bytes."""
        n = len(vectors)
        sha256, minhash = vectors_sha256(vectors), minhash_vectors(vectors)
        return cls(doc_id, source, title, sha256, minhash, [""] * n, [""] * n, [0] * n, [0] * n)


def chunk_table(documents: Sequence[NewDocument]) -> pa.Table:
    """The chunks of the documents as the store's table. Raises DocumentError."""
    for d in documents:
        if not d.texts or not len(d.texts) == len(d.gaps) == len(d.starts) == len(d.ends):
            raise DocumentError(
                f"document '{d.doc_id}' has no chunks or uneven columns", remedy="leave it out"
            )
    counts = [len(d.texts) for d in documents]
    owner = number_column(np.repeat(np.arange(len(documents)), counts))
    columns: dict[str, Any] = {
        name: _strings([getattr(d, name) for d in documents]).take(owner)
        for name in ("doc_id", "source", "title")
    }
    columns["position"] = np.concatenate([np.arange(n, dtype=np.int32) for n in counts])
    for column, name in (("text", "texts"), ("start", "starts"), ("end", "ends"), ("gap", "gaps")):
        columns[column] = list(chain.from_iterable(getattr(d, name) for d in documents))
    return _table({name: columns[name] for name in CHUNK_SCHEMA.names}, CHUNK_SCHEMA)


def document_table(documents: Sequence[NewDocument]) -> pa.Table:
    """The documents as the store's table; `first` counts from the shard's first row."""
    counts = [len(d.texts) for d in documents]
    columns: dict[str, list[Any]] = {
        "doc_id": [d.doc_id for d in documents],
        "source": [d.source for d in documents],
        "title": [d.title for d in documents],
        "sha256": [d.sha256 for d in documents],
        "first": [0, *accumulate(counts)][: len(counts)],
        "count": counts,
        "minhash": [pack(d.minhash) for d in documents],
    }
    views = [d.view_of for d in documents]
    if any(views):
        return _table(columns | {"view_of": views}, VIEW_SCHEMA)
    return _table(columns, DOCUMENT_SCHEMA)


def _strings(values: list[str]) -> pa.Array:
    with _unicode():
        return pa.array(values, pa.string())


def _table(columns: Mapping[str, Any], schema: pa.Schema) -> pa.Table:
    with _unicode():
        return pa.table(dict(columns), schema=schema)


@contextmanager
def _unicode() -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, UnicodeEncodeError) as e:
        raise DocumentError(
            f"text cannot be stored ({e})", remedy="clean the text: it must be Unicode"
        ) from None


def to_stored(vectors: NDArray[Any], chunks: pa.Table, dimension: int, dtype: str) -> NDArray[Any]:
    """The vectors [n, D] in the store's dtype, every row finite and not zero. Raises VectorError."""
    if vectors.ndim != 2 or vectors.shape != (chunks.num_rows, dimension):
        raise VectorError(
            f"vectors are {list(vectors.shape)}, the store needs [{chunks.num_rows}, {dimension}]",
            remedy="give one vector of that dimension for every chunk",
        )
    with np.errstate(over="ignore", invalid="ignore"):
        stored = np.ascontiguousarray(vectors, dtype=np.dtype(dtype))

    def name(row: int) -> str:
        chunk = chunks.slice(row, 1).to_pylist()[0]
        return f"vector of chunk {chunk['position']} of document '{chunk['doc_id']}'"

    bad = ~np.isfinite(vectors).all(axis=1)
    if bad.any():
        raise VectorError(
            "is NaN or infinite", where=name(int(bad.argmax())), remedy="fix or leave out that row"
        )
    over = ~np.isfinite(stored).all(axis=1)
    if over.any():
        raise VectorError(
            f"does not fit {dtype}", where=name(int(over.argmax())), remedy="store float32 (--dtype)"
        )
    zero = ~stored.any(axis=1)
    if zero.any():
        raise VectorError("is zero", where=name(int(zero.argmax())), remedy="fix or leave out that row")
    return stored
