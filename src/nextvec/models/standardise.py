"""A frozen, robust normaliser between the vectors and a network.

Source: the normaliser of the Large Concept Model (LCM team, Large Concept Models: Language Modeling in a
Sentence Representation Space, 2024, section 2.3): (x - median) / spread in every dimension.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nextvec.errors import ModelError

NORMAL = 0.7413  # the interquartile range of a normal distribution times this is its standard deviation
FLAT = 1e-3  # of the middle dimension's spread: below it a dimension counts as constant
MAX_ROWS = 2**17


class Standardiser(nn.Module):
    """x -> (x - median) / spread, dimension by dimension, on [..., D] in the model's scale. Not learned.

    Until it is fitted it changes nothing. Quartiles rather than moments, because a few outliers (an encoder's
    answer to an empty page) must not set the scale of a dimension.

    Attributes:
        median, spread: [D] buffers, saved with the model. `spread` is 0.7413 times the interquartile range:
            the standard deviation, if the values are normally distributed.
    """

    median: Tensor
    spread: Tensor

    def __init__(self, d_embed: int) -> None:
        super().__init__()
        self.register_buffer("median", torch.zeros(d_embed))
        self.register_buffer("spread", torch.ones(d_embed))

    @torch.no_grad()
    def fit(self, rows: Tensor) -> None:
        """Take median and quartiles from vectors [N, D] in the model's scale (store's vectors / model.scale).

        Of more than 131,072 rows, evenly spaced ones are taken. A dimension that hardly varies gets the
        spread of the middle one: dividing by its own would turn its rounding errors into signal.

        Raises:
            ModelError: not [N, D], no row, or a value that is not finite.
        """
        if rows.ndim != 2 or rows.shape[1] != len(self.median) or not len(rows) or not rows.isfinite().all():
            said = f"cannot standardise by rows of shape {list(rows.shape)}"
            raise ModelError(said, remedy=f"give finite vectors [N, {len(self.median)}], at least one")
        taken = rows[:: -(-len(rows) // MAX_ROWS)].detach().double().cpu()
        at = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
        # Dimension by dimension: torch.quantile takes at most 2^24 values, and sorts a copy of them.
        low, middle, high = torch.stack([torch.quantile(column, at) for column in taken.unbind(1)], 1)
        spread = NORMAL * (high - low)
        varying = spread[spread > FLAT * spread.median()]
        usual = varying.median() if len(varying) else spread.new_ones(())
        spread = torch.where(spread > FLAT * usual, spread, usual)
        self.median.copy_(middle)
        self.spread.copy_(spread)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] in the model's scale -> standardised."""
        return (x - self.median) / self.spread

    def back(self, x: Tensor, *, shift: bool) -> Tensor:
        """Standardised [..., D] -> the model's scale; without `shift` the median is not added, which is right
        for a difference of two vectors."""
        return x * self.spread + self.median if shift else x * self.spread
