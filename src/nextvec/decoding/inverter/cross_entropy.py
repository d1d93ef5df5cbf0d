"""Cross entropy of an output layer whose logits are never all there at once.

[N, V] logits of a batch are its largest tensor by far: with 2,000 tokens and 8,000 words 64 MB in float32,
made three times over by torch's own operations. Here they are made for some rows at a time, while they fit
into the cache, and turned into the gradient there and then.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

ROWS = 256


def cross_entropy(hidden: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    """Mean over N of -log softmax(hidden weight^T)[target], in nats.

    Args:
        hidden: [N, H], in the dtype that the products are to be made in.
        weight: [V, H].
        target: [N] int64.
    """
    loss: Tensor = _CrossEntropy.apply(hidden, weight, target)  # type: ignore[no-untyped-call]
    return loss


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, target: Tensor) -> Tensor:
        kind = hidden.dtype
        learning = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        narrow = weight.to(kind)
        by_hidden = torch.empty_like(hidden) if learning else None
        by_weight = torch.zeros_like(weight) if learning else None
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for start in range(0, len(hidden), ROWS):
            h, t = hidden[start : start + ROWS], target[start : start + ROWS, None]
            logits = (h @ narrow.T).float()
            normaliser = torch.logsumexp(logits, -1, keepdim=True)
            total += (normaliser - logits.gather(-1, t)).sum()
            if by_hidden is None or by_weight is None:
                continue
            slope = logits.sub_(normaliser).exp_()
            slope.scatter_add_(-1, t, slope.new_full(t.shape, -1.0))
            slope = slope.to(kind)
            by_hidden[start : start + ROWS] = slope @ narrow
            by_weight += slope.T @ h
        ctx.count = len(hidden)
        ctx.save_for_backward(by_hidden, by_weight)
        return total / len(hidden)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        by_hidden, by_weight = ctx.saved_tensors
        share = grad / ctx.count
        return by_hidden * share.to(by_hidden.dtype), by_weight * share.to(by_weight.dtype), None
