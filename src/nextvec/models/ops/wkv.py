"""RWKV's time mixing. Version 4: per channel an exponentially decaying weighted mean, with an extra weight
for now. Version 7: a generalised delta rule whose state moves by a diagonal plus a rank-one matrix.

Papers: Peng et al., RWKV-7 "Goose" with Expressive Dynamic State Evolution, 2025, equation 17 (see below);
Peng et al., RWKV: Reinventing RNNs for the Transformer Era, 2023, equation 16:
out_t = (sum_(s<t) exp(-(t-1-s) w + k_s) v_s + exp(u + k_t) v_t) / (the same without v).
A sum is kept as (numerator, denominator, m), the first two divided by exp(m), where m is the largest exponent
in it: no key is too large or too small. The result does not depend on m, so m takes no gradient.
Shapes: B batch, T time, H channels; the state of version 4 is [B, 3, H].
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# RWKV-7: S_t = (diag(w_t) + b_t a_t^T) S_(t-1) + k_t v_t^T, o_t = S_t^T r_t (the paper's state transposed).
# The chunked form is a WY representation, as in Yang et al., Parallelizing Linear Transformers with the Delta
# Rule over Sequence Length, 2024. Shapes: h heads, N per head; the state is [B, h, N, N], keys by values.

CHUNK = 32


def wkv7(
    r: Tensor,
    log_w: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    state: Tensor | None = None,
    chunk: int = CHUNK,
) -> tuple[Tensor, Tensor]:
    """All positions at once, by matrix products within chunks and one product a chunk between them.

    Within a chunk the state is S_t = diag(g_t) Z_t, where g_t is the decay since the chunk's start. Then Z
    only grows by rank-one terms, and what they are is the solution of a triangular system. Keys are divided
    by decays, so log_w * chunk must stay within float32's exponents: RWKV-7's log_w > -0.61 would allow 140.
    The work is done in at least float32, outside of autocast.

    Args:
        r, log_w, k, v, a, b: [B, T, h, N]; log_w <= 0.
        state: [B, h, N, N] before the first position; None is zeros, and then cheaper.
    Returns:
        [B, T, h, N] in r's dtype, and the state after the last position.
    """
    B, T, h, N = r.shape
    if T == 1 and state is not None:
        out, state = wkv7_step(r[:, 0], log_w[:, 0], k[:, 0], v[:, 0], a[:, 0], b[:, 0], state)
        return out[:, None], state
    wide = torch.promote_types(r.dtype, torch.float32)
    size = min(chunk, T)
    count = -(-T // size)
    padding = count * size - T  # with zeros: w = 1 and nothing is added, the state stands still

    def blocks(x: Tensor) -> Tensor:
        """[B, T, h, N] -> [count * B * h, size, N]."""
        x = F.pad(x.to(wide), (0, 0, 0, 0, 0, padding)) if padding else x.to(wide)
        return x.view(B, count, size, h, N).permute(1, 0, 3, 2, 4).reshape(-1, size, N)

    with torch.autocast(r.device.type, enabled=False):
        first = None if state is None else state.to(wide).reshape(-1, N, N)
        blocked = [blocks(x) for x in (r, log_w, k, v, a, b)]
        out, last = _chunks(blocked, first, B * h)
    out = out.view(count, B, h, size, N).permute(1, 0, 3, 2, 4).reshape(B, -1, h, N)[:, :T]
    return out.to(r.dtype), last.view(B, h, N, N)


def _chunks(blocked: list[Tensor], state: Tensor | None, rows: int) -> tuple[Tensor, Tensor]:
    """r .. b, each [count * rows, C, N], and a state [rows, N, N] -> out like them, the last state."""
    r, log_w, k, v, a, b = blocked
    size, N = r.shape[1:]
    count = len(r) // rows
    decay = log_w.cumsum(1).exp()
    before, growth = F.pad(decay[:, :-1], (0, 0, 1, 0), value=1.0), decay.reciprocal()
    a = a * before
    keys = torch.cat((b * growth, k * growth), 1)
    place = torch.arange(size, device=r.device)
    seen = torch.cat((place[:, None] > place, place[:, None] >= place)).repeat(1, 2).to(r.dtype)
    scores = (torch.cat((a, r * decay), 1) @ keys.mT) * seen  # rows a, then r; columns b, then k
    of_a, of_r = scores[:, :size], scores[:, size:]

    # u_t = a_t Z_(t-1) = (what the chunk's start gives) + sum over s < t of scores_ts times (u_s or v_s).
    carried = state is not None or count > 1
    known = of_a[:, :, size:] @ v
    known = torch.cat((known, a), 2) if carried else known
    u = torch.linalg.solve_triangular(-of_a[:, :, :size], known, upper=False, unitriangular=True)
    values = torch.cat((u[..., :N], v), 1)
    out = of_r @ values
    keys = keys * decay[:, -1:]  # what is left of them at the chunk's end: all factors <= 1 again
    added = keys.mT @ values
    if not carried:
        return out, added

    # Each chunk is now one affine map of the state before it: S -> kept @ S + added.
    kept = torch.baddbmm(torch.diag_embed(decay[:, -1]), keys[:, :size].mT, u[..., N:])
    now = r.new_zeros(rows, N, N) if state is None else state
    starts = []
    for factor, term in zip(kept.view(count, rows, N, N), added.view(count, rows, N, N), strict=True):
        starts.append(now)
        now = torch.baddbmm(term, factor, now)
    reads = torch.baddbmm(r * decay, of_r[:, :, :size], u[..., N:])
    return torch.baddbmm(out, reads, torch.cat(starts)), now


def wkv7_step(
    r: Tensor, log_w: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """One position: r, log_w, k, v, a, b [B, h, N] and the state before it -> out [B, h, N], the new one."""
    r_t, log_w, k, v, a, b = (x.to(state.dtype) for x in (r, log_w, k, v, a, b))
    u = a[..., None, :] @ state
    state = log_w.exp()[..., None] * state + b[..., None] * u + k[..., None] * v[..., None, :]
    return (r_t[..., None, :] @ state).squeeze(-2).to(r.dtype), state


EMPTY = -1e30  # the exponent of a sum without terms: exp(EMPTY - anything) is 0, and it stays finite
Sums = tuple[Tensor, Tensor, Tensor]


def wkv4(
    log_w: Tensor, u: Tensor, k: Tensor, v: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """All positions at once, in about 2 sqrt(T) rounds.

    The first rounds step through all chunks of sqrt(T) positions side by side, as if each began a document;
    the others hand the sums from chunk to chunk. Then every position adds up what came before its chunk, what
    its chunk held before it, and itself. The work is done in at least float32.

    Args:
        log_w, u: [H], log_w < 0 the decay, u the weight of now.
        k, v: [B, T, H].
        state: [B, 3, H] before the first position; None is an empty one.
    Returns:
        [B, T, H] in v's dtype, and the state after the last position.
    """
    B, T, H = k.shape
    if T == 1 and state is not None:
        out, state = wkv4_step(log_w, u, k[:, 0], v[:, 0], state)
        return out[:, None], state
    wide = torch.promote_types(v.dtype, torch.float32)
    kind, log_w, u, k, v = v.dtype, *(x.to(wide) for x in (log_w, u, k, v))
    now = _unpack(empty_state(B, H, k.device, wide) if state is None else state)
    size = 2 ** round(math.log2(T) / 2)
    count = -(-T // size)
    padding = (0, 0, 0, count * size - T)
    keys, values = (F.pad(x, padding).view(B, count, size, H) for x in (k, v))

    local = _unpack(empty_state(B, H, k.device, wide)[:, None].expand(B, count, 3, H))
    inside, starts = [], []
    for k_t, v_t in zip(keys.unbind(2), values.unbind(2), strict=True):
        inside.append(local)
        local = _add_one(_decay(local, log_w), k_t, v_t)
    for numerators, denominators, exponents in zip(*(x.unbind(1) for x in local), strict=True):
        starts.append(now)
        now = _add(_decay(now, size * log_w), (numerators, denominators, exponents))

    place = torch.arange(size, device=k.device, dtype=wide)[:, None]
    sums = _add(_decay(_stack(starts, 1, 2), place * log_w), _stack(inside, 2))
    numerator, denominator, _ = _add_one(sums, keys + u, values)
    out = (numerator / denominator).view(B, -1, H)[:, :T]
    chunk, place_in_it = divmod(T - 1, size)
    last = sums[0][:, chunk, place_in_it], sums[1][:, chunk, place_in_it], sums[2][:, chunk, place_in_it]
    return out.to(kind), torch.stack(_add_one(_decay(last, log_w), k[:, -1], v[:, -1]), 1)


def wkv4_step(log_w: Tensor, u: Tensor, k: Tensor, v: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """One position: k, v [B, H] and the state before it -> out [B, H] and the new state."""
    kind, log_w, u, k, v = v.dtype, *(x.to(state.dtype) for x in (log_w, u, k, v))
    sums = _unpack(state)
    numerator, denominator, _ = _add_one(sums, k + u, v)
    return (numerator / denominator).to(kind), torch.stack(_add_one(_decay(sums, log_w), k, v), 1)


def empty_state(batch: int, channels: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The state [B, 3, H] before the first position, in at least float32."""
    wide = torch.promote_types(dtype, torch.float32)
    sums = torch.zeros(batch, 3, channels, device=device, dtype=wide)
    sums[:, 2] = EMPTY
    return sums


def _unpack(state: Tensor) -> Sums:
    numerator, denominator, exponent = state.unbind(-2)
    return numerator, denominator, exponent


def _stack(many: list[Sums], *dims: int) -> Sums:
    numerator, denominator, exponent = (torch.stack(x, dims[0]) for x in zip(*many, strict=True))
    for dim in dims[1:]:
        numerator, denominator, exponent = (x.unsqueeze(dim) for x in (numerator, denominator, exponent))
    return numerator, denominator, exponent


def _decay(sums: Sums, log_w: Tensor) -> Sums:
    return sums[0], sums[1], sums[2] + log_w


def _add(one: Sums, other: Sums) -> Sums:
    """The sum of two, each with its own exponent."""
    exponent = torch.maximum(one[2], other[2]).detach()
    of_one, of_other = (one[2] - exponent).exp(), (other[2] - exponent).exp()
    return of_one * one[0] + of_other * other[0], of_one * one[1] + of_other * other[1], exponent


def _add_one(sums: Sums, k: Tensor, v: Tensor) -> Sums:
    """`sums` and one more term exp(k) v."""
    exponent = torch.maximum(sums[2], k).detach()
    of_sums, of_v = (sums[2] - exponent).exp(), (k - exponent).exp()
    return torch.addcmul(of_v * v, of_sums, sums[0]), torch.addcmul(of_v, of_sums, sums[1]), exponent
