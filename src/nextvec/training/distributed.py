"""Training on several processes: how they are started, what each does of a batch, what they decide together.

Every process draws the same batches as one process would, runs the network on every `size`-th row of a batch
and hands its predictions to the others. So each has the predictions of the whole batch and computes the loss
of the whole batch: negatives, candidates, spreads and means are those of one process, and the sum of the
processes' gradients is its gradient.

This is not torch's `DistributedDataParallel`, which wants one backward pass a forward pass and every
parameter used in it: we differentiate each term once an epoch, and a confidence is asked for after the
forward pass. What it would gain is that gradients travel while the backward pass still runs. With `fsdp` they
do: there it is torch's `fully_shard` (FSDP2; Zhao et al., PyTorch FSDP, 2023, on ZeRO-3).
"""

from __future__ import annotations

import contextlib
import itertools
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from logging import ERROR, getLogger
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from nextvec.checkpoint import is_sharded, whole
from nextvec.data.batches import Batch
from nextvec.errors import TrainingError
from nextvec.models.ops.parameters import hints_of, treat
from nextvec.models.stack import Block
from nextvec.models.towers import Layer
from nextvec.training.config import ProcessConfig

BUCKET = 2**24
"""Numbers whose gradients are summed in one message, about."""
SMALL = 2**16
"""A matrix outside of all blocks with fewer numbers is gathered with the rest of the model."""


_MEETINGS = itertools.count()


class PeerLostError(TrainingError):
    """Another process of the run has ended; what it said is the error to look at."""


class _OfAll(torch.autograd.Function):
    """Rows of all processes, interleaved: [b, ...] of each of W -> [W b, ...], row i from process i % W."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, rank: int, size: int, factor: int) -> Tensor:
        ctx.place, ctx.size, ctx.factor = rank, size, factor
        rows = rows.contiguous()
        parts = [torch.empty_like(rows) for _ in range(size)]
        dist.all_gather(parts, rows)
        return torch.stack(parts, 1).flatten(0, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        # Every process differentiates the same loss of all rows: what concerns its own is all there.
        own = gradients[0][ctx.place :: ctx.size]
        return own * ctx.factor if ctx.factor != 1 else own, None, None, None


@dataclass(frozen=True)
class Processes:
    """The processes of a run, and which of them this is; of one alone, nothing is sent anywhere.

    Attributes:
        rank: this one's number of `size`. Number 0, `first`, writes the run folder, and its clock counts.
        local_rank: its number on this machine, and that of its accelerator.
        sharded: each holds a share of the model (fsdp).
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    sharded: bool = False

    @property
    def first(self) -> bool:
        return self.rank == 0

    def share(self, batch: Batch) -> Batch:
        """This process's rows of a batch. Where rows are missing at the end the last stands in for them: it
        is not gathered, and nothing of it counts."""
        if self.size == 1:
            return batch
        wanted = torch.arange(self.rank, -(-len(batch.lengths) // self.size) * self.size, self.size)
        rows = wanted.clamp(max=len(batch.lengths) - 1).to(batch.lengths.device)
        mask = batch.mask[rows]
        mask[wanted.to(rows.device) != rows] = False
        return replace(
            batch,
            inputs=batch.inputs[rows],
            targets=batch.targets[rows],
            mask=mask,
            lengths=batch.lengths[rows],
            query=None if batch.query is None else batch.query[rows],
        )

    def gather(self, rows: Tensor, count: int) -> Tensor:
        """Undo `share`: what each process says of its rows [b, ...] -> of all [count, ...]."""
        if self.size == 1:
            return rows
        # FSDP divides the sum of the gradients by their number
        factor = self.size if self.sharded else 1
        gathered: Tensor = _OfAll.apply(rows, self.rank, self.size, factor)  # type: ignore[no-untyped-call]
        return gathered[:count]

    def mean(self, value: Tensor, weight: Tensor) -> Tensor:
        """Of a scalar that each process has as the mean over `weight` positions: the mean over all."""
        if self.size == 1:
            return value
        sums = self.gather(torch.stack((value * weight, weight.to(value.dtype)))[None], self.size).sum(0)
        return sums[0] / sums[1].clamp(min=1)

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Add up what all processes have as gradients, in place; FSDP has done that already."""
        if self.size == 1 or self.sharded:
            return
        for some in _buckets([p.grad for p in parameters if p.grad is not None]):
            flat = torch.cat([gradient.flatten() for gradient in some])
            dist.all_reduce(flat)
            parts = torch.split(flat, [gradient.numel() for gradient in some])
            for gradient, total in zip(some, parts, strict=True):
                gradient.copy_(total.view_as(gradient))

    def agree(self, stop: int | None, due: bool, seconds: float) -> tuple[int | None, bool, float]:
        """What all do next: the highest signal that any has received, and the first's word on the rest.

        Over gloo, from memory: no accelerator is waited for.
        """
        if self.size == 1:
            return stop, due, seconds
        own = (stop or 0, due and self.first, seconds * self.first)
        gathered = torch.tensor(own, dtype=torch.float64)
        dist.all_reduce(gathered, dist.ReduceOp.MAX)
        stop, due, seconds = gathered.tolist()
        return int(stop) or None, bool(due), seconds

    def alike(self, figures: Mapping[str, float]) -> dict[str, float]:
        """The first's figures: decisions that hang on them are then the same everywhere."""
        if self.size == 1:
            return dict(figures)
        gathered = torch.tensor(list(figures.values()), dtype=torch.float64)
        dist.broadcast(gathered, 0)
        return dict(zip(figures, gathered.tolist(), strict=True))

    def seed(self, seed: int, update: int) -> None:
        """Give every process random numbers of its own, which depend on nothing but these three numbers."""
        if self.size > 1:
            mixed = np.random.SeedSequence((seed, update, self.rank))
            torch.manual_seed(int(mixed.generate_state(1, np.uint64)[0]) >> 1)

    def wait(self) -> None:
        if self.size > 1:
            dist.barrier()


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    some: list[Tensor] = []
    for gradient in gradients:
        some.append(gradient)
        if sum(g.numel() for g in some) >= BUCKET:
            yield some
            some = []
    if some:
        yield some


def total_norm(gradients: Iterable[Tensor]) -> Tensor:
    """Norm over gradients, sharded ones among them."""
    held = list(gradients)
    kinds = ([g for g in held if is_sharded(g)], [g for g in held if not is_sharded(g)])
    norms = [whole(torch.nn.utils.get_total_norm(kind)) for kind in kinds if kind]
    return norms[0] if len(norms) == 1 else torch.stack(norms or [torch.zeros(())]).norm()


def clip_gradients(parameters: Sequence[nn.Parameter], most: float) -> Tensor:
    """Scale gradients down to a norm of at most `most`; returns what it was."""
    norm = total_norm(p.grad for p in parameters if p.grad is not None)
    for sharded in (True, False):
        some = [p for p in parameters if is_sharded(p) == sharded]
        if some:
            torch.nn.utils.clip_grads_with_norm_(some, most, norm)
    return norm


def sharded_units(model: nn.Module) -> Iterator[nn.Module]:
    """What is gathered, used and let go as one: the blocks of a stack, the layers of a reader, and larger
    matrices outside of these. Everything else is gathered once a pass."""
    inside: set[nn.Module] = set()
    for module in model.modules():
        if module in inside:
            continue
        if isinstance(module, (Block, Layer)):
            inside.update(module.modules())
            yield module
        elif isinstance(module, nn.Linear) and module.weight.numel() >= SMALL:
            yield module


def shard(network: nn.Module, device: str, size: int) -> nn.Module:
    """Leave each process a 1/size of every parameter of `network`, in place."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    hints = {name: hints_of(parameter) for name, parameter in network.named_parameters()}
    mesh = init_device_mesh(device, (size,))
    for unit in sharded_units(network):
        fully_shard(unit, mesh=mesh)
        if isinstance(unit, Layer):
            register_fsdp_forward_method(unit, "denoise")
    fully_shard(network, mesh=mesh)
    for name, parameter in network.named_parameters():  # new ones, in the place of those with the hints
        if hints[name]:
            treat(parameter, **hints[name])
    return network


# Who they are


def launched() -> bool:
    """Whether torchrun, or `launch`, has started this process as one of several."""
    return dist.is_torchelastic_launched() and int(os.environ["WORLD_SIZE"]) > 1


def is_first() -> bool:
    """Whether this process is the one that speaks for the run."""
    return not launched() or os.environ["RANK"] == "0"


@contextlib.contextmanager
def joined(config: ProcessConfig, device: str, out: Path) -> Iterator[Processes]:
    """Be one of the processes of a run, while entered.

    Raises:
        PeerLostError: another of them has ended.
    """
    if config.processes == 1:
        yield Processes()
        return
    rank, local = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    if rank:  # the first speaks for all
        warnings.simplefilter("ignore")
        getLogger("nextvec").setLevel(ERROR)
    if device == "cuda":
        torch.cuda.set_device(local)
    try:
        backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
        store, _, _ = next(dist.rendezvous("env://"))  # type: ignore[attr-defined]
        # Processes that train several models meet anew for each
        store = dist.PrefixStore(f"nextvec-{next(_MEETINGS)}", store)  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=store, rank=rank, world_size=config.processes)
        yield Processes(rank, config.processes, local, config.strategy == "fsdp")
    except RuntimeError as e:
        if not isinstance(e, dist.DistError) and "gloo" not in str(e).lower():
            raise
        raise PeerLostError(
            "another process of the run has ended", where=out, remedy="see what it said; go on with --resume"
        ) from e
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
