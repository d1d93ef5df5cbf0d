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

from nextvec.data.negatives import Break, Breaks, broken_positions, other_targets
from nextvec.data.sampling import (
    Coherence,
    EpochPlan,
    Mixture,
    MixtureComponent,
    RowSource,
    Sampling,
    batch_windows,
    epoch_rng,
    shape_at,
    share_at,
)
from nextvec.data.windows import FURTHEST_QUERY, IntArray, SequenceShape, Windows, reading_order

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
FIXED = (0, 0)
"""Seed and epoch of what is drawn for `BatchSource.fixed`."""


@dataclass(frozen=True)
class Batch:
    """One batch of windows, right-padded with zeros; K horizons.

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
        drawn: of the shape of `targets`, for each of them another target of its document, zeros where there
            is none; None where none are drawn.
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
    drawn: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """The same batch with its tensors on `device`.

        The copies are waited for: the memory that they are made from is not pinned, and on Apple's GPUs one
        that is not waited for may read what has been overwritten since, as is reported of torch.
        """
        if device.type == "cpu":
            return self
        held = {f.name: getattr(self, f.name) for f in fields(self)}
        moved: dict[str, Any] = {
            name: value.to(device) for name, value in held.items() if isinstance(value, Tensor)
        }
        return replace(self, **moved)


class BatchSource:
    """The batches of some documents.

    Args:
        shape: how they are cut when no curriculum says otherwise.
        batch_size: full windows in a batch; batches of shorter ones hold as many targets (`batch_windows`).
        seed: with the epoch's number, all that the order depends on.
        workers: processes that gather ahead; 0 gathers in this one. The batches are the same.
        sampling: how the windows of an epoch are drawn, and what is added to them.
    Attributes:
        targets: of all horizons in one pass over the documents: what the masks of `fixed` count.
    Raises:
        WindowError: the documents hold no target of this shape, or none to break another's continuation with.
        ConfigError: `sampling.mixing` names other sources than the documents'.
    """

    def __init__(
        self,
        vectors: RowSource,
        documents: Windows,
        shape: SequenceShape,
        batch_size: int,
        *,
        seed: int = 0,
        workers: int = 0,
        sampling: Sampling | None = None,
    ) -> None:
        self.vectors, self.documents, self.shape = vectors, documents, shape
        self.batch_size, self.seed, self.workers = batch_size, seed, workers
        self.sampling = sampling or Sampling()
        how = self.sampling
        self.targets = documents.targets(shape)
        self._mixture = Mixture.of(documents, shape, how.mixing, how.mixing_temperature)
        self._coherence = Coherence(vectors, documents) if how.curriculum == "coherence" else None
        self.breaks = Breaks(documents, how.broken) if how.broken else None
        self._counts: dict[int, int] = {}

    @property
    def mixture(self) -> tuple[MixtureComponent, ...]:
        """What an epoch draws from which source; empty where sources are left as they are."""
        return self._mixture.parts if self._mixture else ()

    def planned(self, epoch: int) -> EpochPlan:
        """The windows of training epoch number `epoch`, from 0, and its batches."""
        how, shape, rng = self.sampling, self.shape, epoch_rng(self.seed, epoch)
        if how.curriculum == "context":
            shape = shape_at(shape, epoch, how.epochs, how.curriculum_share)
        mixture, documents = self._mixture, self.documents
        windows = mixture.draw(documents, shape, rng) if mixture else documents.cut(shape, rng)
        if self._coherence is not None:
            share = share_at(epoch, how.epochs, how.curriculum_share)
            windows = windows.select(self._coherence.easiest(windows, shape, share))
        return self._plan(shape, windows, rng)

    def _plan(
        self, shape: SequenceShape, windows: Windows, rng: np.random.Generator | None = None
    ) -> EpochPlan:
        # A batch holds as many targets at every stage of a curriculum: those of full windows of the end.
        most, stride = self.sampling.max_per_document, self.shape.stride
        return EpochPlan(shape, windows, batch_windows(windows, self.batch_size, stride, rng, most))

    def batches_in(self, epoch: int) -> int:
        """Batches of epoch number `epoch`: it is planned for this once, and the number kept."""
        if epoch not in self._counts:
            self._counts[epoch] = len(self.planned(epoch).batches)
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
        plan = self.planned(epoch)
        self._counts[epoch] = len(plan.batches)
        share = self.sampling.conditional
        drawn = self.sampling.drawn
        return self._load(_Gathered(self.vectors, plan, (self.seed, epoch), share, self.breaks, skip, drawn))

    def fixed(self, *, plain: bool = False) -> Iterator[Batch]:
        """Every target once in an order that never changes: for validation.

        Queries and broken continuations are drawn as in training, the same ones each time.

        Args:
            plain: without them, so that runs with and without them can be compared.
        """
        share, breaks = (0.0, None) if plain else (self.sampling.conditional, self.breaks)
        plan = self._plan(self.shape, self.documents.cut(self.shape))
        return self._load(_Gathered(self.vectors, plan, FIXED, share, breaks, drawn=self.sampling.drawn))

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
        vectors: RowSource,
        plan: EpochPlan,
        seed: tuple[int, int],
        conditional: float,
        breaks: Breaks | None,
        skip: int = 0,
        drawn: bool = False,
    ) -> None:
        self.vectors, self.plan, self.seed, self.skip = vectors, plan, seed, skip
        self.conditional, self.breaks, self.drawn = conditional, breaks, drawn

    def __len__(self) -> int:
        return max(len(self.plan.batches) - self.skip, 0)

    def __getitem__(self, index: int) -> Batch:
        number = index + self.skip
        windows = self.plan.windows.select(self.plan.batches[number])
        rng = np.random.default_rng([*self.seed, number + 1])
        shape = self.plan.shape
        query = query_rows(windows, shape, self.conditional, rng) if self.conditional else None
        broken = self.breaks.draw(windows, rng) if self.breaks else None
        other = other_targets(windows, shape, rng) if self.drawn else None
        return gather_batch(self.vectors, windows, shape, query, broken, other)


def gather_batch(
    vectors: RowSource,
    windows: Windows,
    shape: SequenceShape,
    query: IntArray | None = None,
    broken: Break | None = None,
    other: IntArray | None = None,
) -> Batch:
    """Read the vectors of `windows` (each once, inputs and targets together) and lay them out as a batch.

    Args:
        query: [B] row of each window's query, -1 for none.
        broken: where the targets are of another document.
        other: [B, T, K] row of another target of the same document, -1 for none.
    """
    T = int(windows.read.max())
    place = np.arange(T)
    real = place < windows.read[:, None]
    full = bool(real.all())
    scored = real & (place >= (windows.read - windows.scored)[:, None])
    lay_out = _around_the_gap if shape.task == "middle" else _one_after_another
    inputs, targets, inside = lay_out(vectors, windows, shape, T)  # [B, T, D], [B, T, K, D], [B, T, K]
    if not full:
        inputs = np.where(real[..., None], inputs, 0)
    if not full or not inside.all():
        targets = np.where((real[..., None] & inside)[..., None], targets, 0)
    mask = scored[..., None] & inside
    foreign = None
    if broken is not None:
        foreign = broken_positions(broken, windows, T)
        targets = _with_foreign(vectors, targets, foreign, broken, shape)
        mask &= ~foreign[..., None]
    drawn = None if other is None else _rows_or_zeros(vectors, other)
    if len(shape.horizons) == 1:
        targets, mask = targets[:, :, 0], mask[:, :, 0]
        drawn = None if drawn is None else drawn[:, :, 0]
    return Batch(
        inputs=torch.from_numpy(inputs),
        targets=torch.from_numpy(targets),
        mask=torch.from_numpy(mask),
        lengths=torch.from_numpy(windows.read),
        documents=windows.document,
        full=full,
        positions=int(mask.sum()),
        broken=None if foreign is None else torch.from_numpy(foreign),
        query=None if query is None else torch.from_numpy(_rows_or_zeros(vectors, query)),
        drawn=None if drawn is None else torch.from_numpy(drawn),
    )


def _one_after_another(
    vectors: RowSource, windows: Windows, shape: SequenceShape, T: int
) -> tuple[FloatArray, FloatArray, BoolArray]:
    """Task next: chunks in their order, and for each those `horizons` further on, if in the document."""
    first, end, furthest = windows.start[:, None], windows.end[:, None], shape.horizons[-1]
    last = np.minimum(first + windows.read[:, None] + furthest, end) - 1
    both = vectors.gather(np.minimum(first + np.arange(T + furthest), last))  # [B, T + furthest, D]
    ahead = [both[:, h : h + T] for h in shape.horizons]
    targets = ahead[0][:, :, None] if len(ahead) == 1 else np.stack(ahead, axis=2)
    inside = first[..., None] + np.arange(T)[:, None] + np.array(shape.horizons) < end[..., None]
    return both[:, :T], targets, inside


def _around_the_gap(
    vectors: RowSource, windows: Windows, shape: SequenceShape, T: int
) -> tuple[FloatArray, FloatArray, BoolArray]:
    """Task middle: the gap's neighbours, the nearest last, and at the last position what is missing."""
    gap = windows.start + T // 2
    places = np.append(reading_order(T), 0)
    both = vectors.gather(gap[:, None] + places)  # [B, T + 1, D]
    targets = np.zeros_like(both[:, :T, None])
    targets[:, -1, 0] = both[:, T]
    return both[:, :T], targets, np.ones((len(windows), T, 1), dtype=bool)


def _with_foreign(
    vectors: RowSource, targets: FloatArray, foreign: BoolArray, broken: Break, shape: SequenceShape
) -> FloatArray:
    """A copy of `targets` [B, T, K, D] with those of other documents where `foreign` [B, T]."""
    targets = targets.copy()
    window, position = np.nonzero(foreign)
    for k, horizon in enumerate(shape.horizons):
        rows = broken.rows(window, position, horizon - shape.horizon)
        targets[window, position, k] = vectors.gather(rows)
    return targets


def query_rows(windows: Windows, shape: SequenceShape, share: float, rng: np.random.Generator) -> IntArray:
    """[N] row of each window's query, or -1 for none.

    A share of the windows is given one: a chunk of the same document, 1 to 8 after everything that the
    window reads or predicts. A window at the end of its document can have none.
    """
    used = windows.start + windows.read + shape.horizons[-1] - 1  # the last row read or predicted
    used = np.minimum(used, windows.end - 1)
    room = np.minimum(windows.end - 1 - used, FURTHEST_QUERY)
    drawn, place = rng.random((2, len(windows)))
    row = used + 1 + (place * room).astype(np.int64)
    return np.where((drawn < share) & (room > 0), row, -1)


def _rows_or_zeros(vectors: RowSource, rows: IntArray) -> FloatArray:
    """[..., D] vectors of `rows` [...]; zeros for -1."""
    return np.where((rows >= 0)[..., None], vectors.gather(np.maximum(rows, 0)), np.float32(0))


def _let_parent_handle_signals(worker: int) -> None:
    # Ctrl-C reaches the whole process group; the training process decides what it means and ends the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
