from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import save_file

from nextvec.data.trained import TrainedOn, chunk_keys
from nextvec.data.windows import make_windows
from nextvec.errors import LeakError, RunError
from nextvec.evaluation.evaluation_set import without_leaks


def text_of(document: int, position: int) -> str:
    return f"chunk {position} of document {document} says {document * 1000 + position}"


@pytest.fixture
def vectors() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((6, 60, 4)).astype(np.float32)


def test_clean_documents_lose_nothing(worlds: SimpleNamespace, vectors: np.ndarray, tmp_path: Path) -> None:
    store = worlds.store(tmp_path / "s", vectors)
    windows = make_windows(store, [4, 5])
    kept, leaks = without_leaks(store, windows, TrainedOn.of(store, range(4)), split="test")
    assert np.array_equal(kept.target, windows.target)
    assert (leaks.windows, leaks.dropped) == (110, 0)


def test_a_target_text_that_stands_in_training_is_dropped(
    worlds, vectors: np.ndarray, tmp_path: Path
) -> None:
    # chunk 9 of document 5 is chunk 2 of document 0, but for case and spacing
    store = worlds.store(
        tmp_path / "s",
        vectors,
        texts=lambda d, p: text_of(0, 2).upper().replace(" ", "  ") if (d, p) == (5, 9) else text_of(d, p),
    )
    windows = make_windows(store, [4, 5])
    kept, leaks = without_leaks(store, windows, TrainedOn.of(store, range(4)), split="test")
    assert (leaks.same_target_text, leaks.dropped) == (1, 1)
    assert set(windows.target) - set(kept.target) == {5 * 60 + 9}


def test_many_different_texts_of_training_are_refused_with_the_command_that_goes_on(
    worlds, vectors: np.ndarray, tmp_path: Path
) -> None:
    store = worlds.store(
        tmp_path / "s", vectors, texts=lambda d, p: text_of(0, p) if d == 5 and p >= 46 else text_of(d, p)
    )
    windows, trained = make_windows(store, [4, 5]), TrainedOn.of(store, range(4))
    says = r"split test of .*: 14 of 110 windows stand in training \(0 by document id.*--leak-limit 0\.13$"
    with pytest.raises(LeakError, match=says):
        without_leaks(store, windows, trained, split="test")
    kept, leaks = without_leaks(store, windows, trained, split="test", limit=0.13)
    assert (len(kept), leaks.causes) == (96, 14)


def test_a_text_that_recurs_is_one_cause(worlds, vectors: np.ndarray, tmp_path: Path) -> None:
    # every fifth chunk of all documents is one footer: 22 of 110 windows, one text
    store = worlds.store(
        tmp_path / "s", vectors, texts=lambda d, p: "the footer" if p % 5 == 0 else text_of(d, p)
    )
    windows = make_windows(store, [4, 5])
    kept, leaks = without_leaks(store, windows, TrainedOn.of(store, range(4)), split="test")
    assert (len(kept), leaks.dropped, leaks.causes) == (88, 22, 1)


def test_where_most_windows_would_go_it_is_refused_though_they_have_one_cause(
    worlds, vectors: np.ndarray, tmp_path: Path
) -> None:
    store = worlds.store(
        tmp_path / "s", vectors, texts=lambda d, p: text_of(d, p) if p % 3 == 0 else "notice"
    )
    windows = make_windows(store, [4, 5])
    with pytest.raises(LeakError, match="nextvec ingest --drop-boilerplate"):
        without_leaks(store, windows, TrainedOn.of(store, range(4)), split="test")


def test_documents_are_known_by_id_and_by_text_in_another_store(worlds, vectors, tmp_path: Path) -> None:
    home = worlds.store(tmp_path / "home", vectors)
    trained = TrainedOn.of(home, [0, 1])
    renamed = worlds.store(tmp_path / "renamed", vectors, ids=lambda d: f"other-{d}")
    rewritten = worlds.store(tmp_path / "rewritten", vectors, texts=lambda d, p: f"new {d} {p}")
    for store, counts in (
        (renamed, "0 by document id, 55 by document text"),
        (rewritten, "55 by document id, 0 by"),
    ):
        with pytest.raises(LeakError, match=counts):
            without_leaks(store, make_windows(store, [1, 5]), trained, split="all")


def test_chunks_without_text_are_known_by_their_vectors(worlds, vectors: np.ndarray, tmp_path: Path) -> None:
    vectors[5, 7] = vectors[0, 3]
    store = worlds.store(tmp_path / "s", vectors, texts=lambda d, p: " " * (d + 1))
    assert len(np.unique(chunk_keys(store, np.arange(360)))) == 359
    windows = make_windows(store, [5])
    _, leaks = without_leaks(store, windows, TrainedOn.of(store, [0]), split="test", limit=0.05)
    assert leaks.same_target_text == 1


def test_what_was_trained_on_is_saved_and_read_back(worlds, vectors: np.ndarray, tmp_path: Path) -> None:
    store = worlds.store(tmp_path / "s", vectors)
    first, second = TrainedOn.of(store, [0]), TrainedOn.of(store, [1])
    both = TrainedOn.union([first, second])
    both.save(tmp_path / "t.safetensors")
    again = TrainedOn.load(tmp_path / "t.safetensors")
    whole = TrainedOn.of(store, [0, 1])
    for name in ("chunks", "documents", "ids"):
        assert np.array_equal(getattr(again, name), getattr(whole, name))
    assert len(whole.chunks) == 120


def test_a_file_that_lists_nothing_trained_on_is_named(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    with pytest.raises(RunError, match=r"t\.safetensors"):
        TrainedOn.load(path)
    save_file({name: np.zeros(3, dtype=np.float32) for name in ("chunks", "documents", "ids")}, path)
    with pytest.raises(RunError, match="uint64"):
        TrainedOn.load(path)
