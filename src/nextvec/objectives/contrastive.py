"""The prediction against what it is not: InfoNCE, the context that was read, broken continuations."""

from __future__ import annotations

import logging
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextvec.errors import TrainingError
from nextvec.objectives.config import TEMPERATURES, LossConfig
from nextvec.objectives.sample import UNKNOWN, Sample, Statistics
from nextvec.objectives.terms import Term, term

log = logging.getLogger("nextvec.objectives")

EMPTY = -1
"""The document of a place in the memory bank that nothing has taken yet."""
ROUNDING = 1e-5
"""A copy's cosine is 1 up to this."""


def confusable(cosines: Tensor, near_duplicate: float) -> Tensor:
    """Where a candidate with these cosines to the true target is too near to it to be called wrong."""
    return cosines >= min(near_duplicate, 1.0 - ROUNDING)


@term("infonce")
class InfoNCE(Term):
    """Symmetric InfoNCE (van den Oord et al. 2018, eq. 4; both directions as in CLIP, Radford et al. 2021).

    With the cosines s over the temperature and position i's negatives V(i),

        log(exp s(y_i, t_i) + sum of exp s(y_i, t_j) over j in V(i)) - s(y_i, t_i)    among targets,
        log(exp s(y_i, t_i) + sum of exp s(y_j, t_i) over j in V(i)) - s(y_i, t_i)    among predictions,

    each averaged over the positions that have a negative, and added (as the brief does; CLIP halves it).

    V(i) holds every other position of the batch whose target comes from **another document**; with
    `hard_negatives` the other targets of the **same document** too. In the first direction, for they have no
    prediction, there are further candidates: with `bank` = S the last S targets of earlier training batches,
    by the same rule; with `drawn_negative` one target of the same document, from anywhere in it. Never in
    V(i), from wherever: a target with a cosine to t_i of at least `near_duplicate`, for it would be as right
    an answer as t_i.

    A batch without any negative (the last of an epoch, say) counts as 0 and is logged, once. A single
    sequence without any, before there ever was one, is refused: that is what a batch size of 1 looks like.
    """

    targets: Tensor
    documents: Tensor
    found: Tensor

    @classmethod
    def needs_statistics(cls, config: LossConfig) -> str:
        return "a memory bank" if config.bank else ""

    def __init__(self, config: LossConfig, statistics: Statistics | None) -> None:
        """
        Raises:
            ConfigError: a bank, and no statistics that tell how long its vectors are.
        """
        super().__init__(config, statistics)
        if config.learn_temperature:
            self.log_temperature = nn.Parameter(torch.tensor(math.log(config.temperature)))
        if config.bank:
            mean = self.known(statistics).mean
            self.register_buffer("targets", mean.new_zeros(config.bank, len(mean)))
            self.register_buffer("documents", torch.full((config.bank,), EMPTY))
        self.register_buffer("found", torch.zeros((), dtype=torch.bool))
        self.warned = False

    @property
    def temperature(self) -> Tensor | float:
        """As configured, or a scalar as far as it is learned, within its bounds."""
        if not self.config.learn_temperature:
            return self.config.temperature
        low, high = (math.log(bound) for bound in TEMPERATURES)
        if self.training:
            # On the bound and not beyond it the clamp still lets a gradient through: it can come back.
            with torch.no_grad():
                self.log_temperature.clamp_(low, high)
        return self.log_temperature.clamp(low, high).exp()

    def forward(self, sample: Sample) -> Tensor:
        """Scalar."""
        queries = (sample.unit / self.temperature).to(sample.dtype)
        # In place where it can be: 4096 targets have 16 million scores, and every pass over them counts.
        negative = self.negatives(sample)
        candidates = allow(queries @ sample.unit_goal.T, negative, true=True)
        found = back = negative.any(dim=1)
        among_predictions = candidates.log_softmax(dim=0).diagonal()
        if self.config.bank:
            kept = self.bank_negatives(sample)
            further = allow(queries @ self.targets.to(sample.dtype).T, kept)
            candidates, found = torch.cat([candidates, further], dim=1), found | kept.any(dim=1)
        if self.config.drawn_negative:
            drawn, there = self.drawn_negatives(sample)
            further = (queries * drawn).sum(dim=1, keepdim=True).masked_fill(~there[:, None], -math.inf)
            candidates, found = torch.cat([candidates, further], dim=1), found | there
        among_targets = candidates.log_softmax(dim=1).diagonal()
        self._note(sample, found)
        if self.training and self.config.bank:
            self._remember(sample)
        # Without a negative the true one is alone, and its loss is 0.
        return -(
            among_targets.sum() / found.sum().clamp(min=1) + among_predictions.sum() / back.sum().clamp(min=1)
        )

    def negatives(self, sample: Sample) -> Tensor:
        """[N, N] bool: whether two positions are negatives of each other."""
        found = ~confusable(sample.alike, self.config.near_duplicate)
        if not self.config.hard_negatives:
            found &= sample.owner[:, None] != sample.owner
        return found.fill_diagonal_(False)

    def bank_negatives(self, sample: Sample) -> Tensor:
        """[N, S] bool: whether a target in the bank is a negative of the position of a row."""
        cosines = sample.unit_goal @ self.targets.to(sample.dtype).T
        found = ~confusable(cosines, self.config.near_duplicate)
        found &= self.documents != EMPTY
        if not self.config.hard_negatives:
            found &= sample.owner[:, None] != self.documents
        return found

    def drawn_negatives(self, sample: Sample) -> tuple[Tensor, Tensor]:
        """[N, D] unit vectors, and [N] whether each is there and no near-duplicate of its true target.

        Raises:
            TrainingError: the batch has none.
        """
        if sample.drawn is None:
            raise TrainingError(
                "the batch has no drawn negatives",
                where="loss.drawn_negative",
                remedy="draw them: Sampling(drawn=True) of nextvec.data",
            )
        drawn = sample.select(sample.drawn).detach()
        unit, there = F.normalize(drawn, dim=-1), (drawn != 0).any(dim=1)
        return unit, there & ~confusable((unit * sample.unit_goal).sum(dim=1), self.config.near_duplicate)

    @torch.no_grad()
    def _remember(self, sample: Sample) -> None:
        # New tensors: the backward pass still needs the old ones.
        size = self.config.bank
        owner = sample.owner if sample.documents is not None else torch.full_like(sample.owner, UNKNOWN)
        self.targets = torch.cat([self.targets, sample.unit_goal.to(self.targets.dtype)])[-size:].clone()
        self.documents = torch.cat([self.documents, owner])[-size:].clone()

    def _note(self, sample: Sample, found: Tensor) -> None:
        if not sample.count:
            return
        if bool(found.any()):
            self.found = self.found | self.training
            return
        self.refuse_single(sample)
        if not self.warned:
            self.warned = True
            log.info(
                "loss.infonce: a batch of %d sequences holds no negative and counts as 0", len(sample.mask)
            )

    def refuse_single(self, sample: Sample) -> None:
        """Raise TrainingError for a single sequence without a negative when there never was one before."""
        if self.training and len(sample.mask) == 1 and not self.config.bank and not self.found:
            raise TrainingError(
                f"a batch of 1 sequence with {sample.count} targets holds no negative",
                where="loss.infonce",
                remedy="raise optim.batch_size, or set loss.bank or loss.hard_negatives",
            )


def allow(scores: Tensor, negative: Tensor, *, true: bool = False) -> Tensor:
    """Scores [N, V], in place minus infinity where `negative` [N, V] is not; `true` keeps the diagonal."""
    barred = ~negative
    return scores.masked_fill_(barred.fill_diagonal_(False) if true else barred, -math.inf)


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
