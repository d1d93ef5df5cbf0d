"""RWKV-7's time mixing: a generalised delta rule whose state moves by a diagonal plus a rank-one matrix.

Paper: Peng et al., RWKV-7 "Goose" with Expressive Dynamic State Evolution, 2025, equation 17:
S_t = (diag(w_t) + b_t a_t^T) S_(t-1) + k_t v_t^T, o_t = S_t^T r_t (the paper's state is this one transposed).
The chunked form is a WY representation, as in Yang et al., Parallelizing Linear Transformers with the Delta
Rule over Sequence Length, 2024.
Shapes: B batch, T time, h heads, N per head; the state is [B, h, N, N], keys by values.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

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
