"""The normal equations against NumPy's least squares on the whole matrix."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from nextvec.corpus.layout import Vectors
from nextvec.data import least_squares as linear
from nextvec.data.gather import gather_contexts, gather_rows
from nextvec.data.least_squares import MapSums, WeightSums, fit_ridge, fit_ridge_on_averages
from nextvec.data.windows import make_windows

D, C = 4, 3


@pytest.fixture(scope="module")
def world() -> SimpleNamespace:
    rng = np.random.default_rng(0)
    counts = rng.integers(C + 1, 20, 25)
    first = np.cumsum(counts) - counts
    documents = [SimpleNamespace(first=int(f), count=int(c)) for f, c in zip(first, counts, strict=True)]
    vectors = np.cumsum(rng.standard_normal((int(counts.sum()), D)), axis=0).astype(np.float32)
    windows = make_windows(SimpleNamespace(path=Path("world"), documents=documents), range(25), C)
    contexts, _ = gather_contexts(vectors, windows, C)
    targets = gather_rows(vectors, windows.target)
    return SimpleNamespace(vectors=vectors, windows=windows, contexts=contexts, targets=targets)


def test_every_length_has_its_own_weights(world: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "BLOCK_BYTES", 4 * C * D * 7)  # several blocks
    sums = WeightSums.of_positions(world.vectors, world.windows, C)
    table = sums.triangle()
    assert table[-1, ::-1] == pytest.approx(sums.solve(), abs=1e-12)
    for n in range(1, C + 1):
        x = world.contexts[:, C - n :].transpose(0, 2, 1).reshape(-1, n).astype(np.float64)
        direct = np.linalg.lstsq(x, world.targets.ravel().astype(np.float64), rcond=None)[0]
        assert table[n - 1, :n] == pytest.approx(direct[::-1], abs=1e-9)
        assert not table[n - 1, n:].any()


def test_the_maps_sums_hold_the_weights_sums(world: SimpleNamespace) -> None:
    by_trace = MapSums.over(world.vectors, world.windows, C).positions()
    direct = WeightSums.of_positions(world.vectors, world.windows, C)
    assert by_trace.gram == pytest.approx(direct.gram, rel=1e-12)
    assert by_trace.moment == pytest.approx(direct.moment, rel=1e-12)


def test_ridge_gives_its_table_too(world: SimpleNamespace) -> None:
    found = fit_ridge(world.vectors, world.windows, None, C)
    assert (found.matrix.shape, found.table.shape, found.width) == ((C * D, D), (C, C), C)
    assert found.penalty in linear.LAMBDAS
    table = WeightSums.of_positions(world.vectors, world.windows, C).triangle()
    assert found.table == pytest.approx(table, abs=1e-9)


def test_sums_of_pieces_of_any_size(world: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "SUMMED_ROWS", 5)
    rows = [world.contexts[a:b] for a, b in ((0, 3), (3, 4), (4, 17), (17, len(world.contexts)))]
    targets = [world.targets[a:b] for a, b in ((0, 3), (3, 4), (4, 17), (17, len(world.contexts)))]
    summed = MapSums.summed(D, C, zip(rows, targets, strict=True))
    x, y = (part.astype(np.float64) for part in (world.contexts.reshape(-1, C * D), world.targets))
    assert summed.xx == pytest.approx(x.T @ x, rel=1e-9)
    assert summed.xy == pytest.approx(x.T @ y, rel=1e-9)
    assert (summed.yy, summed.count) == (pytest.approx(float((y * y).sum())), len(y))


def test_a_fit_is_made_once_for_the_same_windows_of_a_store(
    tmp_path: Path, world: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    whole = linear.fit_anchored
    monkeypatch.setattr(linear, "fit_anchored", lambda *given: (made.append(1), whole(*given))[1])
    np.save(tmp_path / "vectors.npy", world.vectors)
    stored = Vectors([tmp_path / "vectors.npy"], [len(world.vectors)], D, "float32")
    few = world.windows.select(np.arange(len(world.windows)) % 3 > 0)
    first = fit_ridge_on_averages(stored, world.windows, None)
    assert fit_ridge_on_averages(stored, world.windows, None) is first
    assert len(made) == 1
    for vectors, windows, validation in (
        (stored, few, None),
        (stored, world.windows, few),
        (Vectors([tmp_path / "vectors.npy"], [len(world.vectors)], D, "float32"), world.windows, few),
        (world.vectors, world.windows, few),
        (world.vectors, world.windows, few),
    ):
        before = len(made)
        found = fit_ridge_on_averages(vectors, windows, validation)
        assert len(made) == before + 1
        assert found is not first
