"""Reading a stream: one vector in, the prediction of the next one out, without reading the past again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from threading import Lock
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from nextvec.data.windows import FloatArray
from nextvec.errors import ModelError, VectorError
from nextvec.models.base import NextVectorModel, State, Streaming

if TYPE_CHECKING:
    from nextvec.inference.base import VectorPredictor


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
            raise ModelError(
                f"the session was given {list(given.shape)}", remedy=f"give vectors [T, {self.dimension}]"
            )
        values = np.array(given, dtype=np.float32)
        if not np.isfinite(values).all():
            raise VectorError("a vector holds NaN or infinity", remedy="leave it out, or encode it again")
        with self._lock:
            raw = self._read(values)
            self.position += len(values)
        return raw

    def reset(self) -> None:
        """Forget everything that was read."""
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
        query: [D] what a conditional model is to write towards.
    Raises:
        ModelError: a query that the model cannot take.
    """

    def __init__(self, model: NextVectorModel, head: int = 0, query: FloatArray | None = None) -> None:
        super().__init__(model.d_embed)
        self.model, self.head, self.streaming = model, head, model.streaming
        self._query = None
        if query is not None:
            self._query = torch.tensor(query, dtype=torch.float32, device=model.scale.device)[None]
        self._state: State = {}
        self._forget()

    @property
    def state_bytes(self) -> int:
        stored = {value.untyped_storage().data_ptr(): value for value in self._state.values()}
        return sum(value.untyped_storage().nbytes() for value in stored.values())

    @torch.inference_mode()
    def _read(self, vectors: FloatArray) -> FloatArray:
        x = torch.from_numpy(vectors).to(self.model.scale.device)
        if len(x) == 1:
            prediction, self._state = self.model.step(x, self._state)
            ahead = prediction.ahead
        else:
            prediction, self._state = self.model.extend(x[None], self._state)
            ahead = prediction.ahead[0]
        return _array(ahead[:, self.head])

    @torch.inference_mode()
    def _forget(self) -> None:
        self._state = self.model.init_state(1, query=self._query)


class WindowSession(StreamSession):
    """For a predictor that has no state to go on from, such as an export: it reads its last `context` vectors
    again at every push, and knows nothing of those before."""

    streaming = "window"

    def __init__(self, predictor: VectorPredictor, query: FloatArray | None = None) -> None:
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
        raw: FloatArray = self.predictor.predict(window[None], lengths, self._query)[0][0]
        self._window = window
        return raw

    def _forget(self) -> None:
        self._window = np.zeros((0, self.dimension), np.float32)


def _array(values: Tensor) -> FloatArray:
    found: FloatArray = values.float().cpu().numpy()
    return found
