"""State space duality: a selective state space read chunk by chunk with matrix products.

Paper: Dao and Gu, Transformers are SSMs, 2024, sections 6 and 7. Each head keeps a matrix S [N, P]:
    S_t = exp(dt_t a) S_{t-1} + dt_t b_t x_t^T,    y_t = c_t^T S_t.
Inside a chunk this is causal attention with scores c_i b_j, no softmax, and a weight exp(a sum of dt from j+1
to i); what comes from before the chunk goes through S. Time and memory grow linearly with T.

The backward pass is our own: it keeps one state a chunk, and nothing of the size of the weights. The decays'
gradients are summed over pairs i > j alone, so that no large terms cancel where the decay is fast.
Shapes: B batch, T time, h heads, P values a head, N state, l positions in a chunk.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK = 64  # of 16 to 256 the fastest on a CPU at N 64 and 128, P 32 and 64, 8 and 24 heads


def ssd(
    x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, state: Tensor | None = None, chunk: int = CHUNK
) -> tuple[Tensor, Tensor | None]:
    """Read T positions.

    Args:
        x: [B, T, h, P] values.
        dt: [B, T, h] step sizes, above 0.
        a: [h] decay rates, below 0.
        b: [B, T, N] what is written into the state, the same in all heads.
        c: [B, T, N] what is read out of it.
        state: [B, N, h, P] before the first position; None: nothing was read before, and nobody goes on.
        chunk: positions multiplied at once; the result does not depend on it.
    All of one dtype, float32 or wider; inside, autocast is off.
    Returns: y [B, T, h, P], and the state after the last position (None where none was given).
    """
    with torch.autocast(x.device.type, enabled=False):
        y, state = _SSD.apply(x, dt, a, b, c, state, chunk)  # type: ignore[no-untyped-call]
    return y, state


def ssd_step(x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """One position: x [B, h, P], dt [B, h], b, c [B, N], state [B, N, h, P] -> y [B, h, P], new state."""
    decay = (dt * a).exp()[:, None, :, None]
    state = torch.addcmul(state * decay, b[:, :, None, None], (x * dt[..., None])[:, None])
    y = torch.bmm(c[:, None], state.flatten(2)).view_as(x)
    return y, state


class _SSD(torch.autograd.Function):
    """x, dt, a, b, c, state, chunk -> y and the last state. Keeps the state before each chunk."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor | None]:
        x, dt, a, b, c, state, chunk = inputs
        y = torch.empty_like(x, memory_format=torch.contiguous_format)
        z, states, asked = dt * a, [], state is not None
        for part in _chunks(x.shape[1], chunk):
            states.append(state)
            xs, bs, cs = x[:, part] * dt[:, part, :, None], b[:, part], c[:, part]
            zs = z[:, part].cumsum(1)
            scores = torch.bmm(cs, bs.transpose(1, 2)).tril_()
            inside = torch.matmul(_decay(zs).mul_(scores[:, None]), xs.transpose(1, 2)).transpose(1, 2)
            if state is None:
                y[:, part] = inside
            else:
                past = torch.bmm(cs, state.flatten(2)).view_as(xs)
                torch.addcmul(inside, past, zs.exp()[..., None], out=y[:, part])
            if asked or part.stop < x.shape[1]:
                end = zs[:, -1:]
                xs.mul_((end - zs).exp_()[..., None])
                written = torch.bmm(bs.transpose(1, 2), xs.flatten(2)).view(len(x), -1, *x.shape[2:])
                state = written if state is None else written.addcmul_(state, end.exp()[..., None])
        ctx.save_for_backward(x, dt, a, b, c, *states)
        ctx.chunk = chunk
        return y, state if asked else None

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, d_state: Tensor | None) -> tuple[Tensor | None, ...]:
        x, dt, a, b, c, *states = ctx.saved_tensors
        like = (x, b, c, dt, dt)
        dx, db, dc, ddt, dz = (torch.empty_like(v, memory_format=torch.contiguous_format) for v in like)
        z, parts = dt * a, _chunks(x.shape[1], ctx.chunk)
        with torch.autocast(x.device.type, enabled=False):
            for part, state in zip(reversed(parts), reversed(states), strict=True):
                one = x[:, part] * dt[:, part, :, None], z[:, part].cumsum(1), b[:, part], c[:, part]
                dxs, dz[:, part], db[:, part], dc[:, part], d_state = _chunk_backward(
                    dy[:, part], d_state, *one, state
                )
                ddt[:, part] = (dxs * x[:, part]).sum(-1)
                torch.mul(dxs, dt[:, part, :, None], out=dx[:, part])
        return dx, ddt.addcmul_(dz, a), (dz * dt).sum((0, 1)), db, dc, d_state, None


def _chunk_backward(
    dy: Tensor, d_state: Tensor | None, x: Tensor, z: Tensor, b: Tensor, c: Tensor, state: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """The gradients of one chunk's x (that is dt x), log decays, b, c and the state before it.

    dy [B, l, h, P] and d_state [B, N, h, P]: of the chunk's output and of the state after it; z: the sums of
    its log decays.
    """
    # Through the products inside the chunk.
    decay, scores = _decay(z), torch.bmm(c, b.transpose(1, 2)).tril_()
    dy_heads = dy.transpose(1, 2).contiguous()
    dx = torch.matmul((decay * scores[:, None]).transpose(-1, -2), dy_heads).transpose(1, 2)
    d_weights = torch.matmul(dy_heads, x.permute(0, 2, 3, 1)).mul_(decay)
    d_scores = d_weights.sum(1).tril_()
    db, dc = torch.bmm(d_scores.transpose(1, 2), c), torch.bmm(d_scores, b)
    pairs = d_weights.mul_(scores.tril_(-1)[:, None])  # what the decay from j + 1 to i does to the loss
    reads = (pairs.sum(-1) - pairs.sum(-2)).transpose(1, 2)
    decays: Tensor | float = 0.0
    if d_state is not None:  # through the state that the chunk leaves behind
        to_end = (z[:, -1:] - z).exp_()[..., None]
        kept = torch.bmm(b, d_state.flatten(2)).view_as(x).mul_(to_end)
        dx = dx + kept
        db.baddbmm_((x * to_end).flatten(2), d_state.flatten(2).transpose(1, 2))
        writes = kept.mul_(x).sum(-1)
        decays = writes.cumsum(1) - writes  # position t decays what was written before t
    if state is not None:  # through the state that it found
        from_start = z.exp()[..., None]
        reading = (dy * from_start).flatten(2)
        past = torch.bmm(c, state.flatten(2)).view_as(x).mul_(from_start)
        reads = reads + (past.mul_(dy)).sum(-1)
        dc.baddbmm_(reading, state.flatten(2).transpose(1, 2))
        found = torch.bmm(c.transpose(1, 2), reading).view_as(state)
        if d_state is not None:
            passed = d_state * z[:, -1:].exp()[..., None]
            decays = decays + (passed * state).sum((1, 3))[:, None]
            found += passed
        d_state = found
    else:
        d_state = None
    return dx, reads.flip(1).cumsum(1).flip(1) + decays, db, dc, d_state


def _chunks(time: int, chunk: int) -> list[slice]:
    """Slices of at most `chunk` that make up 0..time-1."""
    return [slice(start, min(start + chunk, time)) for start in range(0, time, chunk)]


def _decay(z: Tensor) -> Tensor:
    """Summed log decays z [B, l, h] -> exp(z_i - z_j) [B, h, l, l]; 1 above the diagonal, where it is not
    used and would overflow."""
    z = z.transpose(1, 2).contiguous()
    return (z[..., :, None] - z[..., None, :]).clamp_(max=0).exp_()


def ssd_reference(
    x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, state: Tensor
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
        rows.append((c[:, t, :, None, None] * state).sum(1))
    return torch.stack(rows, 1), state
