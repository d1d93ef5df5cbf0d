"""bench inference: engines in processes of their own, their figures, and what cannot be had."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from by_hand import by_hand
from nextvec.cli.export import describe_bench
from nextvec.errors import ConfigError, RunError
from nextvec.inference.bench import measure as measuring
from nextvec.inference.bench.measure import (
    BenchConfig,
    BenchModel,
    EngineError,
    EngineProcess,
    fresh,
    measure,
    runs,
)
from nextvec.inference.bench.worker import in_turns, percentiles_ms, sample_contexts
from nextvec.inference.predictor import RunPredictor


def job(run: Path, **changed: object) -> dict[str, object]:
    requested = {"path": str(run), "engine": "eager", "torch": True, "device": "cpu", "threads": 1,
             "context": 3, "length": 1.0}  # fmt: skip
    return {**requested, **changed}


def test_engines_take_turns() -> None:
    order: list[str] = []
    calls = {name: (lambda name=name: order.append(name)) for name in ("a", "b")}
    times = in_turns(calls, rounds=2, each=3)
    assert "".join(order).removeprefix("a" * 5 + "b" * 5) == "aaabbb" * 2
    assert {name: len(spent) for name, spent in times.items()} == {"a": 6, "b": 6}


def test_percentiles_are_milliseconds() -> None:
    found = percentiles_ms([0.001 * n for n in range(1, 102)])
    assert found == {"p50_ms": 51.0, "p95_ms": 96.0, "p99_ms": 100.0}


def test_what_is_read_is_as_long_as_it_should_be_and_the_same() -> None:
    x = sample_contexts(256, 4, 3.0, 50)
    assert x.shape == (50, 4, 256)
    assert np.linalg.norm(x, axis=2).mean() == pytest.approx(3.0, rel=0.02)
    neighbours = (
        (x[:, 0] * x[:, 1]).sum(1) / np.linalg.norm(x[:, 0], axis=1) / np.linalg.norm(x[:, 1], axis=1)
    )
    assert neighbours.mean() == pytest.approx(0.5, abs=0.05)
    assert np.array_equal(x, sample_contexts(256, 4, 3.0, 50))


def test_a_process_answers_as_the_run_does(trained: Path, tmp_path: Path) -> None:
    with EngineProcess(job(trained)) as process:
        metadata = process.start()
        run = RunPredictor(trained)
        assert metadata == {key: run.metadata[key] for key in ("parameters", "bytes")}
        process.call("answer", batch=4, file=str(tmp_path / "answer.npy"))
        contexts = sample_contexts(run.dimension, 3, 1.0, 4)
        expected, _ = run.predict(contexts, np.full(4, 3))
        np.testing.assert_allclose(np.load(tmp_path / "answer.npy"), expected, atol=1e-5)
        times = process.call("time", batch=2, seconds=0.0)["times"]
        assert len(times) == 3
        assert min(times) > 0
        memory = process.call("memory")
        assert memory["peak"] > memory["grown"] > 0
        assert memory["device"] is None
        with pytest.raises(EngineError, match="nothing"):
            process.call("nothing")
        assert process.call("memory")["peak"] >= memory["peak"]  # it goes on after an error
        pid = process.pid
        assert pid is not None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_an_engine_that_cannot_be_loaded_says_why(tmp_path: Path) -> None:
    with EngineProcess(job(tmp_path / "gone")) as process, pytest.raises(EngineError, match="gone"):
        process.start()


def test_a_process_that_dies_is_noticed(trained: Path) -> None:
    with EngineProcess(job(trained)) as process:
        process.start()
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(EngineError, match=r"ended \(exit code -9"):
            process.call("memory")


def test_every_figure_of_a_row(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "ROUNDS", 1)
    bench = BenchConfig(engines=("eager", "onnx", "onnx-int8"), batches=(4,), seconds=0.0, context=3)
    real = measuring.exported

    def exported(run: Path, engine: str, folder: Path) -> Path:
        if engine == "onnx-int8":
            raise RunError("is too far from the run")
        return real(run, engine, folder)

    monkeypatch.setattr(measuring, "exported", exported)
    measured = measure(runs([trained]), bench, quiet=True)
    eager, onnx, refused = measured.rows
    for row in (eager, onnx):
        assert row.reason is None
        assert sorted(row.throughput) == [1, 4]
        assert row.floor_ms == pytest.approx(row.bytes / measured.bandwidth["cpu"] * 1e3)
        assert row.cosine == pytest.approx(1.0, abs=1e-4)
        assert row.latency["p50_ms"] <= row.latency["p99_ms"]
        assert row.throughput[4] > 0
    assert eager.speedup == 1.0
    assert onnx.speedup == pytest.approx(eager.latency["p50_ms"] / onnx.latency["p50_ms"])
    assert refused.reason == "is too far from the run"
    assert refused.latency == {}
    assert f"{trained.name}, onnx-int8: is too far from the run" in describe_bench(measured)
    json.dumps(measured.to_json(), allow_nan=False)


def test_fresh_models_are_those_of_the_preset(tmp_path: Path) -> None:
    (subject,) = fresh(["lstm"], "small", 32, tmp_path)
    assert subject == BenchModel("lstm small", tmp_path / "lstm", 1.0)
    run = RunPredictor(subject.path)
    assert run.model.config.hidden == 256
    assert run.predict(sample_contexts(32, 3, 1.0, 2), np.full(2, 3))[0].shape == (2, 32)


def test_vectors_are_as_long_as_those_trained_on(trained: Path, tmp_path: Path) -> None:
    assert runs([trained])[0].length == 1.0
    (made,) = fresh(["lstm"], "small", 32, tmp_path)
    info = json.loads(by_hand(made.path / "config.json"))
    info["training"]["normalised"] = False
    (made.path / "config.json").write_text(json.dumps(info))
    assert runs([made.path])[0].length == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("requested", "says"),
    [
        ({"engines": ("eager", "abacus")}, "no engine 'abacus'"),
        ({"engines": ("onnx",)}, "name eager"),
        ({"batches": ()}, "holds no batch sizes"),
        ({"batches": (0,)}, "holds no batch sizes"),
        ({"context": 0}, "context is 0"),
        ({"threads": 0}, "threads is 0"),
    ],
)
def test_what_cannot_be_measured_is_refused(requested: dict[str, tuple[str, ...]], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        BenchConfig(**requested)


def test_eager_has_to_run(trained: Path) -> None:
    absent = "cuda" if not torch.cuda.is_available() else "mps"
    with pytest.raises(ConfigError, match="eager cannot run"):
        measure(runs([trained]), BenchConfig(engines=("eager",), device=absent, seconds=0.0), quiet=True)


def test_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError):
        runs([tmp_path])
