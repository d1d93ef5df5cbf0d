from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nextvec.config import from_dict
from nextvec.corpus.store import Document
from nextvec.data.splits import SPLITS, Split, SplitConfig, fitting_documents, own_split, split_documents
from nextvec.errors import ConfigError, SplitError


def fake_store(ids: list[str], signatures: np.ndarray | None = None, sources: list[str] | None = None) -> Any:
    """A store as far as splits look at it; by default no two documents resemble each other."""
    n = len(ids)
    if signatures is None:
        signatures = np.arange(n * 64, dtype=np.uint32).reshape(n, 64)
    sources = sources or ["web"] * n
    documents = [Document(i, s, "", 0, 1, "") for i, s in zip(ids, sources, strict=True)]
    return SimpleNamespace(
        documents=documents,
        minhashes=lambda: signatures,
        sources=tuple(sorted(set(sources))),
        path=Path("store"),
    )


def ids_of(store: Any, split: Split, name: str) -> set[str]:
    return {store.documents[i].doc_id for i in split.of(name)}


def an_id_in(split: str, config: SplitConfig, start: int = 0) -> str:
    return next(f"d{i}" for i in range(start, 10_000) if own_split(f"d{i}", config) == split)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(0, 20))
def test_appending_documents_moves_none(seed: int, before: int, after: int) -> None:
    rng = np.random.default_rng(seed)
    n = before + after
    # Documents are copies of a few texts, some damaged, so that joining and quarantine both happen.
    signatures = rng.integers(0, 2**32, size=(6, 64), dtype=np.uint32)[rng.integers(0, 6, size=n)]
    damaged = rng.random((n, 64)) < rng.choice([0.0, 0.1, 0.9], size=(n, 1))
    signatures[damaged] = rng.integers(0, 2**32, size=int(damaged.sum()), dtype=np.uint32)
    ids = [f"{seed}-{i}" for i in range(n)]
    config = SplitConfig(validation=0.3, test=0.3)
    whole = split_documents(fake_store(ids, signatures), config)
    part = split_documents(fake_store(ids[:before], signatures[:before]), config)
    for name in SPLITS:
        assert part.of(name) == tuple(i for i in whole.of(name) if i < before)
    assert part.quarantined == tuple(i for i in whole.quarantined if i < before)
    assert sorted(whole.of("all")) == list(range(n))


def test_shares_are_about_those_asked_for_and_the_salt_matters() -> None:
    store = fake_store([f"doc-{i}" for i in range(4000)])
    split = split_documents(store, SplitConfig(validation=0.1, test=0.2))
    assert abs(len(split.validation) / 4000 - 0.1) < 0.02
    assert abs(len(split.test) / 4000 - 0.2) < 0.02
    assert split.test != split_documents(store, SplitConfig(validation=0.1, test=0.2, salt="x")).test
    larger = split_documents(store, SplitConfig(validation=0.3, test=0.2))
    assert larger.test == split.test


def test_a_near_duplicate_joins_the_split_of_the_document_it_resembles() -> None:
    config = SplitConfig()
    original, copy = an_id_in("test", config), an_id_in("train", config)
    signatures = np.arange(128, dtype=np.uint32).reshape(2, 64)
    signatures[1, :52] = signatures[0, :52]  # 52/64 = 0.81
    store = fake_store([original, copy], signatures)
    assert ids_of(store, split_documents(store, config), "test") == {original, copy}
    signatures[1, 51] = 7_000  # 51/64 = 0.797
    assert ids_of(store, split_documents(store, config), "train") == {copy}


def test_a_near_duplicate_of_two_splits_is_quarantined_and_listed() -> None:
    config = SplitConfig(near_duplicate=0.5)
    ids = [an_id_in("train", config), an_id_in("test", config), "between"]
    signatures = np.arange(192, dtype=np.uint32).reshape(3, 64)
    signatures[2, :32], signatures[2, 32:] = signatures[0, :32], signatures[1, 32:]
    split = split_documents(fake_store(ids, signatures), config)
    assert (split.train, split.test, split.quarantined) == ((0,), (1,), (2,))
    assert split.of("all") == (0, 1, 2)
    off = split_documents(fake_store(ids, signatures), SplitConfig(near_duplicate=1.0))
    assert off.quarantined == ()


def test_sources_limit_the_answer_but_not_the_division() -> None:
    ids = [f"doc-{i}" for i in range(300)]
    store = fake_store(ids, sources=["a" if i % 3 else "b" for i in range(300)])
    whole, part = split_documents(store, SplitConfig()), split_documents(store, SplitConfig(), ("b",))
    for name in SPLITS:
        assert part.of(name) == tuple(i for i in whole.of(name) if i % 3 == 0)
    with pytest.raises(SplitError, match=r"store: no document of source 'c'; its sources are: a, b"):
        split_documents(store, SplitConfig(), ("c",))


def test_an_unknown_split_is_named() -> None:
    with pytest.raises(SplitError, match="there is no split 'dev'; choose one of: train, validation, test"):
        Split((0,), (), ()).of("dev")


def write(path: Path, content: object) -> SplitConfig:
    path.write_text(json.dumps(content))
    return SplitConfig(file=str(path))


def test_a_split_file_decides_alone(tmp_path: Path) -> None:
    store = fake_store(["a", "b", "c"], np.zeros((3, 64), dtype=np.uint32))
    config = write(tmp_path / "s.json", {"train": ["c"], "validation": ["a"], "test": ["b"]})
    assert split_documents(store, config) == Split((2,), (0,), (1,))


def test_a_split_file_may_leave_documents_out(tmp_path: Path) -> None:
    config = write(tmp_path / "s.json", {"train": ["c"], "validation": ["a"], "unused": ["b"]})
    split = split_documents(fake_store(["a", "b", "c"]), config)
    assert split == Split((2,), (0,), ())
    assert split.of("all") == (0, 2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"train": ["a", "b"], "test": ["ghost"]}, "document 'ghost' is not in the store"),
        ({"train": ["a", "b"], "test": ["b"]}, "document 'b' stands in train and in test"),
        ({"train": ["a", "a", "b"]}, "document 'a' stands twice in train"),
        ({"train": ["a"]}, "document 'b' of source 'web' is in no split"),
        ({"train": ["a", "b"], "dev": []}, "there is no split 'dev'"),
        ({"train": "ab"}, "'train' is not a list of document ids"),
        (["a", "b"], "is not a split file"),
    ],
)
def test_a_wrong_split_file_is_refused_by_name(tmp_path: Path, content: object, message: str) -> None:
    config = write(tmp_path / "splits.json", content)
    with pytest.raises(SplitError) as caught:
        split_documents(fake_store(["a", "b"]), config)
    assert message in str(caught.value)
    assert "splits.json" in str(caught.value)


def test_a_missing_split_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SplitError, match=r"none\.json: not found"):
        split_documents(fake_store(["a"]), SplitConfig(file=str(tmp_path / "none.json")))


def test_limited_to_sources_a_split_file_may_describe_more(tmp_path: Path) -> None:
    store = fake_store(["a", "b"], sources=["x", "y"])
    config = write(tmp_path / "s.json", {"train": ["a", "elsewhere"]})
    assert split_documents(store, config, ("x",)) == Split((0,), (), ())
    with pytest.raises(SplitError, match="'b' of source 'y' is in no split"):
        split_documents(store, config, ("y",))


@pytest.mark.parametrize(
    "values", [{"validation": 0.5, "test": 0.5}, {"test": -0.1}, {"near_duplicate": 0.0}]
)
def test_shares_that_cannot_be_meant_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"c\.toml"):
        from_dict(SplitConfig, values, where="c.toml")


@pytest.mark.parametrize("folds", [3, 5])
def test_folds_test_every_document_once_and_evenly(folds: int) -> None:
    store = fake_store([f"d{i}" for i in range(37)])
    parts = [split_documents(store, SplitConfig(folds=folds, fold=k)) for k in range(folds)]
    tested = sorted(i for part in parts for i in part.test)
    assert tested == list(range(37))
    assert {len(part.test) for part in parts} <= {37 // folds, 37 // folds + 1}
    for k, part in enumerate(parts):
        assert sorted(part.train + part.validation + part.test) == list(range(37))
        assert part.validation == parts[(k + 1) % folds].test


def test_a_near_duplicate_is_in_the_fold_of_the_document_it_resembles() -> None:
    signatures = np.arange(12 * 64, dtype=np.uint32).reshape(12, 64)
    signatures[11] = signatures[0]
    store = fake_store([f"d{i}" for i in range(12)], signatures)
    for k in range(3):
        split = split_documents(store, SplitConfig(folds=3, fold=k))
        assert (0 in split.test) == (11 in split.test)


@pytest.mark.parametrize(
    "values", [{"folds": 2}, {"folds": 3, "fold": 3}, {"fold": 1}, {"folds": 3, "file": "splits.json"}]
)
def test_folds_that_cannot_be_meant_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"folds"):
        SplitConfig(**values)


@given(
    counts=st.lists(st.integers(1, 50), min_size=1, max_size=60),
    most=st.integers(1, 500),
)
def test_what_is_fitted_on_stops_growing_and_is_spread_over_all(counts: list[int], most: int) -> None:
    store = SimpleNamespace(documents=[Document("", "", "", 0, n, "") for n in counts])
    everything = list(range(0, len(counts), 2))
    chosen = fitting_documents(store, everything, most)
    if sum(counts[i] for i in everything) <= most:
        assert chosen == everything
        return
    assert list(chosen) == sorted(set(chosen))
    assert set(chosen) <= set(everything)
    assert len(chosen) == max(1, len(everything) * most // sum(counts[i] for i in everything))
    if len(chosen) > 1:
        assert (chosen[0], chosen[-1]) == (everything[0], everything[-1])
