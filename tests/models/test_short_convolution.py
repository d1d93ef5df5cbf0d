"""The short convolution against its loop, forward and backward, and piece by piece."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nextvec.models.ops.convolution import short_convolution, short_convolution_after
from parity.operators import short_convolution_reference

B, C = 2, 6


def inputs(time: int, taps: int) -> list[Tensor]:
    """x, weight and bias, all asking for a gradient."""
    torch.manual_seed(0)
    shapes = (B, time, C), (C, taps), (C,)
    return [torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


def assert_same(found: Tensor, expected: Tensor, given: list[Tensor]) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)
    ours = torch.autograd.grad(found.sin().sum(), given)
    theirs = torch.autograd.grad(expected.sin().sum(), given)
    for own, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("time", [1, 3, 4, 9])
@pytest.mark.parametrize("taps", [1, 2, 4])
def test_as_the_loop(time: int, taps: int) -> None:
    given = inputs(time, taps)
    assert_same(short_convolution(*given), short_convolution_reference(*given), given)


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 5), (5, 1, 3), (9,)])
@pytest.mark.parametrize("taps", [1, 2, 4])
def test_in_pieces(sizes: tuple[int, ...], taps: int) -> None:
    """From a window of zeros on, whatever the pieces; the last window is that of the last values."""
    given = inputs(sum(sizes), taps)
    x, weight, bias = given
    window, rows = torch.zeros(B, taps - 1, C), []  # float32: brought to x's dtype
    for piece in x.split(sizes, 1):
        y, window = short_convolution_after(piece, weight, bias, window)
        rows.append(y)
    assert_same(torch.cat(rows, 1), short_convolution_reference(*given), given)
    before = torch.cat((x.new_zeros(B, taps - 1, C), x), 1)
    assert torch.equal(window, before[:, sum(sizes) :])
