"""What every predictor of this room is: an engine with what is known of the model behind it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from copy import copy
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor

from nextvec.corpus.reading import Space
from nextvec.data.trained import TRAINED_ON, TrainedOn
from nextvec.data.windows import FloatArray, IntArray
from nextvec.errors import ModelError, RunError, VectorError
from nextvec.inference.engines import Engine
from nextvec.models.base import NextVectorModel, State, Streaming
from nextvec.vectors import RawVectors, UnitVectors, unit

UNIT_TOLERANCE = 1e-3  # of the length of a unit vector, stored in half precision


class StreamSession(ABC):
    """What one stream has read. Pushes from several threads are taken one after the other.

    Attributes:
        dimension: D.
        streaming: what its state is: "constant" in size (a push costs the same however much was read), a
            "cache" that grows with what was read, a "buffer" of bounded length, or a "window" of vectors that
            is predicted from anew at every push.
        position: how many vectors were read.
    """

    streaming: Streaming | Literal["window"]

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension
        self.position = 0
        self._lock = Lock()

    @property
    @abstractmethod
    def state_bytes(self) -> int:
        """Of what is kept of the past."""

    def push(self, vector: FloatArray) -> FloatArray:
        """Read one vector [D] -> the raw prediction [D] of the one that follows it."""
        raw: FloatArray = self.read(np.asarray(vector)[None])[0]
        return raw

    def read(self, vectors: FloatArray) -> FloatArray:
        """Read vectors [T, D] in their order -> the raw predictions [T, D] after each.

        Raises:
            ModelError: another shape, or no vector. Nothing was read then.
            VectorError: NaN or infinity. Nothing was read then.
        """
        given = np.asarray(vectors)
        if given.ndim != 2 or given.shape[1] != self.dimension or not len(given):
            message = f"the session was given {list(given.shape)}"
            raise ModelError(message, remedy=f"give vectors [T, {self.dimension}]")
        values = np.array(given, dtype=np.float32)
        if not np.isfinite(values).all():
            raise VectorError("a vector holds NaN or infinity", remedy="leave it out, or encode it again")
        with self._lock:
            raw = self._read(values)
            self.position += len(values)
        return raw

    def reset(self) -> None:
        with self._lock:
            self._forget()
            self.position = 0

    @abstractmethod
    def _read(self, vectors: FloatArray) -> FloatArray: ...

    @abstractmethod
    def _forget(self) -> None: ...


class StateSession(StreamSession):
    """A model's own state: every vector of the stream counts, also those before the model's usual context.

    Args:
        head: which of the model's horizons is predicted.
        reads_directions: it was trained on unit vectors and takes raw ones too: it is given their directions,
            and what it predicts is as long as what was read so far, on average.
    """

    def __init__(self, dimension: int, head: int, *, reads_directions: bool) -> None:
        super().__init__(dimension)
        self.head, self.reads_directions = head, reads_directions
        self._length = 0.0  # of all vectors read
        self._forget()

    @abstractmethod
    def _advance(self, vectors: FloatArray) -> FloatArray:
        """Vectors [T, D] into the state -> `Prediction.everything` [T, K, D] after each."""

    @abstractmethod
    def _start(self) -> None:
        """The state before the first vector."""

    def _read(self, vectors: FloatArray) -> FloatArray:
        norms = np.linalg.norm(vectors, axis=1)
        norms[np.abs(norms - 1) <= UNIT_TOLERANCE] = 1.0
        if not self.reads_directions:
            return self._advance(vectors)[:, self.head]
        given = np.where(norms[:, None] == 1, vectors, unit(vectors))
        raw = self._advance(given)[:, self.head]
        lengths = self._length + norms.cumsum(dtype=np.float64)
        self._length = float(lengths[-1])
        mean = lengths / (self.position + 1 + np.arange(len(norms)))
        return np.asarray(raw * mean.astype(np.float32)[:, None])

    def _forget(self) -> None:
        self._start()
        self._length = 0.0


class ModelSession(StateSession):
    """`StateSession` of a model in torch.

    Args:
        query: [D] what a conditional model is to write towards.
    Raises:
        ModelError: a query that the model cannot take.
    """

    def __init__(
        self,
        model: NextVectorModel,
        head: int = 0,
        query: FloatArray | None = None,
        *,
        reads_directions: bool = False,
    ) -> None:
        self.model, self.streaming = model, model.streaming
        self._query = None
        if query is not None:
            self._query = torch.tensor(query, dtype=torch.float32, device=model.scale.device)[None]
        self._state: State = {}
        super().__init__(model.d_embed, head, reads_directions=reads_directions)

    @property
    def state_bytes(self) -> int:
        stored = {value.untyped_storage().data_ptr(): value for value in self._state.values()}
        return sum(value.untyped_storage().nbytes() for value in stored.values())

    @torch.inference_mode()
    def _advance(self, vectors: FloatArray) -> FloatArray:
        x = torch.from_numpy(vectors).to(self.model.scale.device)
        if len(x) == 1:
            prediction, self._state = self.model.step(x, self._state)
            return _array(prediction.everything)
        prediction, self._state = self.model.extend(x[None], self._state)
        return _array(prediction.everything[0])

    @torch.inference_mode()
    def _start(self) -> None:
        self._state = self.model.init_state(1, query=self._query)


class WindowSession(StreamSession):
    """For a predictor that has no state to go on from, such as an export: it reads its last `context` vectors
    again at every push, and knows nothing of those before."""

    streaming = "window"

    def __init__(self, predictor: TrainedPredictor, query: FloatArray | None = None) -> None:
        super().__init__(predictor.dimension)
        self.predictor = predictor
        self._query = None if query is None else np.asarray(query, dtype=np.float32)[None]
        self._window: FloatArray = np.zeros((0, self.dimension), np.float32)

    @property
    def state_bytes(self) -> int:
        return self._window.nbytes

    def _read(self, vectors: FloatArray) -> FloatArray:
        made = [self._push(vector) for vector in vectors]
        return np.stack(made)

    def _push(self, vector: FloatArray) -> FloatArray:
        window = np.concatenate((self._window, vector[None]))[-self.predictor.context :]
        lengths = np.array([len(window)], dtype=np.int64)
        raw: FloatArray = self.predictor.answer(window[None], lengths, self._query)[0].values[0]
        self._window = window
        return raw

    def _forget(self) -> None:
        self._window = np.zeros((0, self.dimension), np.float32)


def _array(values: Tensor) -> FloatArray:
    found: FloatArray = values.float().cpu().numpy()
    return found


class VectorPredictor(ABC):
    """Contexts in, the prediction after the last vector out, as the evaluator sees it. Safe to share between
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
        """Whether it can be given what to write towards."""

    @property
    def confident(self) -> bool:
        """Whether it can say how likely a candidate is to follow."""
        return False

    @property
    def reads_directions(self) -> bool:
        """Whether it takes vectors of any length, see `_as_trained`."""
        return False

    @property
    def ranking(self) -> bool:
        """Whether it gives a query to rank candidates by (`predict_ranking`)."""
        return False

    @property
    def generative(self) -> bool:
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
        contexts, length = self._as_trained(contexts, lengths)
        raw = self.engine(contexts, lengths, queries, self.head) * length
        return raw, unit(raw)

    def predict_ranking(
        self, contexts: FloatArray, lengths: IntArray, queries: FloatArray | None = None
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """As `predict`, and the query [B, D] of unit length to rank candidates by: the model's own, or the
        unit prediction of one that has none."""
        if not self.ranking:
            raw, units = self.predict(contexts, lengths, queries)
            return raw, units, units
        contexts, length = self._as_trained(contexts, lengths)
        found = self.engine.everything(contexts, lengths, queries)
        raw = found[:, self.head] * length
        return raw, unit(raw), unit(found[:, -1])

    def _as_trained(self, contexts: FloatArray, lengths: IntArray) -> tuple[FloatArray, FloatArray]:
        """What the model is given of contexts [B, T, D], and what its raw predictions are multiplied with
        [B, 1]. One that was trained on unit vectors reads the directions of raw ones, and its prediction is
        as long as what was read, on average."""
        if not self.reads_directions:
            return contexts, np.ones((len(contexts), 1), dtype=np.float32)
        norms = np.linalg.norm(contexts, axis=2)
        real = np.arange(contexts.shape[1]) < np.asarray(lengths)[:, None]
        if np.allclose(norms[real], 1.0, atol=UNIT_TOLERANCE):
            return contexts, np.ones((len(contexts), 1), dtype=np.float32)
        mean = (norms * real).sum(axis=1, keepdims=True) / real.sum(axis=1, keepdims=True)
        return unit(contexts), mean.astype(np.float32)

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
        horizons = self.training.get("horizons") or [self.training.get("horizon", 1)]
        return tuple(int(horizon) for horizon in horizons)

    @property
    def reads_directions(self) -> bool:
        return bool(self.training.get("reads_directions", False))

    @property
    def space(self) -> Space:
        """Whose vectors it takes, and how their texts were cut. Raises RunError: it does not say."""
        try:
            return Space(self.described, self.training["chunker"], self.training["normalised"])
        except KeyError:
            message = "was trained by a version that did not note how texts are cut"
            raise RunError(message, where=self.folder, remedy="train it again to give it texts") from None

    @property
    def task(self) -> str:
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
            message = f"trained to predict {', '.join(map(str, self.horizons))} ahead, requested {horizon}"
            raise RunError(message, where=self.folder, remedy=f"give --horizon {self.horizons[0]}")
        other = copy(self)
        other.head = self.horizons.index(horizon)
        return other

    @cached_property
    def trained_on(self) -> TrainedOn:
        """Keys of every document and chunk it was trained on."""
        return TrainedOn.load(self.folder / TRAINED_ON)
