"""Chunked and stepwise retention against the paper's parallel form, forward and backward."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nextvec.models.architectures.retnet import RetentionState, phases, retention, retention_step
from parity.operators import retention_reference

B, HEADS, WIDTH, VALUES = 2, 3, 4, 5


def inputs(time: int, size: float = 1.0) -> list[Tensor]:
    """q, k [B, h, T, d] and v [B, h, T, e], asking for a gradient; large q make the normaliser act."""
    torch.manual_seed(time)
    shapes = (B, HEADS, time, WIDTH), (B, HEADS, time, WIDTH), (B, HEADS, time, VALUES)
    q, k, v = (torch.randn(s, dtype=torch.float64) for s in shapes)
    return [v.requires_grad_() for v in (size * q, k, v)]


def empty() -> RetentionState:
    memory = torch.zeros(B, HEADS, WIDTH, VALUES, dtype=torch.float64)
    return RetentionState(memory, torch.zeros(B, HEADS, WIDTH, dtype=torch.float64))


def turns(start: int, count: int) -> Tensor:
    return phases(start, count, WIDTH, torch.empty(0, dtype=torch.float64))


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("time", [1, 5, 8, 9, 27])
@pytest.mark.parametrize("size", [0.1, 1.0, 30.0])
@pytest.mark.parametrize("carried", [True, False])
def test_as_the_parallel_form_forward_and_backward(time: int, size: float, carried: bool) -> None:
    given = inputs(time, size)
    y, state = retention(*given, turns(0, time), 0, empty() if carried else None, chunk=8)
    assert (state is not None) == carried
    expected = retention_reference(*given)
    close(y, expected)
    ours = torch.autograd.grad(y.sin().sum(), given)
    theirs = torch.autograd.grad(expected.sin().sum(), given)
    for own, other in zip(ours, theirs, strict=True):
        close(own, other)


def test_the_normaliser_is_seen_on_both_sides() -> None:
    """Where the decays' norm divides, y doubles with q; where the scores' sum does, it stays as it is."""
    for size, doubles, stays in ((0.01, 1.0, 0.0), (1e4, 0.0, 1.0)):
        q, k, v = inputs(27, size)
        once = retention(q, k, v, turns(0, 27), 0)[0]
        twice = retention(2 * q, k, v, turns(0, 27), 0)[0]
        close_to = [(twice - factor * once).abs().amax(-1) < 1e-9 for factor in (2, 1)]
        shares = [float(same.double().mean()) for same in close_to]
        assert abs(shares[0] - doubles) < 0.02
        assert abs(shares[1] - stays) < 0.02


@pytest.mark.parametrize("cut", [1, 8, 13])
def test_one_goes_on_where_another_stopped(cut: int) -> None:
    q, k, v = inputs(21)
    expected = retention_reference(q, k, v)
    first, state = retention(q[:, :, :cut], k[:, :, :cut], v[:, :, :cut], turns(0, cut), 0, empty(), chunk=8)
    assert state is not None
    rest, last = retention(
        q[:, :, cut:], k[:, :, cut:], v[:, :, cut:], turns(cut, 21 - cut), cut, state, chunk=8
    )
    close(torch.cat((first, rest), 2), expected)
    for t in range(cut, 21):
        y, state = retention_step(q[:, :, t], k[:, :, t], v[:, :, t], turns(t, 1), t, state)
        close(y, expected[:, :, t])
    assert last is not None
    close(state.memory, last.memory)
    close(state.keys, last.keys)


def test_long_chunks_in_float32_stay_exact() -> None:
    """gamma^-512 of the fastest head is 10^7; as a factor it costs no precision."""
    exact = inputs(512)
    y, _ = retention(*(x.detach().float() for x in exact), turns(0, 512).to(torch.complex64), 0, chunk=512)
    expected, _ = retention(*exact, turns(0, 512), 0, chunk=32)
    assert (y - expected).abs().max() < 1e-5 * expected.abs().max()


def test_the_slowest_heads_lose_no_precision() -> None:
    """At gamma = 1 - 2^-16 a sum of powers in float32 must not be a difference of two numbers next to 1."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 12, 9, WIDTH, dtype=torch.float64) for _ in "qkv")
    exact = retention_reference(0.1 * q, k, v)
    single = [x.float() for x in (0.1 * q, k, v)]
    found, _ = retention(*single, turns(0, 9).to(torch.complex64), 0)
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-6)


def test_products_in_bfloat16_round_them_and_nothing_else() -> None:
    exact = inputs(100, 0.3)
    expected, last = retention(*exact, turns(0, 100), 0, empty(), chunk=32)
    single = [x.detach().float() for x in exact]
    state = RetentionState(*(part.float() for part in empty()))
    turned = turns(0, 100).to(torch.complex64)
    y, after = retention(*single, turned, 0, state, chunk=32, products=torch.bfloat16)
    assert after is not None
    assert last is not None
    for found, wanted in ((y, expected), (after.memory, last.memory), (after.keys, last.keys)):
        assert found.dtype == torch.float32
        assert 0 < (found - wanted).abs().max() < 0.02 * wanted.abs().max()
