"""A small store with known contents, and an encoder whose vectors are a function of the text alone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from corpus.ingesting import Run
from nextvec.corpus.chunking import Chunker, ParagraphChunker
from nextvec.corpus.ingest import IngestReport, ingest
from nextvec.corpus.store import NewDocument, Store, StoreWriter

ENCODER = {"name": "test", "fingerprint": "f" * 64}
CHUNKER = {"kind": "words", "words": 5}


class TextEncoder:
    """Vectors [n, 8] from a hash of each text; `fail_after` calls of `encode` it raises `failure`."""

    name = "test"
    dimension = 8
    max_tokens = 6
    normalises = True
    unit = False
    path = "cpu float32"

    def __init__(self, fail_after: int | None = None, failure: BaseException | None = None) -> None:
        self.fingerprint: dict[str, Any] = dict(ENCODER)
        self.fail_after, self.failure, self.calls = fail_after, failure, 0

    def encode(self, texts: Sequence[str], advance: Callable[[int], object] | None = None) -> np.ndarray:
        if self.failure is not None and self.calls == self.fail_after:
            raise self.failure
        self.calls += 1
        if advance is not None:
            advance(len(texts))
        return np.stack([self.vector(text) for text in texts])

    def vector(self, text: str) -> np.ndarray:
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
        return np.random.default_rng(seed).standard_normal(8).astype(np.float32)

    def count_tokens(self, texts: Sequence[str]) -> list[tuple[int, int]]:
        return [(len(text.split()), 0) for text in texts]


@pytest.fixture
def text_encoder() -> type[TextEncoder]:
    return TextEncoder


@pytest.fixture
def chunker() -> Chunker:
    """What `run` cuts with; a file of tests may have another."""
    return ParagraphChunker()


@pytest.fixture
def run(tmp_path: Path, text_encoder: type, chunker: Chunker) -> Run:
    """Ingest into tmp_path/"store", 20 chunks a shard, with the encoder made of hashes."""

    def call(source: Path, out: str = "store", **changes: object) -> IngestReport:
        options: dict[str, object] = {
            "encoder": text_encoder(),
            "chunker": chunker,
            "shard_chunks": 20,
            "quiet": True,
            **changes,
        }
        return ingest(source, tmp_path / out, **options)  # type: ignore[arg-type]

    return call


@pytest.fixture
def writer(tmp_path: Path) -> Callable[..., StoreWriter]:
    """Make a StoreWriter on tmp_path/"store" with defaults that may be overridden."""

    def make(**changes: Any) -> StoreWriter:
        options: dict[str, Any] = {"encoder": ENCODER, "dimension": 8, "chunker": CHUNKER, **changes}
        return StoreWriter(tmp_path / "store", **options)

    return make


@pytest.fixture
def rows() -> np.ndarray:
    """The 40 vectors [40, 8] that `store` holds, exact in float16."""
    return np.random.default_rng(3).standard_normal((40, 8)).astype(np.float16).astype(np.float32)


@pytest.fixture
def store(writer: Callable[..., StoreWriter], rows: np.ndarray) -> Store:
    """Ten documents of four chunks in three shards of 4, 5 and 1 documents; sources a and b in turn."""
    documents = [
        NewDocument.from_chunks(
            f"d{i}", [f"Chunk {k} of document {i}." for k in range(4)], source="ab"[i % 2], title=f"Title {i}"
        )
        for i in range(10)
    ]
    with writer() as w:
        for first, last in ((0, 4), (4, 9), (9, 10)):
            w.add_shard(documents[first:last], rows[4 * first : 4 * last], path="cpu float32")
    return Store.open(w.path)
