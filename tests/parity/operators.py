"""The operators of `nextvec.models` as their papers write them: one position and one term at a time, slow and
obvious. What the fast forms are held against.

Shapes: B batch, T time, h heads, d per head, D embedding; see the operator's own file.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from nextvec.models.architectures.performer import FLOOR
from nextvec.models.architectures.retnet import SLOWEST
from nextvec.models.ops.positions import BASE
from nextvec.models.residual import DECAYS


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


def block_lowrank_reference(q: Tensor, k: Tensor, v: Tensor, project_k: Tensor, project_v: Tensor) -> Tensor:
    """`block_lowrank_attention` one query at a time. Slow; for tests."""
    rank, size = project_k.shape
    rows: list[Tensor] = []
    for t in range(q.shape[2]):
        start = t // size * size
        keys: list[Tensor] = []
        values: list[Tensor] = []
        for first in range(0, start, size):
            for r in range(rank):
                keys.append((project_k[r, :, None] * k[:, :, first : first + size]).sum(2))
                values.append((project_v[r, :, None] * v[:, :, first : first + size]).sum(2))
        keys += list(k[:, :, start : t + 1].unbind(2))
        values += list(v[:, :, start : t + 1].unbind(2))
        scores = torch.stack([(q[:, :, t] * key).sum(-1) / math.sqrt(q.shape[-1]) for key in keys])
        weights = scores.exp() / scores.exp().sum(0)
        rows.append((weights[..., None] * torch.stack(values)).sum(0))
    return torch.stack(rows, 2)


def causal_convolution_reference(u: Tensor, k: Tensor) -> Tensor:
    """`causal_convolution` one output at a time, O(T^2). For tests."""
    outputs = []
    for t in range(u.shape[-1]):
        terms = [k[..., t - j] * u[..., j] for j in range(t + 1) if t - j < k.shape[-1]]
        outputs.append(torch.stack(terms).sum(0))
    return torch.stack(outputs, -1)


def kernel_attention_reference(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """`kernel_attention` from the beginning, one query and one key at a time. Slow; for tests."""
    rows: list[Tensor] = []
    for t in range(q.shape[2]):
        query = (q[:, :, t] - q[:, :, t].detach().amax(-1, keepdim=True)).exp() + FLOOR
        now = k[:, :, : t + 1].detach().amax((2, 3))
        total, weights = torch.zeros_like(v[:, :, 0]), torch.zeros_like(now)
        for s in range(t + 1):
            then = k[:, :, : s + 1].detach().amax((2, 3))
            key = ((k[:, :, s] - then[..., None]).exp() + FLOOR) * (then - now).exp()[..., None]
            weight = (query * key).sum(-1)
            total, weights = total + weight[..., None] * v[:, :, s], weights + weight
        rows.append(total / weights[..., None])
    return torch.stack(rows, 2)


def rms_norm_reference(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """`rms_norm` as the paper's formula. For tests."""
    normed = x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt()
    return normed if weight is None else normed * weight


def sinusoidal_reference(start: int, count: int, width: int) -> list[list[float]]:
    """The paper's formula, one value at a time. For tests."""
    return [
        [(math.sin if i % 2 == 0 else math.cos)(p / BASE ** ((i - i % 2) / width)) for i in range(width)]
        for p in range(start, start + count)
    ]


def retention_reference(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """`retention` from position 0 on, as the paper's parallel form, every pair for itself. For tests."""
    heads, time, d = q.shape[1:]
    angles = torch.tensor(
        [[t * SLOWEST ** (-2 * i / (d - 2)) for i in range(d // 2)] for t in range(time)],
        dtype=torch.float64,
    )
    cos, sin = angles.cos().to(q.dtype), angles.sin().to(q.dtype)

    def turned(x: Tensor) -> Tensor:
        even, odd = x[..., 0::2], x[..., 1::2]
        return torch.stack((even * cos - odd * sin, odd * cos + even * sin), -1).flatten(-2)

    q, k = turned(q), turned(k) / math.sqrt(d)
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


def rotate_reference(x: Tensor, start: int) -> Tensor:
    """`rotate` one pair at a time, by the paper's formula. x [T, d]. For tests."""
    half = x.shape[-1] // 2
    out = x.clone()
    for t in range(x.shape[0]):
        for i in range(half):
            angle = (start + t) * BASE ** (-i / half)
            a, b = x[t, i], x[t, i + half]
            out[t, i] = a * math.cos(angle) - b * math.sin(angle)
            out[t, i + half] = a * math.sin(angle) + b * math.cos(angle)
    return out


def short_convolution_reference(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`short_convolution` one position at a time. For tests."""
    taps = weight.shape[1]
    rows: list[Tensor] = []
    for t in range(x.shape[1]):
        row = bias.expand_as(x[:, 0])
        for k in range(min(taps, t + 1)):
            row = row + weight[:, taps - 1 - k] * x[:, t - k]
        rows.append(row)
    return torch.stack(rows, 1)


def ssd_reference(
    x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, skip: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """`ssd` as the paper's recurrence, one position and one head at a time. For tests."""
    rows: list[Tensor] = []
    for t in range(x.shape[1]):
        heads: list[Tensor] = []
        for h in range(x.shape[2]):
            decay = (dt[:, t, h] * a[h]).exp()[:, None, None]
            outer = b[:, t, :, None] * x[:, t, h, None, :]
            heads.append(decay * state[:, :, h] + dt[:, t, h, None, None] * outer)
        state = torch.stack(heads, 2)
        rows.append((c[:, t, :, None, None] * state).sum(1) + skip[:, None] * x[:, t])
    return torch.stack(rows, 1), state


def state_space_reference(
    a: Tensor, p: Tensor | None, b: Tensor, c: Tensor, dt: Tensor, inputs: Tensor
) -> Tensor:
    """Dense recurrence over full complex matrices: bilinear with p, zero-order hold without. Slow; for tests.

    a, p, b, c [H, N] complex, dt [H], inputs [B, H, T] -> outputs [B, H, T].
    """
    a, b, c = (torch.cat((z, z.conj()), -1) for z in (a, b, c))
    matrix = torch.diag_embed(a)
    identity = torch.eye(a.shape[-1], dtype=a.dtype)
    width = dt[:, None, None]
    if p is None:
        transition = torch.linalg.matrix_exp(width * matrix)
        into = torch.linalg.solve(matrix, (transition - identity) @ b[..., None])
    else:
        low_rank = torch.cat((p, p.conj()), -1)
        matrix = matrix - low_rank[:, :, None] * low_rank.conj()[:, None]
        backward = torch.linalg.inv(identity - width / 2 * matrix)
        transition = backward @ (identity + width / 2 * matrix)
        into = width * backward @ b[..., None]
    x = torch.zeros_like(b).expand(inputs.shape[0], -1, -1)
    outputs = []
    for now in inputs.unbind(-1):
        x = (transition @ x[..., None] + into * now[..., None, None])[..., 0]
        outputs.append((c * x).sum(-1).real)
    return torch.stack(outputs, -1)


def wkv4_reference(log_w: Tensor, u: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """`wkv4` as the paper's equation, one position and one term at a time. For tests, in float64."""
    rows = []
    for t in range(k.shape[1]):
        numerator, denominator = (u + k[:, t]).exp() * v[:, t], (u + k[:, t]).exp()
        for s in range(t):
            weight = ((t - 1 - s) * log_w + k[:, s]).exp()
            numerator, denominator = numerator + weight * v[:, s], denominator + weight
        rows.append(numerator / denominator)
    return torch.stack(rows, 1)


def wkv7_reference(
    r: Tensor, log_w: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`wkv7` as the paper's equation, one position and one dense transition matrix at a time. For tests."""
    B, T, h, N = r.shape
    now = r.new_zeros(B, h, N, N) if state is None else state
    out = []
    for t in range(T):
        transition = torch.diag_embed(log_w[:, t].exp()) + torch.einsum("bhi,bhj->bhij", b[:, t], a[:, t])
        now = transition @ now + torch.einsum("bhi,bhj->bhij", k[:, t], v[:, t])
        out.append(torch.einsum("bhi,bhij->bhj", r[:, t], now))
    return torch.stack(out, 1), now


def ema_reference(x: Tensor, weights: Sequence[float] | Tensor) -> Tensor:
    """What `ExponentialResidual` computes, one position and one term at a time. x [B, T, D] -> [B, T, D]."""
    rows = []
    for t in range(x.shape[1]):
        total = torch.zeros_like(x[:, 0])
        for weight, decay in zip(weights, DECAYS, strict=True):
            share = [decay ** (t - s) for s in range(t + 1)]
            total = total + weight / sum(share) * sum(a * x[:, s] for s, a in enumerate(share))
        rows.append(total)
    return torch.stack(rows, 1)


def weights_reference(x: Tensor, weights: Tensor, deviation: Tensor | None = None) -> Tensor:
    """What `WeightsResidual` (and, with its deviation, `RidgeResidual`) computes, one term at a time.

    x [B, T, D], weights [c, c], deviation [c, D, D] -> [B, T, D].
    """
    rows = []
    for t in range(x.shape[1]):
        seen = min(t + 1, len(weights))
        row = torch.zeros_like(x[:, 0])
        for age in range(seen):
            row = row + weights[seen - 1, age] * x[:, t - age]
            if deviation is not None and seen == len(weights):
                row = row + x[:, t - age] @ deviation[age]
        rows.append(row)
    return torch.stack(rows, 1)
