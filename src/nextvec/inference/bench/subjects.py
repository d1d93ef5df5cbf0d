"""What is measured: runs, or fresh models of a preset, and how an engine that needs an export gets it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from nextvec.errors import RunError
from nextvec.inference.export import Format, Precision, export_run
from nextvec.inference.opening import open_predictor
from nextvec.inference.predictor import RunPredictor
from nextvec.models.registry import build
from nextvec.models.saving import save_model

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
    export_run(run, folder, format=format, precision=precision)
    return folder
