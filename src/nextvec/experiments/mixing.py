"""Making ensembles: weights fitted on validation, and every member written for a faster engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nextvec.corpus.store import Store
from nextvec.data.splits import split_documents
from nextvec.disk import new_folder, refuse_taken
from nextvec.errors import ConfigError, EvaluationError, RunError, SplitError
from nextvec.evaluation.baselines import named
from nextvec.evaluation.harness import EvaluationConfig, FittingData, fitted
from nextvec.experiments.ensemble import MAX_MEMBERS, EnsembleRun, fit_mixture, save, write
from nextvec.experiments.evaluating import (
    SCHEMES,
    DocumentSelection,
    RemoteRun,
    common,
    division_of,
    for_question,
)
from nextvec.inference.base import TrainedPredictor
from nextvec.inference.export import Exported, Format, Precision, export_predictor
from nextvec.inference.exported import ExportedPredictor
from nextvec.inference.predictor import RunPredictor, open_predictor

MEMBERS = "members"
FEW_WINDOWS = 100
"""Weights fitted on fewer validation windows than these are partly chance."""


@dataclass(frozen=True)
class FittedEnsemble:
    """An ensemble, and how many validation windows its weights were fitted on."""

    ensemble: EnsembleRun
    windows: int

    @property
    def few(self) -> bool:
        """Whether that is so few that the weights are partly chance."""
        return self.windows < FEW_WINDOWS


def fit_ensemble(
    store: Store,
    folders: Sequence[str | Path],
    baselines: Sequence[str],
    selection: DocumentSelection,
    how: EvaluationConfig,
    out: Path,
) -> FittedEnsemble:
    """Fit weights on the validation documents and write the ensemble to `out`.

    Args:
        folders: trained runs, at least one; all of one division, training sources, task and horizon.
        baselines: names of baselines to mix in, fitted on the runs' training documents.
        selection: division and sources, where they are not the runs'.
        how: context, horizon and task of the windows.
    Raises:
        RunError: `out` is not empty, or a run is damaged.
        EvaluationError: too few members, runs that do not go together, or a baseline that cannot be kept.
        SplitError: no validation documents.
    """
    refuse_taken(out, RunError, "give another folder")
    if not folders or not 2 <= len(folders) + len(baselines) <= MAX_MEMBERS:
        message = f"{len(folders)} runs and {len(baselines)} baselines"
        raise EvaluationError(message, remedy=f"name a run at least, and 2 to {MAX_MEMBERS} members in all")
    runs = [for_question(RunPredictor(folder), how) for folder in folders]
    split = split_documents(store, division_of(runs, selection), common(runs, "sources", tuple))
    training = FittingData.of(store, split, how)
    if training is None or training.validation is None:
        message = "holds no validation windows to fit weights on"
        raise SplitError(message, where=store.path, remedy="evaluate with another division")
    mixed = [fitted(named(name), how, training) for name in baselines]
    for baseline in mixed:
        baseline.state()  # what cannot be kept is refused before the weights are fitted
    # More than the baselines' shortest context may be read, so the evaluator's windows serve all members.
    mixture = fit_mixture([*runs, *mixed], store.vectors, training.validation)
    made = EnsembleRun(out, runs, mixed, mixture)
    save(made)
    return FittedEnsemble(made, len(training.validation))


def export_ensemble(
    ensemble: EnsembleRun,
    out: Path,
    format: Format = "onnx",
    precision: Precision = "fp32",
    *,
    store: Store | None = None,
    tolerance: float | None = None,
    step: bool = False,
) -> list[Exported]:
    """Write an ensemble of exports: every run exported into `out/members`, weights and baselines as they are.

    Args and errors are those of `export_predictor`, which compares each export with its run.
    Raises:
        RunError: also where the ensemble's members are exports already.
        ConfigError: also for `step`: a stream of an ensemble reads its last vectors again.
    """
    if step:
        message = "is an ensemble, which has no step form"
        raise ConfigError(
            message, where=ensemble.folder, remedy="leave --step out, or export one of its runs"
        )
    refuse_taken(out, RunError, "give another folder with --out, or remove it")
    made, runs = [], []
    with new_folder(out) as folder:
        for number, run in enumerate(ensemble.runs):
            if not isinstance(run, RunPredictor):
                message = "is an export already"
                raise RunError(message, where=run.folder, remedy="export the ensemble of the runs")
            alone = [other.name for other in ensemble.runs].count(run.name) == 1
            place = folder / MEMBERS / (run.name if alone else f"{run.name}-{number}")
            place.parent.mkdir(exist_ok=True)
            made.append(export_predictor(run, place, format, precision, store=store, tolerance=tolerance))
            runs.append(ExportedPredictor(place).at_horizon(ensemble.horizon))
        exported = EnsembleRun(out, runs, ensemble.baselines, ensemble.mixture)
        write(exported, folder, [f"{MEMBERS}/{run.folder.name}" for run in runs])
    return made


def open_evaluated(folder: str | Path, device: str = "cpu") -> TrainedPredictor | RemoteRun:
    """A run, an export or an ensemble, whichever lies there; or a server's model, by its address."""
    if str(folder).startswith(SCHEMES):
        return RemoteRun(str(folder))
    return open_predictor(folder, device)
