"""A store in other people's tools: datasets, pandas, and DuckDB where it is installed."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

import nextvec
from nextvec.corpus.arrow_tables import MARK
from nextvec.corpus.store import NewDocument, Store, StoreWriter

GUIDE = Path(__file__).parents[2] / "docs" / "guide.md"
TEXTS = {"a": ["One.", "Two."], "b": ["Drei.", "Vier.", "Fünf."]}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Two documents in a shard each, the second with a view; the folder that it is in is the current one."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    encoder = {"name": "any/encoder", "fingerprint": "f"}
    with StoreWriter(
        Path("store"), encoder=encoder, dimension=4, chunker={"kind": "words", "words": 5}
    ) as writer:
        for doc_id, texts in TEXTS.items():
            documents = [NewDocument.from_chunks(doc_id, texts, source="test")]
            if doc_id == "b":
                documents.append(replace(documents[0], doc_id="b@1", view_of="b"))
            count = len(texts) * len(documents)
            writer.add_shard(documents, np.random.default_rng(count).standard_normal((count, 4)), path="test")
    return Store.open(Path("store"))


def examples(language: str, word: str) -> str:
    [found] = [
        block
        for block in re.findall(rf"```{language}\n(.*?)```", GUIDE.read_text("utf-8"), flags=re.DOTALL)
        if word in block
    ]
    return found


def test_load_dataset_reads_its_tables(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    held: dict[str, Any] = {"nextvec": nextvec}
    exec(examples("python", "load_dataset"), held)  # noqa: S102 - the page's own words
    assert held["chunks"]["text"][:5] == TEXTS["a"] + TEXTS["b"]
    np.testing.assert_allclose(np.array(held["with_vectors"]["vector"]), store.vectors[:], atol=1e-6)
    documents = datasets.load_dataset("store", "documents", split="train")
    assert documents["doc_id"][:] == ["a", "b", "b@1"]
    assert documents["view_of"][:] == [None, None, "b"]


def test_pandas_reads_its_tables(store: Store) -> None:
    held: dict[str, Any] = {}
    exec(examples("python", "read_parquet"), held)  # noqa: S102
    assert isinstance(held["frame"], pandas.DataFrame)
    assert held["frame"].text.tolist()[:2] == TEXTS["a"]


def test_duckdb_reads_its_tables(store: Store) -> None:
    duckdb = pytest.importorskip("duckdb")
    rows = duckdb.sql(examples("sql", "duckdb")).fetchall()
    assert sorted(rows) == [("a", 2, 8), ("b", 3, 15), ("b@1", 3, 15)]


def test_somebody_elses_readme_is_left_alone(store: Store) -> None:
    path = store.path / "README.md"
    ours = path.read_text()
    assert MARK in ours
    assert "any/encoder, 4 dimensions" in ours
    assert "words (words 5)" in ours
    document = [NewDocument.from_chunks("c", ["New."], source="test")]
    for held, then in ((f"old {MARK}", ours), ("My own words.", "My own words.")):
        path.write_text(held)
        with StoreWriter(
            store.path, encoder=store.encoder, dimension=4, chunker={"kind": "words", "words": 5}
        ) as writer:
            writer.add_shard(document, np.ones((1, 4)), path="test")
            writer.delete(["c"])
        assert path.read_text() == then
