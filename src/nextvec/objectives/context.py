"""The answer and not the context: what comes next is not what has been read."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nextvec.objectives.contrastive import allow, confusable
from nextvec.objectives.sample import Sample
from nextvec.objectives.terms import Term, term


@term("context")
class Context(Term):
    """CSLoss of the sentence-level language model (Ippolito et al. 2020, "Toward Better Storylines with
    Sentence-Level Language Models"): a softmax over the true next sentence and, as its only distractors, the
    sentences of the context.

    Here: the chunks that a position has read, back to the start of its window. Deviations: the score is a
    cosine over `temperature`, as in `infonce` (there an inner product of BERT means); a chunk with a cosine
    to the true target of at least `near_duplicate` is no distractor. Mean over the positions that have one.
    """

    def forward(self, sample: Sample) -> Tensor:
        """Scalar."""
        (B, T, _), P = sample.inputs.shape, sample.mask.shape[1]
        position, chunk = (torch.arange(n, device=sample.mask.device) for n in (P, T))
        last = torch.div(position, sample.horizons, rounding_mode="floor")
        read = (chunk <= last[:, None]).expand(B, P, T)
        inputs = sample.inputs.detach().to(sample.dtype)
        if sample.lengths is not None:
            real = chunk < sample.lengths.to(chunk.device)[:, None]  # [B, T]
            inputs, read = inputs.masked_fill(~real[..., None], 0.0), read & real[:, None]
        chunks = F.normalize(inputs, dim=-1).mT  # [B, D, T]
        scores = sample.select(sample.lay_out(sample.unit) @ chunks)  # [N, T]
        nearness = sample.select(sample.lay_out(sample.unit_goal) @ chunks)
        wrong = read.reshape(-1, T)[sample.index] & ~confusable(nearness, self.config.near_duplicate)
        temperature = self.config.temperature
        true = sample.cosines / temperature
        candidates = torch.cat([true[:, None], allow(scores / temperature, wrong)], dim=1)
        # Without a distractor the true one is alone, and its loss is 0.
        return -candidates.log_softmax(dim=1)[:, 0].sum() / wrong.any(dim=1).sum().clamp(min=1)
