"""What a baseline is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from nextvec.data.windows import FloatArray, IntArray, VectorSource, Windows, gather_contexts, gather_rows
from nextvec.evaluation.predictor import unit

BLOCK_BYTES = 64 * 2**20


class Baseline(ABC):
    """A predictor simple enough that a model has to be better.

    Args:
        context: the context length of the table.
        seed: for those that draw anything.
    Attributes:
        needs_training: without training windows it cannot be judged.
        context: how many of the most recent vectors it uses.
        facts: what goes into its row of the table: at least "parameters", the count of fitted numbers.
    """

    kind: ClassVar[Literal["baseline"]] = "baseline"
    name: ClassVar[str]
    needs_training: ClassVar[bool] = False

    def __init__(self, context: int, seed: int = 0) -> None:
        self.context = context
        self.seed = seed
        self.facts: dict[str, Any] = {"parameters": 0}

    def fit(self, vectors: VectorSource, train: Windows, validation: Windows | None) -> None:
        """Learn from the training windows; the validation windows choose between variants.

        What needs no training keeps this one, which learns nothing.
        """
        self.facts = {"parameters": 0}

    @abstractmethod
    def guess(self, contexts: FloatArray, lengths: IntArray) -> FloatArray:
        """Raw prediction [B, D] from contexts [B, T, D] padded on the right and lengths [B]."""

    def predict(self, contexts: FloatArray, lengths: IntArray) -> tuple[FloatArray, FloatArray]:
        """Raw and unit prediction, both [B, D]."""
        raw = self.guess(contexts, lengths)
        return raw, unit(raw)


def training_blocks(
    vectors: VectorSource, windows: Windows, width: int
) -> Iterator[tuple[FloatArray, IntArray, FloatArray]]:
    """Pieces of the windows: contexts [B, T, D], lengths [B], targets [B, D], in bounded memory."""
    size = max(1, BLOCK_BYTES // (4 * width * vectors.shape[1]))
    for block in windows.blocks(size):
        width_here = min(width, int(block.read.max()))
        yield *gather_contexts(vectors, block, width_here), gather_rows(vectors, block.target)
