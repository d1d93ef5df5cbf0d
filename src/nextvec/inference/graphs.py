"""A model as an ONNX graph, through torch.export.

The graph computes the prediction after the last vector of each row and nothing else. Its batch is of any
size. So is its time, except for architectures whose parallel form is cut into blocks in Python: these are
written for one length, to which the engine pads (a causal model does not see the padding).
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nextvec.data.windows import FloatArray, IntArray
from nextvec.errors import ModelError
from nextvec.inference.engines import TorchEngine
from nextvec.inference.runtimes import LAST, QUERY, RAW, VECTORS, OnnxEngine, runtime
from nextvec.models.base import NextVectorModel
from nextvec.models.ops.parameters import count_parameters

log = logging.getLogger("nextvec.inference")

MAX_BYTES = 2**31 - 2**24  # of a file in protobuf's format, with room for all that is not weights
OPSET = 23  # the first with attention as one operator
MOST = 2**20  # rows and positions, as far as torch.export is told
CLOSE = 1e-3  # of the largest value: float32 in another order


@dataclass(frozen=True)
class Graph:
    """An ONNX model in memory.

    Attributes:
        proto: onnx.ModelProto.
        inputs: names, in the order vectors, last and, for a conditional model, query.
        time: the one length it takes; None for any.
    """

    proto: Any
    inputs: tuple[str, ...]
    time: int | None


class LastVector(nn.Module):
    """What is exported: vectors [B, T, D], last [B] (and query [B, D]) -> raw [B, K, D]."""

    def __init__(self, model: NextVectorModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, vectors: Tensor, last: Tensor, query: Tensor | None = None) -> Tensor:
        model = self.model
        x = model.read(vectors)
        hidden = model.encode_last(model.inputs(x, model.asked(query, x.shape[0])), last)
        return model.predict(hidden, model.residual.after(x, last)).ahead


def make_graph(model: NextVectorModel, context: int, *, any_length: bool = True) -> Graph:
    """The float32 graph of a model on the CPU, tried out beside it.

    Args:
        context: the length where there can be only one.
        any_length: False writes it for that length at once.
    Raises:
        ModelError: it cannot be written as a graph, is too large for a file, or the graph answers otherwise
            than the model.
        MissingDependencyError: onnx is not installed.
    """
    for module in ("onnx", "onnxscript", "onnxruntime"):
        runtime(module, "onnx")
    if 4 * count_parameters(model) > MAX_BYTES:
        raise ModelError(
            f"{model.architecture} has {count_parameters(model):,} parameters, more than an ONNX file holds",
            remedy="serve the run itself",
        )
    if any_length:
        try:
            graph = _written(model, context, None)
            _try_out(graph, model, context)
            return graph
        except ModelError:
            log.info("%s: the graph takes contexts of one length, %d", model.architecture, context)
    graph = _written(model, context, context)
    _try_out(graph, model, context)
    return graph


def _written(model: NextVectorModel, context: int, time: int | None) -> Graph:
    example = torch.zeros(3, time or max(6, context), model.d_embed)
    arguments = [example, torch.full((3,), example.shape[1] - 1)]
    names = [VECTORS, LAST]
    if model.condition is not None:
        names.append(QUERY)
        arguments.append(example[:, 0])
    batch = torch.export.Dim("batch", min=1, max=MOST)
    free: dict[str, dict[int, Any]] = {name: {0: batch} for name in names}
    if time is None:
        free[VECTORS][1] = torch.export.Dim("time", min=1, max=MOST)
    # torch.onnx swaps the kernels of recurrent layers for ones that take any length, but a kernel once used
    # in this process is found in a cache before it: a second export would be of one length.
    for layer in (torch.ops.aten.lstm.input, torch.ops.aten.gru.input):
        layer._dispatch_cache.clear()
    try:
        with quietly():
            program = torch.onnx.export(
                LastVector(model).eval(),
                tuple(arguments),
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes=free,
                input_names=names,
                output_names=[RAW],
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as e:
        said = str(e.__cause__ or e)
        operator = re.search(r"target=torch\.ops\.(aten\.\w+)", said)
        reason = f"ONNX lacks {operator[1]}" if operator else said.strip().split("\n")[0][:200]
        raise ModelError(
            f"{model.architecture} cannot be written as a graph ({reason})", remedy="serve the run itself"
        ) from None
    assert program is not None
    proto = program.model_proto
    # What torch inferred of the parts; transposed weights keep their old shape there, which tools refuse.
    del proto.graph.value_info[:]
    sizes = proto.graph.input[0].type.tensor_type.shape.dim
    if not sizes[0].dim_param or (time is None and not sizes[1].dim_param):
        raise ModelError(f"{model.architecture}: its graph has but one size", remedy="serve the run itself")
    return Graph(proto, tuple(names), time)


def _try_out(graph: Graph, model: NextVectorModel, context: int) -> None:
    """torch.export may take a branch on a size for good; what it then computes for other sizes is wrong."""
    engine = OnnxEngine(graph.proto.SerializeToString(), graph.inputs, time=graph.time)
    expected = TorchEngine(model)
    lengths = (1, 2, max(1, context // 2), context)
    for size in (1, 4):
        for longest in lengths:
            contexts, read = seeded(model, size, longest)
            meant = expected(contexts, read)
            try:
                found = engine(contexts, read)
            except Exception as e:  # noqa: BLE001  the runtime's own classes
                reason = str(e).strip().split("\n")[0][:200]
                raise ModelError(
                    f"{model.architecture}: its graph fails on contexts of {longest} ({reason})",
                    remedy="serve the run itself",
                ) from None
            off = float(np.abs(found - meant).max())
            if not off <= CLOSE * max(1e-6, float(np.abs(meant).max())):
                raise ModelError(
                    f"{model.architecture}: its graph differs from it by {off:.2g} on contexts of {longest}",
                    remedy="serve the run itself",
                )


def seeded(model: NextVectorModel, rows: int, longest: int, seed: int = 0) -> tuple[FloatArray, IntArray]:
    """Random contexts [B, T, D] as long as the vectors that the model was trained on, and their lengths [B],
    the first of them full."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, longest, model.d_embed)).astype(np.float32)
    # The recipe brings components to about 1; a scale of 1 is that of unit vectors.
    scale = float(model.scale)
    x *= (1.0 if scale == 1 else scale * model.d_embed**0.5) / np.linalg.norm(x, axis=-1, keepdims=True)
    lengths = rng.integers(1, longest + 1, rows)
    lengths[0] = longest
    return x, lengths.astype(np.int64)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without what torch.onnx and onnxscript print and warn of while they work."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
