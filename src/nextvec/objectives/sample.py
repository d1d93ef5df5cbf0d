"""All that a loss term may look at: one batch, and what is known of the encoder's vectors.

Everything is in the network's scale (a vector over `model.scale`). Legend: B batch, T time (chunks read), K
horizons, P = T K positions, D embedding, N positions that count, R encoder vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

UNKNOWN = -2
"""In the place of a document that no one named: it differs from every named one."""


@dataclass(frozen=True, eq=False)
class Sample:
    """One batch as the loss sees it. What stands outside the mask is never looked at, NaN included.

    Selections and products that several terms need are made once, when the first asks. They are in float32,
    or in the target's precision where that is higher, whatever the model's was.

    Attributes:
        prediction: [B, P, D], the raw output.
        target: [B, P, D], the vector it should have been.
        mask: [B, P] bool, True where a position counts.
        inputs: [B, T, D], the chunks that were read; position p has read chunks 0..p // K.
        lengths: [B], the real chunks of each row of `inputs`; None when all are full.
        documents: [B] int64, the document of each row; None when every row is a document of its own.
        broken: [B, T] bool, True where the targets come from another document (never where `mask` is True).
        confidence: candidates [B, T, D] for the nearest horizon -> logits [B, T] of "this continues what was
            read".
        query: [B, T, D] of unit length, what the model ranks by; None where it has no ranking head.
        drawn: [B, P, D], for every position another target of its document, zeros where there is none; None
            where none are drawn.
        products: what large products of unit vectors may be taken in, where the model runs in less than
            float32; None takes `dtype`.
    """

    prediction: Tensor
    target: Tensor
    mask: Tensor
    inputs: Tensor
    lengths: Tensor | None = None
    documents: Tensor | None = None
    broken: Tensor | None = None
    confidence: Callable[[Tensor], Tensor] | None = None
    query: Tensor | None = None
    drawn: Tensor | None = None
    products: torch.dtype | None = None

    @cached_property
    def index(self) -> Tensor:
        """[N]: where the positions that count lie among all B x P."""
        return self.mask.reshape(-1).nonzero().squeeze(-1)

    @property
    def horizons(self) -> int:
        """K."""
        return self.mask.shape[1] // self.inputs.shape[1]

    @property
    def count(self) -> int:
        """N."""
        return len(self.index)

    @property
    def dtype(self) -> torch.dtype:
        """What the terms are computed in."""
        return torch.promote_types(self.target.dtype, torch.float32)

    @cached_property
    def raw(self) -> Tensor:
        """[N, D]: the predictions that count."""
        return self.select(self.prediction)

    @cached_property
    def goal(self) -> Tensor:
        """[N, D]: their targets."""
        return self.select(self.target).detach()

    @cached_property
    def unit(self) -> Tensor:
        """[N, D]: the predictions that count, of length 1."""
        return F.normalize(self.raw, dim=-1)

    @cached_property
    def unit_goal(self) -> Tensor:
        """[N, D]: their targets, of length 1."""
        return F.normalize(self.goal, dim=-1)

    @cached_property
    def cosines(self) -> Tensor:
        """[N]: of every prediction and its target."""
        return (self.unit * self.unit_goal).sum(dim=-1)

    @cached_property
    def alike(self) -> Tensor:
        """[N, N]: cosines between the targets. Without gradient."""
        return self.unit_goal @ self.unit_goal.T

    @cached_property
    def owner(self) -> Tensor:
        """[N] int64: the document of every position that counts; where none is named, its row, counted down
        from UNKNOWN."""
        rows = torch.div(self.index, self.mask.shape[1], rounding_mode="floor")
        return UNKNOWN - 1 - rows if self.documents is None else self.documents.to(rows.device)[rows]

    def select(self, values: Tensor) -> Tensor:
        """Of values [B, P, D] those that count, [N, D]."""
        return values.reshape(-1, values.shape[-1])[self.index].to(self.dtype)

    def lay_out(self, rows: Tensor) -> Tensor:
        """Undo `select`: rows [N, D] at their places of [B, P, D], zero elsewhere."""
        B, P = self.mask.shape
        return rows.new_zeros(B * P, rows.shape[-1]).index_copy(0, self.index, rows).view(B, P, -1)

    def mean(self, values: Tensor) -> Tensor:
        """Mean of values [N]; 0 when there is none."""
        return values.sum() / max(self.count, 1)

    @property
    def zero(self) -> Tensor:
        """0, with a gradient that is 0: what a term says when it has nothing to look at."""
        return self.raw[:0].sum()


@dataclass(frozen=True, eq=False)
class Statistics:
    """What is known of the encoder's vectors, from training documents, in the network's scale.

    Attributes:
        mean, std: [D], of every dimension.
        rows: [R, D], a sample of the vectors, R >= 2.
    """

    mean: Tensor
    std: Tensor
    rows: Tensor

    @cached_property
    def unit_std(self) -> Tensor:
        """[D]: the std of every dimension of the sampled vectors at length 1."""
        return F.normalize(self.rows.double(), dim=-1).std(dim=0).to(self.rows.dtype)

    def some(self, most: int) -> Tensor:
        """At most so many of `rows`, evenly spread over them: [n, D]."""
        chosen = torch.linspace(0, len(self.rows) - 1, min(most, len(self.rows)), dtype=torch.float64)
        return self.rows[chosen.long().to(self.rows.device)]
