"""The fast attention against the slow one, forward and backward, and the cache that feeds it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nextvec.models.ops.attention import _Blockwise, cache_append, causal_attention, causal_weights
from nextvec.models.ops.layers import kept
from parity.operators import attention_reference


def qkv(queries: int, keys: int, d: int = 5, d_value: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(queries * 100 + keys)
    shapes = (queries, d), (keys, d), (keys, d_value)
    q, k, v = (torch.randn(2, 3, *s, dtype=torch.float64, requires_grad=True) for s in shapes)
    return q, k, v


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (8, 8), (1, 8), (3, 8)])
def test_as_the_reference_forward_and_backward(queries: int, keys: int) -> None:
    inputs = qkv(queries, keys)
    expected = attention_reference(*inputs)
    weight = torch.randn_like(expected)
    wanted = torch.autograd.grad((expected * weight).sum(), inputs)
    by_weights = causal_weights(inputs[0], inputs[1]) @ inputs[2]
    for fast in (causal_attention(*inputs), by_weights):
        torch.testing.assert_close(fast, expected, rtol=1e-10, atol=1e-12)
        gradients = torch.autograd.grad((fast * weight).sum(), inputs)
        for own, other in zip(gradients, wanted, strict=True):
            torch.testing.assert_close(own, other, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("time", [2, 4, 5, 11])
def test_blocks_of_queries_are_as_the_reference_forward_and_backward(time: int) -> None:
    inputs = qkv(time, time)
    found, expected = _Blockwise.apply(*inputs, 0.0, 4), attention_reference(*inputs)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    weight = torch.randn_like(expected)
    wanted = torch.autograd.grad((expected * weight).sum(), inputs)
    for own, other in zip(torch.autograd.grad((found * weight).sum(), inputs), wanted, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-9, atol=1e-11)


def test_dropout_on_the_weights_has_the_gradient_of_what_it_kept() -> None:
    q, k, v = qkv(9, 9)
    torch.manual_seed(3)
    found = _Blockwise.apply(q, k, v, 0.25, 4)
    torch.manual_seed(3)  # the same draws, block by block, on the weights as they are
    rows: list[Tensor] = []
    for part in (slice(0, 4), slice(4, 8), slice(8, 9)):
        weights = causal_weights(q[:, :, part], k[:, :, : part.stop])
        keep, factor = kept(weights.shape, 0.25)
        assert 0 < (~keep).float().mean() < 0.5
        rows.append((weights * keep * factor) @ v[:, :, : part.stop])
    expected = torch.cat(rows, 2)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    wanted = torch.autograd.grad(expected.sin().sum(), (q, k, v))
    for own, other in zip(torch.autograd.grad(found.sin().sum(), (q, k, v)), wanted, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("time", [7, 140])
def test_in_bfloat16_it_errs_no_more_than_torch_does(time: int) -> None:
    exact = qkv(time, time, d=16, d_value=16)
    expected = attention_reference(*exact)
    short = [x.detach().bfloat16() for x in exact]
    ours = (causal_attention(*short).double() - expected).norm()
    theirs = (F.scaled_dot_product_attention(*short, is_causal=True).double() - expected).norm()
    assert ours < 2 * theirs
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(causal_attention(*short), causal_attention(*short))


def test_weights_are_causal_and_sum_to_one() -> None:
    q, k, _ = qkv(4, 9)
    weights = causal_weights(q, k)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3, 4, dtype=torch.float64))
    for i in range(4):
        assert (weights[..., i, 5 + i + 1 :] == 0).all()
        assert (weights[..., i, : 5 + i + 1] > 0).all()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=12))
def test_a_cache_holds_what_was_appended(sizes: list[int]) -> None:
    everything = torch.randn(2, sum(sizes), 3)
    cache, length, copied = torch.empty(2, 0, 3), 0, 0
    for new in everything.split(sizes, 1):
        before = cache
        cache = cache_append(cache, new, length)
        copied += length if cache is not before else 0
        length += new.shape[1]
    assert torch.equal(cache[:, :length], everything)
    assert copied <= 2 * length  # doubling: linear in what was appended, however small the pieces
    assert cache.shape[1] <= max(2 * length, 16)
