"""What a baseline is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from numpy.typing import NDArray

from nextvec.data.gather import VectorSource
from nextvec.data.windows import FloatArray, IntArray, Windows
from nextvec.errors import EvaluationError
from nextvec.evaluation.predictor import unit


class Baseline(ABC):
    """A predictor simple enough that a model has to be better.

    Args:
        context: the context length of the table.
        seed: for those that draw anything.
    Attributes:
        needs_training: without training windows it cannot be judged.
        conditional: it is told what to write towards, see `VectorPredictor`; evaluated
            only where there are queries.
        generative: it can be asked for samples, see `nextvec.evaluation.generative`.
        kept: names of the arrays that it was fitted to; None where these are the training data.
        context: how many of the most recent vectors it uses.
        metadata: what goes into its row of the table: at least "parameters", the count of fitted numbers.
    """

    kind: ClassVar[Literal["baseline"]] = "baseline"
    name: ClassVar[str]
    needs_training: ClassVar[bool] = False
    conditional: ClassVar[bool] = False
    generative: ClassVar[bool] = False
    kept: ClassVar[tuple[str, ...] | None] = ()

    def __init__(self, context: int, seed: int = 0) -> None:
        self.context = context
        self.seed = seed
        self.metadata: dict[str, Any] = {"parameters": 0}

    def fit(self, vectors: VectorSource, train: Windows, validation: Windows | None) -> None:
        """Learn from the training windows; the validation windows choose between variants.

        What needs no training keeps this one, which learns nothing.
        """
        self.metadata = {"parameters": 0}

    def state(self) -> dict[str, NDArray[Any]]:
        """What it was fitted to, by name. Raises EvaluationError for one that keeps its training data."""
        if self.kept is None:
            raise EvaluationError(
                f"{self.name} cannot be kept: it looks its answers up", remedy="choose another baseline"
            )
        return {name: getattr(self, name) for name in self.kept}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Take back what `state` gave. Raises KeyError for what is missing."""
        for name in self.kept or ():
            setattr(self, name, state[name])

    @abstractmethod
    def guess(self, contexts: FloatArray, lengths: IntArray) -> FloatArray:
        """Raw prediction [B, D] from contexts [B, T, D] padded on the right and lengths [B]."""

    def predict(self, contexts: FloatArray, lengths: IntArray) -> tuple[FloatArray, FloatArray]:
        """Raw and unit prediction, both [B, D]."""
        raw = self.guess(contexts, lengths)
        return raw, unit(raw)
