"""What computes a prediction: torch as it is or compiled, ONNX Runtime, OpenVINO.

Shapes: B batch, T time (chunks), D embedding, K horizons.
"""

from __future__ import annotations

import importlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nextvec.data.windows import FloatArray, IntArray
from nextvec.errors import MissingDependencyError, ModelError, RunError
from nextvec.models.base import NextVectorModel

EngineName = Literal["eager", "compiled", "onnx", "openvino"]
ENGINES: tuple[str, ...] = get_args(EngineName)


class Engine(ABC):
    """Contexts in, the raw vector after the last of each out. Safe to call from many threads at once."""

    name: str

    @abstractmethod
    def everything(
        self, contexts: FloatArray, lengths: IntArray, queries: FloatArray | None = None
    ) -> FloatArray:
        """contexts float32 [B, T, D] padded on the right with anything, lengths [B] from 1 to T, for a
        conditional model queries [B, D] -> raw float32 [B, K, D], one a horizon, and after them the query of
        a model that ranks."""

    def __call__(
        self, contexts: FloatArray, lengths: IntArray, queries: FloatArray | None = None, head: int = 0
    ) -> FloatArray:
        """Of these the horizon number `head`, [B, D]."""
        return self.everything(contexts, lengths, queries)[:, head]


class TorchEngine(Engine):
    """A module, on whatever device it is.

    Args:
        compiled: by torch.compile, at the first call of each kind of shape (seconds each).
    """

    def __init__(self, model: NextVectorModel, *, compiled: bool = False) -> None:
        self.model = model
        self.name = "compiled" if compiled else "eager"
        self._after = torch.compile(model.after) if compiled else model.after

    @torch.inference_mode()
    def everything(
        self, contexts: FloatArray, lengths: IntArray, queries: FloatArray | None = None
    ) -> FloatArray:
        prediction = self._after(*tensors(self.model, contexts, lengths, queries))
        found: FloatArray = prediction.everything.float().cpu().numpy()
        return found


def tensors(
    model: NextVectorModel, contexts: FloatArray, lengths: IntArray, queries: FloatArray | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The same as `model` takes them and where it is, without columns that are padding in every row; None for
    lengths where all rows are full."""
    contexts, n = trimmed(contexts, lengths)
    device = model.scale.device
    given_query = None if queries is None else _tensor(queries).to(device)
    full = int(n.min(initial=contexts.shape[1])) == contexts.shape[1]
    return _tensor(contexts).to(device), None if full else torch.from_numpy(n).to(device), given_query


def trimmed(contexts: FloatArray, lengths: IntArray) -> tuple[FloatArray, IntArray]:
    """Contexts without columns that are padding in every row, lengths as int64."""
    n = np.asarray(lengths, dtype=np.int64)
    return contexts[:, : int(n.max(initial=1))], n


def _tensor(values: FloatArray) -> Tensor:
    """float32, of an array that may be read-only, as `RawVectors` are; torch takes only a writable one."""
    return torch.from_numpy(np.require(values, np.float32, ("C", "W")))


# Exported graphs at work: ONNX Runtime and OpenVINO.
#
# A graph takes `vectors` [B, T, D] with zeros in the padding, `lengths` [B], how many of each row's vectors
# are real, and for a conditional model `query` [B, D]; it gives `raw` [B, K, D], one vector a horizon and, of
# a model that ranks, the query after them.

VECTORS, LENGTHS, QUERY, RAW = "vectors", "lengths", "query", "raw"
LAST = "last"  # of exports made before 2026-12: position of the last vector, lengths - 1
Feed = Mapping[str, NDArray[Any]]


def open_graph(
    path: Path, format: str, precision: str, inputs: Sequence[str], time: int | None, threads: int
) -> Engine:
    """The engine of an exported graph.

    Args:
        time: the one length that its contexts have; None for any.

    Raises:
        RunError: a graph that the runtime refuses.
        MissingDependencyError: the runtime is not installed.
    """
    if format == "onnx":
        return OnnxEngine(path, inputs, time=time, threads=threads)
    return OpenVinoEngine(path, inputs, time=time, threads=threads, precision=precision)


class GraphEngine(Engine):
    """What both do around their runtime."""

    def __init__(self, inputs: Sequence[str], time: int | None) -> None:
        self.inputs, self.time = tuple(inputs), time

    def everything(
        self, contexts: FloatArray, lengths: IntArray, queries: FloatArray | None = None
    ) -> FloatArray:
        contexts, n = trimmed(contexts, lengths)
        time = contexts.shape[1] if self.time is None else self.time
        if contexts.shape[1] > time:
            message = f"contexts of {contexts.shape[1]} vectors for a graph of {time}"
            raise ModelError(message, remedy=f"give the last {time}")
        check_lengths(contexts, n)
        feed: dict[str, NDArray[Any]] = {VECTORS: _cleared(contexts, n, time), LENGTHS: n, LAST: n - 1}
        if QUERY in self.inputs:
            given_query = np.zeros_like(contexts[:, 0]) if queries is None else queries
            feed[QUERY] = np.ascontiguousarray(given_query, dtype=np.float32)
        return self._run({name: feed[name] for name in self.inputs})

    @abstractmethod
    def _run(self, feed: Feed) -> FloatArray:
        """Inputs by name -> raw [B, K, D]."""


def check_lengths(contexts: FloatArray, lengths: IntArray) -> None:
    """Raises ModelError unless every length [B] is one of 1 to T of contexts [B, T, D]."""
    if len(lengths) and (lengths.min() < 1 or lengths.max() > contexts.shape[1]):
        message = (
            f"lengths from {lengths.min()} to {lengths.max()} of contexts of {contexts.shape[1]} vectors"
        )
        raise ModelError(
            message, remedy="give how many vectors of each row are real: 1 at least, all at most"
        )


def _cleared(contexts: FloatArray, lengths: IntArray, time: int) -> FloatArray:
    """Contiguous float32 [B, time, D], zeros in the padding."""
    if (lengths == time).all():
        return np.ascontiguousarray(contexts, dtype=np.float32)
    values = np.zeros((len(contexts), time, contexts.shape[2]), dtype=np.float32)
    values[:, : contexts.shape[1]] = contexts
    values[np.arange(time) >= lengths[:, None]] = 0.0
    return values


def onnx_session(graph: Path | bytes, threads: int) -> Any:
    """ONNX Runtime on the CPU. Raises RunError for a graph that it refuses."""
    ort = runtime("onnxruntime", "onnx")
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3  # errors only: its warnings are about the graph, not the user's doing
    # Waiting threads sleep: a spinning one takes its core from the server beside it.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # session.set_denormal_as_zero stays off: it would change the arithmetic of the thread that asks.
    try:
        # From bytes there is no folder that a graph could name other files in.
        held = graph if isinstance(graph, bytes) else graph.read_bytes()
        return ort.InferenceSession(held, options, providers=["CPUExecutionProvider"])
    except Exception as e:  # noqa: BLE001  the runtime raises some ten classes of its own
        raise _refused(graph, "ONNX Runtime", e) from None


class OnnxEngine(GraphEngine):
    """ONNX Runtime on the CPU; a session may be asked by many threads at once."""

    name = "onnx"

    def __init__(
        self, graph: Path | bytes, inputs: Sequence[str], *, time: int | None = None, threads: int = 1
    ) -> None:
        super().__init__(inputs, time)
        self.session = onnx_session(graph, threads)

    def _run(self, feed: Feed) -> FloatArray:
        raw: FloatArray = self.session.run([RAW], dict(feed))[0]
        return raw


class OpenVinoEngine(GraphEngine):
    """OpenVINO on the CPU; each thread has an infer request of its own."""

    name = "openvino"

    def __init__(
        self,
        path: Path,
        inputs: Sequence[str],
        *,
        time: int | None = None,
        threads: int = 1,
        precision: str = "fp32",
    ) -> None:
        super().__init__(inputs, time)
        ov = runtime("openvino", "openvino")
        properties = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
            "ENABLE_CPU_PINNING": False,
        }
        try:
            self.compiled = ov.Core().compile_model(path, "CPU", properties)
        except Exception as e:  # noqa: BLE001  as above
            raise _refused(path, "OpenVINO", e) from None
        self._own = threading.local()

    def _run(self, feed: Feed) -> FloatArray:
        request = getattr(self._own, "request", None)
        if request is None:
            request = self._own.request = self.compiled.create_infer_request()
        return np.array(request.infer(dict(feed), share_inputs=True)[RAW])


def runtime(module: str, extra: str) -> Any:
    """An optional package. Raises MissingDependencyError with what to install."""
    try:
        return importlib.import_module(module)
    except ImportError:
        message = f"{module} is not installed"
        raise MissingDependencyError(message, remedy=f"pip install nextvec[{extra}]") from None


def first_line(message: object) -> str:
    """Of what a runtime says of its error."""
    return str(message).strip().split("\n")[0][:200]


def _refused(graph: Path | bytes, by: str, error: Exception) -> RunError:
    where = graph if isinstance(graph, Path) else "the graph"
    return RunError(f"is refused by {by} ({first_line(error)})", where=where, remedy="export the run again")
