from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nextvec.corpus.imports import import_vectors
from nextvec.corpus.reading import Space, TextReader
from nextvec.corpus.store import Store
from nextvec.errors import (
    DocumentError,
    EncoderError,
    EncoderMismatchError,
    NextvecError,
    StoreError,
    VectorError,
)

COUNTS = (3, 5, 2)
N = sum(COUNTS)


def table(**changes: list[Any]) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {
        "doc_id": [f"doc{i}" for i, n in enumerate(COUNTS) for _ in range(n)],
        "position": [k for n in COUNTS for k in range(n)],
        "text": [f"text {i} {k}" for i, n in enumerate(COUNTS) for k in range(n)],
        "source": ["wiki"] * N,
        "title": ["A title"] * N,
    }
    return columns | changes


@pytest.fixture
def source_files(tmp_path: Path) -> Callable[..., tuple[Path, Path, Path]]:
    """Write vectors and chunks; returns their paths and that of a store that is not there yet."""

    def make(vectors: np.ndarray, columns: dict[str, list[Any]]) -> tuple[Path, Path, Path]:
        np.save(tmp_path / "v.npy", vectors)
        pq.write_table(pa.table(columns), tmp_path / "c.parquet")
        return tmp_path / "v.npy", tmp_path / "c.parquet", tmp_path / "out"

    return make


SourceFiles = Callable[..., tuple[Path, Path, Path]]


def random(n: int = N, d: int = 8, dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(1).standard_normal((n, d)).astype(dtype)


def test_rows_texts_and_documents_arrive_in_order(source_files: SourceFiles) -> None:
    vectors = random()
    files = source_files(vectors, table())
    report = import_vectors(*files, encoder_name="mine", quiet=True)
    assert (report.documents, report.chunks, report.normalised, report.verified) == (3, 10, False, False)
    store = Store.open(files[2], verify=True)
    np.testing.assert_array_equal(np.asarray(store.vectors), vectors)
    assert store.texts(range(N)) == table()["text"]
    assert [(d.doc_id, d.first, d.count) for d in store.documents] == [
        ("doc0", 0, 3),
        ("doc1", 3, 5),
        ("doc2", 8, 2),
    ]
    assert store.documents[0].title == "A title"
    assert store.encoder["name"] == "mine"
    assert store.encoder["verified"] is False
    assert not store.normalised


@pytest.mark.parametrize(
    ("dtype", "stored"), [("float16", "float16"), ("float32", "float32"), ("float64", "float32")]
)
def test_dtypes(source_files: SourceFiles, dtype: str, stored: str) -> None:
    files = source_files(random(dtype=dtype), table())
    import_vectors(*files, encoder_name="mine", quiet=True)
    assert Store.open(files[2]).vectors.stored_dtype == stored


def test_unit_vectors_are_recorded_as_such(source_files: SourceFiles) -> None:
    vectors = random()
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    files = source_files(vectors.astype(np.float16), table())
    assert import_vectors(*files, encoder_name="mine", quiet=True).normalised
    store = Store.open(files[2])
    assert store.normalised
    assert store.info["encoder_normalises"] is True


def test_shards_are_cut_at_documents_and_importing_again_adds_nothing(source_files: SourceFiles) -> None:
    files = source_files(random(), table())
    import_vectors(*files, encoder_name="mine", shard_chunks=3, quiet=True)
    assert [s["rows"] for s in Store.open(files[2]).info["shards"]] == [3, 5, 2]
    again = import_vectors(*files, encoder_name="mine", shard_chunks=3, quiet=True)
    assert (again.documents, again.skipped) == (0, {"in the store already": 3})
    assert len(Store.open(files[2])) == N


def test_a_document_with_another_text_is_refused(source_files: SourceFiles) -> None:
    files = source_files(random(), table())
    import_vectors(*files, encoder_name="mine", quiet=True)
    changed = table()["text"]
    changed[4] = "another text"
    files = source_files(random(), table(text=changed))
    with pytest.raises(StoreError, match="'doc1' is there with another text"):
        import_vectors(*files, encoder_name="mine", quiet=True)


def test_documents_without_texts_are_told_apart_by_their_vectors(source_files: SourceFiles) -> None:
    silent = table(text=[""] * N)
    files = source_files(random(), silent)
    import_vectors(*files, encoder_name="mine", quiet=True)
    store = Store.open(files[2])
    assert len({d.sha256 for d in store.documents}) == 3
    assert len(np.unique(store.minhashes(), axis=0)) == 3
    files = source_files(random() + 1, silent)
    with pytest.raises(StoreError, match="another text"):
        import_vectors(*files, encoder_name="mine", quiet=True)


def without(column: str) -> dict[str, list[Any]]:
    return {k: v for k, v in table().items() if k != column}


def spoilt(value: float) -> np.ndarray:
    vectors = random()
    vectors[6, 2] = value
    if value == 0:
        vectors[6] = 0
    return vectors


GAP = [0, 1, 2, 0, 1, 3, 4, 5, 0, 1]
LATE = [1, 2, 3, 0, 1, 2, 3, 4, 0, 1]
TORN = ["a"] * 3 + ["b"] * 5 + ["a"] * 2


@pytest.mark.parametrize(
    ("vectors", "columns", "error", "message"),
    [
        (random(9), table(), VectorError, "9 vectors for 10 chunks"),
        (spoilt(np.nan), table(), VectorError, "v.npy: row 6: is NaN"),
        (spoilt(np.inf), table(), VectorError, "v.npy: row 6: is NaN or infinite"),
        (spoilt(0), table(), VectorError, "v.npy: row 6: is zero"),
        (random().reshape(N, 2, 4), table(), VectorError, r"\[10, 2, 4\]"),
        (random().astype(np.int32), table(), VectorError, "int32"),
        (random(), table(position=GAP), DocumentError, "c.parquet: row 5: position 3 .* where 2 is due"),
        (random(), table(position=LATE), DocumentError, "c.parquet: row 0: position 1"),
        (random(), table(doc_id=TORN), DocumentError, "c.parquet: row 8: document 'a' goes on"),
        (random(), table(text=["x"] * 9 + [None]), DocumentError, "row 9"),
        (random(), table(position=[str(p) for p in table()["position"]]), DocumentError, "row 0"),
        (random(), without("source"), DocumentError, "lacks the column source"),
        (random(), without("text"), DocumentError, "lacks the column text"),
    ],
)
def test_bad_material_is_named_and_nothing_written(
    source_files: SourceFiles,
    vectors: np.ndarray,
    columns: dict[str, list[Any]],
    error: type[NextvecError],
    message: str,
) -> None:
    files = source_files(vectors, columns)
    with pytest.raises(error, match=message) as caught:
        import_vectors(*files, encoder_name="mine", quiet=True)
    assert caught.value.remedy
    assert not files[2].exists()


def test_pickles_and_other_files_are_refused(source_files: SourceFiles, tmp_path: Path) -> None:
    vectors, chunks, out = source_files(random(), table())
    np.save(vectors, np.array([{}, []], dtype=object), allow_pickle=True)
    with pytest.raises(VectorError, match=r"not an \.npy of numbers"):
        import_vectors(vectors, chunks, out, encoder_name="mine", quiet=True)
    np.save(vectors, random())
    chunks.write_text("doc_id,position")
    with pytest.raises(DocumentError, match="not Parquet"):
        import_vectors(vectors, chunks, out, encoder_name="mine", quiet=True)
    with pytest.raises(VectorError, match="not found"):
        import_vectors(tmp_path / "no.npy", chunks, out, encoder_name="mine", quiet=True)
    assert not out.exists()


def test_the_encoder_must_be_named(source_files: SourceFiles) -> None:
    files = source_files(random(), table())
    with pytest.raises(EncoderError, match="--encoder"):
        import_vectors(*files, encoder_sha256="5" * 64, quiet=True)
    with pytest.raises(EncoderError, match="64 hex digits"):
        import_vectors(*files, encoder_name="mine", encoder_sha256="53aa", quiet=True)
    import_vectors(*files, encoder_name="mine", encoder_sha256="5" * 64, quiet=True)
    with pytest.raises(EncoderMismatchError):
        import_vectors(*files, encoder_name="mine", quiet=True)


def test_an_encoder_proves_whose_vectors_they_are(source_files: SourceFiles, text_encoder: type) -> None:
    encoder = text_encoder()
    vectors = encoder.encode(table()["text"])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    files = source_files(vectors, table())
    assert import_vectors(*files, encoder=encoder, quiet=True).verified
    assert Store.open(files[2]).encoder == encoder.fingerprint
    with pytest.raises(EncoderMismatchError) as caught:
        import_vectors(*files, encoder_name=encoder.fingerprint["name"], quiet=True)
    assert "--verify-encoder" in caught.value.remedy

    files = source_files(np.roll(vectors, 1, axis=0), table())
    with pytest.raises(EncoderMismatchError, match=r"v.npy: row \d+: .*cosine"):
        import_vectors(files[0], files[1], files[2].with_name("rolled"), encoder=encoder, quiet=True)
    files = source_files(random(d=9), table())
    with pytest.raises(VectorError, match="dimension 9"):
        import_vectors(*files, encoder=encoder, quiet=True)


def test_vectors_without_a_name_are_of_an_unknown_encoder(source_files: SourceFiles) -> None:
    files = source_files(random(), table())
    import_vectors(*files, quiet=True)
    store = Store.open(files[2])
    assert (store.encoder["name"], store.encoder["verified"]) == ("unknown encoder", False)
    with pytest.raises(EncoderError, match=r"of an unknown encoder.*--encoder NAME --verify-encoder"):
        TextReader(Space.of(store))
