"""Regression onto the next vector. Every term is a function of

    prediction [B, T, D]   the model's raw output,
    target     [B, T, D]   the vector it should have been,
    mask       [B, T]      True where the position counts,

and returns a scalar: the mean over the positions that count. Positions outside the mask contribute neither
value nor gradient. The arithmetic runs in the target's precision, whatever the model's was.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def mse(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Mean over positions **and dimensions** of (prediction - target)^2.

    This is the brief's loss ("0.0005" at D = 768 and unit norm): for unit vectors it is 2 (1 - cos) / D, so
    its size, and that of its gradient, fall with the dimension.
    """
    return masked_mean((prediction.to(target.dtype) - target).square().mean(dim=-1), mask)


def cosine(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Mean over positions of 1 - cos(prediction, target); it leaves the prediction's norm free."""
    return masked_mean(1.0 - cosine_similarity(prediction, target), mask)


def cosine_similarity(prediction: Tensor, target: Tensor) -> Tensor:
    """cos(prediction, target) of every position: [B, T, D] x [B, T, D] -> [B, T]."""
    return F.cosine_similarity(prediction.to(target.dtype), target, dim=-1)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of `values` [B, T] where `mask` [B, T] is True (0 when it is True nowhere)."""
    # `where` and not a product: 0 x infinity at a padded position would be NaN.
    kept = torch.where(mask, values, torch.zeros((), dtype=values.dtype, device=values.device))
    return kept.sum() / mask.sum().clamp(min=1)
