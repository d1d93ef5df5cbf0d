"""Causal attention in linear time through positive random features of queries and keys (FAVOR+).

Paper: Choromanski et al., Rethinking Attention with Performers, 2021: lemma 1 and section 2.4 (positive
features), 2.5 (orthogonal blocks), 2.6 and appendix B.1 (causal sums).
exp(q k) is the mean of exp(w q - |q|^2/2) exp(w k - |k|^2/2) over directions w ~ N(0, 1). A sum over keys of
the second factor, times the value, serves every later query: the sums [m, d] are all the past there is.

The exponents need a shift before exp, or they overflow. A shift common to a query's features, or to all
keys, drops out of the quotient. Here a query is shifted by its own largest exponent and keys by the largest
of any key *so far*, with the sums rescaled when it rises (as in online softmax). The maximum over the whole
sequence, which some implementations take, lets later keys change earlier outputs.

Shapes: B batch, h heads, T time, m features, d values per head.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

CHUNK = 64
FLOOR = 1e-6  # added to every feature, as in the paper's code: no weight is 0, and no denominator below it


class KernelState(NamedTuple):
    """All keys and values so far. sums [B, h, m, d + 1]: features times values, and times 1 in the last
    column; peak [B, h, 1]: the largest exponent so far, by which the sums are shifted."""

    sums: Tensor
    peak: Tensor


def orthogonal_directions(features: int, width: int, device: torch.device | str | None = None) -> Tensor:
    """Random directions w [m, width]: rows of an N(0, 1) matrix, but orthogonal in blocks of `width`.

    Each block is a random rotation (QR of a normal matrix, signs as in the Haar measure), its rows as long
    as independent normal rows would be (chi distributed). Drawn from torch's global generator.
    """
    blocks: list[Tensor] = []
    for _ in range(math.ceil(features / width)):
        rotation, upper = torch.linalg.qr(torch.randn(width, width, device=device))
        blocks.append(rotation.T * upper.diagonal().sign()[:, None])
    lengths = torch.randn(features, width, device=device).norm(dim=1, keepdim=True)
    directions: Tensor = torch.cat(blocks)[:features] * lengths
    return directions


def query_exponents(q: Tensor, directions: Tensor) -> Tensor:
    """q [..., d], directions w [m, d] -> w q' [..., m], with q' = q d^-1/4 as softmax attention has it.

    What depends on |q| alone drops out of the quotient.
    """
    scaled: Tensor = directions * q.shape[-1] ** -0.25
    return q @ scaled.T


def key_exponents(k: Tensor, directions: Tensor) -> Tensor:
    """k [..., d], directions w [m, d] -> w k' - |k'|^2/2 [..., m], with k' = k d^-1/4."""
    half_square: Tensor = k.square().sum(-1, keepdim=True) * (0.5 * k.shape[-1] ** -0.5)
    return query_exponents(k, directions) - half_square


def kernel_attention(
    q: Tensor, k: Tensor, v: Tensor, state: KernelState | None = None
) -> tuple[Tensor, KernelState]:
    """Each position's mean of the values so far, weighted by the products of its features with the keys'.

    In chunks of 64: inside by a product with a [64, 64] matrix, the sums of what came before carried over.

    Args:
        q, k: exponents of queries and keys [B, h, T, m], in at least float32 (autocast off).
        v: values [B, h, T, d].
        state: what came before; None at the beginning.
    Returns: [B, h, T, d] and the state after the last position.
    """
    peaks = k.detach().amax(-1).cummax(-1).values  # [B, h, T]
    if state is not None:
        peaks = torch.maximum(peaks, state.peak)
    q = (q - q.detach().amax(-1, keepdim=True)).exp() + FLOOR
    k = (k - peaks[..., None]).exp() + FLOOR
    v = torch.cat((v, torch.ones_like(v[..., :1])), -1)
    out: list[Tensor] = []
    for q_c, k_c, v_c, peak in zip(*(torch.split(x, CHUNK, 2) for x in (q, k, v, peaks)), strict=True):
        mixed, state = _chunk(q_c, k_c, v_c, peak, state)
        out.append(mixed)
    assert state is not None
    mixed = torch.cat(out, 2)
    return mixed[..., :-1] / mixed[..., -1:], state


def _chunk(
    q: Tensor, k: Tensor, v: Tensor, peak: Tensor, state: KernelState | None
) -> tuple[Tensor, KernelState]:
    """One chunk of features q, k [B, h, L, m] and values [B, h, L, d + 1], keys shifted by peak [B, h, L]."""
    length = q.shape[2]
    causal = torch.ones(length, length, dtype=torch.bool, device=q.device).tril()
    rescale = peak[..., None, :] - peak[..., None]  # [B, h, queries, keys]: the peak only rises
    weights = (q @ k.transpose(-1, -2)) * rescale.masked_fill(~causal, -math.inf).exp()
    mixed = weights @ v
    last = peak[..., -1:]
    sums = (k * (peak - last).exp()[..., None]).transpose(-1, -2) @ v
    if state is not None:
        mixed = mixed + (q @ state.sums) * (state.peak - peak).exp()[..., None]
        sums = sums + state.sums * (state.peak - last).exp()[..., None]
    return mixed, KernelState(sums, last)
