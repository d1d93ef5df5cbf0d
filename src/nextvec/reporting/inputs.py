"""What a report is made of: whatever a folder holds, and in words what it does not hold."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from nextvec.checkpoint import CONFIG
from nextvec.config import from_dict, read_toml
from nextvec.corpus.store import Store
from nextvec.data.gather import gather_rows
from nextvec.data.splits import SplitConfig
from nextvec.diagnostics.data import DataDiagnosis, DataDiagnosisConfig, diagnose_data
from nextvec.diagnostics.sections import sample
from nextvec.errors import NextvecError, RunError, StoreError
from nextvec.evaluation.baselines import BASELINES
from nextvec.evaluation.predictor_protocol import row_dots, unit
from nextvec.evaluation.results import KEPT, KeptPredictions
from nextvec.evaluation.table import TABLE, read_table
from nextvec.experiments.evaluating import DocumentSelection, evaluate_runs, own_question
from nextvec.experiments.matrix import PLAN, merge_seeds
from nextvec.experiments.plan import MatrixPlan
from nextvec.experiments.runs import RunFolder
from nextvec.inference.predictor import RunPredictor
from nextvec.models.saving import WEIGHTS

Need = Literal["rows", "histories", "answers", "store", "deep"]
"""What a figure may ask for; `ReportInputs.missing` says why one is not there."""
RUN_TABLE = "judged.json"
"""The table of a lone run: it stands in the folder of the report."""
COMPARED, KEPT_TO = 256, 5e-3
"""Windows that tell whether a store's rows are those evaluated; how exactly half precision keeps a cosine."""
REMEDY = "give a folder made by `nextvec matrix` or `nextvec train`"
_SEEDED = re.compile(r"(?P<row>.+)-seed(?P<seed>\d+)(-fold\d+)?")


@dataclass(frozen=True)
class ReportInputs:
    """A matrix or a run, as far as it got. Use `ReportInputs.of`.

    Attributes:
        folder, kind: what is reported on.
        runs: every run that was started, row by row and seed by seed.
        table: the JSON of the scores (`nextvec.evaluation.results.Report.to_json`); None: not evaluated yet.
        table_file: the name of the file it stands in.
        plan: of a matrix.
        answers: what every predictor answered, window by window.
        store: where vectors and texts lie.
        deep: whether models may be loaded and run for a figure.
        missing: what is not there -> why, and what to do about it.
    """

    folder: Path
    kind: Literal["matrix", "run"]
    runs: tuple[RunFolder, ...]
    table: dict[str, Any] | None
    plan: MatrixPlan | None
    answers: KeptPredictions | None
    store: Store | None
    deep: bool = False
    missing: Mapping[str, str] = field(default_factory=dict)
    table_file: str = TABLE

    @classmethod
    def of(cls, folder: str | Path, *, store: str | Path | None = None, deep: bool = False) -> ReportInputs:
        """Read all that a folder holds.

        Args:
            folder: of a matrix or of a run, finished or interrupted.
            store: where the store lies now; None looks where it lay at training.
            deep: allow what loads the models again; a run is put beside the baselines then.
        Raises:
            RunError: neither a matrix nor a run, or a damaged file in it.
            StoreError: `store` is none, or another than the one trained on.
        """
        folder = Path(folder)
        if (folder / PLAN).is_file() or (folder / TABLE).is_file():
            return _read_matrix(folder, store, deep)
        if (folder / CONFIG).is_file():
            return _read_run(folder, store, deep)
        raise RunError("holds neither a matrix nor a run", where=folder, remedy=REMEDY)

    def lacks(self, needs: tuple[Need, ...]) -> str | None:
        """Why a figure with these needs cannot be drawn; None if it can."""
        return next((self.missing[need] for need in needs if need in self.missing), None)

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Every predictor of the table, in its order: "name", "kind", figures, "versus_best_baseline" and,
        of models, "per_seed"; empty when nothing was evaluated."""
        return [] if self.table is None else self.table["rows"]

    @property
    def models(self) -> list[dict[str, Any]]:
        """The rows that were trained."""
        return [row for row in self.rows if row["kind"] == "model"]

    @property
    def baselines(self) -> list[dict[str, Any]]:
        """The rows that were not."""
        return [row for row in self.rows if row["kind"] == "baseline"]

    @cached_property
    def trained(self) -> tuple[str, ...]:
        """Names of what was trained, evaluated or not: those of the table first, in its order."""
        return tuple(dict.fromkeys([row["name"] for row in self.models] + [run.row for run in self.runs]))

    def runs_of(self, row: str) -> list[RunFolder]:
        """The runs of one row, by seed."""
        return sorted((run for run in self.runs if run.row == row), key=lambda run: run.seed)

    @cached_property
    def diagnosis(self) -> DataDiagnosis | None:
        """What `nextvec diagnose data` says of the store, nothing being encoded anew; None without one."""
        if self.store is None:
            return None
        division = self.runs[0].config.get("data", {}).get("split", {}) if self.runs else {}
        if not Path(division.get("file") or "").is_file():
            division = {key: value for key, value in division.items() if key != "file"}
        looking = DataDiagnosisConfig(
            division=from_dict(SplitConfig, division, where="data.split"),
            context=5 if self.table is None else int(self.table["context"]),
            reembed=0,
            quiet=True,
        )
        return diagnose_data(self.store, looking)


def _read_matrix(folder: Path, store: str | Path | None, deep: bool) -> ReportInputs:
    plan, file = None, folder / PLAN
    if file.is_file():
        plan = from_dict(MatrixPlan, read_toml(file), where=file)
    rows = ((run, _SEEDED.fullmatch(run.name)) for run in _run_folders(folder / "runs", plan))
    runs = tuple(RunFolder.read(run, row=seeded["row"] if seeded else run.name) for run, seeded in rows)
    table = read_table(folder) if (folder / TABLE).is_file() else None
    answers = KeptPredictions.read(folder / KEPT) if (folder / KEPT).is_file() else None
    opened, missing = _find_store(runs, plan, answers, store)
    if answers is not None and opened is not None:  # documents deleted since have left the numbers to others
        answers = replace(answers, document=opened.document_of(answers.target))
    if table is None:
        missing["rows"] = "the matrix was not evaluated: run `nextvec matrix` with this folder to its end"
    if answers is None:
        missing["answers"] = "answers were not kept, window by window: run `nextvec matrix` again"
    missing = _and_more(missing, runs, deep)
    return ReportInputs(folder, "matrix", runs, table, plan, answers, opened, deep, missing)


def _read_run(folder: Path, store: str | Path | None, deep: bool) -> ReportInputs:
    runs = (RunFolder.read(folder),)
    opened, missing = _find_store(runs, None, None, store)
    table = answers = None
    why = "a run alone is not evaluated: put it beside the baselines with --deep, or in a matrix"
    if deep and opened is not None:
        try:
            table, answers = evaluate_alone(opened, folder)
        except NextvecError as e:
            why = f"the run could not be evaluated: {e}"
    if table is None:
        missing |= {"rows": why, "answers": why}
    missing = _and_more(missing, runs, deep)
    return ReportInputs(folder, "run", runs, table, None, answers, opened, deep, missing, RUN_TABLE)


def _and_more(missing: dict[str, str], runs: tuple[RunFolder, ...], deep: bool) -> dict[str, str]:
    if not any(run.history for run in runs):
        missing["histories"] = "no run has finished an epoch yet"
    if not deep:
        missing["deep"] = "it needs the models themselves: make the report with --deep"
    return missing


def _find_store(
    runs: tuple[RunFolder, ...],
    plan: MatrixPlan | None,
    answers: KeptPredictions | None,
    given: str | Path | None,
) -> tuple[Store | None, dict[str, str]]:
    """The store that was trained on, or under "store" why it is not there. One that was named must be it."""
    noted = [run.metadata["store"] for run in runs if "store" in run.metadata]
    noted += [plan.store] if plan else []
    path = given or next(iter(noted), None)
    if path is None:
        return None, {"store": "no run holds where its store is: name it with --store"}
    try:
        store = Store.open(path)
        _check_store(store, runs, answers)
    except StoreError as e:
        if given is not None:
            raise
        why = f"the store {Path(path).name} cannot be used ({e.message}): name it with --store"
        return None, {"store": why}
    return store, {}


def _check_store(store: Store, runs: tuple[RunFolder, ...], answers: KeptPredictions | None) -> None:
    """Raise StoreError for another store than was trained and evaluated on."""
    known = {run.metadata["identity"]["store.fingerprint"] for run in runs if "identity" in run.metadata}
    if answers is not None:
        known.add(answers.store)
    target = np.zeros(0, np.int64) if answers is None else answers.target
    if known - {store.fingerprint} or target.max(initial=-1) >= len(store):
        remedy = "give that one with --store"
        raise StoreError("is another store than was trained on", where=store.path, remedy=remedy)
    at, documents = store.document_of(target).tolist(), store.documents
    last = (documents[i].first + documents[i].count - 1 if i >= 0 else -1 for i in at)
    if any(row > end for row, end in zip(target.tolist(), last, strict=True)):
        remedy = "evaluate again: nextvec matrix"
        message = "lacks documents that were evaluated: deleted since"
        raise StoreError(message, where=store.path, remedy=remedy)
    if answers is not None and not _same_chunks(store, answers):
        remedy = "evaluate again: nextvec matrix"
        message = "holds other chunks where those evaluated stood: compacted since"
        raise StoreError(message, where=store.path, remedy=remedy)


def _same_chunks(store: Store, answers: KeptPredictions) -> bool:
    """Whether a baseline's predictions are as near to the chunks in these rows as they were then."""
    name = next((row for row in answers.units if row in BASELINES), None)
    if name is None:
        return True
    which = sample(len(answers.target), COMPARED, seed=0)
    found = unit(np.asarray(answers.units[name][which], np.float32))
    cosines = row_dots(found, unit(gather_rows(store.vectors, answers.target[which])))
    return bool(np.allclose(cosines, answers.values[name]["cosine"][which], atol=KEPT_TO))


def _run_folders(folder: Path, plan: MatrixPlan | None) -> list[Path]:
    """The runs of a matrix that were started, in the plan's order and then by name."""
    found = {path.parent.name: path.parent for path in sorted(folder.glob(f"*/{CONFIG}"))}
    planned: list[str] = []
    with suppress(NextvecError):  # an axis of a later version: the folders are read by their names
        if plan is not None:
            cells = sorted(plan.cells, key=lambda cell: (plan.rows.index(cell.row), cell.seed))
            planned = [cell.name for cell in cells]
    return [found[name] for name in dict.fromkeys([*planned, *found]) if name in found]


# A lone run beside the baselines, so that its report has what a matrix has.


def evaluate_alone(store: Store, folder: Path) -> tuple[dict[str, Any], KeptPredictions]:
    """The table of a run and the baselines on the test documents, with every answer.

    Raises:
        RunError: no model in the folder yet, or a damaged one.
        What `evaluate_runs` raises.
    """
    run = RunPredictor(folder)
    how = own_question(run, speed=True, keep=True, quiet=True)
    report = evaluate_runs(store, [run], DocumentSelection(), how)
    report.row(run.name).metadata["model_file"] = WEIGHTS
    # A group of one: the row says of its seed what the rows of a matrix say of theirs.
    report = merge_seeds(report, {run.name: [run.name]})
    return {**report.to_json(), "failed": {}, "others": {}}, KeptPredictions.of(report, store.fingerprint)
