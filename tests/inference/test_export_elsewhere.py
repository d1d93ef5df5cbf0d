"""An export in programs that know nothing of nextvec: the examples of docs/deploy.md, run as they stand."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from contract.lab import make
from nextvec.corpus.store import Store
from nextvec.errors import ModelError
from nextvec.inference.engines import OnnxEngine
from nextvec.inference.export import export_predictor
from nextvec.inference.graphs import make_graph
from nextvec.inference.predictor import RunPredictor

PAGE = Path(__file__).parents[2] / "docs" / "deploy.md"
# What onnxruntime-node has of the example, answered by the onnxruntime of this Python: npm is not for tests.
STAND_IN = """
const { execFileSync } = require("node:child_process");
const KINDS = { float32: Float32Array, int64: BigInt64Array };
exports.Tensor = class {
  constructor(type, data, dims) {
    if (!(data instanceof KINDS[type])) throw new TypeError(type);
    if (dims.reduce((a, b) => a * b) !== data.length) throw new RangeError(String(dims));
    Object.assign(this, { type, data, dims });
  }
};
exports.InferenceSession = {
  async create(path) {
    return {
      async run(feeds) {
        const sent = {};
        for (const [name, t] of Object.entries(feeds)) {
          sent[name] = [t.type, Array.from(t.data, Number), t.dims];
        }
        const input = JSON.stringify([path, sent]);
        return JSON.parse(execFileSync(process.env.PYTHON, [process.env.BRIDGE], { input }));
      },
    };
  },
};
"""
BRIDGE = """
import json, sys, numpy, onnxruntime
path, sent = json.load(sys.stdin)
feeds = {name: numpy.array(data, kind).reshape(dims) for name, (kind, data, dims) in sent.items()}
[raw] = onnxruntime.InferenceSession(path).run(["raw"], feeds)
print(json.dumps({"raw": {"dims": raw.shape, "data": raw.ravel().tolist()}}))
"""


@pytest.fixture(scope="module")
def run(trained: Path) -> RunPredictor:
    return RunPredictor(trained)


@pytest.fixture(scope="module")
def folder(run: RunPredictor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds the export `lstm-onnx`."""
    made = tmp_path_factory.mktemp("elsewhere")
    export_predictor(run, made / "lstm-onnx")
    return made


@pytest.fixture(scope="module")
def expected(run: RunPredictor) -> Any:
    """[2, D] the run's answers to the documents of the examples."""
    documents = [np.sin(np.arange(1, n * 16 + 1)).reshape(n, 16).astype(np.float32) for n in (3, 5)]
    return np.concatenate([run.predict(d[None], np.array([len(d)]))[0] for d in documents])


def example(language: str) -> str:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text("utf-8"), flags=re.DOTALL)[0]


def test_the_python_example(folder: Path, expected: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    held: dict[str, Any] = {}
    exec(example("python"), held)  # noqa: S102 - the page's own words
    np.testing.assert_allclose(held["raw"][:, 0], expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(held["next_unit"], axis=1), 1, atol=1e-6)


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_the_javascript_example(folder: Path, expected: Any) -> None:
    module = folder / "node_modules" / "onnxruntime-node"
    module.mkdir(parents=True)
    (module / "index.js").write_text(STAND_IN)
    (folder / "bridge.py").write_text(BRIDGE)
    environment = {**os.environ, "PYTHON": sys.executable, "BRIDGE": str(folder / "bridge.py")}
    done = subprocess.run(
        ["node", "-e", example("js")],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    output = json.loads(done.stdout)
    assert output["dims"] == [2, 1, 16]
    np.testing.assert_allclose(np.reshape(output["data"], (2, 16)), expected, atol=1e-5)


def test_the_graph_says_what_it_is(folder: Path, run: RunPredictor, world: Store) -> None:
    graph = onnx.load(folder / "lstm-onnx" / "model.onnx")
    metadata = {entry.key: entry.value for entry in graph.metadata_props}
    assert (metadata["dimension"], metadata["context"], metadata["horizons"]) == ("16", str(run.context), "1")
    assert (metadata["encoder"], metadata["encoder_fingerprint"]) == ("world", world.encoder["fingerprint"])
    assert (metadata["architecture"], metadata["time"], metadata["unit_length"]) == ("lstm", "any", "true")
    assert graph.producer_name == "nextvec"
    assert "the encoder world" in graph.doc_string
    output = {value.name: value.doc_string for value in (*graph.graph.input, *graph.graph.output)}
    assert set(output) == {"vectors", "lengths", "raw"}
    assert all(output.values())
    assert "of unit length" in output["vectors"]


@pytest.mark.parametrize("name", ["lstm", "amn"])
def test_lengths_out_of_range_are_refused(name: str) -> None:
    """By the graph itself, in any program, and by our engines before it."""
    model = make(name)
    graph = make_graph(model, 4).proto.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(graph, options)
    vectors = np.ones((2, 4, model.d_embed), np.float32)
    session.run(None, {"vectors": vectors, "lengths": np.array([1, 4])})
    for length in (0, -1, 5):
        with pytest.raises(Exception, match="Out of range"):
            session.run(None, {"vectors": vectors, "lengths": np.array([1, length])})
        with pytest.raises(ModelError, match="lengths from"):
            OnnxEngine(graph, ("vectors", "lengths"))(vectors, np.array([1, length]))
