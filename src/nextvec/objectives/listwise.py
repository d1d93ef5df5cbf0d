"""A query is to rank the true next chunk before every other chunk that could come."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from nextvec.errors import TrainingError
from nextvec.objectives.contrastive import confusable
from nextvec.objectives.sample import Sample
from nextvec.objectives.terms import Term, term

SCORES = 2**24
"""Scores that are held at once: more of them are made again in the backward pass, block by block."""


@term("listwise")
class Listwise(Term):
    """ListNet's top-one loss (Cao et al. 2007, equation 4) with one relevant item: with the cosines s of a
    position's query to the candidates c over `temperature`,

        log(sum of exp s(c)) - s(true next chunk),    the mean over the positions that count.

    Candidates are what an evaluation has: the unread chunks of the same row, and every chunk of the other
    documents of the batch. Left out are what was read, other windows of the same document (what they hold may
    have been read), and what has a cosine to the true chunk of at least `near_duplicate`. It looks at
    `Prediction.query` of models with `ranking = true`, at the first horizon.
    """

    def forward(self, sample: Sample) -> Tensor:
        """Scalar."""
        if sample.query is None:
            raise TrainingError(
                "the model gives no query",
                where="loss.listwise",
                remedy="train it with --set model.options.ranking=true",
            )
        (B, T, D), K = sample.inputs.shape, sample.horizons
        counts = sample.mask.view(B, T, K)[..., 0]
        row, place = counts.nonzero(as_tuple=True)  # [N]
        query = sample.query.reshape(B, T, D)[row, place].to(sample.dtype)
        goal = F.normalize(sample.target.view(B, T, K, D)[:, :, 0][row, place].to(sample.dtype), dim=-1)
        candidates, owner, at = self.candidates(sample)
        documents = torch.arange(B, device=row.device) if sample.documents is None else sample.documents
        total = sample.zero
        kind = sample.products or sample.dtype
        size = max(1, SCORES // max(len(candidates), 1))
        for start in range(0, len(row), size):
            some = slice(start, start + size)
            barred = (owner != row[some, None]) & (documents[owner] == documents[row[some, None]])
            barred |= (owner == row[some, None]) & (at <= place[some, None])
            parts = (query[some], goal[some], candidates.to(kind), barred)
            # Several blocks are not all kept: what a block needs is made again in the backward pass.
            one = (
                self.block(*parts)
                if size >= len(row)
                else checkpoint(self.block, *parts, use_reentrant=False)
            )
            total = total + one
        return total / max(len(row), 1)

    def block(self, query: Tensor, goal: Tensor, candidates: Tensor, barred: Tensor) -> Tensor:
        """The sum over n positions; the true chunk is its own candidate, apart from the list."""
        with torch.no_grad():
            near = confusable((goal.to(candidates.dtype) @ candidates.T).float(), self.config.near_duplicate)
        scores = (query.to(candidates.dtype) @ candidates.T).to(query.dtype) / self.config.temperature
        scores = scores.masked_fill(barred | near, -torch.inf)
        true = (query * goal).sum(-1, keepdim=True) / self.config.temperature
        return (torch.cat((true, scores), 1).logsumexp(1) - true[:, 0]).sum()

    def candidates(self, sample: Sample) -> tuple[Tensor, Tensor, Tensor]:
        """Every chunk of the batch: directions [V, D], their rows [V] and places [V] in them. Of each row
        the chunks that it reads and, at its end, the one after them."""
        B, T, D = sample.inputs.shape
        place = torch.arange(T + 1, device=sample.mask.device)
        full = torch.full((B,), T)
        lengths = (full if sample.lengths is None else sample.lengths).to(place.device)
        last = sample.target.view(B, T, sample.horizons, D)[:, :, 0]
        end = last[torch.arange(B, device=place.device), lengths - 1]
        known = sample.mask.view(B, T, sample.horizons)[torch.arange(B, device=place.device), lengths - 1, 0]
        held = torch.cat((sample.inputs, end[:, None]), 1).detach()
        held = held.scatter(1, lengths[:, None, None].expand(B, 1, D), end[:, None].detach().to(held.dtype))
        real = (place < lengths[:, None]) | ((place == lengths[:, None]) & known[:, None])
        owner, at = real.nonzero(as_tuple=True)
        return F.normalize(held[owner, at].to(sample.dtype), dim=-1), owner, at
