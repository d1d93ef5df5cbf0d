"""Training of a gated recurrent unit on a CPU: one product for the inputs of all positions, a short loop, and
one product for each gradient of weights.

Paper: Cho et al., Learning Phrase Representations using RNN Encoder-Decoder, 2014, as torch.nn.GRU has it:
    r = sigmoid(x W_r + h U_r), z likewise, n = tanh(x W_n + r (h U_n)), h' = n + z (h - n).
Why not torch's own: it records each position's operations for autograd, and adds the gradients of the weights
up position by position. Here one position is a product and six small operations forward, a product and two
of them backward: the gradient of each gate is dh times a factor that is known for all positions beforehand.
Shapes: B batch, T time, I inputs, H hidden; gates in torch's order: r, z, n.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

NARROW = 4  # rows from which a product of one position is faster in bfloat16 (AVX512-BF16, H = 256)


def gru(
    x: Tensor, h: Tensor | None, weight: Tensor, recurrent: Tensor, bias: Tensor, recurrent_bias: Tensor
) -> Tensor:
    """Read T positions.

    Under bfloat16 autocast the products are taken in it; gates and states stay in the weights' dtype.

    Args:
        x: [B, T, I].
        h: the state before them [B, H]; None is zeros.
        weight, recurrent, bias, recurrent_bias: [3H, I], [3H, H], [3H], [3H], as torch.nn.GRU has them.
    Returns: the states after each position, [B, T, H] in the weights' dtype.
    """
    autocast = torch.is_autocast_enabled("cpu") and weight.dtype == torch.float32
    products = torch.get_autocast_dtype("cpu") if autocast else weight.dtype
    before = x.new_zeros(len(x), recurrent.shape[1], dtype=weight.dtype) if h is None else h.to(weight.dtype)
    with torch.autocast("cpu", enabled=False):
        states: Tensor = _GRU.apply(  # type: ignore[no-untyped-call]
            x, before, weight, recurrent, bias, recurrent_bias, products
        )
    return states


class _GRU(torch.autograd.Function):
    """Inside time comes first, [T, B, ...]: what belongs to a position is in one piece."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        x, h, weight, recurrent, bias, recurrent_bias, products = inputs
        (B, T, _), H, kind = x.shape, h.shape[1], weight.dtype
        rows = x.transpose(0, 1).to(products).flatten(0, 1)
        shift = bias + torch.cat((recurrent_bias[: 2 * H], recurrent_bias.new_zeros(H)))
        gates = (rows @ weight.to(products).t()).to(kind).add_(shift).view(T, B, 3 * H)
        step = products if B >= NARROW else kind
        kernel, of_new = recurrent.to(step).t(), recurrent_bias[2 * H :]
        states, echoes = gates.new_empty(T + 1, B, H), gates.new_empty(T, B, H)
        states[0] = h
        narrow, found, wide = (
            torch.empty(B, width, dtype=type_) for width, type_ in ((H, step), (3 * H, step), (3 * H, kind))
        )
        reset_update, echoed = wide[:, : 2 * H], wide[:, 2 * H :]
        now = states[0]
        r, z, n = torch.split(gates, H, -1)
        every = gates[..., : 2 * H], r, z, n, echoes, states[1:]
        for both, r, z, n, echo, after in zip(*(part.unbind() for part in every), strict=True):
            if step == kind:
                torch.mm(now, kernel, out=wide)
            else:
                torch.mm(narrow.copy_(now), kernel, out=found)
                wide.copy_(found)
            both.add_(reset_update).sigmoid_()
            torch.add(echoed, of_new, out=echo)
            n.addcmul_(r, echo).tanh_()
            now = torch.lerp(n, now, z, out=after)
        ctx.save_for_backward(rows, weight, recurrent, gates, echoes, states)
        ctx.kinds = products, step, x.dtype
        return states[1:].transpose(0, 1)  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, recurrent, gates, echoes, states = ctx.saved_tensors
        products, step, given = ctx.kinds
        (T, B, H), kind = echoes.shape, gates.dtype
        # d gate = dh * factor; of the new value two: of all of it, and of the recurrent product in it.
        of_new, factors = _factors(gates, echoes, states)
        dh = dy.transpose(0, 1).to(kind, memory_format=torch.contiguous_format, copy=True)
        kernel, z, found = recurrent.to(step), gates[..., H : 2 * H], torch.empty(B, H, dtype=step)
        first, narrow = torch.zeros(B, H, dtype=kind), torch.empty(B, 3 * H, dtype=step)
        befores = (first, *dh.unbind()[:-1])
        rest = (part.unbind() for part in (dh, factors.view(T, B, 3, H), factors, z))
        for before, now, factor, gate, keep in reversed(list(zip(befores, *rest, strict=True))):
            factor.mul_(now[:, None])
            before.addcmul_(now, keep)
            if step == kind:
                before.addmm_(gate, kernel)
            else:
                before.add_(torch.mm(narrow.copy_(gate), kernel, out=found))
        d_bias = factors.sum((0, 1))
        d_recurrent_bias = d_bias.clone()
        of_gates = factors.to(products).flatten(0, 1)
        d_recurrent = (of_gates.t() @ states[:-1].flatten(0, 1).to(products)).to(kind)
        of_new.mul_(dh)
        d_bias[2 * H :] = of_new.sum((0, 1))
        of_gates[:, 2 * H :] = of_new.flatten(0, 1)
        dx = (of_gates @ weight.to(products)).view(T, B, -1).transpose(0, 1).to(given)
        d_weight = (of_gates.t() @ rows).to(kind)
        return dx, first, d_weight, d_recurrent, d_bias, d_recurrent_bias, None


def _factors(gates: Tensor, echoes: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
    """What dh is multiplied by on its way to the sum under n's tanh [T, B, H], and to the recurrent product's
    part of r, z and n [T, B, 3H]."""
    H = echoes.shape[-1]
    r, z, n = torch.split(gates, H, -1)
    factors = torch.empty_like(gates)
    of_r, of_z, of_echo = torch.split(factors, H, -1)
    of_new = torch.ops.aten.tanh_backward(1 - z, n)
    torch.mul(of_new, r, out=of_echo)
    torch.ops.aten.sigmoid_backward(of_new * echoes, r, grad_input=of_r)
    torch.ops.aten.sigmoid_backward(states[:-1] - n, z, grad_input=of_z)
    return of_new, factors
