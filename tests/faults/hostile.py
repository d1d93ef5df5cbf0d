"""What reads bytes that others made, each with a good example to change: a typed error or an answer, never
anything else. `test_fuzz.py` changes them at random, `fuzz.py` where that reaches new code."""

from __future__ import annotations

import gzip
import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tomli_w
from safetensors.numpy import save

from nextvec.corpus.arrays import open_arrays
from nextvec.corpus.documents import read_source
from nextvec.corpus.imports import open_npy
from nextvec.corpus.layout import read_manifest
from nextvec.data.splits import _read_split_file
from nextvec.errors import NextvecError
from nextvec.models.saving import read_tensors
from nextvec.serving.bodies import read_json, read_npy, windows_of
from nextvec.serving.errors import Refusal
from nextvec.serving.settings import Settings
from nextvec.training.config import read_config
from nextvec.training.history import HISTORY, read_history

Target = tuple[bytes, Callable[[bytes], object]]
WIKI = """<mediawiki xml:lang="en"><siteinfo><dbname>enwiki</dbname></siteinfo>
<page><title>T</title><ns>0</ns>
<id>1</id><revision><id>2</id><text>'''T''' is a [[town|small town]].<ref name="a">x</ref> {{convert|3|km}}

== Head ==
* one
{| class="a"
|-
| cell
|}</text></revision></page></mediawiki>"""
HTML = '<html><head><title>T</title></head><body><h1>H</h1><p>a <a href="x">b</a> &amp; c</p><table><tr><td>1'
ROWS = [{"id": "a", "text": "One. Two.", "title": "T"}, {"id": "b", "text": "Three."}]


def _table() -> bytes:
    held = io.BytesIO()
    pq.write_table(pa.table({"id": ["a", "b"], "text": ["One. Two.", "Three."]}), held)
    return held.getvalue()


def _npy(values: Any) -> bytes:
    held = io.BytesIO()
    np.save(held, values)
    return held.getvalue()


def _npz() -> bytes:
    held = io.BytesIO()
    np.savez_compressed(held, contexts=np.ones((2, 3, 4), np.float32), targets=np.ones((2, 4), np.float32))
    return held.getvalue()


def _in_file(name: str, read: Callable[[Path], object]) -> Callable[[bytes], object]:
    def run(data: bytes) -> object:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            path.write_bytes(data)
            return read(path)

    return run


def _documents(ending: str) -> Callable[[bytes], object]:
    return _in_file(f"a{ending}", lambda path: [d.text for d in read_source(path)])


def _arrays(path: Path) -> object:
    with open_arrays(path, ("contexts", "targets"), 2**20) as found:
        return {name: values.sum() for name, values in found.items()}


def _request(data: bytes) -> object:
    return windows_of(read_json(data).get("input"), 2, Settings())


def _npy_request(data: bytes) -> object:
    return windows_of(read_npy(data), 2, Settings())


SHARD = {"name": "0000", "rows": 1, "documents": 1, "path": "x", "deleted": [0]} | {
    f"{part}_sha256": "0" * 64 for part in ("vectors", "chunks", "documents")
}
MANIFEST = {
    "format": 2, "nextvec_version": "0", "created": "x", "encoder": {"fingerprint": "a"}, "dimension": 2,
    "encoder_normalises": True, "chunker": {}, "dtype": "float32", "normalised": True, "chunks": 1,
    "documents": 1, "shards": [SHARD],
}  # fmt: skip
LINE = {
    "epoch": 1, "update": 1, "train": {"loss": 1.0, "cosine": 0.1}, "validation": {"loss": 1.0, "cosine": 0.1}
}  # fmt: skip
CONFIG = {"model": {"name": "lstm"}, "data": {"context": 4}, "loss": {"mse": 1.0}, "optim": {"lr": 1e-3}}

TARGETS: dict[str, Target] = {
    "text": ("Ünder the tree.\n\nNext.".encode(), _documents(".txt")),
    "markdown": (b"# T\n\n* a [b](c)\n\n```\nx\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n", _documents(".md")),
    "html": (HTML.encode(), _documents(".html")),
    "rst": (b"T\n=\n\n.. note:: a\n   b\n\n``x`` `y <z>`_ ::\n\n  c\n", _documents(".rst")),
    "json lines": ("\n".join(map(json.dumps, ROWS)).encode(), _documents(".jsonl")),
    "json": (json.dumps(ROWS).encode(), _documents(".json")),
    "csv": (b'id,text,title\na,"One. ""x""",T\nb,Two,\n', _documents(".csv")),
    "parquet": (_table(), _documents(".parquet")),
    "wiki dump": (WIKI.encode(), _documents(".xml")),
    "gzip": (gzip.compress("\n".join(map(json.dumps, ROWS)).encode(), mtime=0), _documents(".jsonl.gz")),
    "npy": (_npy(np.ones((3, 4), np.float32)), _in_file("a.npy", open_npy)),
    "npz": (_npz(), _in_file("a.npz", _arrays)),
    "manifest": (
        json.dumps(MANIFEST).encode(),
        _in_file("store.json", lambda path: read_manifest(path.parent)),
    ),
    "history": (json.dumps(LINE).encode(), _in_file(HISTORY, lambda path: read_history(path.parent))),
    "configuration": (tomli_w.dumps(CONFIG).encode(), _in_file("config.toml", read_config)),
    "split": (
        b'{"train": ["a"], "validation": [], "test": ["b"]}',
        _in_file("split.json", _read_split_file),
    ),
    "tensors": (save({"a": np.ones((2, 2), np.float32)}), _in_file("model.safetensors", read_tensors)),
    "request": (b'{"input": [[1.0, 2.0], [3.0, 4.0]]}', _request),
    "request of base64": (b'{"input": ["AAAAAAAAgD8AAABAAABAQA=="]}', _request),
    "request of npy": (
        _npy(np.ones((2, 2), np.float32)),
        lambda data: windows_of(read_npy(data), 2, Settings()),
    ),
}


def attempt(name: str, data: bytes) -> str:
    """Read these bytes. Returns what was refused, if it was; any other error goes on to the caller."""
    try:
        TARGETS[name][1](data)
    except NextvecError as e:
        return str(e)
    except Refusal as e:
        return str(e) if 400 <= e.status < 500 else f"status {e.status}\n"
    return ""
