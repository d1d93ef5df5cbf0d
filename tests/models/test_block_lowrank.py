"""Blocks projected to slots: the fast form against a loop, and full attention where they are equal."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nextvec.models.architectures.linformer import block_lowrank_attention, project_blocks
from parity.operators import attention_reference, block_lowrank_reference

BLOCK, SLOTS = 5, 2


def inputs(time: int, seed: int = 0) -> list[Tensor]:
    """q, k, v [2, 3, time, 4] and the two projections, in float64."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(2, 3, time, 4)] * 3 + [(SLOTS, BLOCK)] * 2
    return [torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes]


@pytest.mark.parametrize("time", [1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 4 * BLOCK + 3])
def test_as_the_reference_forward_and_backward(time: int) -> None:
    tensors = inputs(time)
    expected, found = block_lowrank_reference(*tensors), block_lowrank_attention(*tensors)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    used = tensors if time > BLOCK else tensors[:3]  # before a block is complete there is no slot
    weight = torch.randn_like(expected)
    wanted = torch.autograd.grad((expected * weight).sum(), used)
    for own, other in zip(torch.autograd.grad((found * weight).sum(), used), wanted, strict=True):
        assert other.abs().max() > 0
        torch.testing.assert_close(own, other, rtol=1e-8, atol=1e-10)


def test_up_to_one_block_it_is_full_attention() -> None:
    q, k, v, *projections = inputs(BLOCK)
    expected = attention_reference(q, k, v)
    torch.testing.assert_close(block_lowrank_attention(q, k, v, *projections), expected)
    torch.testing.assert_close(block_lowrank_reference(q, k, v, *projections), expected)


def test_with_a_slot_for_every_position_it_is_full_attention_at_any_length() -> None:
    q, k, v, *_ = inputs(4 * BLOCK + 2)
    every = torch.eye(BLOCK, dtype=torch.float64)
    torch.testing.assert_close(block_lowrank_attention(q, k, v, every, every), attention_reference(q, k, v))
    mean = torch.full((1, BLOCK), 1 / BLOCK, dtype=torch.float64)
    lossy = block_lowrank_attention(q, k, v, mean, mean)
    assert (lossy - attention_reference(q, k, v))[:, :, BLOCK:].abs().max() > 0.01


def test_a_slot_never_sees_its_own_block_before_it_is_complete() -> None:
    q, k, v, *projections = (x.detach() for x in inputs(3 * BLOCK))
    before = block_lowrank_attention(q, k, v, *projections)
    for t in range(1, 3 * BLOCK):
        other_k, other_v = k.clone(), v.clone()
        other_k[:, :, t:], other_v[:, :, t:] = 1e3 * torch.randn(2, 2, 3, 3 * BLOCK - t, 4).double()
        after = block_lowrank_attention(q, other_k, other_v, *projections)
        assert (after - before)[:, :, :t].abs().max() < 1e-12, t
        assert (after - before)[:, :, t:].abs().max() > 1, t


def test_slots_are_the_projection_of_each_block() -> None:
    x, projection = torch.randn(7, 3 * BLOCK, 4), torch.randn(SLOTS, BLOCK)
    slots = project_blocks(x, projection)
    assert slots.shape == (7, 3 * SLOTS, 4)
    torch.testing.assert_close(slots[:, SLOTS : 2 * SLOTS], projection @ x[:, BLOCK : 2 * BLOCK])


def test_dropout_keeps_the_mean() -> None:
    torch.manual_seed(0)
    q, k, v, *projections = (x.detach() for x in inputs(3 * BLOCK))
    exact = block_lowrank_attention(q, k, v, *projections)
    dropped = torch.stack([block_lowrank_attention(q, k, v, *projections, 0.3) for _ in range(600)])
    assert dropped.std(0).max() > 0.1
    assert (dropped.mean(0) - exact).abs().max() < 0.3
