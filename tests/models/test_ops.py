"""Positions against the paper's formula; dropout against what dropout means."""

from __future__ import annotations

import pytest
import torch

from nextvec.models.ops.layers import dropout
from nextvec.models.ops.positions import sinusoidal
from parity.operators import sinusoidal_reference

CPU = torch.device("cpu")


@pytest.mark.parametrize(("start", "count", "width"), [(0, 9, 8), (1000, 3, 7), (123_456, 2, 32)])
def test_positions_as_the_formula(start: int, count: int, width: int) -> None:
    expected = torch.tensor(sinusoidal_reference(start, count, width), dtype=torch.float64)
    found = sinusoidal(start, count, width, CPU, torch.float64)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


def test_positions_one_by_one_are_the_same() -> None:
    together = sinusoidal(0, 20, 16, CPU, torch.float32)
    single = torch.cat([sinusoidal(t, 1, 16, CPU, torch.float32) for t in range(20)])
    assert torch.equal(together, single)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_dropout_drops_that_share_and_keeps_the_mean(p: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.full((501, 401), 2.0, dtype=dtype, requires_grad=True)
    y = dropout(x, p, training=True)
    assert y.dtype == dtype
    kept = y != 0
    share = kept.double().mean().item()
    assert abs(share - (1 - p)) < 5 * (p * (1 - p) / x.numel()) ** 0.5
    torch.testing.assert_close(y[kept], torch.full_like(y[kept], 2 / (1 - p)), rtol=1e-2, atol=0)
    y.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, y.detach() / 2)


def test_dropout_decides_each_value_on_its_own() -> None:
    """Four neighbouring values share a 64-bit draw; they must not share their fate."""
    torch.manual_seed(0)
    kept = (dropout(torch.ones(200_000, 4), 0.5, training=True) != 0).double()
    correlation = torch.corrcoef(kept.T) - torch.eye(4, dtype=torch.float64)
    assert correlation.abs().max() < 0.015


def test_dropout_follows_the_seed_and_is_off_outside_training() -> None:
    x = torch.ones(3, 50)
    torch.manual_seed(7)
    first = dropout(x, 0.5, training=True)
    second = dropout(x, 0.5, training=True)
    torch.manual_seed(7)
    assert torch.equal(first, dropout(x, 0.5, training=True))
    assert not torch.equal(first, second)
    assert torch.equal(dropout(x, 0.5, training=False), x)
    assert torch.equal(dropout(x, 0.0, training=True), x)
