"""Exports: as close to the run as they say, taken in its place, refused where they would not be."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from by_hand import by_hand
from contract.lab import MODELS, make
from nextvec.cli.export import describe
from nextvec.corpus.store import Store
from nextvec.disk import sha256_file
from nextvec.errors import ConfigError, EncoderMismatchError, MissingDependencyError, ModelError, RunError
from nextvec.inference import engines, export
from nextvec.inference.base import WindowSession
from nextvec.inference.export import Exported, Precision, export_predictor
from nextvec.inference.exported import ExportedPredictor
from nextvec.inference.graphs import make_graph, seeded
from nextvec.inference.predictor import ModelPredictor, RunPredictor, open_predictor
from nextvec.vectors import unit

CONTEXT = 6


@pytest.fixture(scope="module", autouse=True)
def graphs_made_once() -> Iterator[None]:
    """Tests that export one model share its graph, which takes seconds to make."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "make_graph", functools.cache(make_graph))
        yield


@pytest.fixture(scope="module")
def run(trained: Path) -> RunPredictor:
    return RunPredictor(trained)


@pytest.fixture(scope="module")
def made(run: RunPredictor, world: Store, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export_predictor(run, tmp_path_factory.mktemp("exports") / "small", store=world)


def test_an_export_answers_as_its_run(made: Exported, run: RunPredictor, world: Store) -> None:
    exported = ExportedPredictor(made.folder)
    assert made.time is None
    for longest in (1, 2, 7, 32):
        contexts, lengths = seeded(run.model, 5, longest, seed=longest)
        expected = run.predict(contexts, lengths)[0]
        for i, n in enumerate(lengths):
            contexts[i, n:] = np.nan  # padding is not looked at
        np.testing.assert_allclose(exported.predict(contexts, lengths)[0], expected, atol=1e-5)
    output = ("context", "encoder", "dimension", "horizons", "task", "space", "training", "conditional")
    assert all(getattr(exported, name) == getattr(run, name) for name in output)
    np.testing.assert_array_equal(exported.trained_on.chunks, run.trained_on.chunks)
    assert not exported.confident
    assert not exported.generative
    with pytest.raises(ModelError, match="no distribution"):
        exported.sample(contexts, lengths, 1, 0)


def test_an_engine_leaves_the_arithmetic_of_its_thread_alone(made: Exported) -> None:
    """A runtime may be told to take subnormal numbers for zero, and then tells the processor."""
    ExportedPredictor(made.folder)
    small = np.float32(1e-38)
    assert small * np.float32(1e-3) != 0


def test_what_was_compared_is_recorded(made: Exported, world: Store) -> None:
    held = json.loads((made.folder / "export.json").read_text())
    parity = held["parity"]
    assert parity == made.parity.to_json()
    assert (parity["source"], parity["windows"]) == (world.path.name, 256)
    assert parity["cosine_min"] >= 0.9999
    assert parity["recall_before"] == parity["recall_after"] > 0
    assert held["encoder"] == world.encoder
    assert {"torch", "onnx", "onnxruntime", "nextvec"} <= held["versions"].keys()


def test_int8_is_smaller_and_close(made: Exported, run: RunPredictor, tmp_path: Path) -> None:
    small = export_predictor(run, tmp_path / "int8", "onnx", "int8", tolerance=0.99, any_length=False)
    graph = "model.onnx"
    assert (small.folder / graph).stat().st_size < 0.8 * (made.folder / graph).stat().st_size
    assert 0.99 <= small.parity.cosine_min < 0.99999999
    assert (small.parity.recall_before, small.parity.recall_after) == (None, None)
    assert "seeded" in small.parity.source
    recall = "recall@5            not measured on random vectors; --store STORE measures it"
    assert describe(small).splitlines()[-1].strip() == recall
    assert recall not in describe(made)


def test_openvino_answers_as_the_run(run: RunPredictor, tmp_path: Path) -> None:
    made = export_predictor(run, tmp_path / "ov", "openvino", any_length=False)
    exported = open_predictor(made.folder)
    assert exported.engine.name == "openvino"
    assert made.time == 32
    contexts, lengths = seeded(run.model, 6, 9)
    expected = run.predict(contexts, lengths)[0]
    with ThreadPoolExecutor(4) as pool:
        for raw, _ in pool.map(lambda _: exported.predict(contexts, lengths), range(12)):
            np.testing.assert_allclose(raw, expected, atol=1e-5)


def test_many_threads_share_an_export(made: Exported, run: RunPredictor) -> None:
    exported = ExportedPredictor(made.folder)
    contexts, lengths = seeded(run.model, 64, 8)
    alone = [exported.predict(contexts[i : i + 1], lengths[i : i + 1])[0][0] for i in range(64)]
    with ThreadPoolExecutor(8) as pool:
        together = list(
            pool.map(lambda i: exported.predict(contexts[i : i + 1], lengths[i : i + 1])[0][0], range(64))
        )
    np.testing.assert_array_equal(together, alone)


def test_a_stream_of_an_export(made: Exported) -> None:
    assert isinstance(ExportedPredictor(made.folder).stream(), WindowSession)


def test_what_is_too_far_is_not_written(run: RunPredictor, tmp_path: Path) -> None:
    with pytest.raises(
        RunError, match=r"in int8 it is too far from the run: cosine .* give --precision fp32"
    ):
        export_predictor(run, tmp_path / "far", "onnx", "int8", tolerance=0.9999999, any_length=False)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_asked_for(run: RunPredictor, made: Exported, make_world, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match="does not compute in bf16 on a CPU"):
        export_predictor(run, out, "onnx", "bf16")
    with pytest.raises(ConfigError, match="OpenVINO does not run ONNX Runtime's quantised"):
        export_predictor(run, out, "openvino", "int8")
    with pytest.raises(ConfigError, match="tolerance is 2"):
        export_predictor(run, out, tolerance=2.0)
    with pytest.raises(RunError, match="is there already"):
        export_predictor(run, made.folder)
    with pytest.raises(EncoderMismatchError, match="give a store of the run's encoder"):
        export_predictor(run, out, store=make_world(tmp_path / "other", encoder="another"))
    assert not out.exists()


def test_a_missing_package(run: RunPredictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(module: str) -> None:
        raise ImportError(module)

    monkeypatch.setattr(engines.importlib, "import_module", missing)
    with pytest.raises(MissingDependencyError, match=r"pip install nextvec\[onnx\]"):
        export_predictor(run, tmp_path / "out")


@pytest.mark.parametrize("spoil", ["graph", "manifest", "newer", "outside", "golden", "gone"])
def test_a_damaged_export(made: Exported, tmp_path: Path, spoil: str) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(made.folder, folder)
    manifest = folder / "export.json"
    held = json.loads(by_hand(manifest))
    if spoil == "graph":
        (folder / "model.onnx").write_bytes(b"nothing")
    elif spoil == "golden":
        (folder / "golden.safetensors").write_bytes(b"nothing")
    elif spoil == "gone":
        (folder / "model.onnx").unlink()
    elif spoil == "manifest":
        manifest.write_text("{}")
    elif spoil == "newer":
        manifest.write_text(json.dumps({**held, "nextvec_export": 99}))
    else:
        (tmp_path / "model.onnx").write_bytes((folder / "model.onnx").read_bytes())
        files = {**held["files"], "../model.onnx": held["files"]["model.onnx"]}
        manifest.write_text(json.dumps({**held, "files": files, "graph": "../model.onnx"}))
    with pytest.raises(RunError):
        ExportedPredictor(folder)


def test_an_export_that_answers_otherwise_here(made: Exported, tmp_path: Path) -> None:
    """As on a processor whose sums of bytes overflow: another graph that passes for the right one."""
    folder = tmp_path / "copy"
    shutil.copytree(made.folder, folder)
    other = make_graph(make("lstm"), 32, any_length=False)
    (folder / "model.onnx").write_bytes(other.proto.SerializeToString())
    held = json.loads(by_hand(folder / "export.json"))
    path = folder / "model.onnx"
    held["files"]["model.onnx"] = {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
    held["time"] = 32
    (folder / "export.json").write_text(json.dumps(held))
    with pytest.raises(RunError, match="answers otherwise than the run here"):
        ExportedPredictor(folder)


def test_horizons_and_queries_are_exported(tmp_path: Path) -> None:
    model = make("gru", horizons=3, conditional=True)
    predictor = ModelPredictor(model, CONTEXT, "mine")
    exported = ExportedPredictor(export_predictor(predictor, tmp_path / "x").folder)
    contexts, lengths = seeded(model, 4, CONTEXT)
    queries = contexts[::-1, 0].copy()
    for horizon in (1, 3):
        predictor.head = horizon - 1
        at_horizon = exported.at_horizon(horizon)
        for output in (queries, None):
            np.testing.assert_allclose(
                at_horizon.predict(contexts, lengths, output)[0],
                predictor.predict(contexts, lengths, output)[0],
                atol=1e-5,
            )
    assert exported.conditional


def test_the_query_for_ranking_and_averages_of_the_inputs_are_exported(tmp_path: Path) -> None:
    model = make("lstm", horizons=2, ranking=True, averages=True, residual="averages")
    predictor = ModelPredictor(model, CONTEXT, "mine")
    made = export_predictor(predictor, tmp_path / "x", any_length=False)
    exported = ExportedPredictor(made.folder)
    assert exported.ranking
    contexts, lengths = seeded(model, 4, CONTEXT)
    expected = predictor.predict_ranking(contexts, lengths)
    for found, meant in zip(exported.predict_ranking(contexts, lengths), expected, strict=True):
        np.testing.assert_allclose(found, meant, atol=1e-5)
    assert not exported.at_horizon(2).ranking


REFUSED = {
    "performer": "cummax",
    "rwkv": "linalg_solve_triangular",
    "s4": "atanh",
    "s4/small-s4d": "ones_like",
}
"""What ONNX lacks for an architecture's parallel form, at least in complex numbers (both of s4)."""


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_every_architecture(name: str, tmp_path: Path) -> None:
    """Exported with parity, at every length up to its context, and in a batch of any size, by its steps where
    the parallel form is refused; and a stream longer than the context."""
    model = make(name)
    predictor = ModelPredictor(model, CONTEXT, "mine")
    if name in REFUSED:
        with pytest.raises(
            ModelError, match=rf"cannot be written as a graph \(ONNX lacks aten.{REFUSED[name]}\)"
        ):
            export_predictor(predictor, tmp_path / "y")
    made = export_predictor(predictor, tmp_path / "x", step=True)
    assert (made.folder / "model.onnx").exists() == (name not in REFUSED)
    exported = ExportedPredictor(made.folder)
    for rows in (1, 5):
        for longest in range(1, CONTEXT + 1):
            contexts, lengths = seeded(model, rows, longest, seed=longest)
            expected = predictor.predict(contexts, lengths)[0]
            np.testing.assert_allclose(exported.predict(contexts, lengths)[0], expected, rtol=0, atol=1e-4)
    held = json.loads((made.folder / "export.json").read_text())
    assert held["left_out"] == (["samples"] if model.generative else [])
    vectors = seeded(model, 1, 5 * CONTEXT)[0][0]
    session, meant = exported.stream(), predictor.stream()
    assert session.streaming == meant.streaming == model.streaming
    np.testing.assert_allclose(session.read(vectors), meant.read(vectors), rtol=0, atol=1e-4)


STEPS = (
    ("gru", "fp32", {"horizons": 3, "conditional": True, "residual": "ridge"}),
    pytest.param(
        "transformer",
        "int8",
        {"ranking": True, "averages": True, "residual": "averages"},
        marks=pytest.mark.slow,
    ),
)


@pytest.mark.parametrize(("name", "precision", "options"), STEPS)
def test_a_stream_goes_on_from_its_state(
    name: str, precision: Precision, options: dict[str, object], tmp_path: Path
) -> None:
    model = make(name, **options)
    predictor = ModelPredictor(model, CONTEXT, "mine")
    tolerance = {"fp32": None, "int8": 0.9}[precision]
    made = export_predictor(
        predictor, tmp_path / "x", "onnx", precision, tolerance=tolerance, any_length=False, step=True
    )
    exported = ExportedPredictor(made.folder)
    vectors = seeded(model, 1, 5 * CONTEXT)[0][0]
    query = vectors[-1] if predictor.conditional else None
    session = exported.stream(query)
    for horizon in range(1, 2 if precision == "int8" else model.config.horizons + 1):
        predictor.head = horizon - 1
        expected = predictor.stream(query).read(vectors)
        session = exported.at_horizon(horizon).stream(query)
        for _ in range(2):
            found = np.concatenate(([session.push(vectors[0])], session.read(vectors[1:])))
            if precision == "fp32":
                np.testing.assert_allclose(found, expected, atol=1e-4)
            assert (unit(found) * unit(expected)).sum(1).min() > 0.9
            assert session.position == len(vectors)
            session.reset()
    if query is None:
        with pytest.raises(ModelError, match="takes no query"):
            exported.stream(vectors[0])


@pytest.mark.slow
def test_a_step_graph_ends_where_its_model_does(tmp_path: Path) -> None:
    model = make("distilgpt2")
    exported = ExportedPredictor(
        export_predictor(ModelPredictor(model, CONTEXT, "mine"), tmp_path / "x", step=True).folder
    )
    session, most = exported.stream(), model.config.positions
    vectors = seeded(model, 1, most)[0][0]
    session.read(vectors)
    with pytest.raises(ModelError, match=r"refuses another vector .*; begin a new session"):
        session.push(vectors[0])
    assert session.position == most


def test_what_a_step_form_cannot_be(run: RunPredictor, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="OpenVINO exports have no step form; give --format onnx"):
        export_predictor(run, tmp_path / "x", "openvino", step=True)
    made = export_predictor(run, tmp_path / "x", any_length=False, step=True)
    held = json.loads(by_hand(made.folder / "export.json"))
    (made.folder / "export.json").write_text(json.dumps({**held, "step": "endless", "graph": None}))
    with pytest.raises(RunError, match="is not the description of an export"):
        ExportedPredictor(made.folder)
