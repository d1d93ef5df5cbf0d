"""The trained GRU against torch's own: outputs and every gradient, also in bfloat16."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from nextvec.models.ops.recurrence import NARROW, gru

INPUTS, HIDDEN = 6, 16


def torch_gru(x: Tensor, h: Tensor, *weights: Tensor) -> Tensor:
    states, _ = torch.gru(x, h[None], weights, True, 1, 0.0, True, False, True)
    return states


def passed(form: Callable[..., Tensor], batch: int, time: int, dtype: torch.dtype) -> list[Tensor]:
    """States of T positions and the gradients of a weighted sum of them, by everything that was given."""
    torch.manual_seed(0)
    shapes = ((batch, time, INPUTS), (batch, HIDDEN), (3 * HIDDEN, INPUTS), (3 * HIDDEN, HIDDEN))
    shapes = (*shapes, shapes[2][:1], shapes[2][:1])
    given = [(0.5 * torch.randn(shape, dtype=torch.float64)).to(dtype).requires_grad_() for shape in shapes]
    states = form(*given)
    weights = torch.randn(states.shape, dtype=torch.float64).to(states.dtype)
    return [states, *torch.autograd.grad((states * weights).sum(), given)]


@pytest.mark.parametrize(("batch", "time"), [(1, 1), (2, 9), (NARROW + 1, 5)])
def test_as_torch_forward_and_backward(batch: int, time: int) -> None:
    ours, theirs = (passed(form, batch, time, torch.float64) for form in (gru, torch_gru))
    for own, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-11, atol=1e-12)


def test_no_state_is_a_state_of_zeros() -> None:
    torch.manual_seed(0)
    weights = [torch.randn(48, 6), torch.randn(48, 16), torch.randn(48), torch.randn(48)]
    x = torch.randn(2, 5, INPUTS)
    torch.testing.assert_close(gru(x, None, *weights), gru(x, torch.zeros(2, HIDDEN), *weights))


@pytest.mark.parametrize("batch", [1, NARROW])
def test_autocast_rounds_products_and_nothing_else(batch: int) -> None:
    exact = passed(torch_gru, batch, 40, torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = passed(gru, batch, 40, torch.float32)
    for own, other in zip(rounded, exact, strict=True):
        assert own.dtype == torch.float32
        assert 0 < (own - other).abs().max() < 0.02 * other.abs().max()
