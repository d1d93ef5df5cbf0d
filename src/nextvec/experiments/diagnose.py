"""The diagnosis of a trained run: documents, baselines, its other splits, the brief's checklist."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from nextvec.corpus.store import Store
from nextvec.data.gather import VectorSource
from nextvec.data.splits import SPLITS, Split
from nextvec.data.trained import key, known
from nextvec.data.windows import IntArray, Windows
from nextvec.diagnostics.model import ModelDiagnosis, diagnose
from nextvec.diagnostics.sections import DiagnosisContext, prepare
from nextvec.errors import EvaluationError, SplitError, WindowError
from nextvec.evaluation.baselines import BASELINES
from nextvec.evaluation.evaluation_set import Leaks, without_leaks
from nextvec.evaluation.harness import (
    EvaluationConfig,
    FittingData,
    check_made_for,
    fitted,
    make_evaluation_set,
    tuned_on,
    without_known,
)
from nextvec.evaluation.predictor import measure_speed
from nextvec.experiments.brief import Checklist, checklist
from nextvec.experiments.evaluating import DocumentSelection, divide, division_of, training_of
from nextvec.inference.predictor import RunPredictor


@dataclass(frozen=True)
class RunModelDiagnosis:
    """The diagnosis of a run's model, with the brief's checklist.

    Attributes:
        leaks: windows dropped because they stand in training; None for the train split.
    """

    store: str
    encoder: str
    leaks: Leaks | None
    diagnosis: ModelDiagnosis
    checklist: Checklist

    def to_json(self) -> dict[str, Any]:
        """JSON-ready: "store", "encoder", "dropped", then all of the diagnosis, then "checklist"."""
        return {
            "store": self.store,
            "encoder": self.encoder,
            "dropped": None if self.leaks is None else self.leaks.dropped,
            **self.diagnosis.to_json(),
            "checklist": self.checklist.to_json(),
        }


@dataclass(frozen=True)
class _Place:
    """Where the run is diagnosed: the evaluated documents, and those it was trained on."""

    store: Store
    run: RunPredictor
    selection: DocumentSelection
    how: EvaluationConfig
    judged: Split
    training: FittingData | None

    @cached_property
    def known(self) -> tuple[int, ...]:
        """Documents of this store that the run was trained on, by their ids."""
        ids = (key(document.doc_id) for document in self.store.documents)
        return tuple(np.flatnonzero(known(self.run.trained_on.ids, ids)).tolist())


def diagnose_model(
    store: Store, run: RunPredictor, selection: DocumentSelection, how: EvaluationConfig
) -> RunModelDiagnosis:
    """Diagnose the model of a run on one split of a store, beside the baselines of `nextvec evaluate`.

    Args:
        how: context, horizon, candidates and seed are taken from here, and the baselines are all of them.
    Raises:
        EvaluationError: another horizon than the run's. SplitError: no documents. WindowError: too short.
        LeakError: see `without_leaks`.
        EncoderMismatchError, VectorError: a store of another encoder.
    """
    place = _place(store, run, selection, how)
    documents = place.judged.judged(selection.split)
    if not documents:
        raise SplitError(
            f"split '{selection.split}' has no documents",
            where=store.path,
            remedy="evaluate another split or other sources",
        )
    check_made_for(run, store)
    windows = how.windows(store, documents)
    windows, leaks = without_known(store, windows, selection.split, how, place.training, run.trained_on)
    context = _case(place, windows, documents)
    found = diagnose(
        context,
        selection.split,
        others=_other_splits(place),
        sources=_sources(place),
        seed=how.seed,
        quiet=how.quiet,
    )
    metadata = dict(run.metadata)
    if how.speed:
        metadata |= measure_speed(run, store.dimension, how.context)
    encoder = str(store.encoder.get("name", ""))
    return RunModelDiagnosis(
        str(store.path), encoder, leaks, found, checklist(found, metadata, store.dimension)
    )


def _place(store: Store, run: RunPredictor, selection: DocumentSelection, how: EvaluationConfig) -> _Place:
    if "middle" in (run.task, how.task):
        raise EvaluationError(
            "every section of a diagnosis is about what comes next; this run fills gaps",
            where=run.folder,
            remedy="evaluate it with nextvec evaluate --task middle",
        )
    if how.horizon not in run.horizons:
        raise EvaluationError(
            f"trained to predict {', '.join(map(str, run.horizons))} ahead, diagnosed at {how.horizon}",
            where=run.folder,
            remedy=f"diagnose it with horizon {run.horizons[0]}",
        )
    run = run.at_horizon(how.horizon)
    division = division_of([run], selection)
    trained = tuple(run.training["sources"]) if selection.train_sources is None else selection.train_sources
    judged = divide(store, division, selection.sources, selection.split)
    training = training_of(store, division, trained, selection.split, how)
    training = tuned_on(store, judged, training, how)
    return _Place(store, run, selection, how, judged, training)


def _case(place: _Place, windows: Windows, documents: tuple[int, ...]) -> DiagnosisContext:
    """The selection of `nextvec evaluate`, asked of the run and of all baselines that can be fitted."""
    store, how, training = place.store, place.how, place.training
    able = [cls for cls in BASELINES.values() if training is not None or not cls.needs_training]
    return prepare(
        make_evaluation_set(store, windows, documents, how, training),
        place.run,
        [fitted(cls, how, training) for cls in able],
        store.documents,
        store.texts,
        train_vectors=store.vectors if place.known else None,
        trained=_rows(store, place.known) if place.known else None,
        quiet=how.quiet,
    )


def _rows(store: Store, documents: Sequence[int]) -> IntArray:
    """Rows of every chunk of these documents."""
    held = [store.documents[i] for i in documents]
    return np.concatenate([np.arange(d.first, d.first + d.count, dtype=np.int64) for d in held])


def _other_splits(place: _Place) -> dict[str, tuple[VectorSource, Windows]]:
    """Windows of the splits that are not evaluated; train is every document the run was trained on.

    What stands in training is dropped from the others, however much it is: here it only must not mislead.
    """
    store, how, judged = place.store, place.how, place.selection.split
    known = tuple(i for i in place.known if store.documents[i].view_of is None)
    documents = {name: place.judged.judged(name) for name in SPLITS if judged != "all"} | {"train": known}
    found: dict[str, tuple[VectorSource, Windows]] = {}
    for name in (name for name in documents if name != judged):
        try:
            windows = how.windows(store, documents[name])
        except WindowError:
            continue
        if name != "train":
            windows, _ = without_leaks(store, windows, place.run.trained_on, split=name, limit=1.0)
        if len(windows):
            found[name] = (store.vectors, windows)
    return found


def _sources(place: _Place) -> tuple[str, ...] | None:
    """The sources trained on: those of the documents that are known here, else those that the run names.

    None where the run was trained on all sources of another store, which does not say what they were.
    """
    if place.known:
        return tuple(sorted({place.store.documents[i].source for i in place.known}))
    return tuple(place.run.training["sources"]) or None
