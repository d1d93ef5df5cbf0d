"""Causal scaled dot product attention, its key-value cache, and the slow form that says what is meant.

Paper: Vaswani et al., Attention Is All You Need, 2017, equation 1.
Shapes: B batch, h heads, T queries, S keys (S >= T: the queries are the last T of S positions), d per head.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

MIN_CAPACITY = 16


def causal_attention(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Tensor:
    """Attention of q [B, h, T, d] over k, v [B, h, S, d]; query i sees keys 0..S-T+i. Returns [B, h, T, d].

    Runs torch's fused kernel. `dropout` is applied to the weights; give 0 outside training.
    """
    queries, keys = q.shape[-2], k.shape[-2]
    if queries == keys:
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=queries > 1)
    mask = None if queries == 1 else causal_mask(queries, keys, q.device)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)


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

    The capacity doubles when it is full, so that T appends copy O(T) values in all, not O(T^2).
    Returns: the cache (another tensor if it grew); positions 0..length+n-1 are in use.
    """
    needed, capacity = length + new.shape[-2], cache.shape[-2]
    if needed > capacity:
        grown = new.new_zeros(*cache.shape[:-2], max(needed, 2 * capacity, MIN_CAPACITY), cache.shape[-1])
        grown[..., :length, :] = cache[..., :length, :]
        cache = grown
    cache[..., length:needed, :] = new
    return cache


def attention_reference(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """`causal_attention` one query at a time, written as the paper's equation. Slow; for tests."""
    offset = k.shape[-2] - q.shape[-2]
    rows: list[Tensor] = []
    for i in range(q.shape[-2]):
        seen = offset + i + 1
        scores = (k[..., :seen, :] * q[..., i : i + 1, :]).sum(-1) / math.sqrt(q.shape[-1])  # [B, h, seen]
        weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
        rows.append((weights[..., None] * v[..., :seen, :]).sum(-2))
    return torch.stack(rows, -2)
