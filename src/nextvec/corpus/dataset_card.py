"""README.md of a store: its card as a Hugging Face dataset, so that `load_dataset(folder)` reads it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from nextvec.corpus.layout import CHUNK_SCHEMA, VIEW_SCHEMA
from nextvec.disk import write_text

NAME = "README.md"
MARK = "<!-- Written by nextvec, which replaces no README.md without this line. -->"
DTYPES = {"int32": "int32", "int64": "int64", "string": "string"}  # others are binary
TEXT = """\
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
    path = store / NAME
    text = dataset_card(info)
    if path.exists():
        held = path.read_text(encoding="utf-8", errors="replace")
        if MARK not in held or held == text:
            return
    write_text(path, text)


def dataset_card(info: Mapping[str, Any]) -> str:
    """The card. It counts nothing, so it is the same however much is added."""
    options = ", ".join(f"{key} {value}" for key, value in info["chunker"].items() if key != "kind")
    return TEXT.format(
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
        lines += [f"  - name: {field.name}", f"    dtype: {DTYPES.get(str(field.type), 'binary')}"]
    return "\n".join(lines)
