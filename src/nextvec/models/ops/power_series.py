"""Quotients of power series, by which a state space with one number fed back answers an impulse (s4).

Method: Newton's iteration for the reciprocal of a power series (Brent and Kung, Fast Algorithms for
Manipulating Formal Power Series, 1978), each round by cyclic transforms of no more than it knows afterwards.
Shapes: series are [..., L], coefficients from z^0 on.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from nextvec.models.ops.convolution import causal_convolution, fast_size


def delay(series: Tensor) -> Tensor:
    """z times the series, cut at its length."""
    return F.pad(series, (1, 0))[..., :-1]


def loop_inverse(looped: Tensor) -> Tensor:
    """The power series 1 / (1 + z looped(z)) [..., L] of looped [..., L]."""
    inverse: Tensor = _LoopInverse.apply(looped)  # type: ignore[no-untyped-call]
    return inverse


class _LoopInverse(torch.autograd.Function):
    """Its derivative is -inverse^2 z d looped: two convolutions, not those of every round."""

    @staticmethod
    def forward(ctx: Any, looped: Tensor) -> Tensor:
        inverse = _reciprocal(looped)
        ctx.save_for_backward(inverse)
        return inverse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (inverse,) = ctx.saved_tensors
        squared = delay(causal_convolution(inverse, inverse))
        # The transpose of a causal convolution is the same one, read from the end.
        return -causal_convolution(grad.flip(-1), squared).flip(-1)


def loop_response(series: Tensor, exact: torch.dtype) -> Tensor:
    """forward - z steered sensed / (1 + z looped), cut at its length.

    Args:
        series: the four, one after the other, [4, ..., L] real.
        exact: of the quotient, in which errors add up; its gradient, in which they do not, is taken in the
            series' own precision.
    Returns: [..., L] of the series' dtype.
    """
    response: Tensor = _LoopResponse.apply(series, exact)  # type: ignore[no-untyped-call]
    return response


class _LoopResponse(torch.autograd.Function):
    """With I = 1 / (1 + z looped), Q = sensed I and P = z steered I the response is forward - z steered Q,
    and its derivative d forward - P d sensed - Q z d steered + P Q z d looped."""

    @staticmethod
    def forward(ctx: Any, series: Tensor, exact: torch.dtype) -> Tensor:
        length, wide = series.shape[-1], series.to(exact)
        size = fast_size(2 * length)
        inverse = torch.fft.rfft(_reciprocal(wide[3]), n=size)
        steered = torch.fft.rfft(delay(wide[2]), n=size)
        fed_back = torch.fft.irfft(torch.fft.rfft(wide[1], n=size).mul_(inverse), n=size)[..., :length]
        fed_back = torch.fft.rfft(fed_back, n=size)
        response = wide[0] - torch.fft.irfft(fed_back * steered, n=size)[..., :length]
        kind = series.dtype.to_complex()
        ctx.save_for_backward(inverse.mul_(steered).to(kind), fed_back.to(kind))
        ctx.sizes = size, length
        return response.to(series.dtype)  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        passed, fed_back = ctx.saved_tensors
        size, length = ctx.sizes

        def cut(spectrum: Tensor) -> Tensor:
            """The spectrum of the first `length` values alone."""
            found: Tensor = torch.fft.rfft(torch.fft.irfft(spectrum, n=size)[..., :length], n=size)
            return found

        passed, of_grad = cut(passed), torch.fft.rfft(grad, n=size)
        found = torch.empty(4, *grad.shape, dtype=grad.dtype, device=grad.device)
        found[0] = grad
        torch.neg(torch.fft.irfft(passed.conj() * of_grad, n=size)[..., :length], out=found[1])
        # One place to the left: those two series were delayed.
        found[2, ..., -1] = found[3, ..., -1] = 0
        torch.neg(torch.fft.irfft(fed_back.conj() * of_grad, n=size)[..., 1:length], out=found[2, ..., :-1])
        both = cut(passed.mul_(fed_back)).conj()
        found[3, ..., :-1] = torch.fft.irfft(of_grad.mul_(both), n=size)[..., 1:length]
        return found, None


def _reciprocal(looped: Tensor) -> Tensor:
    """1 / (1 + z looped), each round twice as many terms: where I = 1 / series + O(z^n), the next n terms are
    those of -I (I series - 1). A cyclic transform of 2n values gives both products from z^n to z^(2n-1)."""
    length = looped.shape[-1]
    series = F.pad(looped, (1, length))
    series[..., 0] = 1
    inverse, terms = torch.ones_like(looped[..., :1]), 1
    while terms < length:
        known = torch.fft.rfft(inverse, n=2 * terms)
        error = torch.fft.irfft(torch.fft.rfft(series[..., : 2 * terms]).mul_(known), n=2 * terms)
        error[..., :terms] = 0
        more = torch.fft.irfft(torch.fft.rfft(error).mul_(known), n=2 * terms)
        inverse = torch.cat((inverse, -more[..., terms:]), -1)
        terms *= 2
    return inverse[..., :length]
