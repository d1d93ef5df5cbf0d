"""Documents that a Python program holds, and tables of lists, as stores."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import nextvec
from nextvec.corpus.in_memory import import_lists
from nextvec.errors import ConfigError, DocumentError, NextvecError, VectorError

CHUNKS = [["A first chunk.", "A second one."], ["Another document.", "With two chunks.", "And a third."]]


@pytest.fixture
def encoder(text_encoder: type) -> Any:
    return text_encoder()


def vectors(count: int, dimension: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, dimension)).astype(np.float32)


def output(store: nextvec.Store) -> list[tuple[str, str, str, int]]:
    return [(d.doc_id, d.source, d.title, d.count) for d in store.documents]


def test_texts_are_cut_and_lists_are_taken_as_they_are(encoder: Any, tmp_path: Path) -> None:
    texts = [" ".join(f"Sentence {i} of text {t} says so." for i in range(30)) for t in range(2)]
    cut = nextvec.Store.from_documents(texts, tmp_path / "cut", encoder=encoder, chunker="sentence")
    assert [(d.doc_id, d.source) for d in cut.documents] == [("0", "documents"), ("1", "documents")]
    assert cut.document_text("1") == texts[1]
    given = nextvec.Store.from_documents(CHUNKS, encoder=encoder)
    assert output(given) == [("0", "documents", "", 2), ("1", "documents", "", 3)]
    assert given.texts(range(5)) == [text for chunks in CHUNKS for text in chunks]
    np.testing.assert_allclose(given.vectors[:], encoder.encode(given.texts(range(5))), rtol=2e-3, atol=1e-4)
    assert given.encoder["fingerprint"] == cut.encoder["fingerprint"]
    place = given.path
    del given
    assert not place.exists()


def test_tables_of_every_kind_are_the_same_store(encoder: Any, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    rows = [{"id": f"d{i}", "title": f"T{i}", "source": "s", "text": f"Text number {i}."} for i in range(3)]

    class Polars:
        """As far as its frames are looked at."""

        def to_dicts(self) -> list[dict[str, str]]:
            return rows

    class Dataset:
        """Likewise `datasets.Dataset`."""

        def __iter__(self) -> Iterator[dict[str, str]]:
            return iter(rows)

    tables = {
        "polars": Polars(),
        "datasets": Dataset(),
        "rows": rows,
        "pandas": pandas.DataFrame(rows),
        "arrow": pa.Table.from_pylist(rows),
    }
    for name, table in tables.items():
        store = nextvec.Store.from_documents(table, tmp_path / name, encoder=encoder)
        assert output(store) == [(f"d{i}", "s", f"T{i}", 1) for i in range(3)]
        assert store.texts([2]) == ["Text number 2."]
    bare = pandas.DataFrame({"text": ["One.", "Two."], "title": [None, float("nan")]})
    assert output(nextvec.Store.from_documents(bare, encoder=encoder)) == [
        ("0", "documents", "", 1),
        ("1", "documents", "", 1),
    ]
    added = nextvec.Store.from_documents([{"id": "new", "text": "More."}], tmp_path / "rows", encoder=encoder)
    assert len(added.documents) == 4
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_chunks_with_vectors_need_no_encoder(tmp_path: Path) -> None:
    values = vectors(5)
    rows = [{"text_sentences": c, "text_sentences_sonar_emb": v}
            for c, v in zip(CHUNKS, np.split(values, [2]), strict=True)]  # fmt: skip
    store = nextvec.Store.from_documents(rows, tmp_path / "s", encoder="mine", dtype="float32")
    np.testing.assert_array_equal(store.vectors[:], values)
    assert store.encoder["name"] == "mine"


@pytest.mark.parametrize(
    ("documents", "error", "says"),
    [
        ("a text", DocumentError, "str is not a list of documents"),
        (7, DocumentError, "int is not a list of documents"),
        ([], DocumentError, "documents: no document to ingest"),
        (["a text", ["a chunk"]], DocumentError, "some are texts and some lists of chunks"),
        ([["a chunk", 3]], DocumentError, r"documents\[0\]: list is neither a text nor"),
        (
            [{"id": 1, "body": "x"}],
            DocumentError,
            r"documents\[0\]: no column 'text' \(there are: 'id', 'body'\)",
        ),
        (
            [{"text": ["a", "b"], "vectors": [[1.0]]}],
            DocumentError,
            r"documents\[0\]: has 1 vectors for 2 chunks",
        ),
        (
            [{"text": ["a", "b"], "vectors": [[1.0], [1.0, 2.0]]}],
            VectorError,
            r"documents\[0\]: is not a list",
        ),
        ([{"id": None, "text": "x"}], DocumentError, r"documents\[0\]: has no id"),
        ([{"text": ["a"], "vectors": [[np.nan]]}], VectorError, "documents: row 0: is NaN"),
        (
            [{"id": 1, "text": "x"}, {"id": 1, "text": "y"}],
            DocumentError,
            "documents:2: document id '1' was seen",
        ),
    ],
)
def test_what_is_no_document_is_named(
    encoder: Any, tmp_path: Path, documents: Any, error: type[NextvecError], says: str
) -> None:
    given = [] if "vectors" in str(documents) else [("encoder", encoder)]
    with pytest.raises(error, match=says):
        nextvec.Store.from_documents(documents, tmp_path / "s", **dict(given))
    assert not list(tmp_path.iterdir())


def test_an_encoder_beside_vectors_is_a_name(encoder: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the documents come with vectors"):
        nextvec.Store.from_documents([{"text": ["a"], "vectors": [[1.0]]}], tmp_path / "s", encoder=encoder)


def test_the_lcm_s_parquet_is_a_store(tmp_path: Path) -> None:
    """Columns as `prepare_wikipedia` of the Large Concept Model writes them."""
    values, path = vectors(5), tmp_path / "wiki.parquet"
    table = pa.table(
        {
            "id": ["7", "8"],
            "title": ["Seven", "Eight"],
            "text_sentences": CHUNKS,
            "text_sentences_sonar_emb": pa.array(
                [part.tolist() for part in np.split(values, [2])], pa.list_(pa.list_(pa.float32(), 4))
            ),
            "split": ["train", "train"],
        }
    )
    pq.write_table(table, path)
    report = import_lists(path, tmp_path / "s", encoder_name="sonar", dtype="float32", quiet=True)
    store = nextvec.Store.open(tmp_path / "s")
    assert (report.documents, report.chunks) == (2, 5)
    assert output(store) == [("7", "documents", "Seven", 2), ("8", "documents", "Eight", 3)]
    np.testing.assert_array_equal(store.vectors[:], values)
    pq.write_table(table.drop_columns(["text_sentences_sonar_emb"]), path)
    with pytest.raises(DocumentError, match="one column of lists of vectors is needed, there are: none"):
        import_lists(path, tmp_path / "other")


def test_a_full_disk_is_not_the_fault_of_what_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lists.parquet"
    pq.write_table(pa.table({"text": CHUNKS, "vectors": [vectors(2).tolist(), vectors(3).tolist()]}), path)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("nextvec.corpus.in_memory.open_memmap", full)
    with pytest.raises(OSError, match="No space left") as caught:
        import_lists(path, tmp_path / "s")
    assert not isinstance(caught.value, NextvecError)
