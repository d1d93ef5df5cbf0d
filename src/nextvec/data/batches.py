"""Training batches, gathered from the memory map: seeded, resumable in mid-epoch, the same for any number of
worker processes."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from nextvec.data.sampling import IntArray, SequenceShape, Spans, Stretches, batch_stretches, epoch_rng


class VectorSource(Protocol):
    """Anything whose rows can be gathered: a store's `vectors`."""

    def gather(self, rows: IntArray) -> NDArray[np.float32]:
        """float32 [..., D] of rows [...]."""
        ...


@dataclass(frozen=True)
class Batch:
    """One batch of stretches, right-padded with zeros.

    inputs [B, T, D] and targets [B, T, D] are float32; the output at position t is meant for targets[:, t].
    mask [B, T] is True where the loss counts; lengths [B] counts the chunks read; documents [B] are indices
    into the store's documents. `full` says that nothing is padded; `positions` counts the True of `mask`.
    """

    inputs: Tensor
    targets: Tensor
    mask: Tensor
    lengths: Tensor
    documents: IntArray
    full: bool
    positions: int

    def to(self, device: torch.device) -> Batch:
        """The same batch with its tensors on `device`."""
        if device.type == "cpu":
            return self
        return replace(
            self,
            inputs=self.inputs.to(device, non_blocking=True),
            targets=self.targets.to(device, non_blocking=True),
            mask=self.mask.to(device, non_blocking=True),
            lengths=self.lengths.to(device, non_blocking=True),
        )


class BatchSource:
    """The batches of some documents.

    Args:
        vectors: the store's vectors.
        spans: the documents.
        shape: how they are cut.
        batch_size: full stretches in a batch (see `batch_stretches`).
        seed: with the epoch's number, all that the order depends on.
        workers: processes that gather ahead; 0 gathers in this one. The batches are the same.
    Raises:
        WindowError: the documents hold no target of this shape.
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
    ) -> None:
        self.vectors, self.spans, self.shape = vectors, spans, shape
        self.batch_size, self.seed, self.workers = batch_size, seed, workers
        self.targets = spans.targets(shape)

    @property
    def batches_per_epoch(self) -> int:
        """Nominal length of an epoch: what schedules are laid out for. An epoch has at most this many
        batches.
        """
        return -(-self.targets // (self.batch_size * self.shape.stride))

    def epoch(self, epoch: int, skip: int = 0) -> Iterator[Batch]:
        """The batches of epoch number `epoch`, without the first `skip`: what an interrupted epoch goes on
        with.
        """
        rng = epoch_rng(self.seed, epoch)
        stretches = self.spans.cut(self.shape, rng)
        return self._load(
            stretches, batch_stretches(stretches, self.batch_size, self.shape.stride, rng)[skip:]
        )

    def fixed(self) -> Iterator[Batch]:
        """Every target once in an order that never changes: for validation."""
        stretches = self.spans.cut(self.shape)
        return self._load(stretches, batch_stretches(stretches, self.batch_size, self.shape.stride))

    def _load(self, stretches: Stretches, batches: list[IntArray]) -> Iterator[Batch]:
        gathered = _Gathered(self.vectors, stretches, batches, self.shape.horizon)
        if self.workers == 0 or not batches:
            return (gathered[i] for i in range(len(batches)))
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
    def __init__(
        self, vectors: VectorSource, stretches: Stretches, batches: list[IntArray], horizon: int
    ) -> None:
        self.vectors, self.stretches, self.batches, self.horizon = vectors, stretches, batches, horizon

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Batch:
        return gather_batch(self.vectors, self.stretches.select(self.batches[index]), self.horizon)


def gather_batch(vectors: VectorSource, stretches: Stretches, horizon: int) -> Batch:
    """Read the vectors of `stretches` (each once, inputs and targets together) and lay them out as a
    batch.
    """
    T = int(stretches.read.max())
    offsets = np.arange(T + horizon)
    last = (stretches.read + horizon - 1)[:, None]
    rows = stretches.first[:, None] + np.minimum(offsets, last)  # [B, T + horizon]
    both = vectors.gather(rows)
    inputs, targets = both[:, :T], both[:, horizon:]
    real = offsets[:T] < stretches.read[:, None]
    full = bool(real.all())
    if not full:
        inputs, targets = np.where(real[..., None], inputs, 0), np.where(real[..., None], targets, 0)
    scored = real & (offsets[:T] >= (stretches.read - stretches.scored)[:, None])
    return Batch(
        inputs=torch.from_numpy(inputs),
        targets=torch.from_numpy(targets),
        mask=torch.from_numpy(scored),
        lengths=torch.from_numpy(stretches.read),
        documents=stretches.document,
        full=full,
        positions=int(stretches.scored.sum()),
    )


def _let_parent_handle_signals(worker: int) -> None:
    # Ctrl-C reaches the whole process group; the training process decides what it means and ends the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
