"""Causal convolutions: long ones by FFT, short ones by shifted sums, each beside a loop that is obvious.

Papers: Gu et al., S4, 2022; Poli et al., Hyena Hierarchy, 2023. A transform takes twice the length: a shorter
one would wrap around and show the future. It has no direct form beside it for short sequences: on one core,
at [16, 256, T], forward and backward, it takes 0.6, 1.9 and 9.8 ms at T = 8, 32 and 128, a product with
Toeplitz matrices 2.3, 4.2 and 49 ms, torch's depthwise convolution 1.2 and 5.1 ms at 8 and 32.
Shapes: B batch, T time, C channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nextvec.models.ops.precise import wide


def causal_convolution(u: Tensor, k: Tensor) -> Tensor:
    """y_t = sum over j <= t of k_(t-j) u_j along the last dimension; the others broadcast.

    Args:
        u: [..., T].
        k: [..., any length]: what lies beyond T is not read, what is missing is zero.
    Returns: [..., T] in float32, or float64 where u or k is. Up to that precision's rounding y_t does not
        depend on u after t: a transform mixes all of u before it separates it again.
    """
    length = u.shape[-1]
    kind = wide(torch.promote_types(u.dtype, k.dtype))
    size = fast_size(2 * length)
    spectrum = torch.fft.rfft(u.to(kind), n=size) * torch.fft.rfft(k[..., :length].to(kind), n=size)
    y: Tensor = torch.fft.irfft(spectrum, n=size)
    return y[..., :length]


def fast_size(least: int) -> int:
    """The smallest 2^n, 3 2^n or 5 2^n that is `least` or more: transforms of such lengths are fast."""
    sizes = []
    for odd in (1, 3, 5):
        size = odd
        while size < least:
            size *= 2
        sizes.append(size)
    return min(sizes)


def short_convolution(
    x: Tensor, weight: Tensor, bias: Tensor, tail: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """A causal convolution of each channel with its own few weights.

    Args:
        x: [B, T, C].
        weight: [w, C]: the last row is multiplied with the vector just read.
        bias: [C].
        tail: [B, w - 1, C], the vectors before x; zeros if None.
    Returns: y [B, T, C] and the tail after x.
    """
    taps, length = len(weight), x.shape[1]
    seen = F.pad(x, (0, 0, taps - 1, 0)) if tail is None else torch.cat((tail.to(x.dtype), x), 1)
    y = bias
    for i in range(taps):
        y = torch.addcmul(y, seen[:, i : i + length], weight[i])
    return y, seen[:, length:]


def causal_convolution_reference(u: Tensor, k: Tensor) -> Tensor:
    """`causal_convolution` one output at a time, O(T^2). For tests."""
    outputs = []
    for t in range(u.shape[-1]):
        terms = [k[..., t - j] * u[..., j] for j in range(t + 1) if t - j < k.shape[-1]]
        outputs.append(torch.stack(terms).sum(0))
    return torch.stack(outputs, -1)


def short_convolution_reference(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`short_convolution` without a tail, one position at a time. For tests."""
    rows = []
    for t in range(x.shape[1]):
        row = bias.expand(x.shape[0], -1)
        for back in range(min(len(weight), t + 1)):
            row = row + x[:, t - back] * weight[len(weight) - 1 - back]
        rows.append(row)
    return torch.stack(rows, 1)
