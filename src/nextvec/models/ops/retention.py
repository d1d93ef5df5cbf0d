"""Multi-scale retention: linear attention whose memory fades at another fixed rate in each head.

Paper: Sun et al., Retentive Network: A Successor to Transformer for Large Language Models, 2023, sections 2.1
to 2.3. Head h keeps gamma = 1 - 2^(-5-h) of its memory from one position to the next:
    S_i = gamma S_{i-1} + k_i v_i^T,    n_i = gamma n_{i-1} + k_i,    y_i = q_i^T S_i / max(r_i, |q_i n_i|),
with r_i^2 = 1 + gamma + ... + gamma^i. This is the paper's parallel form with its two normalisers, the row of
decays over sqrt(its sum) and the row of scores over max(1, |its sum|); here n is part of the state, so that
the parallel, the chunked and the step form divide by the same number. The denominator is detached, as
published: the group norm that follows undoes a scale anyway.
Shapes: B batch, h heads, T time, d per key, e per value.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

CHUNK = 64  # of 16 to 512 the fastest on a CPU at 3 and 4 heads with d 64 and 256


class RetentionState(NamedTuple):
    """memory: S [B, h, d, e]; keys: n [B, h, d]."""

    memory: Tensor
    keys: Tensor


def decay_rates(heads: int, like: Tensor) -> Tensor:
    """gamma [h] = 1 - 2^(-5-h), of `like`'s dtype and device."""
    return 1 - 2.0 ** (-5 - torch.arange(heads, device=like.device)).to(like.dtype)


def retention(
    q: Tensor, k: Tensor, v: Tensor, start: int, state: RetentionState | None = None, chunk: int = CHUNK
) -> tuple[Tensor, RetentionState | None]:
    """Read T positions, `start`, `start` + 1, ...

    Args:
        q, k: [B, h, T, d], already rotated and scaled; float32 or wider.
        v: [B, h, T, e].
        start: how many positions were read before.
        state: what they left; None: nothing was read before, and nobody goes on from here.
        chunk: positions multiplied at once, at most 512 (gamma^-chunk is computed); the result does not
            depend on it.
    Returns: y [B, h, T, e] and the state after the last position (None where none was given).
    """
    memory, keys = state if state is not None else (None, None)
    gamma = decay_rates(q.shape[1], q)
    rows: list[Tensor] = []
    first = start
    for qs, ks, vs in zip(q.split(chunk, 2), k.split(chunk, 2), v.split(chunk, 2), strict=True):
        length, last = qs.shape[2], first + qs.shape[2] == start + q.shape[2]
        fade = gamma[:, None] ** torch.arange(1, length + 1, device=q.device).to(q.dtype)  # [h, l]
        # gamma^(i-j) as a product: q fades from the chunk's start on, k by the inverse.
        qs, ks = qs * fade[..., None], ks / fade[..., None]
        scores = (qs @ ks.transpose(-1, -2)).tril()
        y = scores @ vs
        with torch.no_grad():
            total = scores.sum(-1)
            if keys is not None:
                total += (qs @ keys[..., None])[..., 0]
            size = torch.maximum(_row_norms(gamma, first, length), total.abs())[..., None]
        if memory is not None:
            y = y + qs @ memory
        rows.append(y / size)
        if state is not None or not last:
            memory = _keep(memory, ks.transpose(-1, -2) @ vs, fade[:, -1, None, None])
            keys = _keep(keys, ks.detach().sum(2), fade[:, -1, None])
        first += length
    y = rows[0] if len(rows) == 1 else torch.cat(rows, 2)
    if state is None or memory is None or keys is None:
        return y, None
    return y, RetentionState(memory, keys)


def retention_step(
    q: Tensor, k: Tensor, v: Tensor, start: int, state: RetentionState
) -> tuple[Tensor, RetentionState]:
    """One position: q, k [B, h, d], v [B, h, e] -> y [B, h, e] and the new state."""
    gamma = decay_rates(q.shape[1], q)
    memory = torch.addcmul(k[..., None] * v[..., None, :], state.memory, gamma[:, None, None])
    keys = torch.addcmul(k, state.keys, gamma[:, None])
    size = torch.maximum(_row_norms(gamma, start, 1), (q * keys).sum(-1, keepdim=True).abs())
    return (q[..., None, :] @ memory)[..., 0, :] / size, RetentionState(memory, keys)


def _row_norms(gamma: Tensor, first: int, count: int) -> Tensor:
    """sqrt(1 + gamma + ... + gamma^i) for i = first..first+count-1: [h, count]."""
    terms = torch.arange(first + 1, first + count + 1, device=gamma.device).to(gamma.dtype)
    return ((1 - gamma[:, None] ** terms) / (1 - gamma[:, None])).sqrt()


def _keep(old: Tensor | None, new: Tensor, fade: Tensor) -> Tensor:
    return (new if old is None else old + new) * fade


def retention_reference(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """`retention` from position 0 on, as the paper's parallel form, every pair for itself. For tests."""
    heads, time = q.shape[1:3]
    rows: list[Tensor] = []
    for i in range(time):
        weights: list[Tensor] = []
        for h in range(heads):
            gamma = 1 - 2.0 ** (-5 - h)
            decays = torch.tensor([gamma ** (i - j) for j in range(i + 1)], dtype=q.dtype)
            decays = decays / decays.sum().sqrt()
            scores = (q[:, h, i, None] * k[:, h, : i + 1]).sum(-1) * decays  # [B, i + 1]
            weights.append(scores / scores.detach().sum(-1, keepdim=True).abs().clamp(min=1))
        rows.append((torch.stack(weights, 1)[..., None] * v[:, :, : i + 1]).sum(2))
    return torch.stack(rows, 2)
