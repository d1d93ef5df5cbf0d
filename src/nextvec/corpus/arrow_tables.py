"""A document on its way into a store, the tables and arrays that shards are made of, and the store's card."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, chain
from pathlib import Path
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
from nextvec.disk import write_text
from nextvec.errors import DocumentError, VectorError


@dataclass(frozen=True)
class NewDocument:
    """A document on its way into a store: parallel lists, one entry a chunk.

    `gaps[i]` is the whitespace between chunk i-1 (or the document's start) and chunk i, so that joining
    gap + text over the chunks gives the document back; `starts`, `ends` are offsets into that text. A view
    (`nextvec.corpus.chunking`) has the text, and so the hashes, of the document `view_of`.
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
            message = f"document '{d.doc_id}' has no chunks or uneven columns"
            raise DocumentError(message, remedy="leave it out")
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
        **{name: [getattr(d, name) for d in documents] for name in ("doc_id", "source", "title", "sha256")},
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
        remedy = "clean the text: it must be Unicode"
        raise DocumentError(f"text cannot be stored ({e})", remedy=remedy) from None


def to_stored(vectors: NDArray[Any], chunks: pa.Table, dimension: int, dtype: str) -> NDArray[Any]:
    """The vectors [n, D] in the store's dtype, every row finite and not zero. Raises VectorError."""
    if vectors.ndim != 2 or vectors.shape != (chunks.num_rows, dimension):
        message = f"vectors are {list(vectors.shape)}, the store needs [{chunks.num_rows}, {dimension}]"
        raise VectorError(message, remedy="give one vector of that dimension for every chunk")
    with np.errstate(over="ignore", invalid="ignore"):
        stored = np.ascontiguousarray(vectors, dtype=np.dtype(dtype))
    for bad, what, remedy in (
        (~np.isfinite(vectors).all(axis=1), "is NaN or infinite", "fix or leave out that row"),
        (~np.isfinite(stored).all(axis=1), f"does not fit {dtype}", "store float32 (--dtype)"),
        (~stored.any(axis=1), "is zero", "fix or leave out that row"),
    ):
        if bad.any():
            [chunk] = chunks.slice(int(bad.argmax()), 1).to_pylist()
            where = f"vector of chunk {chunk['position']} of document '{chunk['doc_id']}'"
            raise VectorError(what, where=where, remedy=remedy)
    return stored


# README.md of a store: its card as a Hugging Face dataset, so that `load_dataset(folder)` reads it.

CARD = "README.md"
MARK = "<!-- Written by nextvec, which replaces no README.md without this line. -->"
CARD_DTYPES = {"int32": "int32", "int64": "int64", "string": "string"}  # others are binary
CARD_TEXT = """\
---
tags:
- nextvec
- embeddings
configs:
- config_name: chunks
  default: true
  data_files: chunks/*.parquet
- config_name: documents
  data_files: documents/*.parquet
dataset_info:
- config_name: chunks
  features:
{chunks}
- config_name: documents
  features:
{documents}
---
{mark}

# Documents as sequences of vectors

Texts cut into chunks, and a vector of each: a store of [nextvec](https://pypi.org/project/nextvec/). Rows of
`chunks/NNNN.parquet` and of `vectors/NNNN.npy` belong together, in the order of the documents.

- Encoder: {encoder}, {dimension} dimensions, {dtype}, {kind}.
- Chunker: {chunker}.

```python
import numpy as np
from datasets import load_dataset

chunks = load_dataset(".", split="train")  # or load_dataset(".", "documents")
vectors = np.load("vectors/0000.npy", mmap_mode="r")  # of chunks/0000.parquet
```

Documents that were deleted, or replaced, stay in these files until `nextvec compact`; `store.json` lists
them. Rows of documents that the table `documents` calls a `view_of` another are the same texts cut elsewhere,
for training only. `nextvec.Store.open` leaves both out where they do not belong.
"""


def write_dataset_card(store: Path, info: Mapping[str, Any]) -> None:
    """Write it for a store with this manifest, where it is not there as it should be. A README.md that
    somebody else wrote is left alone. Raises DiskError."""
    path = store / CARD
    text = dataset_card(info)
    if path.exists():
        held = path.read_text(encoding="utf-8", errors="replace")
        if MARK not in held or held == text:
            return
    write_text(path, text)


def dataset_card(info: Mapping[str, Any]) -> str:
    """The card. It counts nothing, so it is the same however much is added."""
    options = ", ".join(f"{key} {value}" for key, value in info["chunker"].items() if key != "kind")
    return CARD_TEXT.format(
        chunks=_features(CHUNK_SCHEMA),
        documents=_features(VIEW_SCHEMA),
        mark=MARK,
        encoder=info["encoder"].get("name"),
        dimension=info["dimension"],
        dtype=info["dtype"],
        kind="of unit length"
        if info["normalised"]
        else "raw, as the encoder gives them before any normalisation",
        chunker=f"{info['chunker'].get('kind')}{f' ({options})' if options else ''}",
    )


def _features(schema: pa.Schema) -> str:
    """They have to be declared: only shards that hold views have the column `view_of`."""
    lines = []
    for field in schema:
        lines += [f"  - name: {field.name}", f"    dtype: {CARD_DTYPES.get(str(field.type), 'binary')}"]
    return "\n".join(lines)
