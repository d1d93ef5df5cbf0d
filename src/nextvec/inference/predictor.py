"""A model in torch as a predictor: a bare one, or a trained run's; `nextvec.load` and `nextvec.Predictor`."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch

from nextvec.corpus.reading import TextReader
from nextvec.data.trained import TRAINED_ON
from nextvec.data.windows import FloatArray, IntArray
from nextvec.disk import read_object
from nextvec.errors import ConfigError, RunError, VectorError
from nextvec.inference.base import ModelSession, StreamSession, TrainedPredictor, VectorPredictor
from nextvec.inference.engines import ENGINES, TorchEngine, tensors
from nextvec.inference.exported import MANIFEST, ExportedPredictor
from nextvec.inference.rollout import Find, RolloutResult, RolloutSettings, roll
from nextvec.models.base import NextVectorModel, Prediction
from nextvec.models.ops.parameters import count_parameters
from nextvec.models.saving import WEIGHTS, load_model, locate
from nextvec.vectors import RawVectors, UnitVectors, unit

RESULTS = "metrics.json"
RESULT = {"seconds": float, "epoch": int, "cosine": float}
"""What has to stand in it."""
ENSEMBLE = "ensemble.json"
ENSEMBLES = "nextvec.experiments.ensemble"
"""The module that opens a folder with such a file. It mixes runs with baselines of the evaluator, which this
room knows nothing of, so it is found by its name."""


def load(run: str | Path) -> NextVectorModel:
    """The model of a run folder (or a Hugging Face hub id), in eval mode on the CPU.

    Raises:
        RunError: no run there, a damaged file, or weights that do not reproduce the output stored with them.
    """
    model, _ = load_model(run)
    return model.eval()


class ModelPredictor(VectorPredictor):
    """A module as the evaluator sees it.

    Args:
        model: in eval mode; it is not moved.
        context, name, encoder: as attributes of `VectorPredictor`.
        compiled: predict through torch.compile.
    """

    def __init__(
        self,
        model: NextVectorModel,
        context: int,
        name: str,
        encoder: str | None = None,
        *,
        compiled: bool = False,
    ) -> None:
        self.model = model.eval()
        super().__init__(TorchEngine(model, compiled=compiled), model.d_embed, context, name, encoder)
        self.metadata = {"parameters": count_parameters(model)}

    @property
    def conditional(self) -> bool:
        return self.model.condition is not None

    @property
    def confident(self) -> bool:
        """Whether it can say how likely a candidate is to follow: it learned that of its nearest horizon."""
        return self.model.confidence is not None and self.head == 0

    @property
    def ranking(self) -> bool:
        return self.model.ranker is not None and self.head == 0

    @property
    def generative(self) -> bool:
        return self.model.can_sample and self.head == 0

    def stream(self, query: FloatArray | None = None) -> StreamSession:
        return ModelSession(self.model, self.head, query, reads_directions=self.reads_directions)

    def predict_each(self, vectors: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Raw and unit prediction [T, D] after each of up to `context` vectors [T, D] of one document, as
        `predict` gives them for its T beginnings, in one pass."""
        raw = self.stream().read(vectors)  # brings raw vectors to the lengths that the model was trained on
        return raw, unit(raw)

    @torch.inference_mode()
    def predict_positions(self, contexts: FloatArray) -> tuple[FloatArray, FloatArray] | None:
        """Raw predictions [B, T, D] and what to rank by [B, T, D] after each vector of contexts [B, T, D], by
        one parallel pass; what stands behind a position does not matter to it. None for vectors that are not
        read as they are (`_as_trained`): how long these are differs from position to position."""
        full = np.full(len(contexts), contexts.shape[1])
        given, length = self._as_trained(contexts, full)
        if not (length == 1).all():
            return None
        x, _, _ = tensors(self.model, given, full, None)
        found = self.model(x).everything.float().cpu().numpy()
        raw = np.ascontiguousarray(found[:, :, self.head])
        return raw, unit(found[:, :, -1]) if self.ranking else raw

    @torch.inference_mode()
    def continuation(
        self,
        contexts: FloatArray,
        lengths: IntArray,
        candidates: FloatArray,
        queries: FloatArray | None = None,
    ) -> FloatArray:
        found = self.model.after(*tensors(self.model, contexts, lengths, queries))
        extras = {name: extra[:, None] for name, extra in found.extras.items()}
        probes = torch.tensor(candidates, dtype=torch.float32, device=found.raw.device)
        logit = self.model.continuation(Prediction(found.raw[:, None], extras), probes)
        assert self.model.confidence is not None
        probability: FloatArray = self.model.confidence.probability(logit).float().cpu().numpy()
        return probability

    @torch.inference_mode()
    def sample(
        self, contexts: FloatArray, lengths: IntArray, n: int, seed: int, queries: FloatArray | None = None
    ) -> FloatArray:
        if self.model.misses is not None:
            return self.around(self.predict(contexts, lengths, queries)[0], contexts, lengths, n, seed)
        given, length = self._as_trained(contexts, lengths)
        x, read, queries_given = tensors(self.model, given, lengths, queries)
        generator = torch.Generator(x.device).manual_seed(seed)
        return (
            self.model.sample(x, n, read, queries_given, generator=generator).float().cpu().numpy() * length
        )

    @property
    def resamples(self) -> bool:
        """Whether its samples are its points and what it missed elsewhere, so that `around` can draw them."""
        return self.generative and self.model.misses is not None

    @torch.inference_mode()
    def around(
        self, raw: FloatArray, contexts: FloatArray, lengths: IntArray, n: int, seed: int
    ) -> FloatArray:
        """What `sample` gives for contexts whose raw predictions [B, D] are known already."""
        assert self.model.misses is not None
        _, length = self._as_trained(contexts, lengths)
        generator = torch.Generator(self.model.scale.device).manual_seed(seed)
        drawn = self.model.misses.draw(n, len(raw), generator) * self.model.scale
        return np.asarray(raw + drawn.float().cpu().numpy() * length, dtype=np.float32)


class RunPredictor(TrainedPredictor, ModelPredictor):
    """The model of a run folder, with what the run says of its training."""

    def __init__(
        self, folder: str | Path, name: str | None = None, device: str = "cpu", *, compiled: bool = False
    ) -> None:
        """
        Args:
            folder: of a run, or a Hugging Face hub id to which one was uploaded.
        Raises:
            RunError: no run there, or one that is damaged.
            ConfigError: the device is not there.
        """
        _check_device(device)
        self.folder = locate(folder, also=(TRAINED_ON, RESULTS))
        model, info = load_model(self.folder)
        try:
            self.training: dict[str, Any] = info["training"]
            self.described: dict[str, Any] = info["encoder"]
            encoder, context = self.described["fingerprint"], int(self.training["context"])
        except (KeyError, TypeError):
            message = "does not hold what it was trained on"
            raise RunError(message, where=folder, remedy="train it with nextvec train") from None
        called = name or Path(folder).resolve().name
        ModelPredictor.__init__(self, model.to(device), context, called, encoder, compiled=compiled)
        self.metadata["bytes"] = (self.folder / WEIGHTS).stat().st_size
        self.metadata |= self._results()

    def _results(self) -> dict[str, Any]:
        """Seconds and best epoch of a finished run; an interrupted one has none to tell."""
        path = self.folder / RESULTS
        if not path.is_file():
            return {"seconds": None}
        found = read_object(path, RunError, needs=RESULT, remedy="restore the file, or train again")
        return {"seconds": found["seconds"], "epoch": found["epoch"], "validation_cosine": found["cosine"]}


def _check_device(device: str) -> None:
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(device.partition(":")[0], False):
        raise ConfigError(f"no {device} device here", where="device", remedy="give cpu")


def open_predictor(
    path: str | Path, device: str = "cpu", engine: str | None = None, *, threads: int = 1
) -> TrainedPredictor:
    """A run folder, a Hugging Face hub id of one, what `nextvec export` made of one, or an ensemble.

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
    if (Path(path) / ENSEMBLE).is_file():
        if engine is not None:
            message = "is an ensemble: its members have engines of their own"
            remedy = f"leave the engine out, or export it: nextvec export {path}"
            raise ConfigError(message, where=path, remedy=remedy)
        opened: TrainedPredictor = importlib.import_module(ENSEMBLES).load(path, device)
        return opened
    if (Path(path) / MANIFEST).is_file():
        exported = ExportedPredictor(path, threads=threads)
        if engine not in (None, exported.engine.name) or device != "cpu":
            wanted = engine or device
            message = f"is an export for {exported.engine.name} on a CPU, not for {wanted}"
            remedy = "name the run it was made of, or leave engine and device out"
            raise ConfigError(message, where=path, remedy=remedy)
        return exported
    if engine in ("onnx", "openvino"):
        remedy = f"export it first: nextvec export {path} --format {engine}"
        raise ConfigError(f"is a run, and {engine} runs exports", where=path, remedy=remedy)
    return RunPredictor(path, device=device, compiled=engine == "compiled")


# `nextvec.Predictor`: a trained model in a program of one's own.

Vectors = FloatArray | RawVectors | str | Sequence[str] | Sequence[Sequence[float]]
"""Vectors [T, D], as lists of numbers too; as RawVectors they carry their encoder, which is then checked. Or
what they are made of: a text, which is cut, or its chunks."""


class RawAndUnit(NamedTuple):
    """Predictions [N, D] ([D] of one context): raw for decoders, unit for cosine and retrieval."""

    raw: RawVectors
    unit: UnitVectors


class Predictor:
    """A trained model at work. Safe to share between threads.

    predictor = nextvec.Predictor.load("runs/lstm")
    raw, unit = predictor.predict(vectors)          # [T, D] read -> what comes next
    raw, unit = predictor.predict("A text ...")     # cut and encoded as what the model was trained on
    raw, unit = predictor.predict(["One chunk.", "The next."])
    with_each = predictor.stream()                  # or vector by vector: with_each.push(vector)

    Attributes:
        run: the run or export behind it, which says how it was trained.
    """

    def __init__(self, run: TrainedPredictor, reader: TextReader | None = None) -> None:
        """
        Args:
            reader: of texts; needed where the run's encoder is a server's or only known by name
                (`TextReader(run.space, encoder)`).
        """
        self.run = run
        self._reader = reader

    @property
    def reader(self) -> TextReader:
        """What cuts and encodes texts as the model's were; loaded at the first text. Raises EncoderError."""
        if self._reader is None:
            self._reader = TextReader(self.run.space)
        return self._reader

    @classmethod
    def load(
        cls, path: str | Path, device: str = "cpu", engine: str | None = None, *, threads: int = 1
    ) -> Predictor:
        """A run folder, a hub id of one, or an export. Arguments and errors are those of `open_predictor`."""
        return cls(open_predictor(path, device, engine, threads=threads))

    @property
    def context(self) -> int:
        """How many of the last vectors `predict` reads."""
        return self.run.context

    @property
    def dimension(self) -> int:
        return self.run.dimension

    def ahead(self, horizon: int) -> Predictor:
        """The same, predicting another of the run's horizons. Raises RunError for one it has not learned."""
        return Predictor(self.run.at_horizon(horizon), self._reader)

    def predict(self, vectors: Vectors, query: FloatArray | None = None) -> RawAndUnit:
        """What follows vectors [T, D], the last `context` of which are read: an answer of [D].

        Args:
            vectors: or a text, or the chunks of one in their order.
            query: [D] what a conditional model is to write towards.
        Raises:
            VectorError: another shape, rows of different lengths, NaN or infinity.
            EncoderMismatchError: vectors of another encoder. EncoderError: a text, and the model's encoder is
                not at hand. DocumentError: a text of white space.
            ModelError: a query for a model that takes none.
        """
        raw, unit = self.predict_batch([vectors], None if query is None else np.asarray(query)[None])
        first = RawVectors(raw.values[0], raw.encoder, raw.normalised)
        return RawAndUnit(first, UnitVectors(unit.values[0], unit.encoder))

    def predict_batch(self, many: Sequence[Vectors], queries: FloatArray | None = None) -> RawAndUnit:
        """What follows each of many contexts [T_i, D], computed together: an answer of [N, D].

        `queries` [N, D] and errors are as in `predict`.
        """
        read = [self._values(vectors)[-self.context :] for vectors in many]
        if not read:
            raise VectorError("no context to predict from", remedy="give one [T, D] or more")
        lengths = np.array([len(vectors) for vectors in read], dtype=np.int64)
        contexts = np.zeros((len(read), int(lengths.max()), self.dimension), dtype=np.float32)
        for row, vectors in zip(contexts, read, strict=True):
            row[: len(vectors)] = vectors
        return RawAndUnit(*self.run.answer(contexts, lengths, queries))

    def stream(self, query: FloatArray | None = None) -> StreamSession:
        """A session that reads vectors one by one and predicts after each. Of a run it keeps the model's own
        state, so that every vector counts, not only the last `context`."""
        return self.run.stream(query)

    def rollout(
        self, vectors: Vectors, steps: int, settings: RolloutSettings | None = None, find: Find | None = None
    ) -> RolloutResult:
        """Go on from vectors [T, D] for so many steps, each reading those before it (`rollout.roll`)."""
        return roll(self.run, self.run.vectors(self._values(vectors)), steps, settings, find)

    def _values(self, vectors: Vectors) -> FloatArray:
        """[T, D], checked."""
        encoder = str(self.run.encoder)
        if isinstance(vectors, str):
            vectors = self.reader.read(vectors)[1]
        elif isinstance(vectors, (list, tuple)) and vectors and all(isinstance(v, str) for v in vectors):
            vectors = self.reader.encode(vectors)
        if not isinstance(vectors, RawVectors):
            vectors = RawVectors(cast("FloatArray", vectors), encoder)
        held = vectors.of(encoder)
        if held.values.ndim != 2 or held.dimension != self.dimension or not len(held.values):
            message = f"a context of shape {list(held.values.shape)}"
            raise VectorError(message, remedy=f"give vectors [T, {self.dimension}]")
        return held.values
