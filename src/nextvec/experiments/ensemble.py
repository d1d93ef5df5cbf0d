"""An ensemble on disk: a folder with `ensemble.json` (members and weights) and what the baselines among them
were fitted to. The runs stay where they are; their weights are checked to be the same."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from scipy.optimize import nnls

from nextvec.data.gather import VectorSource, gather_contexts, gather_queries, gather_rows
from nextvec.data.trained import TrainedOn
from nextvec.data.windows import FloatArray, IntArray, Windows
from nextvec.disk import UNSEALED, check_seal, new_folder, read_json, seal, write_json
from nextvec.errors import EvaluationError, RunError
from nextvec.evaluation.baselines import BASELINES, Baseline
from nextvec.evaluation.predictor_protocol import NextVectorPredictor, ask, unit
from nextvec.inference.base import StreamSession, TrainedPredictor, WindowSession
from nextvec.inference.engines import Engine
from nextvec.inference.exported import MANIFEST as EXPORT
from nextvec.inference.exported import ExportedPredictor
from nextvec.inference.predictor import ENSEMBLE as FILE
from nextvec.inference.predictor import RunPredictor
from nextvec.models.saving import WEIGHTS
from nextvec.vectors import RawVectors, UnitVectors

# Several predictors as one: weights that are never negative, fitted on validation windows only.
#
# The raw output mixes raw outputs, the unit output mixes unit outputs, and each mixture has weights of its
# own: the length of what a model trained on cosine puts out means nothing, its direction does.

Weights = NDArray[np.float64]
BLOCK = 512


@dataclass(frozen=True)
class MixtureWeights:
    """Weights of M members: `raw` [M] of their raw outputs, `unit` [M] of their unit outputs."""

    raw: Weights
    unit: Weights


class Ensemble:
    """A predictor made of others.

    Args:
        members: at least two; each is given as many of the most recent vectors as it uses.
        mixture: from `fit_mixture`.
    """

    kind: ClassVar[Literal["model"]] = "model"

    def __init__(self, name: str, members: Sequence[NextVectorPredictor], mixture: MixtureWeights) -> None:
        self.name, self.members, self.mixture = name, tuple(members), mixture
        self.context = max(member.context for member in self.members)
        self.metadata: dict[str, Any] = {
            "members": [member.name for member in self.members],
            "weights": [round(float(w), 4) for w in mixture.unit],
            "parameters": sum(int(getattr(m, "metadata", {}).get("parameters", 0)) for m in self.members),
        }

    @property
    def conditional(self) -> bool:
        """Whether any member can be given what to write towards."""
        return any(getattr(member, "conditional", False) for member in self.members)

    def predict(
        self, contexts: FloatArray, lengths: IntArray, queries: FloatArray | None = None
    ) -> tuple[FloatArray, FloatArray]:
        """Raw and unit prediction, both [B, D]; the members that are conditional are given the queries."""
        raw, units = answers(self.members, contexts, lengths, queries)
        raw = np.einsum("m,mbd->bd", self.mixture.raw, raw).astype(np.float32)
        units = np.einsum("m,mbd->bd", self.mixture.unit, units).astype(np.float32)
        return raw, unit(units)


def fit_mixture(
    members: Sequence[NextVectorPredictor], vectors: VectorSource, windows: Windows
) -> MixtureWeights:
    """The non-negative weights with the least squared error on these windows (Lawson and Hanson's NNLS).

    For unit vectors that is close to the weighting with the highest mean cosine. Normal equations are summed
    in float64.

    Args:
        windows: of validation documents: on training ones the member that overfits most would get all.
    Raises:
        EvaluationError: fewer than two members, or none of them points anywhere near the targets.
    """
    if len(members) < 2:
        raise EvaluationError("an ensemble needs two members at least", remedy="name more runs or baselines")
    M = len(members)
    grams, moments = np.zeros((2, M, M)), np.zeros((2, M))
    width = max(member.context for member in members)
    for block in windows.blocks(BLOCK):
        contexts, lengths = gather_contexts(vectors, block, min(width, int(block.read.max())))
        target = gather_rows(vectors, block.target)
        both = answers(members, contexts, lengths, gather_queries(vectors, block))
        for i, (prediction, wanted) in enumerate(zip(both, (target, unit(target)), strict=True)):
            flat = prediction.reshape(M, -1).astype(np.float64)
            grams[i] += flat @ flat.T
            moments[i] += flat @ wanted.ravel().astype(np.float64)
    raw, units = (_solve(gram, moment) for gram, moment in zip(grams, moments, strict=True))
    return MixtureWeights(raw, units / units.sum())


def answers(
    members: Sequence[NextVectorPredictor],
    contexts: FloatArray,
    lengths: IntArray,
    queries: FloatArray | None = None,
) -> tuple[FloatArray, FloatArray]:
    """Raw and unit predictions [M, B, D] of each member from the last vectors that it uses."""
    each = [ask(member, *latest(contexts, lengths, member.context), queries) for member in members]
    return np.stack([raw for raw, _ in each]), np.stack([units for _, units in each])


def latest(contexts: FloatArray, lengths: IntArray, width: int) -> tuple[FloatArray, IntArray]:
    """The last `width` vectors of each context, padded on the right, and how many they are."""
    if contexts.shape[1] <= width:
        return contexts, lengths
    kept = np.minimum(lengths, width)
    place = (lengths - kept)[:, None] + np.arange(width)
    taken = np.take_along_axis(contexts, np.minimum(place, contexts.shape[1] - 1)[:, :, None], axis=1)
    taken[np.arange(width) >= kept[:, None]] = 0.0
    return taken, kept


def _solve(gram: NDArray[np.float64], moment: NDArray[np.float64]) -> Weights:
    # |Y - X w|^2 = |L'w - L^-1 moment|^2 + const with gram = L L': a least squares problem of M rows.
    scale = np.sqrt(np.maximum(np.diag(gram), np.finfo(np.float64).tiny))
    normal = gram / np.outer(scale, scale) + 1e-9 * np.eye(len(gram))
    factor = np.linalg.cholesky(normal)
    weights, _ = nnls(factor.T, np.linalg.solve(factor, moment / scale))
    if not weights.any():
        message = "no member points anywhere near the targets"
        raise EvaluationError(message, remedy="leave these members out, or train them")
    found: Weights = weights / scale
    return found


BASELINE_FILE = "baselines.safetensors"
GRAPHS = ("model.onnx", "model.bin")
"""Where an export has its weights."""
MAX_MEMBERS = 64
MAX_BASELINE_BYTES = 2**31


class EnsembleEngine(Engine):
    """What an ensemble answers outside of an evaluation: the direction of its unit prediction, which is what
    is evaluated by cosine and rank, at the length of its raw one."""

    name = "ensemble"

    def __init__(self, ensemble: Ensemble) -> None:
        self.ensemble = ensemble

    def everything(
        self, contexts: FloatArray, lengths: IntArray, queries: FloatArray | None = None
    ) -> FloatArray:
        """As of any engine, [B, 1, D]: it was fitted for one horizon."""
        raw, units = self.ensemble.predict(contexts, lengths, queries)
        answer: FloatArray = units * np.linalg.norm(raw, axis=1, keepdims=True)
        return answer[:, None]


class EnsembleRun(Ensemble, TrainedPredictor):
    """An ensemble of runs and baselines, which is evaluated and answers as a run does.

    Attributes:
        folder: where it lies.
        runs: its members that are trained runs, or exports of them.
        horizon: how many chunks ahead it was fitted.
    """

    def __init__(
        self,
        folder: Path,
        runs: Sequence[TrainedPredictor],
        baselines: Sequence[Baseline],
        mixture: MixtureWeights,
    ) -> None:
        members: list[NextVectorPredictor] = [*runs, *baselines]
        Ensemble.__init__(self, folder.resolve().name, members, mixture)
        self.folder, self.runs, self.baselines = folder, tuple(runs), tuple(baselines)
        first = self.runs[0]
        self.encoder, self.dimension, self.described = first.encoder, first.dimension, first.described
        self.horizon = first.horizons[first.head]
        self.training = {**first.training, "horizons": [self.horizon]}
        self.engine = EnsembleEngine(self)

    @property
    def reads_directions(self) -> bool:
        """Each member sees to that itself."""
        return False

    def stream(self, query: FloatArray | None = None) -> StreamSession:
        """A session that reads its last `context` vectors again at every push."""
        return WindowSession(self, query)

    def answer(
        self, contexts: FloatArray, lengths: IntArray, queries: FloatArray | None = None
    ) -> tuple[RawVectors, UnitVectors]:
        """As `TrainedPredictor.answer`, see `EnsembleEngine`."""
        raw = self.vectors(self.engine(contexts, lengths, queries))
        return raw, raw.unit()

    def at_horizon(self, horizon: int) -> Self:
        """Itself: it was fitted for one horizon. Raises RunError for another."""
        if horizon != self.horizon:
            raise RunError(f"was fitted {self.horizon} ahead", where=self.folder, remedy="fit another one")
        return copy(self)

    @cached_property
    def trained_on(self) -> TrainedOn:
        """Keys of everything that any member was trained on."""
        return TrainedOn.union([run.trained_on for run in self.runs])


def save(ensemble: EnsembleRun) -> None:
    """Write the folder; it is there as a whole or not at all. Raises BusyError, DiskError."""
    place = ensemble.folder.resolve()
    with new_folder(ensemble.folder) as out:
        write(ensemble, out, [os.path.relpath(run.folder.resolve(), place) for run in ensemble.runs])


def write(ensemble: EnsembleRun, out: Path, places: Sequence[str]) -> None:
    """Write an ensemble's files to the folder `out`; `places` are its runs' folders, as seen from there."""
    arrays = {
        f"{b.name}/{key}": np.ascontiguousarray(value)
        for b in ensemble.baselines
        for key, value in b.state().items()
    }
    both = zip(places, ensemble.runs, strict=True)
    members = [{"run": place, "sha256": _digest(run.folder)} for place, run in both]
    held = {
        "members": [*members, *({"baseline": b.name, "context": b.context} for b in ensemble.baselines)],
        "raw_weights": ensemble.mixture.raw.tolist(),
        "unit_weights": ensemble.mixture.unit.tolist(),
        "horizon": ensemble.horizon,
    }
    if arrays:
        save_file(arrays, out / BASELINE_FILE, metadata=UNSEALED)
        seal(out / BASELINE_FILE)
    write_json(out / FILE, held, sealed=True)


def load(folder: str | Path, device: str = "cpu") -> EnsembleRun:
    """The ensemble of a folder; `device` is where its runs predict.

    Raises:
        RunError: not an ensemble, a member that is missing or has changed since.
    """
    folder = Path(folder)
    remedy = "fit the ensemble again"
    held = read_json(folder / FILE, RunError, remedy=remedy)
    match held:
        case {
            "members": list(members),
            "raw_weights": list(raw),
            "unit_weights": list(units),
            "horizon": int(horizon),
        } if 2 <= len(members) == len(raw) == len(units) <= MAX_MEMBERS:
            pass
        case _:
            raise RunError("is not an ensemble", where=folder / FILE, remedy=remedy)
    runs, baselines = [], []
    for member in members:
        match member:
            case {"run": str(path), "sha256": str(digest)}:
                runs.append(_run(folder / path, digest, device).at_horizon(horizon))
            case {"baseline": str(name), "context": int(context)} if name in BASELINES:
                baselines.append(_restored(folder, name, context))
            case _:
                text = f"has a member that is neither run nor baseline: {member}"
                raise RunError(text, where=folder / FILE, remedy=remedy)
    if not runs:
        raise RunError("has no run among its members", where=folder / FILE, remedy=remedy)
    mixture = MixtureWeights(np.asarray(raw, dtype=np.float64), np.asarray(units, dtype=np.float64))
    return EnsembleRun(folder, runs, baselines, mixture)


def _restored(folder: Path, name: str, context: int) -> Baseline:
    baseline = BASELINES[name](context)
    path, prefix = folder / BASELINE_FILE, f"{name}/"
    try:
        if path.is_file() and path.stat().st_size > MAX_BASELINE_BYTES:
            raise RunError("is too large", where=path, remedy="fit the ensemble again")
        check_seal(path, RunError, "fit the ensemble again")
        held = load_file(path) if path.is_file() else {}
        baseline.restore({key[len(prefix) :]: v for key, v in held.items() if key.startswith(prefix)})
    except (SafetensorError, KeyError) as e:
        raise RunError(f"is damaged ({e})", where=path, remedy="fit the ensemble again") from None
    return baseline


def _run(folder: Path, digest: str, device: str) -> TrainedPredictor:
    run = ExportedPredictor(folder) if (folder / EXPORT).is_file() else RunPredictor(folder, device=device)
    if _digest(folder) != digest:
        message = "has other weights than when the ensemble was fitted"
        raise RunError(message, where=folder, remedy="fit it again")
    return run


def _digest(folder: Path) -> str:
    """Of the file that holds the weights of a run or an export."""
    held = next(path for name in (WEIGHTS, *GRAPHS) if (path := folder / name).is_file())
    with held.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
