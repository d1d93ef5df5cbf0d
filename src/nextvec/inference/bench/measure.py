"""Every engine of every model, in turns: latency, throughput, memory, agreement, and the floor."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from nextvec.config import Checked, number
from nextvec.data.windows import FloatArray
from nextvec.errors import ConfigError, NextvecError, RunError
from nextvec.inference.bench.worker import COPY, percentiles_ms
from nextvec.inference.export import Format, Precision, export_predictor
from nextvec.inference.predictor import RunPredictor, open_predictor
from nextvec.json_process import JsonProcess
from nextvec.models.registry import build
from nextvec.models.saving import save_model
from nextvec.progress import Progress
from nextvec.vectors import unit

TORCH = ("eager", "compiled")
EXPORTS: dict[str, tuple[Format, Precision]] = {
    "onnx": ("onnx", "fp32"),
    "onnx-int8": ("onnx", "int8"),
    "openvino": ("openvino", "fp32"),
    "openvino-bf16": ("openvino", "bf16"),
}
"""An engine that runs an export -> format and precision of that."""


@dataclass(frozen=True)
class BenchModel:
    """A run folder, and about how long the vectors are that it reads."""

    name: str
    path: Path
    length: float


def runs(folders: Sequence[Path]) -> list[BenchModel]:
    """Trained runs.

    Raises:
        RunError: no run there, or a damaged one.
    """
    found = []
    for folder in folders:
        run = open_predictor(folder)
        if not isinstance(run, RunPredictor):
            raise RunError("is an export", where=folder, remedy="name the run it was made of")
        # Where training scaled the components to 1, vectors are as long as the root of their number.
        length = 1.0 if run.training.get("normalised") else float(run.model.scale) * run.dimension**0.5
        found.append(BenchModel(folder.resolve().name, folder, length))
    return found


def fresh(names: Sequence[str], preset: str, dimension: int, folder: Path) -> list[BenchModel]:
    """Untrained models of a preset, saved under `folder` as runs that read unit vectors.

    Raises:
        ModelError: an unknown architecture or preset.
    """
    found = []
    for name in names:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = build(name, preset, dimension)
        model.scale.fill_(dimension**-0.5)
        training = {"context": 64, "horizons": [1], "task": "next", "normalised": True, "chunker": {}}
        nobody = {"name": "none", "fingerprint": "none"}
        save_model(folder / name, model, {"encoder": nobody, "training": training})
        found.append(BenchModel(f"{name} {preset}", folder / name, 1.0))
    return found


def exported(run: Path, engine: str, folder: Path) -> Path:
    """The run's export for an engine, made in `folder`. Raises what `nextvec export` refuses."""
    format, precision = EXPORTS[engine]
    export_predictor(RunPredictor(run), folder, format, precision)
    return folder


THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class EngineError(Exception):
    """An engine that cannot run or failed; the message is the reason in its row."""


class EngineProcess(JsonProcess):
    """`nextvec.inference.bench.worker` with one engine; it ends with the `with` block. Raises EngineError."""

    def __init__(self, job: dict[str, Any]) -> None:
        super().__init__(
            [sys.executable, "-m", "nextvec.inference.bench.worker", json.dumps(job)],
            name=str(job["engine"]),
            error=lambda _, message: EngineError(message),
            environment=dict.fromkeys(THREADS, str(job["threads"])),
            folder=Path.cwd(),
        )

    @classmethod
    def copying(cls, device: str, threads: int) -> Self:
        """One that copies memory in place of predicting."""
        return cls({"engine": COPY, "device": device, "threads": threads})

    def call(self, method: str, **details: Any) -> dict[str, Any]:
        return self.ask({"call": method, **details})


ENGINES = (*TORCH, *EXPORTS)
DEFAULT_ENGINES = ("eager", "compiled", "onnx", "onnx-int8", "openvino")
ROUNDS = 5
AGREEMENT = 64
"""Contexts on which the engines are compared with eager."""


@dataclass(frozen=True)
class BenchConfig(Checked):
    """What is measured.

    Attributes:
        engines: of `ENGINES`.
        batches: contexts predicted at once; the latency is of batch 1, which is always measured.
        context: vectors read before each prediction.
        seconds: spent on each batch size of each engine, in `ROUNDS` turns.
        threads: of every engine.
        device: of eager and compiled; exports run on the CPU.
    Raises:
        ConfigError: an unknown engine, or a number that cannot be meant.
    """

    engines: tuple[str, ...] = DEFAULT_ENGINES
    batches: tuple[int, ...] = (1, 8, 32, 128, 256)
    context: int = number(5, least=1)
    seconds: float = number(2.0, least=0)
    threads: int = number(1, least=1)
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name in self.engines:
            if name not in ENGINES:
                message = f"no engine '{name}'"
                raise ConfigError(message, where="--engines", remedy=f"choose of: {', '.join(ENGINES)}")
        if "eager" not in self.engines:
            message = "the others are compared with eager"
            raise ConfigError(message, where="--engines", remedy="name eager among the engines")
        try:
            super().__post_init__()
        except ValueError as e:
            raise ConfigError(str(e), where="nextvec bench inference", remedy="give another number") from None
        if not self.batches or min(self.batches) < 1:
            raise ConfigError("holds no batch sizes", where="--batches", remedy="write --batches 1,8,32")


@dataclass
class EngineResult:
    """One engine of one model. Without figures, `reason` says why.

    Attributes:
        bytes: of the weights on disk, as this engine has them.
        latency: "p50_ms", "p95_ms", "p99_ms" of batch 1.
        throughput: contexts a second by batch size, from the median time of a batch.
        peak_bytes: of the process; grown_bytes: of these, what came after the program itself was loaded;
            device_bytes: the device's, where that is not the CPU.
        cosine, cosine_min: to eager's answers, mean and smallest.
        floor_ms: the time in which the weights can be read from memory once; in a processor's cache they are
            read faster.
        speedup: eager's p50 over its own.
    """

    model: str
    engine: str
    reason: str | None = None
    parameters: int | None = None
    bytes: int | None = None
    latency: dict[str, float] = field(default_factory=dict)
    throughput: dict[int, float] = field(default_factory=dict)
    peak_bytes: int | None = None
    grown_bytes: int | None = None
    device_bytes: int | None = None
    cosine: float | None = None
    cosine_min: float | None = None
    floor_ms: float | None = None
    speedup: float | None = None


@dataclass(frozen=True)
class Measured:
    """The rows, what was asked, and `bandwidth`: bytes a second read and written by large copies."""

    bench: BenchConfig
    bandwidth: dict[str, float]
    rows: tuple[EngineResult, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON-ready: "bench", "bandwidth" by device, "rows"."""
        return asdict(self)


def measure(subjects: Sequence[BenchModel], bench: BenchConfig, *, quiet: bool = False) -> Measured:
    """Measure every model with every engine. One model's engines are loaded together and take turns.

    An engine that cannot run has a row with its reason.

    Raises:
        ConfigError: not even eager could be run.
    """
    rows: list[EngineResult] = []
    bandwidth: dict[str, list[float]] = {}
    total = len(subjects) * len(bench.engines)
    with Progress("bench", total, "engines", quiet=quiet) as progress:
        for subject in subjects:
            rows += _measure_one(subject, bench, bandwidth)
            progress.advance(len(bench.engines))
    best = {device: max(found) for device, found in bandwidth.items()}
    for row in rows:
        device = bench.device if row.engine in TORCH else "cpu"
        if row.bytes is not None and device in best:
            row.floor_ms = row.bytes / best[device] * 1e3
    return Measured(bench, best, tuple(rows))


def _measure_one(
    subject: BenchModel, bench: BenchConfig, bandwidth: dict[str, list[float]]
) -> list[EngineResult]:
    """The rows of one model; what copies in memory took goes to `bandwidth`."""
    rows = {engine: EngineResult(subject.name, engine) for engine in bench.engines}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nextvec-bench-")))
        running: dict[str, EngineProcess] = {}
        for engine, row in rows.items():
            with _reason(row):
                process = stack.enter_context(EngineProcess(_job(subject, engine, bench, folder)))
                metadata = process.start()
                row.parameters, row.bytes = metadata["parameters"], metadata["bytes"]
                running[engine] = process
        devices = {"cpu", bench.device}
        copying = {d: stack.enter_context(EngineProcess.copying(d, bench.threads)) for d in devices}
        if rows["eager"].reason is not None:
            message = f"eager cannot run: {rows['eager'].reason}"
            raise ConfigError(message, where=subject.name, remedy="check run and device")
        for process in copying.values():
            process.start()
        _take_turns(rows, running, copying, bench, bandwidth)
        _finish(rows, running, folder)
    return list(rows.values())


def _job(subject: BenchModel, engine: str, bench: BenchConfig, folder: Path) -> dict[str, Any]:
    """What the engine's process is given; an export is made first, under `folder`."""
    torch = engine in TORCH
    path = subject.path if torch else exported(subject.path, engine, folder / engine)
    return {
        "path": str(path.resolve()), "engine": engine, "torch": torch,
        "device": bench.device if torch else "cpu", "threads": bench.threads,
        "context": bench.context, "length": subject.length,
    }  # fmt: skip


def _take_turns(
    rows: dict[str, EngineResult],
    running: dict[str, EngineProcess],
    copying: dict[str, EngineProcess],
    bench: BenchConfig,
    bandwidth: dict[str, list[float]],
) -> None:
    """Round by round, so that a load on the machine that comes and goes meets all of them."""
    from nextvec.inference.bench.worker import COPIED_BYTES

    batches = sorted({1, *bench.batches})
    times: dict[tuple[str, int], list[float]] = {(e, batch): [] for e in running for batch in batches}
    for _ in range(ROUNDS):
        for batch in batches:
            for engine, process in running.items():
                with _reason(rows[engine]):
                    if rows[engine].reason is None:
                        spent = process.call("time", batch=batch, seconds=bench.seconds / ROUNDS)
                        times[engine, batch] += spent["times"]
        for device, process in copying.items():
            fastest = min(process.call("time", batch=1, seconds=0.0)["times"])
            bandwidth.setdefault(device, []).append(2 * COPIED_BYTES / fastest)
    for engine in running:
        if rows[engine].reason is None:
            rows[engine].latency = percentiles_ms(times[engine, 1])
            rows[engine].throughput = {
                batch: batch / float(np.median(times[engine, batch])) for batch in batches
            }


def _finish(rows: dict[str, EngineResult], running: dict[str, EngineProcess], folder: Path) -> None:
    """Memory, agreement with eager, and how much faster than it."""
    answers: dict[str, FloatArray] = {}
    for engine, process in running.items():
        row, file = rows[engine], folder / f"{engine}.npy"
        with _reason(row):
            if row.reason is None:
                memory = process.call("memory")
                row.peak_bytes, row.grown_bytes, row.device_bytes = (
                    memory[key] for key in ("peak", "grown", "device")
                )
                process.call("answer", batch=AGREEMENT, file=str(file))
                answers[engine] = np.load(file, allow_pickle=False)
    eager = rows["eager"]
    for engine, answer in answers.items():
        cosine = (unit(answer) * unit(answers["eager"])).sum(1)
        rows[engine].cosine, rows[engine].cosine_min = float(cosine.mean()), float(cosine.min())
        rows[engine].speedup = eager.latency["p50_ms"] / rows[engine].latency["p50_ms"]


@contextmanager
def _reason(row: EngineResult) -> Iterator[None]:
    """What keeps an engine from running becomes its row's reason."""
    try:
        yield
    except (EngineError, NextvecError) as e:
        row.reason = str(e)
