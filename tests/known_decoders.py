"""Decoders whose truth is known, and runs too, for stores that `conftest.write_world` makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from conftest import TURN
from nextvec.corpus.chunking import WordChunker
from nextvec.corpus.reading import Space, TextReader
from nextvec.corpus.store import Store
from nextvec.data.splits import Split
from nextvec.data.trained import TrainedOn
from nextvec.data.windows import FloatArray, IntArray
from nextvec.decoding.base import Decoded, Decoder, How
from nextvec.selfcheck.faults.fixture import TableEncoder
from nextvec.vectors import unit

NOISE = "so so so so so so"
"""What a decoder says that knows nothing; the encoder gives it a direction of its own."""


def reader_of(store: Store) -> TextReader:
    """Knows the vectors of the store's texts, and one of `NOISE`."""
    rows = np.arange(len(store))
    noise = np.random.default_rng(5).standard_normal((1, store.dimension)).astype(np.float32)
    encoder = TableEncoder([*store.texts(rows), NOISE], np.concatenate([store.vectors[rows], noise]))
    encoder.fingerprint = dict(store.encoder)
    return TextReader(Space.of(store), encoder, WordChunker())


class Known(Decoder):
    """Of a store that it knows by heart."""

    how: ClassVar[How] = "generated"

    def __init__(self, store: Store) -> None:
        self.store, self.encoder, self.dimension = store, store.encoder["fingerprint"], store.dimension
        self.normalised = store.normalised
        self.name = type(self).__name__.lower()
        self._units = unit(store.vectors[:])

    def texts_of(self, values: FloatArray, n: int) -> list[list[Decoded]]:
        return [[Decoded(text, 0.0, self.how)] for text in self.say(values)]

    def say(self, values: FloatArray) -> list[str]:
        """One text for each of the values [N, D]."""
        return self.store.texts((unit(values) @ self._units.T).argmax(axis=1))


class Oracle(Known):
    """Says the chunk whose vector it is, held out or not."""


class Constant(Known):
    """Says the same whatever it is given."""

    def say(self, values: FloatArray) -> list[str]:
        return [NOISE] * len(values)


class Blind(Known):
    """Says any chunk of the store."""

    def say(self, values: FloatArray) -> list[str]:
        seeds = [int(abs(v[0]) * 1e6) for v in values]
        return self.store.texts([int(np.random.default_rng(s).integers(len(self.store))) for s in seeds])


class RawOnly(Known):
    """An oracle for vectors of any length but one, of which it makes gibberish."""

    def say(self, values: FloatArray) -> list[str]:
        off = np.abs(np.linalg.norm(values, axis=1) - 1) > 1e-5
        return [text if raw else NOISE for text, raw in zip(super().say(values), off, strict=True)]


class Run:
    """A run that was trained on a split's train documents, and knows the law of the world.

    Args:
        shrink: of its raw output; 0.9 is shorter than what it was trained on.
    """

    kind, context, dimension = "model", 3, 16
    horizons, task, conditional = (1,), "next", False

    def __init__(self, store: Store, split: Split, shrink: float = 1.0, name: str = "law") -> None:
        self.name, self.shrink, self.folder = name, shrink, Path(name)
        self.encoder = store.encoder["fingerprint"]
        self.training: dict[str, Any] = {"sources": [], "split": {"test": 0.5, "near_duplicate": 1.0}}
        self.trained_on = TrainedOn.of(store, split.train)

    def at_horizon(self, horizon: int) -> Self:
        return self

    def predict(self, contexts: FloatArray, lengths: IntArray) -> tuple[FloatArray, FloatArray]:
        last = contexts[np.arange(len(lengths)), lengths - 1]
        raw = np.asarray(self.shrink * self.law(last), dtype=np.float32)
        return raw, unit(raw)

    def law(self, last: FloatArray) -> FloatArray:
        """The next vector [B, D]."""
        return np.asarray(last @ TURN.T, dtype=np.float32)


class Mean(Run):
    """Says the same whatever it has read."""

    def law(self, last: FloatArray) -> FloatArray:
        return np.ones_like(last)
