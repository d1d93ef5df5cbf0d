"""FAVOR+: the chunked sums against a loop, its features against the softmax they stand for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nextvec.models.architectures.performer import (
    CHUNK,
    KernelState,
    kernel_attention,
    key_exponents,
    orthogonal_directions,
    query_exponents,
)
from parity.operators import attention_reference, kernel_attention_reference

SMALL_CHUNK = 8


def exponents(time: int, size: float = 1.0, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Random exponents [2, 3, time, 11] and values [2, 3, time, 5], in float64."""
    generator = torch.Generator().manual_seed(seed)
    shapes = (2, 3, time, 11), (2, 3, time, 11), (2, 3, time, 5)
    q, k, v = (torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes)
    return (size * q).requires_grad_(), (size * k).requires_grad_(), v.requires_grad_()


@pytest.mark.parametrize("size", [1.0, 30.0])
@pytest.mark.parametrize("time", [1, SMALL_CHUNK - 1, SMALL_CHUNK, SMALL_CHUNK + 1, 3 * SMALL_CHUNK + 2])
def test_as_the_reference_forward_and_backward(
    time: int, size: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nextvec.models.architectures.performer.CHUNK", SMALL_CHUNK)
    inputs = exponents(time, size)
    expected = kernel_attention_reference(*inputs)
    found, _ = kernel_attention(*inputs)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    weight = torch.randn_like(expected)
    wanted = torch.autograd.grad((expected * weight).sum(), inputs)
    for own, other in zip(torch.autograd.grad((found * weight).sum(), inputs), wanted, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("cut", [1, 5, CHUNK, CHUNK + 3])
def test_it_goes_on_from_a_state(cut: int) -> None:
    q, k, v = exponents(CHUNK + 20)
    whole, last = kernel_attention(q, k, v)
    first, state = kernel_attention(q[:, :, :cut], k[:, :, :cut], v[:, :, :cut])
    rest, end = kernel_attention(q[:, :, cut:], k[:, :, cut:], v[:, :, cut:], state)
    torch.testing.assert_close(torch.cat((first, rest), 2), whole, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(end.sums, last.sums, rtol=1e-10, atol=1e-12)
    empty = KernelState(torch.zeros_like(last.sums), torch.full_like(last.peak, -torch.inf))
    torch.testing.assert_close(kernel_attention(q, k, v, empty)[0], whole, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("jump", [60.0, 900.0])
def test_a_later_key_of_any_size_changes_nothing_before_it(jump: float) -> None:
    """A shift by the maximum over the sequence, or over the chunk, would let the earlier keys vanish."""
    q, k, v = (x.detach() for x in exponents(20))
    other = k.clone()
    other[:, :, 9:] += jump
    before, after = (kernel_attention(q, x, v)[0] for x in (k, other))
    assert (before[:, :, :9] - after[:, :, :9]).abs().max() < 1e-14
    assert (before[:, :, 9:] - after[:, :, 9:]).abs().max() > 1e-3


def test_large_exponents_stay_finite_in_float32_backward_too() -> None:
    q, k, v = (x.detach().float().requires_grad_() for x in exponents(100, size=300.0))
    out, state = kernel_attention(q, k, v)
    out.square().sum().backward()
    assert out.abs().max() <= v.detach().abs().max() * (1 + 1e-5)  # a weighted mean of the values
    assert all(x.isfinite().all() for x in (out, state.sums, q.grad, k.grad, v.grad) if x is not None)


def softmax_error(features: int, seed: int) -> float:
    """Relative error against softmax attention, 4 heads of 16, scores of about 1/4 in size.

    The variance of an estimate grows with exp|q + k|^2: with scores of 1 even 8,192 features are 30 % off.
    """
    torch.manual_seed(seed)
    q, k, v = torch.randn(3, 1, 4, 24, 16, dtype=torch.float64)
    q, k = q / 2, k / 2
    directions = orthogonal_directions(features, 16).double()
    found, _ = kernel_attention(query_exponents(q, directions), key_exponents(k, directions), v)
    exact = attention_reference(q, k, v)
    return float((found - exact).norm() / exact.norm())


def test_with_more_features_it_comes_closer_to_softmax() -> None:
    """The error of a mean of m draws falls with sqrt(m)."""
    errors = {m: sum(softmax_error(m, seed) for seed in range(5)) / 5 for m in (32, 512, 8192)}
    assert errors[32] < 0.3
    assert errors[512] < errors[32] / 2.2
    assert errors[8192] < errors[512] / 2.5
    assert errors[8192] < 0.03


def test_features_estimate_the_exponential_of_the_product_without_bias() -> None:
    torch.manual_seed(0)
    q, k = torch.randn(2, 6, 16, dtype=torch.float64) / 2
    directions = orthogonal_directions(200_000, 16).double()
    own = q.square().sum(-1, keepdim=True) / (2 * 16**0.5)  # what `query_exponents` leaves out
    estimate = (query_exponents(q, directions) - own).exp() @ key_exponents(k, directions).exp().T / 200_000
    torch.testing.assert_close(estimate, (q @ k.T / 4).exp(), rtol=0.05, atol=0.0)


def test_directions_are_orthogonal_in_blocks_and_as_long_as_normal_ones() -> None:
    torch.manual_seed(0)
    directions = orthogonal_directions(20 * 32 + 5, 32)
    assert directions.shape == (645, 32)
    lengths = directions.norm(dim=1)
    for block in (directions / lengths[:, None]).split(32):
        torch.testing.assert_close(block @ block.T, torch.eye(len(block)), rtol=0, atol=1e-5)
    assert abs(lengths.square().mean() - 32) < 1  # chi squared with 32 degrees of freedom
    assert abs(lengths.square().std() - 8) < 1
    assert abs(directions.mean()) < 0.02


def test_directions_are_spread_over_the_whole_sphere() -> None:
    """QR alone prefers some signs; corrected, the first row of a rotation points anywhere."""
    torch.manual_seed(0)
    first = torch.stack([orthogonal_directions(4, 4)[0] for _ in range(2000)])
    assert first.mean(0).abs().max() < 0.1
    assert (first.T @ first / 2000 - torch.eye(4)).abs().max() < 0.15
