"""Causal convolutions against their loops, forward and backward; nothing wraps around."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nextvec.models.ops.convolution import causal_convolution, fast_size
from parity.operators import causal_convolution_reference


def same_gradients(ours: Tensor, theirs: Tensor, leaves: list[Tensor]) -> None:
    weights = torch.randn_like(theirs)
    found = torch.autograd.grad((ours * weights).sum(), leaves)
    expected = torch.autograd.grad((theirs * weights).sum(), leaves)
    for own, other in zip(found, expected, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("length", "taps"), [(1, 1), (2, 5), (7, 7), (33, 20), (65, 65)])
def test_long_as_the_loop(length: int, taps: int) -> None:
    torch.manual_seed(0)
    u = torch.randn(3, 4, length, dtype=torch.float64, requires_grad=True)
    k = torch.randn(4, taps, dtype=torch.float64, requires_grad=True)
    found, expected = causal_convolution(u, k), causal_convolution_reference(u, k)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)
    same_gradients(found, expected, [u, k])


@pytest.mark.parametrize("length", [3, 16, 100])
def test_the_end_does_not_wrap_around(length: int) -> None:
    """An impulse at the last position through a filter as long as the input: only the last output moves."""
    u, k = torch.zeros(length, dtype=torch.float64), torch.ones(length, dtype=torch.float64)
    u[-1] = 1e6
    y = causal_convolution(u, k)
    assert y[:-1].abs().max() < 1e-8
    torch.testing.assert_close(y[-1], u[-1])


def test_precision_is_float32_at_least() -> None:
    u, k = torch.randn(2, 9), torch.randn(9)
    short = causal_convolution(u.bfloat16(), k.bfloat16())
    assert short.dtype == torch.float32
    exact = causal_convolution(u.bfloat16().double(), k.bfloat16().double())
    assert exact.dtype == torch.float64
    torch.testing.assert_close(short.double(), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("least", "size"), [(2, 2), (7, 8), (9, 10), (33, 40), (41, 48), (514, 640)])
def test_transforms_of_fast_sizes(least: int, size: int) -> None:
    assert fast_size(least) == size
