"""What a model answers. Shapes: B batch, T time (chunks), K horizons, D embedding."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a model says comes next.

    Attributes:
        raw: [B, T, D] ([B, D] from a step): the vector as the encoder would give it, at the first (often the
            only) horizon. Decoders take it.
        extras: what was asked for besides, such as AMN's attention weights.
        further: [B, T, K - 1, D] ([B, K - 1, D] from a step): the same for the other horizons; None where
            the model has one.
        query: [B, T, D] ([B, D] from a step), of unit length: the direction to rank candidates by, at the
            first horizon; None where the model has no ranking head, and `unit` ranks.
    """

    raw: Tensor
    extras: dict[str, Tensor] = field(default_factory=dict)
    further: Tensor | None = None
    query: Tensor | None = None

    @property
    def unit(self) -> Tensor:
        """`raw` divided by its length, for cosine and retrieval. Same shape."""
        return F.normalize(self.raw, dim=-1)

    @property
    def ahead(self) -> Tensor:
        """All horizons, nearest first: [B, T, K, D] ([B, K, D] from a step)."""
        first = self.raw.unsqueeze(-2)
        return first if self.further is None else torch.cat((first, self.further), -2)

    @property
    def everything(self) -> Tensor:
        """`ahead`, and after the horizons the query where there is one."""
        return self.ahead if self.query is None else torch.cat((self.ahead, self.query.unsqueeze(-2)), -2)


def at_last(values: Tensor, last: Tensor | None) -> Tensor:
    """values [B, T, ...] at position `last` [B] of each row, or at the very last one of all -> [B, ...]."""
    if last is None:
        return values[:, -1]
    return values[torch.arange(values.shape[0], device=values.device), last]
