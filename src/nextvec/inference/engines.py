"""What computes a prediction: torch as it is or compiled, ONNX Runtime, OpenVINO.

Shapes: B batch, T time (chunks), D embedding, K horizons.
"""

from __future__ import annotations

from typing import Literal, Protocol, get_args

import numpy as np
import torch
from torch import Tensor

from nextvec.data.windows import FloatArray, IntArray
from nextvec.models.base import NextVectorModel

EngineName = Literal["eager", "compiled", "onnx", "openvino"]
ENGINES: tuple[str, ...] = get_args(EngineName)


class Engine(Protocol):
    """Contexts in, the raw vector after the last of each out. Safe to call from many threads at once."""

    name: str

    def __call__(
        self, contexts: FloatArray, lengths: IntArray, queries: FloatArray | None = None, head: int = 0
    ) -> FloatArray:
        """contexts float32 [B, T, D] padded on the right with anything, lengths [B] from 1 to T, for a
        conditional model queries [B, D] -> raw float32 [B, D] of its horizon number `head`."""
        ...


class TorchEngine:
    """A module, on whatever device it is.

    Args:
        compiled: by torch.compile, at the first call of each kind of shape (seconds each).
    """

    def __init__(self, model: NextVectorModel, *, compiled: bool = False) -> None:
        self.model = model
        self.name = "compiled" if compiled else "eager"
        self._after = torch.compile(model.after) if compiled else model.after

    @torch.inference_mode()
    def __call__(
        self, contexts: FloatArray, lengths: IntArray, queries: FloatArray | None = None, head: int = 0
    ) -> FloatArray:
        prediction = self._after(*tensors(self.model, contexts, lengths, queries))
        raw: FloatArray = prediction.ahead[:, head].float().cpu().numpy()
        return raw


def tensors(
    model: NextVectorModel, contexts: FloatArray, lengths: IntArray, queries: FloatArray | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The same as `model` takes them and where it is, without columns that are padding in every row; None for
    lengths where all rows are full."""
    contexts, n = trimmed(contexts, lengths)
    device = model.scale.device
    told = None if queries is None else _tensor(queries).to(device)
    full = int(n.min(initial=contexts.shape[1])) == contexts.shape[1]
    return _tensor(contexts).to(device), None if full else torch.from_numpy(n).to(device), told


def trimmed(contexts: FloatArray, lengths: IntArray) -> tuple[FloatArray, IntArray]:
    """Contexts without columns that are padding in every row, lengths as int64."""
    n = np.asarray(lengths, dtype=np.int64)
    return contexts[:, : int(n.max(initial=1))], n


def _tensor(values: FloatArray) -> Tensor:
    """float32, of an array that may be read-only, as `RawVectors` are; torch takes only a writable one."""
    return torch.from_numpy(np.require(values, np.float32, ("C", "W")))
