"""RWKV-4's time mixing: per channel an exponentially decaying weighted mean, with an extra weight for now.

Paper: Peng et al., RWKV: Reinventing RNNs for the Transformer Era, 2023, equation 16:
out_t = (sum_(s<t) exp(-(t-1-s) w + k_s) v_s + exp(u + k_t) v_t) / (the same without v).
A sum is kept as (numerator, denominator, m), the first two divided by exp(m), where m is the largest exponent
in it: no key is too large or too small. The result does not depend on m, so m takes no gradient.
Shapes: B batch, T time, H channels; the state is [B, 3, H].
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

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
