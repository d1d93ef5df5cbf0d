"""Attention whose distant past is projected to few slots, in a causal form.

Paper: Wang et al., Linformer: Self-Attention with Linear Complexity, 2020, section 4: keys and values are
multiplied along the sequence by learned matrices. Doing that to the whole sequence mixes the future into
every slot, and no mask over slots takes it out again. Here each *completed* block of c positions is projected
to r slots; a query attends to the slots of all blocks before its own and to the positions of its own block
up to itself, in one softmax. Up to c positions that is plain attention. The cost is O(T^2 r/c + T c).

Shapes: B batch, h heads, T time, c block, r slots, n blocks, d per head.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from nextvec.models.ops.attention import causal_attention
from nextvec.models.ops.dropout import dropout as drop


def project_blocks(x: Tensor, projection: Tensor) -> Tensor:
    """x [..., n c, d] in n blocks, projection [r, c] -> slots [..., n r, d]."""
    blocks = torch.unflatten(x, -2, (-1, projection.shape[-1]))
    return (projection @ blocks).flatten(-3, -2)


def block_lowrank_attention(
    q: Tensor, k: Tensor, v: Tensor, project_k: Tensor, project_v: Tensor, dropout: float = 0.0
) -> Tensor:
    """q, k, v [B, h, T, d], projections [r, c] -> [B, h, T, d]; causal.

    `dropout` is applied to the weights; give 0 outside training.
    """
    length, (rank, size) = q.shape[2], project_k.shape
    if length <= size:
        return causal_attention(q, k, v, dropout)
    done = (length - 1) // size  # blocks that some query has behind it
    slots_k = project_blocks(k[:, :, : done * size], project_k)
    slots_v = project_blocks(v[:, :, : done * size], project_v)
    short = (done + 1) * size - length
    q, k, v = (F.pad(x, (0, 0, 0, short)) for x in (q, k, v))
    q = q * q.shape[-1] ** -0.5

    block = torch.arange(q.shape[2], device=q.device) // size
    behind = block.new_tensor(range(done)).repeat_interleave(rank) < block[:, None]
    far = (q @ slots_k.transpose(-1, -2)).masked_fill(~behind, -math.inf)  # [B, h, T, done r]
    own_q, own_k, own_v = (torch.unflatten(x, 2, (-1, size)) for x in (q, k, v))  # [B, h, n, c, d]
    causal = torch.ones(size, size, dtype=torch.bool, device=q.device).tril()
    near = (own_q @ own_k.transpose(-1, -2)).masked_fill(~causal, -math.inf).flatten(2, 3)  # [B, h, T, c]

    weights = drop(torch.softmax(torch.cat((far, near), -1), -1), dropout, dropout > 0)
    far, near = torch.split(weights.to(v.dtype), [done * rank, size], -1)
    mixed: Tensor = far @ slots_v + (torch.unflatten(near, 2, (-1, size)) @ own_v).flatten(2, 3)
    return mixed[:, :, :length]
