"""The chunked state space against its recurrence, and the small operators around it, forward and backward."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nextvec.models.architectures.mamba2 import ssd, ssd_step
from nextvec.models.ops.layers import rms_norm
from parity.operators import rms_norm_reference, ssd_reference

B, HEADS, P, N = 2, 3, 4, 5


def inputs(time: int, dtype: torch.dtype = torch.float64, rate: float = 1.0) -> list[Tensor]:
    """x, dt, a, b, c, skip and the state before, all asking for a gradient."""
    torch.manual_seed(time)
    x = torch.randn(B, time, HEADS, P, dtype=dtype)
    dt = torch.rand(B, time, HEADS, dtype=dtype) + 0.05
    a = -rate * (0.5 + torch.rand(HEADS, dtype=dtype))
    b, c = torch.randn(2, B, time, N, dtype=dtype)
    skip, state = torch.randn(HEADS, dtype=dtype), torch.randn(B, N, HEADS, P, dtype=dtype)
    return [v.clone().requires_grad_() for v in (x, dt, a, b, c, skip, state)]


def close(found: Tensor | None, expected: Tensor) -> None:
    assert found is not None
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("time", [1, 5, 8, 9, 27])
@pytest.mark.parametrize("fresh", [True, False])
def test_as_the_recurrence_forward_and_backward(time: int, fresh: bool) -> None:
    given = inputs(time)
    if fresh:
        given[-1] = torch.zeros_like(given[-1])
        y, state = ssd(*given[:6], chunk=8)
        assert state is None
    else:
        y, state = ssd(*given, chunk=8)
    expected, last = ssd_reference(*given)
    close(y, expected)
    loss, wanted = (y * y.sin()).sum(), (expected * expected.sin()).sum()
    if state is not None:
        close(state, last)
        loss, wanted = loss + (state * state.sin()).sum(), wanted + (last * last.sin()).sum()
    learn = [v for v in given if v.requires_grad]
    for own, other in zip(torch.autograd.grad(loss, learn), torch.autograd.grad(wanted, learn), strict=True):
        close(own, other)


def test_a_loss_on_the_state_alone_reaches_everything_written() -> None:
    given = inputs(19)
    _, state = ssd(*given, chunk=8)
    _, last = ssd_reference(*given)
    assert state is not None
    ours = torch.autograd.grad(state.square().sum(), given)
    theirs = torch.autograd.grad(last.square().sum(), given, allow_unused=True)
    for own, other in zip(ours, theirs, strict=True):
        close(own, torch.zeros_like(own) if other is None else other)


def test_step_by_step_is_the_same() -> None:
    x, dt, a, b, c, skip, state = (v.detach() for v in inputs(11))
    expected, last = ssd(x, dt, a, b, c, skip, state, chunk=4)
    for t in range(11):
        y, state = ssd_step(x[:, t], dt[:, t], a, b[:, t], c[:, t], skip, state)
        close(y, expected[:, t])
    close(last, state)


@pytest.mark.parametrize("rate", [1e-3, 30.0, 1e4])
def test_slow_and_fast_decays_stay_finite(rate: float) -> None:
    """The weights above the diagonal would overflow in the exponential, were they not masked before it."""
    given = inputs(40, torch.float32, rate)
    y, _ = ssd(*given[:6], chunk=16)
    expected, _ = ssd_reference(*given[:6], torch.zeros_like(given[-1]))
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)
    wanted = torch.autograd.grad(expected.square().sum(), given[:6])
    for own, other in zip(torch.autograd.grad(y.square().sum(), given[:6]), wanted, strict=True):
        assert own.isfinite().all()
        assert (own - other).norm() <= 1e-4 * other.norm() + 1e-4


def test_inside_autocast_it_computes_as_outside() -> None:
    given = inputs(20, torch.float32)
    outside = ssd(*given)[0]
    with torch.autocast("cpu", torch.bfloat16):
        inside = ssd(*given)[0]
        inside.square().sum().backward()
    assert torch.equal(inside, outside)
    assert all(v.grad is not None and v.grad.dtype == torch.float32 for v in given)


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("shape", [(7,), (3, 7), (2, 3, 4, 7)])
def test_rms_norm(shape: tuple[int, ...], weighted: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(*shape, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(7, dtype=torch.float64, requires_grad=True) if weighted else None
    given = [x] if weight is None else [x, weight]
    found, expected = rms_norm(x, weight, 0.1), rms_norm_reference(x, weight, 0.1)
    close(found, expected)
    ours = torch.autograd.grad(found.sin().sum(), given)
    theirs = torch.autograd.grad(expected.sin().sum(), given)
    for own, other in zip(ours, theirs, strict=True):
        close(own, other)


def test_rms_norm_of_bfloat16_is_computed_in_float32() -> None:
    x = torch.randn(4, 64).bfloat16().requires_grad_()
    weight = torch.randn(64).bfloat16().requires_grad_()
    found = rms_norm(x, weight, 1e-5)
    found.sum().backward()
    assert found.dtype == torch.bfloat16
    assert x.grad is not None
    assert weight.grad is not None
    assert x.grad.dtype == weight.grad.dtype == torch.bfloat16
    exact = rms_norm_reference(x.float(), weight.float(), 1e-5)
    torch.testing.assert_close(found.float(), exact, rtol=2**-8, atol=1e-6)
