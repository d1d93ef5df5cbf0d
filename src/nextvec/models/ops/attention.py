"""Causal scaled dot product attention and its key-value cache.

Paper: Vaswani et al., Attention Is All You Need, 2017, equation 1.
Shapes: B batch, h heads, T queries, S keys (S >= T: the queries are the last T of S positions), d per head.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from nextvec.models.ops.layers import kept


def spans(time: int, size: int) -> list[slice]:
    """Slices of `size` positions, the last one of what is left, that make up 0..time-1."""
    return [slice(start, min(start + size, time)) for start in range(0, time, size)]


MIN_CAPACITY = 16
BLOCK = 128  # queries; of 64, 128 and 256 the fastest at 512 and 1024


def causal_attention(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Tensor:
    """Attention of q [B, h, T, d] over k, v [B, h, S, d]; query i sees keys 0..S-T+i. Returns [B, h, T, d].

    Runs torch's fused kernel, but on a CPU not where that is slow: in bfloat16 (on [32, 4, 32, 64] forward
    and backward take 12 ms by it and 3.4 ms by `_Blockwise`) and with dropout (on [1, 4, 512, 48] in float32
    36 ms and 14 ms; one thread). `dropout` is applied to the weights; give 0 outside training.
    """
    queries, keys = q.shape[-2], k.shape[-2]
    if queries == keys:
        slow = q.device.type == "cpu" and (dropout > 0 or q.dtype == torch.bfloat16)
        if slow and queries > 1 and q.dtype == k.dtype == v.dtype:
            with torch.autocast("cpu", enabled=False):
                mixed: Tensor = _Blockwise.apply(q, k, v, dropout, BLOCK)  # type: ignore[no-untyped-call]
            return mixed
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
    mask = None if queries == 1 else causal_mask(queries, keys, q.device)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)


def attention_at(last: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of one query a row, q [B, h, 1, d], that stands at position `last` [B] of k, v [B, h, S, d].
    For inference; returns [B, h, 1, d]."""
    seen = torch.arange(k.shape[-2], device=k.device) <= last[:, None]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=seen[:, None, None])


class _Blockwise(torch.autograd.Function):
    """q, k, v [B, h, T, d], dropout, block -> [B, h, T, d]: a block of queries at a time over the keys up to
    its end. The backward pass computes the weights anew: of their size only what dropout kept is kept, a byte
    each."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        q, k, v, rate, block = inputs
        room, block = torch.empty_like(q, memory_format=torch.contiguous_format), min(block, q.shape[2])
        q, k, v = torch.mul(q, q.shape[-1] ** -0.5, out=room), k.contiguous(), v.contiguous()
        future = torch.full((block, block), -math.inf, dtype=q.dtype).triu_(1)
        mixed, masks = v.new_empty(len(v), v.shape[2], v.shape[1], v.shape[3]).transpose(1, 2), []
        ctx.factor = 1.0
        for part in spans(q.shape[2], block):
            weights = _block_weights(q, k, part, future)
            if rate > 0:
                keep, ctx.factor = kept(weights.shape, rate)
                weights.mul_(keep).mul_(ctx.factor)
                masks.append(keep)
            mixed[:, :, part] = weights @ v[:, :, : part.stop]
        ctx.save_for_backward(q, k, v, future, *masks)
        return mixed  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, future, *masks = ctx.saved_tensors
        dy, dq, parts = dy.contiguous(), torch.empty_like(q), spans(q.shape[2], len(future))
        dk, dv = torch.zeros_like(k), torch.zeros_like(v)
        for i, part in enumerate(parts):
            dys, ks, vs = dy[:, :, part], k[:, :, : part.stop], v[:, :, : part.stop]
            weights = used = _block_weights(q, k, part, future)
            d_weights = dys @ vs.transpose(-1, -2)
            if masks:
                used = (weights * masks[i]).mul_(ctx.factor)
                d_weights.mul_(masks[i]).mul_(ctx.factor)
            dv[:, :, : part.stop] += used.transpose(-1, -2) @ dys
            d_scores = torch.ops.aten._softmax_backward_data(d_weights, weights, -1, weights.dtype)
            dq[:, :, part] = d_scores @ ks
            dk[:, :, : part.stop] += d_scores.transpose(-1, -2) @ q[:, :, part]
        return dq.mul_(q.shape[-1] ** -0.5), dk, dv, None, None


def _block_weights(q: Tensor, k: Tensor, part: slice, future: Tensor) -> Tensor:
    """The weights of a block's queries (scaled already) over the keys up to its end. future: -inf above the
    diagonal."""
    scores = q[:, :, part] @ k[:, :, : part.stop].transpose(-1, -2)
    size = part.stop - part.start
    scores[..., part].add_(future[:size, :size])
    return torch.softmax(scores, -1)


def causal_weights(q: Tensor, k: Tensor) -> Tensor:
    """The weights themselves [..., T, S], for those who want to look at them; each row sums to 1.

    q [..., T, d], k [..., S, d]. Scores are scaled by d^-1/2.
    """
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if q.shape[-2] > 1:
        scores = scores.masked_fill(~causal_mask(q.shape[-2], k.shape[-2], q.device), -math.inf)
    return torch.softmax(scores, -1)


def causal_mask(queries: int, keys: int, device: torch.device) -> Tensor:
    """Boolean [T, S], True where the query may look: the queries are the last T of S positions."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)


def cache_append(cache: Tensor, new: Tensor, length: int) -> Tensor:
    """Write `new` [..., n, d] behind the first `length` positions of `cache` [..., capacity, d], in place.

    The capacity doubles when it is full, so that T appends copy O(T) values in all, not O(T^2). In a graph
    under construction (`positions.read_so_far`) it is exactly as long as needed.
    Returns: the cache (another tensor if it grew); positions 0..length+n-1 are in use (`cache_used`).
    """
    if torch.compiler.is_exporting():
        return torch.cat((cache, new), -2)
    needed, capacity = length + new.shape[-2], cache.shape[-2]
    if needed > capacity:
        grown = new.new_zeros(*cache.shape[:-2], max(needed, 2 * capacity, MIN_CAPACITY), cache.shape[-1])
        grown[..., :length, :] = cache[..., :length, :]
        cache = grown
    cache[..., length:needed, :] = new
    return cache


def cache_used(cache: Tensor, length: int) -> Tensor:
    """The first `length` positions of a cache [..., capacity, d] that `cache_append` gave."""
    return cache if torch.compiler.is_exporting() else cache[..., :length, :]
