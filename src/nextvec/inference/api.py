"""`nextvec.Predictor`: a trained model in a program of one's own.

predictor = nextvec.Predictor.load("runs/lstm")
raw, unit = predictor.predict(vectors)          # [T, D] read -> what comes next
raw, unit = predictor.predict("A text ...")     # cut and encoded as what the model was trained on
raw, unit = predictor.predict(["One chunk.", "The next."])
with_each = predictor.stream()                  # or vector by vector: with_each.push(vector)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np

from nextvec.corpus.reading import TextReader
from nextvec.data.windows import FloatArray
from nextvec.errors import VectorError
from nextvec.inference.base import StreamSession, TrainedPredictor
from nextvec.inference.predictor import open_predictor
from nextvec.inference.rollout import Find, RolloutResult, RolloutSettings, roll
from nextvec.vectors import RawVectors, UnitVectors

Vectors = FloatArray | RawVectors | str | Sequence[str] | Sequence[Sequence[float]]
"""Vectors [T, D], as lists of numbers too; as RawVectors they carry their encoder, which is then checked. Or
what they are made of: a text, which is cut, or its chunks."""


class RawAndUnit(NamedTuple):
    """Predictions [N, D] ([D] of one context): raw for decoders, unit for cosine and retrieval."""

    raw: RawVectors
    unit: UnitVectors


class Predictor:
    """A trained model at work. Safe to share between threads.

    Attributes:
        run: the run or export behind it, which says how it was trained.
    """

    def __init__(self, run: TrainedPredictor, reader: TextReader | None = None) -> None:
        """
        Args:
            reader: of texts; needed where the run's encoder is a server's or only known by name
                (`TextReader(run.space, encoder)`).
        """
        self.run = run
        self._reader = reader

    @property
    def reader(self) -> TextReader:
        """What cuts and encodes texts as the model's were; loaded at the first text. Raises EncoderError."""
        if self._reader is None:
            self._reader = TextReader(self.run.space)
        return self._reader

    @classmethod
    def load(
        cls, path: str | Path, device: str = "cpu", engine: str | None = None, *, threads: int = 1
    ) -> Predictor:
        """A run folder, a hub id of one, or an export. Arguments and errors are those of `open_predictor`."""
        return cls(open_predictor(path, device, engine, threads=threads))

    @property
    def context(self) -> int:
        """How many of the last vectors `predict` reads."""
        return self.run.context

    @property
    def dimension(self) -> int:
        """D."""
        return self.run.dimension

    def ahead(self, horizon: int) -> Predictor:
        """The same, predicting another of the run's horizons. Raises RunError for one it has not learned."""
        return Predictor(self.run.at_horizon(horizon), self._reader)

    def predict(self, vectors: Vectors, query: FloatArray | None = None) -> RawAndUnit:
        """What follows vectors [T, D], the last `context` of which are read: an answer of [D].

        Args:
            vectors: or a text, or the chunks of one in their order.
            query: [D] what a conditional model is to write towards.
        Raises:
            VectorError: another shape, rows of different lengths, NaN or infinity.
            EncoderMismatchError: vectors of another encoder. EncoderError: a text, and the model's encoder is
                not at hand. DocumentError: a text of white space.
            ModelError: a query for a model that takes none.
        """
        raw, unit = self.predict_batch([vectors], None if query is None else np.asarray(query)[None])
        first = RawVectors(raw.values[0], raw.encoder, raw.normalised)
        return RawAndUnit(first, UnitVectors(unit.values[0], unit.encoder))

    def predict_batch(self, many: Sequence[Vectors], queries: FloatArray | None = None) -> RawAndUnit:
        """What follows each of many contexts [T_i, D], computed together: an answer of [N, D].

        `queries` [N, D] and errors are as in `predict`.
        """
        read = [self._values(vectors)[-self.context :] for vectors in many]
        if not read:
            raise VectorError("no context to predict from", remedy="give one [T, D] or more")
        lengths = np.array([len(vectors) for vectors in read], dtype=np.int64)
        contexts = np.zeros((len(read), int(lengths.max()), self.dimension), dtype=np.float32)
        for row, vectors in zip(contexts, read, strict=True):
            row[: len(vectors)] = vectors
        return RawAndUnit(*self.run.answer(contexts, lengths, queries))

    def stream(self, query: FloatArray | None = None) -> StreamSession:
        """A session that reads vectors one by one and predicts after each. Of a run it keeps the model's own
        state, so that every vector counts, not only the last `context`."""
        return self.run.stream(query)

    def rollout(
        self, vectors: Vectors, steps: int, course: RolloutSettings | None = None, find: Find | None = None
    ) -> RolloutResult:
        """Go on from vectors [T, D] for so many steps, each reading those before it (`rollout.roll`)."""
        return roll(self.run, self.run.vectors(self._values(vectors)), steps, course, find)

    def _values(self, vectors: Vectors) -> FloatArray:
        """[T, D], checked."""
        encoder = str(self.run.encoder)
        if isinstance(vectors, str):
            vectors = self.reader.read(vectors)[1]
        elif isinstance(vectors, (list, tuple)) and vectors and all(isinstance(v, str) for v in vectors):
            vectors = self.reader.encode(vectors)
        held = (
            vectors.of(encoder)
            if isinstance(vectors, RawVectors)
            else RawVectors(cast("FloatArray", vectors), encoder)
        )
        if held.values.ndim != 2 or held.dimension != self.dimension or not len(held.values):
            raise VectorError(
                f"a context of shape {list(held.values.shape)}", remedy=f"give vectors [T, {self.dimension}]"
            )
        return held.values
