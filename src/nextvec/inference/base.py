"""What every predictor of this room is: an engine with what is known of the model behind it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from nextvec.corpus.reading import Space
from nextvec.data.trained import TRAINED_ON, TrainedOn
from nextvec.data.windows import FloatArray, IntArray
from nextvec.errors import ModelError, RunError
from nextvec.inference.engines import Engine
from nextvec.vectors import RawVectors, UnitVectors, unit

if TYPE_CHECKING:
    from nextvec.inference.stream import StreamSession


class VectorPredictor(ABC):
    """Contexts in, the prediction after the last vector out, as the judge sees it. Safe to share between
    threads.

    Attributes:
        engine: computes it.
        context: how many of the most recent vectors it is given.
        name: its row in a table.
        encoder: fingerprint of the encoder it was trained on; None accepts any store.
        dimension: D.
        head: which of the model's horizons it answers for, 0 the first.
        metadata: what a table says of it besides.
    """

    kind: Literal["model"] = "model"
    head: int = 0

    def __init__(self, engine: Engine, dimension: int, context: int, name: str, encoder: str | None) -> None:
        self.engine, self.dimension, self.context = engine, dimension, context
        self.name, self.encoder = name, encoder
        self.metadata: dict[str, Any] = {}

    @property
    @abstractmethod
    def conditional(self) -> bool:
        """Whether it can be told what to write towards."""

    @property
    def confident(self) -> bool:
        """Whether it can say how likely a candidate is to follow."""
        return False

    @property
    def generative(self) -> bool:
        """Whether it can be asked for samples."""
        return False

    @abstractmethod
    def stream(self, query: FloatArray | None = None) -> StreamSession:
        """A session that reads vectors one by one; `query` [D] for a conditional model."""

    def predict(
        self, contexts: FloatArray, lengths: IntArray, queries: FloatArray | None = None
    ) -> tuple[FloatArray, FloatArray]:
        """Raw and unit prediction [B, D] from contexts [B, T, D] padded on the right, lengths [B].

        Args:
            queries: [B, D] what a conditional model is to write towards; a row of zeros tells nothing.
        """
        raw = self.engine(contexts, lengths, queries, self.head)
        return raw, unit(raw)

    def continuation(
        self,
        contexts: FloatArray,
        lengths: IntArray,
        candidates: FloatArray,
        queries: FloatArray | None = None,
    ) -> FloatArray:
        """How likely each of the candidates [B, C, D] is to follow its context rather than come from another
        document, at even odds: calibrated probabilities [B, C].

        Raises:
            ModelError: it cannot say.
        """
        raise ModelError(f"{self.name} states no confidence", remedy="take a run trained with confidence")

    def sample(
        self, contexts: FloatArray, lengths: IntArray, n: int, seed: int, queries: FloatArray | None = None
    ) -> FloatArray:
        """n raw vectors [n, B, D] that may come next, independent; the same for the same arguments.

        `queries` are as in `predict`.

        Raises:
            ModelError: it only has a point prediction.
        """
        raise ModelError(f"{self.name} has no distribution to sample from", remedy="take a generative run")


class TrainedPredictor(VectorPredictor):
    """One that comes from a folder which says how the model was trained: a run or an export of one.

    Attributes:
        folder: where it lies.
        training: context, horizons, task, sources and split it was trained with.
        described: the encoder it was trained on, as the store described it.
    """

    folder: Path
    training: dict[str, Any]
    described: dict[str, Any]

    @property
    def horizons(self) -> tuple[int, ...]:
        """How many chunks ahead each of its heads predicts."""
        said = self.training.get("horizons") or [self.training.get("horizon", 1)]
        return tuple(int(horizon) for horizon in said)

    @property
    def space(self) -> Space:
        """Whose vectors it takes, and how their texts were cut. Raises RunError: it does not say."""
        try:
            return Space(self.described, self.training["chunker"], self.training["normalised"])
        except KeyError:
            raise RunError(
                "was trained by a version that did not note how texts are cut",
                where=self.folder,
                remedy="train it again to give it texts",
            ) from None

    @property
    def task(self) -> str:
        """Either "next" or "middle"."""
        return str(self.training.get("task", "next"))

    def vectors(self, values: FloatArray) -> RawVectors:
        """Vectors [.., D] as ones of the space that it reads and predicts in, its encoder's."""
        return RawVectors(values, str(self.encoder), bool(self.training.get("normalised", False)))

    def answer(
        self, contexts: FloatArray, lengths: IntArray, queries: FloatArray | None = None
    ) -> tuple[RawVectors, UnitVectors]:
        """As `predict`, in types that tell raw from unit: a decoder takes the first, an index the second."""
        raw = self.vectors(self.predict(contexts, lengths, queries)[0])
        return raw, raw.unit()

    def at_horizon(self, horizon: int) -> Self:
        """The same, answering for one of its horizons. Raises RunError for another."""
        if horizon not in self.horizons:
            raise RunError(
                f"trained to predict {', '.join(map(str, self.horizons))} ahead, asked for {horizon}",
                where=self.folder,
                remedy=f"give --horizon {self.horizons[0]}",
            )
        other = copy(self)
        other.head = self.horizons.index(horizon)
        return other

    @cached_property
    def trained_on(self) -> TrainedOn:
        """Keys of every document and chunk it was trained on."""
        return TrainedOn.load(self.folder / TRAINED_ON)
