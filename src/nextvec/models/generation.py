"""What a head owes that gives samples and not only one point."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn


class GenerativeHead(nn.Module):
    """A head whose output depends on noise. Called as other heads are, it gives the point prediction.

    What it says is a correction to the residual's baseline where there is one; the model turns it (gate,
    standardiser, baseline) into vectors of its own scale, and hands those back to `score`.

    Attributes:
        draws: how many samples `score` needs of each position.
    """

    draws: ClassVar[int]

    @abstractmethod
    def draw(self, hidden: Tensor, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Hidden states [..., H] -> `count` independent samples [count, ..., D] of what it may say."""

    @abstractmethod
    def score(self, samples: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        """The head's own loss, a scalar: samples [draws, B, T, D] against targets [B, T, D], in the model's
        scale, over the positions where mask [B, T] is True."""
