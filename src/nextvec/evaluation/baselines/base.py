"""What a baseline is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

from nextvec.data.windows import FloatArray, IntArray, VectorSource, Windows
from nextvec.evaluation.predictor import unit


class Baseline(ABC):
    """A predictor simple enough that a model has to be better.

    Args:
        context: the context length of the table.
        seed: for those that draw anything.
    Attributes:
        needs_training: without training windows it cannot be judged.
        generative: it can be asked for samples, see `nextvec.evaluation.generative`.
        context: how many of the most recent vectors it uses.
        facts: what goes into its row of the table: at least "parameters", the count of fitted numbers.
    """

    kind: ClassVar[Literal["baseline"]] = "baseline"
    name: ClassVar[str]
    needs_training: ClassVar[bool] = False
    generative: ClassVar[bool] = False

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
