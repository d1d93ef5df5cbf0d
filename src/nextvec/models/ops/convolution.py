"""Causal convolutions: by FFT with filters as long as the sequence, and short ones.

Papers: Gu et al., S4, 2022; Poli et al., Hyena Hierarchy, 2023. A transform takes twice the length: a shorter
one would wrap around and show the future. It has no direct form beside it for short sequences: on one core,
at [16, 256, T], forward and backward, it takes 0.6, 1.9 and 9.8 ms at T = 8, 32 and 128, a product with
Toeplitz matrices 2.3, 4.2 and 49 ms, torch's depthwise convolution 1.2 and 5.1 ms at 8 and 32.
Shapes: B batch, T time, C channels, K taps.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nextvec.models.ops.parameters import wide

# The short one, a filter a channel: on a CPU torch's grouped convolution on [4, 512, 640] with 4 taps takes
# 16.5 ms forward and backward; adding up shifted copies in place takes 6.8 ms, and nothing is transposed.


def short_convolution(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """y_t = bias + sum_k weight[:, K-1-k] x_{t-k}; before the first position stand zeros.

    Args:
        x: [B, T, C].
        weight: [C, K]; the last tap multiplies the value itself, the first one the oldest.
        bias: [C]. All three of one dtype.
    Returns: [B, T, C].
    """
    mixed: Tensor = _ShortConvolution.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return mixed


def short_convolution_after(x: Tensor, weight: Tensor, bias: Tensor, window: Tensor) -> tuple[Tensor, Tensor]:
    """The same for x that follows `window` [B, K-1, C], the values just before it; and the window after x."""
    seen = torch.cat((window.to(x.dtype), x), 1)
    mixed = short_convolution(seen, weight, bias)[:, window.shape[1] :]
    return mixed, seen[:, x.shape[1] :].clone()


class _ShortConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        newest_first = weight.flip(1).t().contiguous()
        ctx.save_for_backward(x, newest_first)
        mixed = torch.addcmul(bias, x, newest_first[0])
        for k, tap in enumerate(newest_first[1 : x.shape[1]], 1):
            mixed[:, k:].addcmul_(x[:, :-k], tap)
        return mixed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, newest_first = ctx.saved_tensors
        dx = grad * newest_first[0]
        taps = torch.zeros_like(newest_first)
        taps[0] = (grad * x).sum((0, 1))
        for k, tap in enumerate(newest_first[1 : x.shape[1]], 1):
            dx[:, :-k].addcmul_(grad[:, k:], tap)
            taps[k] = (grad[:, k:] * x[:, :-k]).sum((0, 1))
        return dx, taps.t().flip(1), grad.sum((0, 1))


def causal_convolution(u: Tensor, k: Tensor) -> Tensor:
    """y_t = sum over j <= t of k_(t-j) u_j along the last dimension; the others broadcast.

    Args:
        u: [..., T].
        k: [..., any length]: what lies beyond T is not read, what is missing is zero.
    Returns: [..., T] in float32, or float64 where u or k is. Up to that precision's rounding y_t does not
        depend on u after t: a transform mixes all of u before it separates it again.
    """
    kind = wide(torch.promote_types(u.dtype, k.dtype))
    u, k = u.to(kind), k[..., : u.shape[-1]].to(kind)
    if torch.is_grad_enabled() and (u.requires_grad or k.requires_grad):
        y: Tensor = _CausalConvolution.apply(u, k)  # type: ignore[no-untyped-call]
        return y
    size = fast_size(2 * u.shape[-1])
    return _back(torch.fft.rfft(u, n=size) * torch.fft.rfft(k, n=size), size, u.shape[-1])


class _CausalConvolution(torch.autograd.Function):
    """u [..., T], k [..., K], K <= T, of one dtype -> [..., T].

    Each gradient is one product with a spectrum that is there already: three transforms, where torch's
    derivatives of the transforms take complex ones of the whole length.
    """

    @staticmethod
    def forward(ctx: Any, u: Tensor, k: Tensor) -> Tensor:
        size = fast_size(2 * u.shape[-1])
        of_u, of_k = torch.fft.rfft(u, n=size), torch.fft.rfft(k, n=size)
        ctx.save_for_backward(of_u, of_k)
        ctx.sizes = size, u.shape, k.shape
        return _back(of_u * of_k, size, u.shape[-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        of_u, of_k = ctx.saved_tensors
        size, u_shape, k_shape = ctx.sizes
        of_grad = torch.fft.rfft(grad, n=size)
        du = dk = None
        if ctx.needs_input_grad[0]:
            found = (of_grad * of_k.conj()).sum_to_size(of_u.shape)
            du = _back(found, size, u_shape[-1])
        if ctx.needs_input_grad[1]:
            found = of_grad.mul_(of_u.conj()).sum_to_size(of_k.shape)
            dk = _back(found, size, k_shape[-1])
        return du, dk


def _back(spectrum: Tensor, size: int, length: int) -> Tensor:
    """The first `length` of the `size` values that have this spectrum."""
    values: Tensor = torch.fft.irfft(spectrum, n=size)
    return values[..., :length]


def fast_size(least: int) -> int:
    """The smallest 2^n, 3 2^n or 5 2^n that is `least` or more: transforms of such lengths are fast."""
    sizes = []
    for odd in (1, 3, 5):
        size = odd
        while size < least:
            size *= 2
        sizes.append(size)
    return min(sizes)
