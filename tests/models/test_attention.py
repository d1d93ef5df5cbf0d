"""The fast attention against the slow one, forward and backward, and the cache that feeds it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nextvec.models.ops.attention import (
    attention_reference,
    cache_append,
    causal_attention,
    causal_weights,
)


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
