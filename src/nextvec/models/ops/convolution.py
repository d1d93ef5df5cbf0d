"""Causal convolutions with filters as long as the sequence, by FFT.

Papers: Gu et al., S4, 2022; Poli et al., Hyena Hierarchy, 2023. A transform takes twice the length: a shorter
one would wrap around and show the future. It has no direct form beside it for short sequences: on one core,
at [16, 256, T], forward and backward, it takes 0.6, 1.9 and 9.8 ms at T = 8, 32 and 128, a product with
Toeplitz matrices 2.3, 4.2 and 49 ms, torch's depthwise convolution 1.2 and 5.1 ms at 8 and 32.
Shapes: B batch, T time, C channels.
"""

from __future__ import annotations

import torch
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
