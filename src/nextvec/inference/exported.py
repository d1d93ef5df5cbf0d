"""A folder made by `nextvec export` as a predictor: its own engine, and what the run said of its training."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any, get_args

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from nextvec.data.windows import FloatArray
from nextvec.disk import read_json, sha256_file
from nextvec.errors import RunError
from nextvec.inference.base import StreamSession, TrainedPredictor, WindowSession
from nextvec.inference.engines import Engine, open_graph
from nextvec.inference.steps import STATE, STEP, GraphSession, StepEngine
from nextvec.models.base import Streaming
from nextvec.vectors import unit

MANIFEST, GOLDEN = "export.json", "golden.safetensors"
VERSION = 2  # 1: graphs were given the position of the last vector, not how many there are
MAX_GOLDEN_BYTES = 2**28
REMEDY = "export the run again"


class ExportedPredictor(TrainedPredictor):
    """An exported run. It gives what a run gives, except samples and stated confidence: these are left out
    of exports.

    Attributes:
        precision: "fp32", "bf16" or "int8".
        parity: what `nextvec export` measured of it beside the run.
    """

    def __init__(self, folder: str | Path, name: str | None = None, *, threads: int = 1) -> None:
        """
        Args:
            threads: of the engine.
        Raises:
            RunError: no export, one that is damaged, or one that does not answer here as where it was made.
            MissingDependencyError: its engine is not installed.
        """
        self.folder = Path(folder)
        held = _manifest(self.folder / MANIFEST)
        self.training: dict[str, Any] = held["training"]
        self.described: dict[str, Any] = held["encoder"]
        self.precision, self.parity = str(held["precision"]), dict(held["parity"])
        _check_files(self.folder, held["files"])
        engines = engines_of(self.folder, held, threads)
        engine = engines[0]
        self._streaming: Streaming = held.get("step") or "constant"
        self._steps = engines[-1] if isinstance(engines[-1], StepEngine) else None
        called = name or self.folder.resolve().name
        super().__init__(
            engine, held["dimension"], held["context"], called, self.described.get("fingerprint")
        )
        facts = dict(held["facts"])
        self._conditional = bool(facts.pop("conditional", "query" in held["inputs"]))
        self._ranking = bool(facts.pop("ranking", False))
        self.metadata = {
            "parameters": held["parameters"],
            "bytes": sum(entry["bytes"] for entry in held["files"].values()),
            **facts,
        }
        for each in engines:
            _check_golden(each, self.folder / GOLDEN, float(held["parity"]["tolerance"]))

    @property
    def conditional(self) -> bool:
        return self._conditional

    @property
    def ranking(self) -> bool:
        return self._ranking and self.head == 0

    def stream(self, query: FloatArray | None = None) -> StreamSession:
        if self._steps is None:
            return WindowSession(self, query)
        return GraphSession(self, self._steps, self._streaming, query)


def engines_of(folder: Path, held: dict[str, Any], threads: int) -> list[Engine]:
    """That of contexts and that of steps, of those which the export has. `held`: its manifest.

    Raises RunError, MissingDependencyError as `open_graph`.
    """
    engines: list[Engine] = []
    if held["graph"] is not None:
        path, inputs = folder / held["graph"], held["inputs"]
        engines.append(open_graph(path, held["format"], held["precision"], inputs, held["time"], threads))
    if held.get("step") in get_args(Streaming):
        engines.append(StepEngine(folder / STEP, folder / STATE, threads=threads))
    return engines


def _manifest(path: Path) -> dict[str, Any]:
    held = read_json(path, RunError, remedy="give a folder made by nextvec export")
    match held:
        case {
            "nextvec_export": int(version),
            "format": "onnx" | "openvino",
            "precision": "fp32" | "bf16" | "int8",
            "graph": str() | None as graph,
            "files": dict(files),
            "inputs": list(),
            "time": int() | None,
            "dimension": int(),
            "context": int(),
            "parameters": int(),
            "encoder": dict(),
            "training": dict(),
            "facts": dict(),
            "parity": {"tolerance": float()},
        } if version <= VERSION and set() < _named(held, graph) <= files.keys():
            return dict(held)
        case {"nextvec_export": int(version)} if version > VERSION:
            raise RunError("was made by a newer nextvec", where=path, remedy="update nextvec")
        case _:
            raise RunError("is not the description of an export", where=path, remedy=REMEDY)


def _named(held: dict[str, Any], graph: str | None) -> set[str]:
    """Files that the engines are opened from."""
    step = {STEP, STATE} if held.get("step") in get_args(Streaming) else set()
    return step | ({graph} if graph else set())


def _check_files(folder: Path, files: dict[str, Any]) -> None:
    """Every file is there, inside the folder, and as it was written."""
    for name, entry in files.items():
        path = folder / name
        match entry:
            case {"bytes": int(size), "sha256": str(digest)} if Path(name).name == name:
                pass
            case _:
                raise RunError(f"does not describe '{name}' is", where=folder / MANIFEST, remedy=REMEDY)
        if not path.is_file() or path.stat().st_size != size or sha256_file(path) != digest:
            raise RunError("is missing or was changed", where=path, remedy=REMEDY)


def _check_golden(engine: Engine, path: Path, tolerance: float) -> None:
    """The engine answers here as the run did where it was exported. Quantised arithmetic differs between
    processors: on some that lack instructions for it, sums of bytes overflow."""
    try:
        if path.stat().st_size > MAX_GOLDEN_BYTES:
            raise RunError("is too large", where=path, remedy=REMEDY)
        golden = load_file(path)
        contexts, raw = golden["input"], golden["raw"]
    except (OSError, SafetensorError, KeyError) as e:
        raise RunError(f"is not a golden file ({e})", where=path, remedy=REMEDY) from None
    lengths = np.full(len(contexts), contexts.shape[1], dtype=np.int64)
    answer = engine(contexts, lengths, golden.get("query"))
    if answer.shape != raw.shape or not np.isfinite(answer).all():
        raise RunError("the export answers nonsense", where=path.parent, remedy=REMEDY)
    cosine = float((unit(answer) * unit(raw)).sum(1).min())
    if cosine < tolerance:
        raise RunError(
            f"answers otherwise than the run here, on {platform.machine()} (cosine {cosine:.5f}, "
            f"{tolerance:g} needed)",
            where=path.parent,
            remedy="export it again on this machine, or with --precision fp32",
        )
