"""Does this follow at all? The confidence of a model that has seen true and broken continuations."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nextvec.errors import TrainingError
from nextvec.objectives.sample import Sample
from nextvec.objectives.terms import Term, term


@term("continuation")
class ContinuationTerm(Term):
    """Binary cross-entropy of the model's logit that the target (of the nearest horizon) continues what was
    read: 1 where the position counts, 0 where its target was taken from another document.

    Balanced: the mean over the true and the mean over the broken weigh one half each, so that a logit of 0
    stands for even odds whatever share was broken. A batch that has only one of the two says nothing (0).
    """

    def forward(self, sample: Sample) -> Tensor:
        """
        Raises:
            TrainingError: the model has no confidence, or the batch does not say what is broken.
        """
        if sample.confidence is None:
            raise TrainingError(
                "the model gives no confidence",
                where="loss.continuation",
                remedy="set model.options.confidence = true",
            )
        if sample.broken is None:
            raise TrainingError(
                "the batch has no broken continuations",
                where="loss.continuation",
                remedy="set data.broken above 0",
            )
        mask, target = sample.mask[:, :: sample.horizons], sample.target[:, :: sample.horizons]
        shown = mask | sample.broken
        logits = sample.confidence(target.masked_fill(~shown[..., None], 0.0)).to(sample.dtype)
        true, broken = logits[mask], logits[sample.broken]
        if not len(true) or not len(broken):
            return true[:0].sum() + sample.zero
        return 0.5 * (
            F.binary_cross_entropy_with_logits(true, torch.ones_like(true))
            + F.binary_cross_entropy_with_logits(broken, torch.zeros_like(broken))
        )
