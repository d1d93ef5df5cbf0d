"""The diagnosis of a trained run: documents, baselines, its other splits, the brief's checklist; and the best
models of a matrix carried on into what the brief calls its later phases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nextvec.corpus.store import Store
from nextvec.data.gather import VectorSource
from nextvec.data.splits import SPLITS, Split
from nextvec.data.trained import key, known
from nextvec.data.windows import Windows
from nextvec.diagnostics import sections
from nextvec.diagnostics.model import ModelDiagnosis, diagnose
from nextvec.disk import write_json
from nextvec.errors import EvaluationError, WindowError
from nextvec.evaluation.baselines import BASELINES
from nextvec.evaluation.evaluation_set import Leaks, without_leaks
from nextvec.evaluation.harness import EvaluationConfig, check_made_for, fitted, prepare
from nextvec.evaluation.predictor_protocol import measure_speed
from nextvec.experiments.brief import Checklist, checklist
from nextvec.experiments.evaluating import DocumentSelection, for_question, laid_out
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


def diagnose_model(
    store: Store, run: RunPredictor, selection: DocumentSelection, how: EvaluationConfig
) -> RunModelDiagnosis:
    """Diagnose the model of a run on one split of a store, beside the baselines of `nextvec evaluate`: all
    that can be fitted.

    Args:
        how: context, horizon, candidates and seed are taken from here.
    Raises:
        EvaluationError: another horizon than the run's. SplitError: no documents. WindowError: too short.
        LeakError: see `without_leaks`.
        EncoderMismatchError, VectorError: a store of another encoder.
    """
    if "middle" in (run.task, how.task):
        message = "every section of a diagnosis is about what comes next; this run fills gaps"
        remedy = "evaluate it with nextvec evaluate --task middle"
        raise EvaluationError(message, where=run.folder, remedy=remedy)
    run = for_question(run, how)
    evaluated, training = laid_out(store, [run], selection, how)
    check_made_for(run, store)
    evaluation_set, leaks, training = prepare(
        store, evaluated, selection.split, how, training, run.trained_on
    )
    ids = known(run.trained_on.ids, (key(document.doc_id) for document in store.documents))
    seen: list[int] = np.flatnonzero(ids).tolist()
    able = [cls for cls in BASELINES.values() if training is not None or not cls.needs_training]
    context = sections.prepare(
        evaluation_set,
        run,
        [fitted(cls, how, training) for cls in able],
        store.documents,
        store.texts,
        train_vectors=store.vectors if seen else None,
        trained=store.rows_of(seen) if seen else None,
        quiet=how.quiet,
    )
    found = diagnose(
        context,
        selection.split,
        others=_other_splits(store, run, evaluated, selection.split, how, seen),
        # A run trained on all sources of another store does not say what they were.
        sources=sorted({store.documents[i].source for i in seen}) or run.training["sources"] or None,
        seed=how.seed,
        quiet=how.quiet,
    )
    metadata = dict(run.metadata)
    if how.speed:
        metadata |= measure_speed(run, store.dimension, how.context)
    return RunModelDiagnosis(
        str(store.path),
        str(store.encoder.get("name", "")),
        leaks,
        found,
        checklist(found, metadata, store.dimension),
    )


def _other_splits(
    store: Store, run: RunPredictor, split: Split, evaluated: str, how: EvaluationConfig, seen: Sequence[int]
) -> dict[str, tuple[VectorSource, Windows]]:
    """Windows of the splits that are not evaluated; train is every document the run was trained on (`seen`).

    What stands in training is dropped from the others, however much it is: here it only must not mislead.
    """
    documents: dict[str, Sequence[int]] = {n: split.evaluated(n) for n in SPLITS if evaluated != "all"}
    documents["train"] = [i for i in seen if store.documents[i].view_of is None]
    found: dict[str, tuple[VectorSource, Windows]] = {}
    for name in (name for name in documents if name != evaluated):
        try:
            windows = how.windows(store, documents[name])
        except WindowError:
            continue
        if name != "train":
            windows, _ = without_leaks(store, windows, run.trained_on, split=name, limit=1.0)
        if len(windows):
            found[name] = (store.vectors, windows)
    return found


TOP = "top"


@dataclass(frozen=True)
class CarriedModel:
    """A model that was carried on: its row, and what was found of its best run by validation, in a file."""

    row: str
    diagnosis: RunModelDiagnosis
    file: Path


def carry(
    matrix: Path, table: dict[str, Any], count: int, look: Callable[[RunPredictor], RunModelDiagnosis]
) -> list[CarriedModel]:
    """Diagnose the `count` best models and write `top/<row>.json`.

    They are chosen by validation cosine: choosing by the documents evaluated would make their figures too
    good.

    Args:
        table: of the matrix, of the task "next".
        look: at one run; what it raises is raised.
    """
    rows = [row for row in table["rows"] if row["kind"] == "model"]
    rows.sort(key=lambda row: -float(row["validation_cosine"]))
    carried = []
    for row in rows[:count]:
        runs = [RunPredictor(matrix / Path(seed["model_file"]).parent) for seed in row["per_seed"]]
        found = look(max(runs, key=lambda run: float(run.metadata["validation_cosine"])))
        file = matrix / TOP / f"{row['name']}.json"
        write_json(file, found.to_json())
        carried.append(CarriedModel(row["name"], found, file))
    return carried
