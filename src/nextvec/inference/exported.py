"""A folder made by `nextvec export` as a predictor: its own engine, and what the run said of its training.

A stream of it goes on by its step form, where it has one: one vector and the state in, the prediction and the
new state out, so that it costs a step for each vector and not a context. `step.onnx` takes `vector` [1, D],
for a conditional model `query` [1, D] (zeros: none), and every entry of the state as `state.NAME`; it gives
`raw` [1, K, D] as the other graph does, and `next.NAME`. The state before the first vector stands in
`state.safetensors`. A cache begins empty and grows by one position a step.
"""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file
from torch import Tensor, nn

from nextvec.data.windows import FloatArray, IntArray
from nextvec.disk import read_json, sha256_file
from nextvec.errors import ModelError, RunError
from nextvec.inference.base import (
    StateSession,
    StreamSession,
    TrainedPredictor,
    VectorPredictor,
    WindowSession,
)
from nextvec.inference.engines import QUERY, RAW, Engine, check_lengths, first_line, onnx_session, open_graph
from nextvec.inference.graphs import Graph, export_graph, refuse_different, seeded
from nextvec.models.base import QUERY as QUERY_STATE
from nextvec.models.base import NextVectorModel, State, Streaming
from nextvec.vectors import unit

MANIFEST, GOLDEN = "export.json", "golden.safetensors"
VERSION = 2  # 1: graphs were given the position of the last vector, not how many there are
MAX_GOLDEN_BYTES = 2**28
REMEDY = "export the run again"
STEP, STATE = "step.onnx", "state.safetensors"
VECTOR, BEFORE, AFTER = "vector", "state.", "next."
TRIED = 40  # vectors of a stream that model and graph are compared on
Entries = dict[str, NDArray[Any]]


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
        metadata = dict(held["facts"])
        self._conditional = bool(metadata.pop("conditional", "query" in held["inputs"]))
        self._ranking = bool(metadata.pop("ranking", False))
        self.metadata = {
            "parameters": held["parameters"],
            "bytes": sum(entry["bytes"] for entry in held["files"].values()),
            **metadata,
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
        } if version <= VERSION:
            step = {STEP, STATE} if held.get("step") in get_args(Streaming) else set()
            opened = step | ({graph} if graph else set())  # what the engines are opened from
            if set() < opened <= files.keys():
                return dict(held)
        case {"nextvec_export": int(version)} if version > VERSION:
            raise RunError("was made by a newer nextvec", where=path, remedy="update nextvec")
    raise RunError("is not the description of an export", where=path, remedy=REMEDY)


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


# The step form: made, tried out, and at work.


class StepForm(nn.Module):
    """What is exported. Entries of the state that no step changes (filters, discretised systems) are
    constants of the graph, not inputs.

    Attributes:
        initial: the entries that are inputs, before the first vector.
    """

    def __init__(self, model: NextVectorModel) -> None:
        super().__init__()
        self.model = model
        with torch.no_grad():  # tensors of the inference mode cannot be constants of a graph
            before = model.init_state(1)
            kept = {name: value.clone() for name, value in before.items()}
            _, after = model.step(model.scale.new_ones(1, model.d_embed), before)
        constant = {
            name: value
            for name, value in kept.items()
            if not _grows(model, name) and torch.equal(value, after[name]) and name != QUERY_STATE
        }
        self.constants = tuple(constant)
        for number, value in enumerate(constant.values()):
            self.register_buffer(f"constant{number}", value.clone())
        self.initial: State = {
            name: value for name, value in kept.items() if name not in constant and name != QUERY_STATE
        }

    def forward(self, vector: Tensor, state: list[Tensor], query: Tensor | None = None) -> tuple[Tensor, ...]:
        held = dict(zip(self.initial, state, strict=True))
        held |= {name: getattr(self, f"constant{i}") for i, name in enumerate(self.constants)}
        term = self.model.query_term(query, 1)
        if term is not None:
            held[QUERY_STATE] = term
        prediction, new = self.model.step(vector, held)
        return (prediction.everything, *(new[name] for name in self.initial))


def make_step_graph(model: NextVectorModel) -> tuple[Graph, Entries]:
    """The float32 graph of a step, tried out beside the model, and the state before the first vector.

    Raises:
        ModelError: it cannot be written as a graph, or the graph answers otherwise than the model.
        MissingDependencyError: onnx is not installed.
    """
    form = StepForm(model).eval()
    example, free = _entered(model, form)
    names = [VECTOR, *(BEFORE + name for name in form.initial)]
    arguments: list[Any] = [model.scale.new_ones(1, model.d_embed), example]
    shapes: dict[str, Any] = {"vector": {}, "state": free}
    if model.condition is not None:
        names.append(QUERY)
        arguments.append(model.scale.new_zeros(1, model.d_embed))
        shapes["query"] = {}
    proto = export_graph(
        form, arguments, names, [RAW, *(AFTER + name for name in form.initial)], shapes, model.architecture
    )
    initial = {name: value.numpy() for name, value in form.initial.items()}
    graph = Graph(proto, tuple(names), None)
    _try_out(graph, initial, model)
    return graph, initial


def _entered(model: NextVectorModel, form: StepForm) -> tuple[list[Tensor], list[dict[int, Any]]]:
    """The state after some vectors as torch.export is shown it, and which sizes are free: a cache with three
    entries, and the axis along which it grows."""
    state, free = [], []
    for name, value in form.initial.items():
        if _grows(model, name):
            shape = list(value.shape)
            shape[-2] += 3
            state.append(value.new_zeros(shape))
            free.append({value.ndim - 2: torch.export.Dim.AUTO})
        else:
            state.append(value)
            free.append({})
    return state, free


def _grows(model: NextVectorModel, name: str) -> bool:
    return model.streaming == "cache" and name.startswith(model.caches)


def _try_out(graph: Graph, initial: Entries, model: NextVectorModel) -> None:
    """A stream longer than a context by graph and model."""
    engine = StepEngine(graph.proto.SerializeToString(), initial)
    vectors, _ = seeded(model, 1, TRIED)
    entries, state = dict(initial), model.init_state(1)
    for position, vector in enumerate(vectors[0]):
        found, entries = engine.step(vector, entries)
        with torch.inference_mode():
            prediction, state = model.step(torch.from_numpy(vector[None]), state)
        meant = prediction.everything.numpy()[0]
        refuse_different(
            found, meant, f"{model.architecture}: its step graph", f"after {position + 1} vectors"
        )


class StepEngine(Engine):
    """A step graph at work. As an engine of contexts, for an architecture whose parallel form cannot be
    written, it reads them vector by vector, row by row.

    Args:
        graph, initial: as `make_step_graph` gives them, or the files.
    Raises:
        RunError: files that are no step graph, or that the runtime refuses.
    """

    name = "onnx"

    def __init__(self, graph: Path | bytes, initial: Entries | Path, *, threads: int = 1) -> None:
        self.session = onnx_session(graph, threads)
        self.initial = _entries(initial) if isinstance(initial, Path) else initial
        taken = {given.name for given in self.session.get_inputs()}
        self.conditional = QUERY in taken
        if taken - {VECTOR, QUERY} - {BEFORE + name for name in self.initial} or VECTOR not in taken:
            raise RunError("does not fit its state", where=str(graph)[:200], remedy="export the run again")
        self._taken = [name for name in self.initial if BEFORE + name in taken]

    def step(
        self, vector: FloatArray, state: Entries, query: FloatArray | None = None
    ) -> tuple[FloatArray, Entries]:
        """vector [D], a state, query [D] -> [K, D] after it, the new state; the old one stays as it is.

        Raises:
            ModelError: more vectors than the model can read.
        """
        feed = {VECTOR: np.ascontiguousarray(vector[None], dtype=np.float32)}
        feed |= {BEFORE + name: state[name] for name in self._taken}
        if self.conditional:
            given_query = np.zeros_like(vector) if query is None else query
            feed[QUERY] = np.ascontiguousarray(given_query[None], dtype=np.float32)
        try:
            raw, *after = self.session.run([RAW, *(AFTER + name for name in self.initial)], feed)
        except Exception as e:  # noqa: BLE001  the runtime's own classes
            remedy = "begin a new session: it reads a bounded number of vectors"
            raise ModelError(f"the graph refuses another vector ({first_line(e)})", remedy=remedy) from None
        return raw[0], dict(zip(self.initial, after, strict=True))

    def everything(
        self, contexts: FloatArray, lengths: IntArray, queries: FloatArray | None = None
    ) -> FloatArray:
        check_lengths(contexts, np.asarray(lengths))
        rows = []
        for row, (context, length) in enumerate(zip(contexts, lengths, strict=True)):
            state = self.initial
            for vector in context[:length]:
                last, state = self.step(vector, state, None if queries is None else queries[row])
            rows.append(last)
        return np.stack(rows)


def _entries(path: Path) -> Entries:
    try:
        return dict(load_file(path))
    except (OSError, SafetensorError) as e:
        message = f"is not the state of a step graph ({e})"
        raise RunError(message, where=path, remedy="export the run again") from None


class GraphSession(StateSession):
    """`StateSession` of an export by its step graph.

    Args:
        streaming: as `StreamSession.streaming`.
        query: [D] what a conditional model is to write towards.
    Raises:
        ModelError: a query, and the model takes none.
    """

    def __init__(
        self, predictor: VectorPredictor, engine: StepEngine, streaming: Streaming, query: FloatArray | None
    ) -> None:
        if query is not None and not engine.conditional:
            raise ModelError(f"{predictor.name} takes no query", remedy="leave the query out")
        self.engine, self.streaming = engine, streaming
        self._state: Entries = {}
        self._query = None if query is None else np.asarray(query, dtype=np.float32)
        super().__init__(predictor.dimension, predictor.head, reads_directions=predictor.reads_directions)

    @property
    def state_bytes(self) -> int:
        return sum(value.nbytes for value in self._state.values())

    def _advance(self, vectors: FloatArray) -> FloatArray:
        state, made = self._state, []
        for vector in vectors:
            raw, state = self.engine.step(vector, state, self._query)
            made.append(raw)
        self._state = state
        return np.stack(made)

    def _start(self) -> None:
        self._state = self.engine.initial
