"""A model as an ONNX graph, through torch.export.

The graph computes the prediction after the last vector of each row and nothing else. Its batch is of any
size. So is its time, except for architectures whose parallel form is cut into blocks in Python: these are
written for one length, to which the engine pads (a causal model does not see the padding).
"""

from __future__ import annotations

import contextlib
import io
import logging
import platform
import re
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nextvec.data.windows import FloatArray, IntArray
from nextvec.errors import ModelError
from nextvec.inference.engines import (
    LENGTHS,
    QUERY,
    RAW,
    VECTORS,
    OnnxEngine,
    TorchEngine,
    first_line,
    runtime,
)
from nextvec.models.base import NextVectorModel
from nextvec.models.ops.parameters import count_parameters

log = logging.getLogger("nextvec.inference")

MAX_BYTES = 2**31 - 2**24  # of a file in protobuf's format, with room for all that is not weights
OPSET = 23  # the first with attention as one operator
MOST = 2**20  # rows and positions, as torch.export is given them
CLOSE = 1e-3  # of the largest value: float32 in another order


@dataclass(frozen=True)
class Graph:
    """An ONNX model in memory.

    Attributes:
        proto: onnx.ModelProto.
        inputs: names, in the order vectors, lengths and, for a conditional model, query.
        time: the one length it takes; None for any.
    """

    proto: Any
    inputs: tuple[str, ...]
    time: int | None


class LastVector(nn.Module):
    """What is exported: vectors [B, T, D], lengths [B] (and query [B, D]) -> `Prediction.everything`.

    A length of 0, or above T, ends in a read out of bounds, which ONNX Runtime refuses. ONNX counts negative
    positions from the end, so that 0 would otherwise be answered as T is.
    """

    def __init__(self, model: NextVectorModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, vectors: Tensor, lengths: Tensor, query: Tensor | None = None) -> Tensor:
        model = self.model
        last = torch.where(lengths < 1, MOST, lengths - 1)
        bounds = vectors[:, :, 0].gather(1, last[:, None])[:, None]
        x = model.read(vectors)
        hidden = model.encode_last(model.backbone_inputs(x, query), last)
        ranking = None if model.ranker is None else model.ranker.base.after(x, last)
        found = model.predict(hidden, model.residual.after(x, last), ranking=ranking).everything
        # Some architectures read the last position by a mask, which no position out of bounds would end.
        return found + 0.0 * bounds


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
            return _written(model, context, None)
        except ModelError:
            log.info("%s: the graph takes contexts of one length, %d", model.architecture, context)
    return _written(model, context, context)


def _written(model: NextVectorModel, context: int, time: int | None) -> Graph:
    """The graph for that one length, or any, tried out."""
    example = torch.zeros(3, time or max(6, context), model.d_embed)
    arguments = [example, torch.full((3,), example.shape[1])]
    names = [VECTORS, LENGTHS]
    if model.condition is not None:
        names.append(QUERY)
        arguments.append(example[:, 0])
    batch = torch.export.Dim("batch", min=1, max=MOST)
    free: dict[str, dict[int, Any]] = {name: {0: batch} for name in names}
    if time is None:
        free[VECTORS][1] = torch.export.Dim("time", min=1, max=MOST)
    proto = export_graph(LastVector(model).eval(), arguments, names, [RAW], free, model.architecture)
    sizes = proto.graph.input[0].type.tensor_type.shape.dim
    if not sizes[0].dim_param or (time is None and not sizes[1].dim_param):
        raise ModelError(f"{model.architecture}: its graph has but one size", remedy="serve the run itself")
    graph = Graph(proto, tuple(names), time)
    _try_out(graph, model, context)
    return graph


def export_graph(
    module: nn.Module,
    arguments: Sequence[Any],
    names: list[str],
    outputs: list[str],
    shapes: dict[str, Any],
    architecture: str,
) -> Any:
    """`module` as an onnx.ModelProto, its inputs and outputs of these names, `shapes` free as torch.export
    takes them. Raises ModelError: it cannot be written as a graph."""
    # torch.onnx swaps the kernels of recurrent layers for ones that take any length, but a kernel once used
    # in this process is found in a cache before it: a second export would be of one length.
    for layer in (torch.ops.aten.lstm.input, torch.ops.aten.gru.input):
        layer._dispatch_cache.clear()
    # What torch.compile keeps of the loop in those kernels does the same. A compiled model compiles anew.
    torch._dynamo.reset()
    try:
        with quietly():
            program = torch.onnx.export(
                module, tuple(arguments), dynamo=True, opset_version=OPSET, dynamic_shapes=shapes,
                input_names=names, output_names=outputs, verbose=False,
            )  # fmt: skip
    except torch.onnx.OnnxExporterError as e:
        message = str(e.__cause__ or e)
        operator = re.search(r"target=torch\.ops\.(aten\.\w+)", message)
        reason = f"ONNX lacks {operator[1]}" if operator else first_line(message)
        message = f"{architecture} cannot be written as a graph ({reason})"
        raise ModelError(message, remedy="serve the run itself") from None
    assert program is not None
    proto = program.model_proto
    # What torch inferred of the parts; transposed weights keep their old shape there, which tools refuse.
    del proto.graph.value_info[:]
    return proto


def _try_out(graph: Graph, model: NextVectorModel, context: int) -> None:
    """torch.export may take a branch on a size for good; what it then computes for other sizes is wrong."""
    engine = OnnxEngine(graph.proto.SerializeToString(), graph.inputs, time=graph.time)
    expected, what = TorchEngine(model), f"{model.architecture}: its graph"
    for size, longest in product((1, 4), (1, 2, max(1, context // 2), context)):
        contexts, read = seeded(model, size, longest)
        meant = expected(contexts, read)
        try:
            found = engine(contexts, read)
        except Exception as e:  # noqa: BLE001  the runtime's own classes
            message = f"{what} fails on contexts of {longest} ({first_line(e)})"
            raise ModelError(message, remedy="serve the run itself") from None
        refuse_different(found, meant, what, f"on contexts of {longest}")


def refuse_different(found: FloatArray, meant: FloatArray, what: str, when: str) -> None:
    """Raises ModelError where a graph's answer is not the model's."""
    off = float(np.abs(found - meant).max())
    if not off <= CLOSE * max(1e-6, float(np.abs(meant).max())):
        raise ModelError(f"{what} differs from the model by {off:.2g} {when}", remedy="serve the run itself")


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


# int8: ONNX Runtime's own tool quantises products and LSTMs, their activations as they come (dynamic
# quantisation). Before it a Gemm becomes the product it knows, and a GRU, for which the runtime has no kernel
# of bytes, becomes its equations with such products. Activations share one scale a call: the rows of a batch
# touch each other in the last of their eight bits.

CONTRIB = "com.microsoft"
QUANTISED = ("MatMul", "LSTM")


def quantised(graph: Graph) -> Graph:
    """The same graph with int8 weights. Raises ModelError where nothing in it can be quantised."""
    onnx, quantization = runtime("onnx", "onnx"), runtime("onnxruntime.quantization", "onnx")
    # x86 without VNNI adds pairs of products of bytes in 16 bits: they overflow. Those of weights of 7 bits
    # do not (with 8 an lstm's least cosine to its run was .986).
    saturates = platform.machine() in ("x86_64", "AMD64") and not torch.cpu._is_vnni_supported()
    with tempfile.TemporaryDirectory() as folder:
        plain, done = Path(folder) / "plain.onnx", Path(folder) / "int8.onnx"
        _fold(graph.proto.SerializeToString(), plain)
        proto = onnx.load(plain)
        del proto.graph.value_info[:]
        rewritten = _rewritten(proto, onnx)
        onnx.save(proto, plain)
        with quietly():
            quantization.quantize_dynamic(
                plain, done, op_types_to_quantize=list(QUANTISED), reduce_range=saturates,
                weight_type=quantization.QuantType.QInt8, extra_options={"MatMulConstBOnly": True},
            )  # fmt: skip
        found = onnx.load(done)
    kinds = {node.op_type for node in found.graph.node}
    if not rewritten and not kinds & {"MatMulInteger", "DynamicQuantizeLSTM"}:
        raise ModelError("no product in the graph has weights to quantise", remedy="give --precision fp32")
    return Graph(found, graph.inputs, graph.time)


def _fold(graph: bytes, target: Path) -> None:
    """Write the graph with what is constant in it computed: a recurrent network's weights are transposed and
    joined by operators, behind which the quantiser does not see them."""
    ort = runtime("onnxruntime", "onnx")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(target)
    ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _rewritten(proto: Any, onnx: Any) -> bool:
    """Replace every Gemm and GRU whose weights are constants, in place; whether there was a GRU."""
    weights = {tensor.name: tensor for tensor in proto.graph.initializer}
    nodes, found = [], False
    for node in proto.graph.node:
        constant = [weights.get(name) for name in node.input[1:3]]
        if node.op_type == "Gemm" and constant[0] is not None:
            nodes += _product(onnx, proto, node, onnx.numpy_helper.to_array(constant[0]))
        elif node.op_type == "GRU" and None not in constant:
            nodes += _Recurrence(onnx, proto, node, weights).nodes()
            found = True
        else:
            nodes.append(node)
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    used = {name for node in nodes for name in _read_by(node)}
    kept = [tensor for tensor in proto.graph.initializer if tensor.name in used]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
    if found and CONTRIB not in {entry.domain for entry in proto.opset_import}:
        proto.opset_import.append(onnx.helper.make_opsetid(CONTRIB, 1))
    return found


def _read_by(node: Any) -> set[str]:
    """Names that a node reads, also within its body."""
    inner = [part for a in node.attribute if a.HasField("g") for part in a.g.node]
    return {*node.input, *(name for part in inner for name in _read_by(part))}


def _product(onnx: Any, proto: Any, node: Any, weight: FloatArray) -> list[Any]:
    """x W (+ bias) of a Gemm as torch writes Linear: alpha = beta = 1 and x as it is."""
    attrs = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    if attrs.get("alpha", 1.0) != 1.0 or attrs.get("beta", 1.0) != 1.0 or attrs.get("transA", 0):
        return [node]
    name = f"{node.name}.weight"
    held = np.ascontiguousarray(weight.T if attrs.get("transB", 0) else weight)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(held, name))
    x, bias = node.input[0], list(node.input[2:])
    product = f"{node.output[0]}.product" if bias else node.output[0]
    made = [onnx.helper.make_node("MatMul", [x, name], [product], name=f"{node.name}.product")]
    if bias:
        made.append(onnx.helper.make_node("Add", [product, bias[0]], list(node.output), name=node.name))
    return made


class _Recurrence:
    """One GRU node of one direction as equations (torch's form, the reset gate after the product):

        z, r = sigmoid(W x + R h + b),  n = tanh(W_n x + b_n + r (R_n h + c_n)),  h' = n + z (h - n)

    The inputs' products of all positions are one product; a Scan goes over the positions.
    """

    def __init__(self, onnx: Any, proto: Any, node: Any, weights: dict[str, Any]) -> None:
        self.onnx, self.proto, self.node = onnx, proto, node
        attrs = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        array = onnx.numpy_helper.to_array
        self.input, self.recurrent = (array(weights[name])[0] for name in node.input[1:3])
        H = self.width = int(attrs["hidden_size"])
        if attrs.get("direction", b"forward") != b"forward" or not attrs.get("linear_before_reset", 0):
            raise ModelError("a GRU of another form than torch's", remedy="give --precision fp32")
        biases = array(weights[node.input[3]])[0] if node.input[3:4] else np.zeros(6 * H, np.float32)
        outside, inside = np.split(biases, 2)
        joined = outside + inside
        self.bias = np.concatenate((joined[: 2 * H], outside[2 * H :]))
        self.inner_bias = np.concatenate((np.zeros(2 * H, np.float32), inside[2 * H :]))

    def nodes(self) -> list[Any]:
        """In the place of the GRU."""
        make, node, name = self.onnx.helper.make_node, self.node, self.node.name
        x, start = node.input[0], node.input[5]
        outputs = [*node.output, ""][:2]
        first, last, all_of, gates = (f"{name}.{part}" for part in ("first", "last", "all", "gates"))
        axis = self._constant("axis", np.array([0], np.int64))
        second = self._constant("second", np.array([1], np.int64))
        made = [
            self._quantised_product(x, self.input, self.bias, "gates", gates),
            make("Squeeze", [start, axis], [first]),
            make("Scan", [first, gates], [last, all_of], name=name, num_scan_inputs=1, body=self._body()),
        ]
        if outputs[0]:
            made.append(make("Unsqueeze", [all_of, second], [outputs[0]]))
        if outputs[1]:
            made.append(make("Unsqueeze", [last, axis], [outputs[1]]))
        return made

    def _body(self) -> Any:
        """h [B, H] and a position's gates [B, 3 H] -> h', twice: carried on and given out."""
        helper, H = self.onnx.helper, self.width
        make, kind = helper.make_node, self.onnx.TensorProto.FLOAT
        sizes = self._constant("sizes", np.array([2 * H, H], np.int64))
        halves = self._constant("halves", np.array([H, H], np.int64))
        nodes = [
            self._quantised_product("h", self.recurrent, self.inner_bias, "inner", "inner"),
            make("Split", ["inner", sizes], ["inner_zr", "inner_n"], axis=-1),
            make("Split", ["gates", sizes], ["gates_zr", "gates_n"], axis=-1),
            make("Add", ["inner_zr", "gates_zr"], ["both"]),
            make("Sigmoid", ["both"], ["zr"]),
            make("Split", ["zr", halves], ["z", "r"], axis=-1),
            make("Mul", ["r", "inner_n"], ["reset"]),
            make("Add", ["gates_n", "reset"], ["sum"]),
            make("Tanh", ["sum"], ["n"]),
            make("Sub", ["h", "n"], ["away"]),
            make("Mul", ["z", "away"], ["kept"]),
            make("Add", ["n", "kept"], ["next"]),
            make("Identity", ["next"], ["given"]),
        ]
        for part in nodes:
            part.name = f"{self.node.name}.{part.output[0]}"

        widths = {"h": H, "gates": 3 * H, "next": H, "given": H}
        h, gates, *out = (helper.make_tensor_value_info(n, kind, [None, w]) for n, w in widths.items())
        return helper.make_graph(nodes, f"{self.node.name}.step", [h, gates], out)

    def _quantised_product(self, x: str, weight: FloatArray, bias: FloatArray, kind: str, output: str) -> Any:
        """x W^T + bias with W [3 H, I] in int8, a scale for each of its rows."""
        scale = np.maximum(np.abs(weight).max(1), np.float32(1e-12)) / np.float32(127)
        held = np.rint(weight / scale[:, None]).astype(np.int8)
        parts = {"weight": np.ascontiguousarray(held.T), "scale": scale, "bias": bias}
        w, s, b = (self._constant(f"{kind}.{part}", value) for part, value in parts.items())
        return self.onnx.helper.make_node(
            "DynamicQuantizeMatMul",
            [x, w, s, "", b],
            [output],
            name=f"{self.node.name}.{kind}",
            domain=CONTRIB,
        )

    def _constant(self, kind: str, value: NDArray[Any]) -> str:
        name = f"{self.node.name}.{kind}"
        self.proto.graph.initializer.append(self.onnx.numpy_helper.from_array(value, name))
        return name
