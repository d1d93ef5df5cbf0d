"""Which stretch of which document stands in which batch of which epoch: a pure function of (documents, shape,
sampling, seed, epoch)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from nextvec.data.curriculum import Coherence, Curriculum, RowSource, shape_at, share_at
from nextvec.data.mixing import Mixture
from nextvec.data.sampling import IntArray, SequenceShape, Spans, Stretches, batch_stretches, epoch_rng


@dataclass(frozen=True)
class Sampling:
    """How the batches of an epoch are drawn; as it stands, every target counts once and nothing is added.

    Attributes:
        max_per_document: stretches of one document in a batch at most; 0 sets no limit.
        mixing: source -> its share of the targets of an epoch, as weights; empty leaves them as they are.
        mixing_temperature: shares are raised to 1 / temperature: 1 leaves them, above 1 evens them out.
        conditional: share of the stretches that are given a query (`nextvec.data.tasks.query_rows`).
        broken: share of the stretches whose targets are replaced from a random position on
            (`nextvec.data.tasks.Breaks`).
        curriculum: "none", "context" or "coherence" (`nextvec.data.curriculum`).
        curriculum_share: share of the epochs the curriculum takes.
        epochs: of the run; what the curriculum is laid out over.
    """

    max_per_document: int = 0
    mixing: Mapping[str, float] = field(default_factory=dict)
    mixing_temperature: float = 1.0
    conditional: float = 0.0
    broken: float = 0.0
    curriculum: Curriculum = "none"
    curriculum_share: float = 0.5
    epochs: int = 1


@dataclass(frozen=True)
class EpochPlan:
    """The stretches of an epoch, cut by `shape`, and its batches: indices into them."""

    shape: SequenceShape
    stretches: Stretches
    batches: list[IntArray]


class Sampler:
    """Plans epochs.

    Args:
        spans: the documents.
        shape: how they are cut when no curriculum says otherwise.
        sampling: how their stretches are drawn.
        batch_size: full stretches in a batch; batches of shorter ones hold as many targets.
        seed: with the epoch's number, all that the order depends on.
        vectors: asked for the documents' vectors where the curriculum needs them.
    Raises:
        WindowError: the documents hold no target of this shape.
        ConfigError: `mixing` names other sources than the documents'.
    """

    def __init__(
        self,
        spans: Spans,
        shape: SequenceShape,
        sampling: Sampling,
        batch_size: int,
        seed: int,
        vectors: RowSource,
    ) -> None:
        self.spans, self.shape, self.sampling = spans, shape, sampling
        self.batch_size, self.seed = batch_size, seed
        self.targets = spans.targets(shape)
        self.mixture = Mixture.of(spans, shape, sampling.mixing, sampling.mixing_temperature)
        self.coherence = Coherence(vectors, spans) if sampling.curriculum == "coherence" else None

    def epoch(self, epoch: int) -> EpochPlan:
        """Of training epoch number `epoch`, from 0."""
        how, rng = self.sampling, epoch_rng(self.seed, epoch)
        shape = self.shape
        if how.curriculum == "context":
            shape = shape_at(shape, epoch, how.epochs, how.curriculum_share)
        stretches = self.mixture.draw(self.spans, shape, rng) if self.mixture else self.spans.cut(shape, rng)
        if self.coherence is not None:
            share = share_at(epoch, how.epochs, how.curriculum_share)
            stretches = stretches.select(self.coherence.easiest(stretches, shape, share))
        return self._plan(shape, stretches, rng)

    def fixed(self) -> EpochPlan:
        """Every target once, in an order that never changes."""
        return self._plan(self.shape, self.spans.cut(self.shape), None)

    def _plan(self, shape: SequenceShape, stretches: Stretches, rng: np.random.Generator | None) -> EpochPlan:
        # A batch holds as many targets at every stage of a curriculum: those of full stretches of the end.
        batches = batch_stretches(
            stretches, self.batch_size, self.shape.stride, rng, self.sampling.max_per_document
        )
        return EpochPlan(shape, stretches, batches)
