"""A backbone that is a stack of blocks: Linear(D, H), the blocks in turn, a norm.

Most architectures differ in what a block does, and in nothing else. What they share is here: reading in
parallel, in chunks or vector by vector, and a state in which each block has its own entries.
Shapes: B batch, T time (chunks), D embedding, H the backbone's width.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from nextvec.models.base import ModelConfig, NextVectorModel
from nextvec.models.ops.layers import dropout
from nextvec.models.ops.positions import read_so_far
from nextvec.models.residual import State


class Place(NamedTuple):
    """Where the vectors at hand stand: `start` others were read before them. rotary: what queries and keys
    at these positions are turned by, made once for all blocks; empty where nothing is turned."""

    start: int
    rotary: tuple[Tensor, ...] = ()


class Block(nn.Module):
    """One layer of a `Stack`. entries: what it keeps in the state; Stack adds the block's number."""

    entries: ClassVar[tuple[str, ...]]

    @abstractmethod
    def forward(self, x: Tensor, place: Place, state: State | None) -> tuple[Tensor, State]:
        """x [B, T, H] -> [B, T, H] and the entries after it.

        Args:
            state: the entries that the vectors before x have left (used up: caches are written in place);
                None: there are none before, and no one goes on from here. What is returned is then not read.
        """

    @abstractmethod
    def initial(self, batch: int, device: torch.device, dtype: torch.dtype) -> State:
        """The entries before the first vector."""


class Stack(NextVectorModel):
    """An architecture made of `Block`s; a subclass says which, and what is particular about its input."""

    def __init__(
        self, config: ModelConfig, hidden: int, blocks: Iterable[Block], norm: nn.Module, dropout: float = 0.0
    ) -> None:
        """dropout: on the embedded input."""
        super().__init__(config, width=hidden)
        self.embed = nn.Linear(config.d_embed, hidden)
        self.blocks = nn.ModuleList(blocks)
        self.norm = norm
        self.embed_dropout = dropout

    def enter(self, x: Tensor, start: int) -> Tensor:
        """x [B, T, D], which follows `start` vectors -> [B, T, H], in x's dtype also under autocast."""
        return dropout(self.embed(x).to(x.dtype), self.embed_dropout, self.training)

    def rotary(self, x: Tensor, start: int) -> tuple[Tensor, ...]:
        """What the positions of x [B, T, D] are turned by, for `Place`."""
        return ()

    def encode(self, x: Tensor) -> Tensor:
        return self._through(x, 0, None)[0]

    def encode_chunk(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        hidden, new = self._through(x, read_so_far(state), state)
        return hidden, {"position": state["position"] + x.shape[1], **new}

    def encode_step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        hidden, state = self.encode_chunk(x_t[:, None], state)
        return hidden[:, 0], state

    def encoder_state(self, batch: int, device: torch.device, dtype: torch.dtype) -> State:
        state: State = {"position": torch.zeros((), dtype=torch.int64)}
        for i, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            state |= _numbered(block.initial(batch, device, dtype), i)
        return state

    def _through(self, x: Tensor, start: int, state: State | None) -> tuple[Tensor, State]:
        hidden, place = self.enter(x, start), Place(start, self.rotary(x, start))
        new: State = {}
        for i, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            own = None if state is None else {entry: state[f"{entry}.{i}"] for entry in block.entries}
            hidden, own = block(hidden, place, own)
            new |= _numbered(own, i)
        return self.norm(hidden), new


def _numbered(entries: State, i: int) -> State:
    return {f"{entry}.{i}": value for entry, value in entries.items()}
