"""Weights for ranking: what is fitted, against the definition and against other weights."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from nextvec.data import least_squares
from nextvec.data.gather import gather_contexts
from nextvec.data.windows import Windows, make_windows
from nextvec.vectors import unit

D = 12


@pytest.fixture(scope="module")
def world() -> tuple[np.ndarray, Windows]:
    """Documents that wander: the next chunk is near the last one, and all share a direction."""
    rng = np.random.default_rng(0)
    rows: list[np.ndarray] = []
    documents = []
    for count in rng.integers(8, 20, 30).tolist():
        documents.append(SimpleNamespace(first=len(rows), count=count))
        place = rng.standard_normal(D)
        for _ in range(count):
            place = 0.8 * place + 0.6 * rng.standard_normal(D)
            rows.append(place + 1.5)
    store = SimpleNamespace(path=Path("world"), documents=documents)
    return np.stack(rows).astype(np.float32), make_windows(store, range(30), 3)


def loss(vectors: np.ndarray, windows: Windows, weights: np.ndarray, mean: np.ndarray, sharp: float) -> float:
    """By the definition, among the unread chunks of the same document: one window at a time."""
    total = 0.0
    ends = {d: int(windows.target[windows.document == d].max()) for d in np.unique(windows.document)}
    contexts, lengths = gather_contexts(vectors, windows, 64)
    features = least_squares.ranking_features(contexts, lengths, mean)
    for i in range(len(windows)):
        query = unit((features[i] * weights[:, None]).sum(axis=0)[None])[0]
        unread = unit(vectors[windows.target[i] : ends[int(windows.document[i])] + 1])
        scores = sharp * unread @ query
        total += float(np.log(np.exp(scores).sum()) - scores[0])
    return total / len(windows)


def test_no_change_of_one_weight_is_better(world, monkeypatch) -> None:
    monkeypatch.setattr(least_squares, "OTHERS", 0)
    vectors, windows = world
    found = least_squares.fit_listwise(vectors, windows)
    best = loss(vectors, windows, found.weights, found.mean, found.sharpness)
    for k in range(len(found.weights)):
        for step in (-0.05, 0.05):
            moved = found.weights.copy()
            moved[k] += step
            assert loss(vectors, windows, moved, found.mean, found.sharpness) > best - 1e-6
    start = np.eye(len(found.weights))[0]  # the last chunk alone
    assert best < loss(vectors, windows, start, found.mean, found.sharpness) - 0.01


def test_it_is_the_same_twice_and_of_any_scale(world, monkeypatch) -> None:
    monkeypatch.setattr(least_squares, "OTHERS", 0)
    vectors, windows = world
    one, again = (least_squares.fit_listwise(vectors, windows, seed=3) for _ in range(2))
    np.testing.assert_array_equal(one.weights, again.weights)
    large = least_squares.fit_listwise(vectors * 7, windows, seed=3)
    near, far = (loss(vectors, windows, f.weights, f.mean, f.sharpness) for f in (one, large))
    assert far == pytest.approx(near, abs=5e-3)
    assert np.linalg.norm(one.weights) == pytest.approx(1)


def test_windows_that_are_all_ranked_right_do_not_overflow(recwarn: pytest.WarningsRecorder) -> None:
    rng = np.random.default_rng(7)
    steps = [rng.standard_normal((20, D)).cumsum(axis=0) + 2 * rng.standard_normal(D) for _ in range(2)]
    documents = [SimpleNamespace(first=0, count=20), SimpleNamespace(first=20, count=20)]
    windows = make_windows(SimpleNamespace(path=Path("few"), documents=documents), range(2), 5)
    found = least_squares.fit_listwise(np.concatenate(steps).astype(np.float32), windows)
    assert np.isfinite([*found.weights, found.sharpness]).all()
    assert not recwarn.list


def test_features_are_directions(world) -> None:
    contexts = np.array([[[3.0, 0.0], [0.0, 2.0], [9.0, 9.0]]], dtype=np.float32)
    features = least_squares.ranking_features(contexts, np.array([2]), np.array([0.6, 0.8], dtype=np.float32))
    assert features.shape == (1, 10, 2)
    np.testing.assert_allclose(features[0, 0], [0, 1])  # the last read
    np.testing.assert_allclose(features[0, 7], [0.5, 0.5])  # the mean of all read
    np.testing.assert_allclose(features[0, 8], [1, 0])  # the first read
    np.testing.assert_allclose(features[0, 9], [0.6, 0.8], rtol=1e-6)
