"""Whatever predicts and lies in a folder, by one call."""

from __future__ import annotations

from pathlib import Path

from nextvec.errors import ConfigError
from nextvec.inference.base import TrainedPredictor
from nextvec.inference.engines import ENGINES
from nextvec.inference.exported import MANIFEST, ExportedPredictor
from nextvec.inference.predictor import RunPredictor


def open_predictor(
    path: str | Path, device: str = "cpu", engine: str | None = None, *, threads: int = 1
) -> TrainedPredictor:
    """A run folder, a Hugging Face hub id of one, or what `nextvec export` made of one.

    Args:
        device: where a run predicts; an export predicts on the CPU.
        engine: eager (a run's default) or compiled; an export has the engine it was made for.
        threads: of an export's engine; torch's are set for the whole process.
    Raises:
        RunError: nothing there, or it is damaged.
        ConfigError: an engine or a device that it cannot run on.
        MissingDependencyError: the engine is not installed.
    """
    if engine is not None and engine not in ENGINES:
        raise ConfigError(f"no engine '{engine}'", where="engine", remedy=f"give {' or '.join(ENGINES)}")
    if (Path(path) / MANIFEST).is_file():
        exported = ExportedPredictor(path, threads=threads)
        if engine not in (None, exported.engine.name) or device != "cpu":
            wanted = engine or device
            raise ConfigError(
                f"is an export for {exported.engine.name} on a CPU, not for {wanted}",
                where=path,
                remedy="name the run it was made of, or leave engine and device out",
            )
        return exported
    if engine in ("onnx", "openvino"):
        raise ConfigError(
            f"is a run, and {engine} runs exports",
            where=path,
            remedy=f"export it first: nextvec export {path} --format {engine}",
        )
    return RunPredictor(path, device=device, compiled=engine == "compiled")
