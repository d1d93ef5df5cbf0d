"""int8 weights for an ONNX graph, with activations quantised as they come (dynamic quantisation).

ONNX Runtime's own tool does products and LSTMs. Two things are done for it before: a Gemm becomes the product
it knows, and a GRU, for which the runtime has no kernel of bytes, becomes its equations with such products.
Activations share one scale a call: the rows of a batch touch each other in the last of their eight bits.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nextvec.errors import ModelError
from nextvec.inference.graphs import Graph, quietly
from nextvec.inference.runtimes import runtime

Floats = NDArray[np.float32]
CONTRIB = "com.microsoft"
QUANTISED = ("MatMul", "LSTM")


def quantised(graph: Graph) -> Graph:
    """The same graph with int8 weights. Raises ModelError where nothing in it can be quantised."""
    onnx, quantization = runtime("onnx", "onnx"), runtime("onnxruntime.quantization", "onnx")
    with tempfile.TemporaryDirectory() as folder:
        plain, done = Path(folder) / "plain.onnx", Path(folder) / "int8.onnx"
        _fold(graph.proto.SerializeToString(), plain)
        proto = onnx.load(plain)
        del proto.graph.value_info[:]
        rewritten = _rewritten(proto, onnx)
        onnx.save(proto, plain)
        with quietly():
            quantization.quantize_dynamic(
                plain,
                done,
                op_types_to_quantize=list(QUANTISED),
                weight_type=quantization.QuantType.QInt8,
                extra_options={"MatMulConstBOnly": True},
            )
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


def _product(onnx: Any, proto: Any, node: Any, weight: Floats) -> list[Any]:
    """x W (+ bias) of a Gemm as torch writes Linear: alpha = beta = 1 and x as it is."""
    told = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    if told.get("alpha", 1.0) != 1.0 or told.get("beta", 1.0) != 1.0 or told.get("transA", 0):
        return [node]
    name = f"{node.name}.weight"
    held = np.ascontiguousarray(weight.T if told.get("transB", 0) else weight)
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
        told = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        array = onnx.numpy_helper.to_array
        self.input, self.recurrent = (array(weights[name])[0] for name in node.input[1:3])
        H = self.width = int(told["hidden_size"])
        if told.get("direction", b"forward") != b"forward" or not told.get("linear_before_reset", 0):
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
        first, last, all_of = f"{name}.first", f"{name}.last", f"{name}.all"
        axis = self._constant("axis", np.array([0], np.int64))
        second = self._constant("second", np.array([1], np.int64))
        made = [
            self._quantised_product(x, self.input, self.bias, "gates", f"{name}.gates"),
            make("Squeeze", [start, axis], [first]),
            make(
                "Scan",
                [first, f"{name}.gates"],
                [last, all_of],
                name=name,
                num_scan_inputs=1,
                body=self._body(),
            ),
        ]
        if outputs[0]:
            made.append(make("Unsqueeze", [all_of, second], [outputs[0]]))
        if outputs[1]:
            made.append(make("Unsqueeze", [last, axis], [outputs[1]]))
        return made

    def _body(self) -> Any:
        """h [B, H] and a position's gates [B, 3 H] -> h', twice: carried on and given out."""
        helper, TensorProto, H = self.onnx.helper, self.onnx.TensorProto, self.width
        make, own = helper.make_node, [2 * H, H]
        sizes = self._constant("sizes", np.array(own, np.int64))
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

        def value(name: str, width: int) -> Any:
            return helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, width])

        inputs = [value("h", H), value("gates", 3 * H)]
        return helper.make_graph(
            nodes, f"{self.node.name}.step", inputs, [value("next", H), value("given", H)]
        )

    def _quantised_product(self, x: str, weight: Floats, bias: Floats, kind: str, output: str) -> Any:
        """x W^T + bias with W [3 H, I] in int8, a scale for each of its rows."""
        scale = np.maximum(np.abs(weight).max(1), np.float32(1e-12)) / np.float32(127)
        held = np.rint(weight / scale[:, None]).astype(np.int8)
        names = [
            self._constant(f"{kind}.weight", np.ascontiguousarray(held.T)),
            self._constant(f"{kind}.scale", scale.astype(np.float32)),
            "",
            self._constant(f"{kind}.bias", bias.astype(np.float32)),
        ]
        return self.onnx.helper.make_node(
            "DynamicQuantizeMatMul", [x, *names], [output], name=f"{self.node.name}.{kind}", domain=CONTRIB
        )

    def _constant(self, kind: str, value: NDArray[Any]) -> str:
        name = f"{self.node.name}.{kind}"
        self.proto.graph.initializer.append(self.onnx.numpy_helper.from_array(value, name))
        return name
