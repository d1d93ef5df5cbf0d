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
from typing import Self

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from nextvec.corpus.store import Store
from nextvec.data.splits import split_documents
from nextvec.data.trained import TrainedOn
from nextvec.disk import atomic_path, read_json, refuse_taken, write_json
from nextvec.errors import EvaluationError, RunError, SplitError
from nextvec.evaluation.baselines import BASELINES, Baseline
from nextvec.evaluation.ensemble import Ensemble, Mixture, fit_mixture
from nextvec.evaluation.harness import Judging, Training
from nextvec.evaluation.predictor import Predictor
from nextvec.experiments.judging import Exam, asked, common, division_of
from nextvec.experiments.remote import SCHEMES, RemoteRun
from nextvec.inference.base import TrainedPredictor
from nextvec.inference.opening import open_predictor
from nextvec.inference.predictor import RunPredictor
from nextvec.models.saving import WEIGHTS

FILE, BASELINE_FILE = "ensemble.json", "baselines.safetensors"
MAX_MEMBERS = 64
MAX_BASELINE_BYTES = 2**31


class EnsembleRun(Ensemble):
    """An ensemble of runs and baselines, which is judged as a run is.

    Attributes:
        folder: where it lies.
        runs: its members that are trained runs.
    """

    def __init__(
        self, folder: Path, runs: Sequence[RunPredictor], baselines: Sequence[Baseline], mixture: Mixture
    ) -> None:
        members: list[Predictor] = [*runs, *baselines]
        super().__init__(folder.resolve().name, members, mixture)
        self.folder, self.runs, self.baselines = folder, tuple(runs), tuple(baselines)
        first = self.runs[0]
        self.encoder, self.dimension = first.encoder, first.dimension
        self.horizons, self.task, self.training = (first.horizons[first.head],), first.task, first.training

    def aimed(self, horizon: int) -> Self:
        """Itself: it was fitted for one horizon. Raises RunError for another."""
        if horizon not in self.horizons:
            raise RunError(
                f"was fitted {self.horizons[0]} ahead", where=self.folder, remedy="fit another one"
            )
        return copy(self)

    @cached_property
    def trained_on(self) -> TrainedOn:
        """Keys of everything that any member was trained on."""
        return TrainedOn.union([run.trained_on for run in self.runs])


@dataclass(frozen=True)
class Fitted:
    """An ensemble, and how many validation windows its weights were fitted on."""

    ensemble: EnsembleRun
    windows: int


def fit_ensemble(
    store: Store, folders: Sequence[str | Path], baselines: Sequence[str], exam: Exam, how: Judging, out: Path
) -> Fitted:
    """Fit weights on the validation documents and write the ensemble to `out`.

    Args:
        folders: trained runs, at least one; all of one division, training sources, task and horizon.
        baselines: names of baselines to mix in, fitted on the runs' training documents.
        exam: division and sources, where they are not the runs'.
        how: context, horizon and task of the windows.
    Raises:
        RunError: `out` is not empty, or a run is damaged.
        EvaluationError: too few members, runs that do not go together, or a baseline that cannot be kept.
        SplitError: no validation documents.
    """
    refuse_taken(out, RunError, "give another folder")
    if not folders or not 2 <= len(folders) + len(baselines) <= MAX_MEMBERS:
        raise EvaluationError(
            f"{len(folders)} runs and {len(baselines)} baselines",
            remedy=f"name a run at least, and 2 to {MAX_MEMBERS} members in all",
        )
    runs = [asked(RunPredictor(folder), how) for folder in folders]
    split = split_documents(store, division_of(runs, exam), common(runs, "sources", tuple))
    training = Training.of(store, split, how)
    if training is None or training.validation is None:
        raise SplitError(
            "holds no validation windows to fit weights on",
            where=store.path,
            remedy="judge with another division",
        )
    fitted = [_fitted(name, training, how) for name in baselines]
    # More than the baselines' shortest context may be read, so windows of the judge's kind serve all members.
    mixture = fit_mixture([*runs, *fitted], store.vectors, training.validation)
    made = EnsembleRun(out, runs, fitted, mixture)
    save(made)
    return Fitted(made, len(training.validation))


def save(ensemble: EnsembleRun) -> None:
    """Write the folder."""
    out = ensemble.folder
    arrays = {
        f"{b.name}/{key}": np.ascontiguousarray(value)
        for b in ensemble.baselines
        for key, value in b.state().items()
    }
    out.mkdir(parents=True, exist_ok=True)
    if arrays:
        with atomic_path(out / BASELINE_FILE) as path:
            save_file(arrays, path)
    members = [
        {"run": os.path.relpath(run.folder.resolve(), out.resolve()), "sha256": _digest(run.folder / WEIGHTS)}
        for run in ensemble.runs
    ]
    write_json(
        out / FILE,
        {
            "members": [*members, *({"baseline": b.name, "context": b.context} for b in ensemble.baselines)],
            "raw_weights": ensemble.mixture.raw.tolist(),
            "unit_weights": ensemble.mixture.unit.tolist(),
            "horizon": ensemble.horizons[0],
        },
    )


def load(folder: str | Path) -> EnsembleRun:
    """The ensemble of a folder.

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
                runs.append(_run(folder / path, digest).aimed(horizon))
            case {"baseline": str(name), "context": int(context)} if name in BASELINES:
                baselines.append(_restored(folder, name, context))
            case _:
                raise RunError(
                    f"has a member that is neither run nor baseline: {member}",
                    where=folder / FILE,
                    remedy=remedy,
                )
    if not runs:
        raise RunError("has no run among its members", where=folder / FILE, remedy=remedy)
    mixture = Mixture(np.asarray(raw, dtype=np.float64), np.asarray(units, dtype=np.float64))
    return EnsembleRun(folder, runs, baselines, mixture)


def load_judged(folder: str | Path, device: str = "cpu") -> TrainedPredictor | EnsembleRun | RemoteRun:
    """A run, an export or an ensemble, whichever lies there; or a server's model, by its address."""
    if str(folder).startswith(SCHEMES):
        return RemoteRun(str(folder))
    return load(folder) if (Path(folder) / FILE).is_file() else open_predictor(folder, device)


def _fitted(name: str, training: Training, how: Judging) -> Baseline:
    if name not in BASELINES:
        raise EvaluationError(f"there is no baseline '{name}'", remedy=f"choose of: {', '.join(BASELINES)}")
    baseline = BASELINES[name](how.context, how.seed)
    baseline.fit(training.vectors, training.train, training.validation)
    baseline.state()  # what cannot be kept is refused before the weights are fitted
    return baseline


def _restored(folder: Path, name: str, context: int) -> Baseline:
    baseline = BASELINES[name](context)
    path, prefix = folder / BASELINE_FILE, f"{name}/"
    try:
        if path.is_file() and path.stat().st_size > MAX_BASELINE_BYTES:
            raise RunError("is too large", where=path, remedy="fit the ensemble again")
        held = load_file(path) if path.is_file() else {}
        baseline.restore({key[len(prefix) :]: v for key, v in held.items() if key.startswith(prefix)})
    except (SafetensorError, KeyError) as e:
        raise RunError(f"is damaged ({e})", where=path, remedy="fit the ensemble again") from None
    return baseline


def _run(folder: Path, digest: str) -> RunPredictor:
    run = RunPredictor(folder)
    if _digest(folder / WEIGHTS) != digest:
        raise RunError(
            "has other weights than when the ensemble was fitted", where=folder, remedy="fit it again"
        )
    return run


def _digest(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
