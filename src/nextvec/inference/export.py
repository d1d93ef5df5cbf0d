"""A run as a folder for another engine: its graph, what the run says of itself, and how close the two are."""

from __future__ import annotations

import logging
import platform
import shutil
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from safetensors.numpy import save_file

from nextvec.data.gather import gather_contexts, gather_queries
from nextvec.data.trained import TRAINED_ON
from nextvec.data.windows import FloatArray, IntArray, make_windows
from nextvec.data.windows import with_queries as with_queries_of
from nextvec.disk import atomic_path, new_folder, refuse_taken, sha256_file, write_json
from nextvec.errors import ConfigError, EncoderMismatchError, ModelError, RunError
from nextvec.inference.engines import LENGTHS, QUERY, RAW, VECTORS, Engine, TorchEngine, first_line, runtime
from nextvec.inference.exported import (
    GOLDEN,
    MANIFEST,
    STATE,
    STEP,
    VECTOR,
    VERSION,
    Entries,
    engines_of,
    make_step_graph,
)
from nextvec.inference.graphs import Graph, make_graph, quantised, seeded
from nextvec.inference.predictor import ModelPredictor, RunPredictor
from nextvec.models.ops.parameters import count_parameters
from nextvec.vectors import unit
from nextvec.version import __version__

if TYPE_CHECKING:
    from nextvec.corpus.store import Store

log = logging.getLogger("nextvec.inference")

COMPARED_WINDOWS, SEED, RANK = 256, 0, 5
TOLERANCES = {"fp32": 0.9999, "bf16": 0.999, "int8": 0.999}


@dataclass(frozen=True, eq=False)
class ParityInputs:
    """What both are asked.

    Attributes:
        contexts, lengths: [N, T, D], [N].
        targets: float32 [N, D] what followed; None for seeded vectors, which nothing follows.
        queries: [N, D] for a conditional model.
        source: where they are from, in words.
    """

    contexts: FloatArray
    lengths: IntArray
    targets: FloatArray | None
    queries: FloatArray | None
    source: str


@dataclass(frozen=True)
class Parity:
    """What was found.

    Attributes:
        source, windows: of the comparison.
        largest_difference: of any component, in the vectors' own scale.
        cosine_mean, cosine_min: of the export's predictions to the run's.
        recall_before, recall_after: share of the windows whose true next vector is among the five of all
            windows' that are nearest to the prediction, of the run and of the export; None on seeded vectors.
        tolerance: the least cosine that was accepted.
    """

    source: str
    windows: int
    largest_difference: float
    cosine_mean: float
    cosine_min: float
    recall_before: float | None
    recall_after: float | None
    tolerance: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def inputs_for(predictor: ModelPredictor, store: Store | None) -> ParityInputs:
    """At most 256 windows of a store, evenly spread over it, or as many seeded contexts.

    Raises:
        EncoderMismatchError: a store of another encoder.
        WindowError: no document of the store is long enough.
    """
    if store is None:
        contexts, lengths = seeded(predictor.model, COMPARED_WINDOWS, predictor.context, SEED)
        queries = contexts[::-1, 0].copy() if predictor.conditional else None
        return ParityInputs(contexts, lengths, None, queries, "seeded random vectors, as no store is given")
    found = store.encoder["fingerprint"]
    if predictor.encoder not in (None, found) or store.dimension != predictor.dimension:
        message = f"holds vectors of the encoder {found}, and the run reads those of {predictor.encoder}"
        raise EncoderMismatchError(message, where=store.path, remedy="give a store of the run's encoder")
    training = predictor.training if isinstance(predictor, RunPredictor) else {}
    task = training.get("task", "next")
    context = predictor.context if task == "middle" else int(training.get("min_context", 1))
    horizon = int((training.get("horizons") or [1])[0])
    windows = make_windows(store, range(len(store.documents)), context, horizon, task)
    if predictor.conditional:
        windows = with_queries_of(windows, SEED)
    windows = windows.select(np.unique(np.linspace(0, len(windows) - 1, COMPARED_WINDOWS).astype(np.int64)))
    contexts, lengths = gather_contexts(store.vectors, windows, predictor.context)
    targets = np.asarray(store.vectors[windows.target], dtype=np.float32)
    return ParityInputs(contexts, lengths, targets, gather_queries(store.vectors, windows), store.path.name)


def compare(before: Engine, after: Engine, inputs: ParityInputs, tolerance: float) -> Parity:
    expected = before(inputs.contexts, inputs.lengths, inputs.queries)
    found = after(inputs.contexts, inputs.lengths, inputs.queries)
    cosines = (unit(expected).astype(np.float64) * unit(found)).sum(1)
    finite = bool(np.isfinite(found).all())
    return Parity(
        source=inputs.source,
        windows=len(expected),
        largest_difference=float(np.abs(expected - found).max()) if finite else float(np.finfo(float).max),
        cosine_mean=float(cosines.mean()) if finite else -1.0,
        cosine_min=float(cosines.min()) if finite else -1.0,
        recall_before=_recall(expected, inputs.targets),
        recall_after=_recall(found, inputs.targets),
        tolerance=tolerance,
    )


def _recall(predicted: FloatArray, targets: FloatArray | None) -> float | None:
    if targets is None:
        return None
    scores = unit(predicted) @ unit(targets).T
    above = (scores > np.diagonal(scores)[:, None]).sum(1)
    return float((above < RANK).mean())


Format = Literal["onnx", "openvino"]
Precision = Literal["fp32", "bf16", "int8"]
GRAPHS = {"onnx": "model.onnx", "openvino": "model.xml"}
GOLDEN_ROWS, GOLDEN_SEED = 4, 1
PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime", "openvino")


@dataclass(frozen=True)
class Exported:
    """What was written where, and how close it is to the run."""

    folder: Path
    parity: Parity
    time: int | None
    bytes: int


def export_predictor(
    predictor: ModelPredictor,
    out: Path,
    format: Format = "onnx",
    precision: Precision = "fp32",
    *,
    store: Store | None = None,
    tolerance: float | None = None,
    any_length: bool = True,
    step: bool = False,
) -> Exported:
    """Write the folder `out` for a run's model (or a bare one's), or nothing.

    Args:
        store: whose windows the two are compared on; None takes seeded vectors.
        tolerance: the least cosine of any of them; None is .9999 for fp32, .999 for bf16 and int8.
        any_length: False makes a graph of one length, the context, without trying for any.
        step: write the step form too, for streams. Where the parallel form cannot be written as a graph,
            contexts are then read step by step.
    Raises:
        BusyError: another process is writing `out`. DiskError: it cannot be written to.
        RunError: `out` is not empty; the export is farther from the run than `tolerance`.
        ConfigError: a precision that the format, or this processor, does not have; a tolerance that is no
            cosine.
        ModelError: the model cannot be written as a graph.
        MissingDependencyError: the format's packages are not installed.
        EncoderMismatchError, WindowError: a store that is not for this run.
    """
    tolerance = TOLERANCES[precision] if tolerance is None else tolerance
    _check(predictor, format, precision, tolerance, step)
    refuse_taken(out, RunError, "give another folder with --out, or remove it")
    inputs = inputs_for(predictor, store)
    graphs, initial = _graphs(predictor, GRAPHS[format], any_length, step)
    if precision == "int8":
        graphs = {name: quantised(graph) for name, graph in graphs.items()}
    manifest = _described(predictor, graphs, format, precision)
    with new_folder(out) as folder:
        for name, graph in graphs.items():
            _explain(graph, manifest)
            _write_graph(graph, folder / name)
        if initial is not None:
            save_file({name: np.ascontiguousarray(value) for name, value in initial.items()}, folder / STATE)
        for engine in engines_of(folder, manifest, 1):
            parity = compare(TorchEngine(predictor.model), engine, inputs, tolerance)
            _refuse_far(parity, precision, predictor.name)
        _write_golden(predictor, folder / GOLDEN)
        if isinstance(predictor, RunPredictor) and (predictor.folder / TRAINED_ON).is_file():
            shutil.copyfile(predictor.folder / TRAINED_ON, folder / TRAINED_ON)
        files: dict[str, dict[str, Any]] = {
            path.name: {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
            for path in sorted(folder.iterdir())
        }
        write_json(folder / MANIFEST, {**manifest, "files": files, "parity": parity.to_json()}, sealed=True)
    return Exported(out, parity, manifest["time"], sum(entry["bytes"] for entry in files.values()))


def _graphs(
    predictor: ModelPredictor, name: str, any_length: bool, step: bool
) -> tuple[dict[str, Graph], Entries | None]:
    """Graphs by file name, that of contexts last where there is one; the state before a stream."""
    graphs, initial = {}, None
    if step:
        graphs[STEP], initial = make_step_graph(predictor.model)
    try:
        graphs[name] = make_graph(predictor.model, predictor.context, any_length=any_length)
    except ModelError as e:
        if not step:
            raise
        log.info("%s; the export reads contexts step by step", e)
    return graphs, initial


def _check(predictor: ModelPredictor, format: str, precision: str, tolerance: float, step: bool) -> None:
    def refuse(when: bool, message: str, where: str | None, remedy: str | None) -> None:
        if when:
            raise ConfigError(message, where=where, remedy=remedy)

    unknown = format not in get_args(Format) or precision not in get_args(Precision)
    refuse(unknown, f"no export of format '{format}' and precision '{precision}'", "export", None)
    refuse(not 0 < tolerance <= 1, f"tolerance is {tolerance:g}", None, "give a cosine, such as 0.999")
    elsewhere = predictor.model.scale.device.type != "cpu"
    refuse(elsewhere, "the model is not on the CPU", "export", "open the run with device cpu")
    text, other = "ONNX Runtime does not compute in bf16 on a CPU", "give int8 or fp32, or --format openvino"
    refuse(format == "onnx" and precision == "bf16", text, "--precision", other)
    text = "OpenVINO exports have no step form"
    refuse(step and format != "onnx", text, "--step", "give --format onnx")
    if format == "openvino":
        ov = runtime("openvino", "openvino")
        text = "OpenVINO does not run ONNX Runtime's quantised operators"
        refuse(precision == "int8", text, "--precision", "give bf16 or fp32, or --format onnx")
        unable = "BF16" not in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        text = "this processor has no bf16 arithmetic"
        refuse(precision == "bf16" and unable, text, "--precision", "give --precision fp32")


def _explain(graph: Graph, manifest: dict[str, Any]) -> None:
    """What a program needs to know that has nothing but the graph: in its documentation, and as metadata."""
    proto, encoder = graph.proto, manifest["encoder"]
    D, context, ahead = manifest["dimension"], manifest["context"], manifest["horizons"]
    ranking = bool(manifest["facts"].get("ranking"))
    size = "any number T" if graph.time is None else f"T = {graph.time}"
    state = "an entry of the state: what stands in state.safetensors, then what the last step gave."
    proto.producer_name, proto.producer_version = "nextvec", __version__
    proto.doc_string = (
        f"{manifest['architecture']}: reads the last vectors of a document (up to {context}) and predicts "
        f"the next one. The vectors are those of the encoder {encoder.get('name', 'that it was trained on')}."
    )
    raw = "as the encoder gives them, not normalised"
    reads = "of unit length" if manifest["training"].get("normalised") else raw
    documents = {
        VECTOR: f"float32 [1, {D}]: the next vector of a document, {reads}.",
        VECTORS: f"float32 [B, T, {D}]: {size} of vectors a document, {reads}, oldest first; zeros after the "
        f"last. Give at most {context}, the last ones.",
        LENGTHS: "int64 [B]: how many of each row's vectors are real, 1 to T; others are refused.",
        QUERY: f"float32 [B, {D}]: a vector to write towards, or zeros.",
        RAW: f"float32 [B, {len(ahead) + ranking}, {D}]: what comes {', '.join(map(str, ahead))} ahead, raw; "
        "divide by its length for cosines." + (" The last row ranks candidates." if ranking else ""),
    }
    for value in (*proto.graph.input, *proto.graph.output):
        value.doc_string = documents.get(value.name, state)
    metadata = {
        "nextvec_run": manifest["run"],
        "architecture": manifest["architecture"],
        "dimension": D,
        "context": context,
        "time": "any" if graph.time is None else graph.time,
        "horizons": ",".join(map(str, ahead)),
        "encoder": encoder.get("name", ""),
        "encoder_fingerprint": encoder.get("fingerprint", ""),
        "unit_length": str(bool(manifest["training"].get("normalised"))).lower(),
        "left_out": ",".join(manifest["left_out"]),
    }
    helper = runtime("onnx", "onnx").helper
    helper.set_model_props(proto, {name: str(value) for name, value in metadata.items()})


def _write_graph(graph: Graph, path: Path) -> None:
    if path.suffix == ".onnx":
        path.write_bytes(graph.proto.SerializeToString())
        return
    ov = runtime("openvino", "openvino")
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "model.onnx"
        plain.write_bytes(graph.proto.SerializeToString())
        try:
            converted = ov.convert_model(plain)
        except Exception as e:  # noqa: BLE001  its classes are not public
            reason = f"OpenVINO does not take this graph ({first_line(e)})"
            raise ModelError(reason, remedy="give --format onnx") from None
        ov.save_model(converted, path, compress_to_fp16=False)


def _refuse_far(parity: Parity, precision: str, name: str) -> None:
    if parity.cosine_min >= parity.tolerance:
        return
    raise RunError(
        f"in {precision} it is too far from the run: cosine {parity.cosine_min:.6f} at the least, "
        f"{parity.tolerance:g} is required",
        where=name,
        remedy="give --precision fp32, or a lower --tolerance",
    )


def _write_golden(predictor: ModelPredictor, path: Path) -> None:
    """What the run answers, for the engine to answer again wherever the export is opened."""
    contexts, lengths = seeded(predictor.model, GOLDEN_ROWS, predictor.context, GOLDEN_SEED)
    lengths[:] = contexts.shape[1]
    golden = {"input": contexts}
    if predictor.conditional:
        golden["query"] = np.ascontiguousarray(contexts[:, 0])
    raw = TorchEngine(predictor.model)(contexts, lengths, golden.get("query"))
    with atomic_path(path) as temporary:
        save_file({**golden, "raw": np.ascontiguousarray(raw)}, temporary)


def _described(
    predictor: ModelPredictor, graphs: dict[str, Graph], format: str, precision: str
) -> dict[str, Any]:
    run = predictor if isinstance(predictor, RunPredictor) else None
    model = predictor.model
    horizons = list(run.horizons) if run else list(range(1, model.config.horizons + 1))
    parallel = graphs.get(GRAPHS[format])
    cannot = {"samples": model.can_sample, "confidence": model.confidence is not None}
    return {
        "nextvec_export": VERSION,
        "format": format,
        "precision": precision,
        "graph": GRAPHS[format] if parallel else None,
        "inputs": list(parallel.inputs) if parallel else [],
        "time": parallel.time if parallel else None,
        "step": model.streaming if STEP in graphs else None,
        "run": predictor.name,
        "architecture": model.architecture,
        "dimension": predictor.dimension,
        "context": predictor.context,
        "horizons": horizons,
        "parameters": count_parameters(model),
        "left_out": [name for name, there in cannot.items() if there],
        "encoder": run.described if run else {},
        "training": run.training if run else {"context": predictor.context, "horizons": horizons},
        "facts": {
            **{key: predictor.metadata[key] for key in ("seconds", "epoch") if key in predictor.metadata},
            "ranking": model.ranker is not None,
            "conditional": model.condition is not None,
        },
        "versions": {"nextvec": __version__, "python": platform.python_version(), **_installed()},
    }


def _installed() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found
