"""Training batches, gathered from the memory map: seeded, resumable in mid-epoch, the same for any number of
worker processes."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from nextvec.data.curriculum import RowSource as VectorSource
from nextvec.data.mixing import MixtureComponent
from nextvec.data.sampler import EpochPlan, Sampler, Sampling
from nextvec.data.sampling import IntArray, SequenceShape, Spans, Stretches
from nextvec.data.tasks import Break, Breaks, broken_positions, query_rows, reading_order

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
FIXED = (0, 0)
"""Seed and epoch of what is drawn for `BatchSource.fixed`."""


@dataclass(frozen=True)
class Batch:
    """One batch of stretches, right-padded with zeros; K horizons.

    Attributes:
        inputs: float32 [B, T, D].
        targets: float32 [B, T, D], or [B, T, K, D] where K > 1: what the output at position t is meant for.
        mask: bool [B, T], or [B, T, K]: True where the loss counts.
        lengths: int64 [B], chunks read.
        documents: int64 [B], indices into the store's documents.
        full: nothing is padded.
        positions: how many of `mask` are True.
        broken: bool [B, T], or None where no continuations are broken: the targets there (of all horizons)
            are of another document. Never in `mask`.
        query: float32 [B, D], or None where there are no queries; a row of zeros is no query.
    """

    inputs: Tensor
    targets: Tensor
    mask: Tensor
    lengths: Tensor
    documents: IntArray
    full: bool
    positions: int
    broken: Tensor | None = None
    query: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """The same batch with its tensors on `device`."""
        if device.type == "cpu":
            return self
        held = {f.name: getattr(self, f.name) for f in fields(self)}
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=True)
            for name, value in held.items()
            if isinstance(value, Tensor)
        }
        return replace(self, **moved)


class BatchSource:
    """The batches of some documents.

    Args:
        vectors: the store's vectors.
        spans: the documents.
        shape: how they are cut.
        batch_size: full stretches in a batch (see `batch_stretches`).
        seed: with the epoch's number, all that the order depends on.
        workers: processes that gather ahead; 0 gathers in this one. The batches are the same.
        sampling: how the stretches of an epoch are drawn, and what is added to them.
    Raises:
        WindowError: the documents hold no target of this shape, or none to break another's continuation with.
        ConfigError: `sampling.mixing` names other sources than the documents'.
    """

    def __init__(
        self,
        vectors: VectorSource,
        spans: Spans,
        shape: SequenceShape,
        batch_size: int,
        *,
        seed: int = 0,
        workers: int = 0,
        sampling: Sampling | None = None,
    ) -> None:
        self.vectors, self.spans, self.shape = vectors, spans, shape
        self.batch_size, self.seed, self.workers = batch_size, seed, workers
        self.sampling = sampling or Sampling()
        self.sampler = Sampler(spans, shape, self.sampling, batch_size, seed, vectors)
        self.breaks = Breaks(spans, self.sampling.broken) if self.sampling.broken else None
        self._counts: dict[int, int] = {}

    @property
    def targets(self) -> int:
        """Targets of all horizons in one pass over the documents: what the masks of `fixed` count."""
        return self.sampler.targets

    @property
    def mixture(self) -> tuple[MixtureComponent, ...]:
        """What an epoch draws from which source; empty where sources are left as they are."""
        return self.sampler.mixture.parts if self.sampler.mixture else ()

    @property
    def batches_per_epoch(self) -> int:
        """Nominal length of an epoch, known without planning one: batches of one pass over the documents when
        all are filled."""
        positions = int(self.spans.targets_each(self.shape).sum())
        return -(-positions // (self.batch_size * self.shape.stride))

    def batches_in(self, epoch: int) -> int:
        """Batches of epoch number `epoch`: it is planned for this once, and the number kept."""
        if epoch not in self._counts:
            self._counts[epoch] = len(self.sampler.epoch(epoch).batches)
        return self._counts[epoch]

    def total(self, epochs: int, at_most: int = 0) -> int:
        """Batches of the first `epochs` epochs, or `at_most` (0: no limit) if that is less: epochs beyond it
        are not planned."""
        found = 0
        for epoch in range(epochs):
            if at_most and found >= at_most:
                break
            found += self.batches_in(epoch)
        return min(found, at_most) if at_most else found

    def epoch(self, epoch: int, skip: int = 0) -> Iterator[Batch]:
        """The batches of epoch number `epoch`, without the first `skip`: what an interrupted epoch goes on
        with.
        """
        plan = self.sampler.epoch(epoch)
        self._counts[epoch] = len(plan.batches)
        share = self.sampling.conditional
        return self._load(_Gathered(self.vectors, plan, (self.seed, epoch), share, self.breaks, skip))

    def fixed(self, *, plain: bool = False) -> Iterator[Batch]:
        """Every target once in an order that never changes: for validation.

        Queries and broken continuations are drawn as in training, the same ones each time.

        Args:
            plain: without them, so that runs with and without them can be compared.
        """
        share, breaks = (0.0, None) if plain else (self.sampling.conditional, self.breaks)
        return self._load(_Gathered(self.vectors, self.sampler.fixed(), FIXED, share, breaks))

    def _load(self, gathered: _Gathered) -> Iterator[Batch]:
        if self.workers == 0 or not len(gathered):
            return (gathered[i] for i in range(len(gathered)))
        loader = DataLoader(
            gathered,
            batch_size=None,
            num_workers=self.workers,
            # Without one of its own the loader draws from the global generator, and the number of workers
            # would change the dropout masks.
            generator=torch.Generator(),
            worker_init_fn=_let_parent_handle_signals,
        )
        return cast(Iterator[Batch], iter(loader))


class _Gathered(Dataset[Batch]):
    """The batches of a plan from number `skip` on; what is drawn for one depends on its number alone."""

    def __init__(
        self,
        vectors: VectorSource,
        plan: EpochPlan,
        seed: tuple[int, int],
        conditional: float,
        breaks: Breaks | None,
        skip: int = 0,
    ) -> None:
        self.vectors, self.plan, self.seed, self.skip = vectors, plan, seed, skip
        self.conditional, self.breaks = conditional, breaks

    def __len__(self) -> int:
        return max(len(self.plan.batches) - self.skip, 0)

    def __getitem__(self, index: int) -> Batch:
        number = index + self.skip
        stretches = self.plan.stretches.select(self.plan.batches[number])
        rng = np.random.default_rng([*self.seed, number + 1])
        shape = self.plan.shape
        query = query_rows(stretches, shape, self.conditional, rng) if self.conditional else None
        broken = self.breaks.draw(stretches, rng) if self.breaks else None
        return gather_batch(self.vectors, stretches, shape, query, broken)


def gather_batch(
    vectors: VectorSource,
    stretches: Stretches,
    shape: SequenceShape,
    query: IntArray | None = None,
    broken: Break | None = None,
) -> Batch:
    """Read the vectors of `stretches` (each once, inputs and targets together) and lay them out as a batch.

    Args:
        query: [B] row of each stretch's query, -1 for none.
        broken: where the targets are of another document.
    """
    T = int(stretches.read.max())
    place = np.arange(T)
    real = place < stretches.read[:, None]
    full = bool(real.all())
    scored = real & (place >= (stretches.read - stretches.scored)[:, None])
    lay_out = _around_the_gap if shape.task == "middle" else _one_after_another
    inputs, targets, inside = lay_out(vectors, stretches, shape, T)  # [B, T, D], [B, T, K, D], [B, T, K]
    if not full:
        inputs = np.where(real[..., None], inputs, 0)
    if not full or not inside.all():
        targets = np.where((real[..., None] & inside)[..., None], targets, 0)
    mask = scored[..., None] & inside
    foreign = None
    if broken is not None:
        foreign = broken_positions(broken, stretches, T)
        targets = _with_foreign(vectors, targets, foreign, broken, shape)
        mask &= ~foreign[..., None]
    if len(shape.horizons) == 1:
        targets, mask = targets[:, :, 0], mask[:, :, 0]
    return Batch(
        inputs=torch.from_numpy(inputs),
        targets=torch.from_numpy(targets),
        mask=torch.from_numpy(mask),
        lengths=torch.from_numpy(stretches.read),
        documents=stretches.document,
        full=full,
        positions=int(mask.sum()),
        broken=None if foreign is None else torch.from_numpy(foreign),
        query=None if query is None else torch.from_numpy(_queries(vectors, query)),
    )


def _one_after_another(
    vectors: VectorSource, stretches: Stretches, shape: SequenceShape, T: int
) -> tuple[FloatArray, FloatArray, BoolArray]:
    """Task next: chunks in their order, and for each those `horizons` further on, if in the document."""
    first, end, furthest = stretches.first[:, None], stretches.end[:, None], shape.horizons[-1]
    last = np.minimum(first + stretches.read[:, None] + furthest, end) - 1
    both = vectors.gather(np.minimum(first + np.arange(T + furthest), last))  # [B, T + furthest, D]
    ahead = [both[:, h : h + T] for h in shape.horizons]
    targets = ahead[0][:, :, None] if len(ahead) == 1 else np.stack(ahead, axis=2)
    inside = first[..., None] + np.arange(T)[:, None] + np.array(shape.horizons) < end[..., None]
    return both[:, :T], targets, inside


def _around_the_gap(
    vectors: VectorSource, stretches: Stretches, shape: SequenceShape, T: int
) -> tuple[FloatArray, FloatArray, BoolArray]:
    """Task middle: the gap's neighbours, the nearest last, and at the last position what is missing."""
    gap = stretches.first + T // 2
    places = np.append(reading_order(T), 0)
    both = vectors.gather(gap[:, None] + places)  # [B, T + 1, D]
    targets = np.zeros_like(both[:, :T, None])
    targets[:, -1, 0] = both[:, T]
    return both[:, :T], targets, np.ones((len(stretches), T, 1), dtype=bool)


def _with_foreign(
    vectors: VectorSource, targets: FloatArray, foreign: BoolArray, broken: Break, shape: SequenceShape
) -> FloatArray:
    """A copy of `targets` [B, T, K, D] with those of other documents where `foreign` [B, T]."""
    targets = targets.copy()
    stretch, position = np.nonzero(foreign)
    for k, horizon in enumerate(shape.horizons):
        rows = broken.rows(stretch, position, horizon - shape.horizon)
        targets[stretch, position, k] = vectors.gather(rows)
    return targets


def _queries(vectors: VectorSource, rows: IntArray) -> FloatArray:
    """[B, D] vectors of `rows` [B]; zeros for -1."""
    return np.where((rows >= 0)[:, None], vectors.gather(np.maximum(rows, 0)), np.float32(0))


def _let_parent_handle_signals(worker: int) -> None:
    # Ctrl-C reaches the whole process group; the training process decides what it means and ends the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
