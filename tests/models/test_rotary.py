"""Rotary positions against the paper's formula, and what they promise. The feed-forward half beside it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from nextvec.models.ops.layers import FeedForward
from nextvec.models.ops.positions import rotary_angles, rotate
from parity.operators import rotate_reference

CPU = torch.device("cpu")


@pytest.mark.parametrize(("start", "width"), [(0, 2), (1000, 6), (123_456, 32)])
def test_as_the_formula_forward_and_backward(start: int, width: int) -> None:
    x = torch.randn(5, width, dtype=torch.float64, requires_grad=True)
    found = rotate(x, rotary_angles(start, 5, width, CPU, torch.float64))
    expected = rotate_reference(x, start)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    weight = torch.randn_like(x)
    own, other = (torch.autograd.grad((y * weight).sum(), x)[0] for y in (found, expected))
    torch.testing.assert_close(own, other, rtol=0, atol=1e-9)


def test_products_depend_on_the_distance_alone_and_lengths_stay() -> None:
    q, k = torch.randn(2, 8, dtype=torch.float64)

    def turned(x: torch.Tensor, position: int) -> torch.Tensor:
        return rotate(x[None], rotary_angles(position, 1, 8, CPU, torch.float64))[0]

    near, far = turned(q, 7) @ turned(k, 3), turned(q, 7_007) @ turned(k, 7_003)
    torch.testing.assert_close(near, far, rtol=0, atol=1e-9)
    assert abs(near - turned(q, 7) @ turned(k, 4)) > 1e-3
    torch.testing.assert_close(turned(q, 999).norm(), q.norm())


def test_the_type_stays() -> None:
    x = torch.randn(3, 4, dtype=torch.bfloat16)
    assert rotate(x, rotary_angles(0, 3, 4, CPU, torch.float32)).dtype == torch.bfloat16


def test_feed_forward_as_written_out() -> None:
    torch.manual_seed(0)
    half = FeedForward(6, 10, 0.5).double().eval()
    for parameter in half.parameters():
        torch.nn.init.normal_(parameter, 0.1, 0.5)
    x = torch.randn(2, 3, 6, dtype=torch.float64)
    normed = F.layer_norm(x, (6,), half.norm.weight, half.norm.bias)
    inner = F.gelu(normed @ half.inner.weight.T + half.inner.bias)
    torch.testing.assert_close(half(x), x + inner @ half.outer.weight.T + half.outer.bias)
    assert not torch.equal(half.train()(x), half.eval()(x))
