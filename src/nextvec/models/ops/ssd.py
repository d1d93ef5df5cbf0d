"""State space duality: a selective state space read chunk by chunk with matrix products.

Paper: Dao and Gu, Transformers are SSMs, 2024, sections 6 and 7. Each head keeps a matrix S [N, P]:
    S_t = exp(dt_t a) S_{t-1} + dt_t b_t x_t^T,    y_t = c_t^T S_t + skip x_t.
Inside a chunk this is causal attention with scores c_i b_j, no softmax, and a weight exp(a sum of dt from j+1
to i); what comes from before the chunk goes through S. Time and memory grow linearly with T.

The backward pass is our own: it keeps one state a chunk, and nothing of the size of the weights. The decays'
gradients are summed over pairs i > j alone, so that no large terms cancel where the decay is fast.
Shapes: B batch, T time, h heads, P values a head, N state, l positions in a chunk.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nextvec.models.ops.spans import spans

CHUNK = 64  # of 16 to 256 the fastest on a CPU at N 64 and 128, P 32 and 64, 8 and 24 heads


def ssd(
    x: Tensor,
    dt: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    skip: Tensor,
    state: Tensor | None = None,
    chunk: int = CHUNK,
) -> tuple[Tensor, Tensor | None]:
    """Read T positions.

    Args:
        x: [B, T, h, P] values.
        dt: [B, T, h] step sizes, above 0.
        a: [h] decay rates, below 0.
        b: [B, T, N] what is written into the state, the same in all heads.
        c: [B, T, N] what is read out of it.
        skip: [h] how much of x itself is added to y.
        state: [B, N, h, P] before the first position; None: nothing was read before, and nobody goes on.
        chunk: positions multiplied at once; the result does not depend on it.
    All of one dtype, float32 or wider; inside, autocast is off.
    Returns: y [B, T, h, P], and the state after the last position (None where none was given).
    """
    with torch.autocast(x.device.type, enabled=False):
        y, state = _SSD.apply(x, dt, a, b, c, skip, state, chunk)  # type: ignore[no-untyped-call]
    return y, state


def ssd_step(
    x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, skip: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """One position: x [B, h, P], dt [B, h], b, c [B, N], state [B, N, h, P] -> y [B, h, P], new state."""
    decay = (dt * a).exp()[:, None, :, None]
    state = torch.addcmul(state * decay, b[:, :, None, None], (x * dt[..., None])[:, None])
    read = torch.bmm(c[:, None], state.flatten(2)).view_as(x)
    return torch.addcmul(read, x, skip[:, None]), state


class _SSD(torch.autograd.Function):
    """x, dt, a, b, c, skip, state, chunk -> y and the last state. Keeps the state before each chunk.

    What is multiplied head by head lies as [B, h, T, ...]; what all heads share, and the state, as it comes.
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor | None]:
        x, dt, a, b, c, skip, state, chunk = inputs
        y = torch.empty_like(x, memory_format=torch.contiguous_format)
        values, steps = x.transpose(1, 2).contiguous(), dt.transpose(1, 2).contiguous()
        z, states, asked = steps * a[:, None], [], state is not None
        for part in spans(x.shape[1], chunk):
            states.append(state)
            bs, cs, zs, ds = b[:, part], c[:, part], z[:, :, part].cumsum(-1), steps[:, :, part]
            scores = torch.bmm(cs, bs.transpose(1, 2)).tril_()
            inside = torch.matmul(_weights(zs, ds).mul_(scores[:, None]), values[:, :, part])
            ys = torch.addcmul(inside.transpose(1, 2), x[:, part], skip[:, None], out=y[:, part])
            if state is not None:
                past = torch.bmm(cs, state.flatten(2)).view_as(ys)
                ys.addcmul_(past, _by_time(zs.exp()))
            if asked or part.stop < x.shape[1]:
                written = x[:, part] * _by_time(_to_end(zs, ds))
                new = torch.bmm(bs.transpose(1, 2), written.flatten(2)).view(x.shape[0], -1, *x.shape[2:])
                state = new if state is None else new.addcmul_(state, _by_time(zs[..., -1:].exp()))
        ctx.save_for_backward(values, steps, a, b, c, skip, *states)
        ctx.chunk = chunk
        return y, state if asked else None

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, d_state: Tensor | None) -> tuple[Tensor | None, ...]:
        values, steps, a, b, c, skip, *states = ctx.saved_tensors
        dx, db, dc = (torch.empty_like(v, memory_format=torch.contiguous_format) for v in (dy, b, c))
        d_skip, weighed, dz = (torch.empty_like(steps) for _ in range(3))
        z, by_head, parts = steps * a[:, None], dy.transpose(1, 2).contiguous(), spans(dy.shape[1], ctx.chunk)
        with torch.autocast(dy.device.type, enabled=False):
            for part, state in zip(reversed(parts), reversed(states), strict=True):
                one = _Chunk(
                    values[:, :, part], steps[:, :, part], z[:, :, part].cumsum(-1), b[:, part], c[:, part]
                )
                found, d_state = _chunk_backward(one, by_head[:, :, part], dy[:, part], state, d_state)
                torch.addcmul(found.x, dy[:, part], skip[:, None], out=dx[:, part])
                db[:, part], dc[:, part] = found.b, found.c
                d_skip[..., part], weighed[..., part], dz[..., part] = found.skip, found.weighed, found.z
        ddt = weighed.div_(steps.clamp(min=torch.finfo(steps.dtype).tiny)).addcmul_(dz, a[:, None])
        da = dz.mul_(steps).sum((0, 2))
        return dx, ddt.transpose(1, 2), da, db, dc, d_skip.sum((0, 2)), d_state, None


class _Chunk(NamedTuple):
    """Of the positions of a chunk: values [B, h, l, P], step sizes and summed log decays [B, h, l], b and c
    [B, l, N]."""

    values: Tensor
    steps: Tensor
    z: Tensor
    b: Tensor
    c: Tensor


class _Found(NamedTuple):
    """A chunk's gradients. x [B, l, h, P]: without what goes through skip; b, c [B, l, N]; by position and
    head [B, h, l]: of skip; weighed: of dt where it scales x, times dt; z: of the log decay dt a."""

    x: Tensor
    b: Tensor
    c: Tensor
    skip: Tensor
    weighed: Tensor
    z: Tensor


def _chunk_backward(
    chunk: _Chunk, by_head: Tensor, dy: Tensor, state: Tensor | None, d_state: Tensor | None
) -> tuple[_Found, Tensor | None]:
    """The gradients of one chunk and of the state [B, N, h, P] before it.

    dy [B, l, h, P], by_head (the same, [B, h, l, P]) and d_state: of its output and of the state after it.
    """
    values, steps, z, b, c = chunk
    # Through the products inside the chunk.
    weights, scores = _weights(z, steps), torch.bmm(c, b.transpose(1, 2)).tril_()
    dx = torch.matmul((weights * scores[:, None]).transpose(-1, -2), by_head).transpose(1, 2)
    pairs = torch.matmul(by_head, values.transpose(-1, -2))
    d_skip = pairs.diagonal(dim1=-2, dim2=-1).clone()
    d_scores = pairs.mul_(weights).sum(1).tril_()
    db, dc = torch.bmm(d_scores.transpose(1, 2), c), torch.bmm(d_scores, b)
    alone = d_skip * steps * scores.diagonal(dim1=-2, dim2=-1)[:, None]
    pairs.mul_(scores.tril_(-1)[:, None])  # what the decay from j + 1 to i does to the loss
    weighed = pairs.sum(-2)
    reads = pairs.sum(-1) - weighed
    weighed += alone
    decays: Tensor | float = 0.0
    if d_state is not None:  # through the state that the chunk leaves behind
        to_end, by_time = _by_time(_to_end(z, steps)), values.transpose(1, 2)
        kept = torch.bmm(b, d_state.flatten(2)).view_as(dy).mul_(to_end)
        db.baddbmm_((by_time * to_end).flatten(2), d_state.flatten(2).transpose(1, 2))
        writes = (kept * by_time).sum(-1).transpose(1, 2)
        dx = kept.add_(dx)
        weighed += writes
        decays = writes.cumsum(-1) - writes  # position t decays what was written before t
    if state is not None:  # through the state that it found
        reading = dy * _by_time(z.exp())
        past = torch.bmm(c, state.flatten(2)).view_as(dy)
        reads += past.mul_(reading).sum(-1).transpose(1, 2)
        dc.baddbmm_(reading.flatten(2), state.flatten(2).transpose(1, 2))
        found = torch.bmm(c.transpose(1, 2), reading.flatten(2)).view_as(state)
        if d_state is not None:
            passed = d_state * _by_time(z[..., -1:].exp())
            decays = decays + (passed * state).sum((1, 3))[..., None]
            found += passed
        d_state = found
    else:
        d_state = None
    return _Found(dx, db, dc, d_skip, weighed, reads.flip(-1).cumsum(-1).flip(-1) + decays), d_state


def _weights(z: Tensor, steps: Tensor) -> Tensor:
    """Summed log decays z and step sizes [B, h, l] -> exp(z_i - z_j) dt_j [B, h, l, l]; dt_j above the
    diagonal, where it is not used and would overflow."""
    return (z[..., :, None] - z[..., None, :]).clamp_(max=0).exp_().mul_(steps[..., None, :])


def _to_end(z: Tensor, steps: Tensor) -> Tensor:
    """How much of each position [B, h, l] is in the state after the chunk."""
    return (z[..., -1:] - z).exp_().mul_(steps)


def _by_time(x: Tensor) -> Tensor:
    """[B, h, l] -> [B, l, h, 1]."""
    return x.transpose(1, 2)[..., None]
