"""The normaliser against NumPy's quartiles, and what it does with dimensions that do not vary."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nextvec.errors import ModelError
from nextvec.models import heads
from nextvec.models.heads import Standardiser


def test_median_and_quartiles() -> None:
    rows = torch.randn(501, 6, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 7) + 3
    module = Standardiser(6)
    module.fit(rows)
    low, middle, high = np.quantile(rows.numpy().astype(np.float64), [0.25, 0.5, 0.75], axis=0)
    np.testing.assert_allclose(module.median, middle, rtol=1e-6)
    np.testing.assert_allclose(module.spread, 0.7413 * (high - low), rtol=1e-6)
    np.testing.assert_allclose(module.spread, np.arange(1, 7), rtol=0.2)  # the standard deviations
    seen = module(rows)
    torch.testing.assert_close(seen.median(0).values, torch.zeros(6), rtol=0, atol=1e-6)
    torch.testing.assert_close(module.back(seen, shift=True), rows)
    torch.testing.assert_close(module.back(seen[1:] - seen[:-1], shift=False), rows[1:] - rows[:-1])


def test_unfitted_it_changes_nothing() -> None:
    x = torch.randn(3, 4)
    assert torch.equal(Standardiser(4)(x), x)


def test_outliers_do_not_set_the_scale() -> None:
    rows = torch.randn(1000, 3, generator=torch.Generator().manual_seed(0))
    spoiled = rows.clone()
    spoiled[:20] = 1e6
    plain, robust = Standardiser(3), Standardiser(3)
    plain.fit(rows)
    robust.fit(spoiled)
    torch.testing.assert_close(robust.spread, plain.spread, rtol=0.15, atol=0)


def test_flat_dimensions_get_the_usual_spread() -> None:
    rows = torch.randn(300, 5, generator=torch.Generator().manual_seed(0))
    rows[:, 1] = 7.0
    rows[:, 2] = 7.0 + 1e-6 * rows[:, 2]
    module = Standardiser(5)
    module.fit(rows)
    usual = module.spread[[0, 3, 4]].median()
    torch.testing.assert_close(module.spread[[1, 2]], usual.expand(2))
    assert module(rows).abs().max() < 10
    one = Standardiser(5)
    one.fit(rows[:1])
    assert torch.equal(one.spread, torch.ones(5))


def test_where_most_dimensions_are_flat() -> None:
    rows = torch.zeros(100, 5)
    rows[:, 4] = torch.linspace(-1, 1, 100)
    module = Standardiser(5)
    module.fit(rows)
    assert (module.spread == module.spread[4]).all()
    assert module.spread[4] > 0.5


def test_of_many_rows_evenly_spaced_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "MAX_ROWS", 100)
    rows = torch.arange(1000.0)[:, None]
    module = Standardiser(1)
    module.fit(rows)
    assert float(module.median) == 495.0


@pytest.mark.parametrize(
    "rows", [torch.zeros(0, 3), torch.zeros(4, 2), torch.zeros(3), torch.full((2, 3), float("nan"))]
)
def test_what_cannot_be_fitted_to(rows: torch.Tensor) -> None:
    with pytest.raises(ModelError, match=r"vectors \[N, 3\]"):
        Standardiser(3).fit(rows)
