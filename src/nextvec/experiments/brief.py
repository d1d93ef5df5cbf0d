"""A matrix as the brief's PRD lays it out: a row a model with its status, loss, time, file and success score.

The PRD's thresholds stand for unit vectors of 768 dimensions; a mean squared error shrinks with 1 / D, so
they are multiplied by 768 / D here, and the table says so. The PRD guessed its success scores before any
training; here a score is the share of the PRD's criteria that are met.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nextvec.corpus.store import Store
from nextvec.disk import read_json, write_json
from nextvec.errors import RunError
from nextvec.evaluation.harness import EvaluationConfig
from nextvec.experiments.diagnose import RunModelDiagnosis, diagnose_model
from nextvec.experiments.evaluating import DocumentSelection
from nextvec.inference.predictor import RunPredictor
from nextvec.models.registry import describe
from nextvec.training.loop import METRICS

BRIEF_DIMENSION = 768
LOSSES = {"minimum": 1e-3, "target": 6e-4, "stretch": 5e-4}
COSINES = {"minimum": 0.70, "target": 0.75, "stretch": 0.786}
HOURS = {"minimum": 4.0, "target": 2.0}
GIGABYTES = 2.0
LSTM, TRANSFORMER = "lstm", "transformer"


@dataclass(frozen=True)
class PrdRow:
    """One line of the PRD's matrix. Loss and cosine are of the validation documents, means over the seeds."""

    model: str
    target_parameters: int
    parameters: int | None
    status: str
    loss: float | None
    cosine: float | None
    seconds: float | None
    file: str | None
    met: tuple[str, ...]
    not_met: tuple[str, ...]
    notes: str
    best_for: str

    @property
    def score(self) -> float | None:
        """Share of the criteria that are met; None for what was not trained."""
        asked = len(self.met) + len(self.not_met)
        return len(self.met) / asked if asked else None

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {**asdict(self), "score": self.score}


@dataclass(frozen=True)
class PrdTable:
    """The table, the factor on the PRD's losses, and the models that beat its two."""

    rows: tuple[PrdRow, ...]
    factor: float
    beat_lstm: dict[str, bool] | None
    beat_transformer: dict[str, bool] | None

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "rows": [row.to_json() for row in self.rows],
            "loss_factor": self.factor,
            "beat_lstm": self.beat_lstm,
            "beat_transformer": self.beat_transformer,
        }


def prd_table(matrix: Path, table: dict[str, Any]) -> PrdTable:
    """The PRD's view of a finished matrix.

    Args:
        table: what `nextvec.experiments.matrix.read_table` gave.
    Raises:
        RunError: a run of the table is gone or damaged.
    """
    known = {(row["name"], row["preset"]): row for row in describe()}
    rows = [row for row in table["rows"] if row["kind"] == "model"]
    dimension = _dimension(matrix, rows)
    factor = BRIEF_DIMENSION / dimension
    made = [_row(matrix, row, known, factor) for row in rows]
    failed = {run.rpartition("-seed")[0]: why for run, why in table["failed"].items()}
    made += [_failed(name, why, known) for name, why in failed.items() if name not in {r.model for r in made}]
    return PrdTable(tuple(made), factor, _beaten(made, LSTM), _beaten(made, TRANSFORMER))


def _row(matrix: Path, row: dict[str, Any], known: dict[tuple[str, str], Any], factor: float) -> PrdRow:
    runs = [matrix / Path(seed["model_file"]).parent for seed in row["per_seed"]]
    found = [read_json(run / METRICS, RunError, remedy="run the matrix again") for run in runs]
    loss = float(np.mean([one["verified"]["mse"] for one in found]))
    cosine = float(np.mean([one["verified"]["cosine"] for one in found]))
    seconds = float(np.mean([one["seconds"] for one in found]))
    criteria = _criteria(loss / factor, cosine, seconds, row["bytes"])
    about = known[_architecture(row["name"], known), "brief"]
    return PrdRow(
        model=row["name"],
        target_parameters=about["parameters"],
        parameters=row["parameters"],
        status="complete",
        loss=loss,
        cosine=cosine,
        seconds=seconds,
        file=row["per_seed"][0]["model_file"],
        met=tuple(name for name, met in criteria.items() if met),
        not_met=tuple(name for name, met in criteria.items() if not met),
        notes=_note(row),
        best_for=about["best_for"],
    )


def _criteria(loss: float, cosine: float, seconds: float, size: float) -> dict[str, bool]:
    """The PRD's nine success criteria, `loss` at D = 768."""
    return {
        **{f"loss < {limit:g} ({name})": loss < limit for name, limit in LOSSES.items()},
        **{f"cosine > {limit:g} ({name})": cosine > limit for name, limit in COSINES.items()},
        **{f"trained in < {limit:g} h ({name})": seconds < 3600 * limit for name, limit in HOURS.items()},
        f"< {GIGABYTES:g} GB on disk (minimum)": size < GIGABYTES * 1e9,
    }


def _note(row: dict[str, Any]) -> str:
    """Where it stands among the baselines on the judged documents."""
    said = []
    for metric in ("cosine", "recall@5"):
        versus = row["versus_best_baseline"].get(metric)
        if versus is not None:
            word = {True: "above", False: "below", None: "level with"}[versus["better"]]
            said.append(f"{word} the best baseline by {metric} ({versus['difference']:+.4f})")
    return "; ".join(said)


def _failed(name: str, why: str, known: dict[tuple[str, str], Any]) -> PrdRow:
    about = known[_architecture(name, known), "brief"]
    parameters, best_for = about["parameters"], about["best_for"]
    return PrdRow(name, parameters, None, "failed", None, None, None, None, (), (), why, best_for)


def _architecture(row: str, known: dict[tuple[str, str], Any]) -> str:
    return max((name for name, _ in known if row == name or row.startswith(f"{name}-")), key=len)


def _dimension(matrix: Path, rows: list[dict[str, Any]]) -> int:
    config = matrix / Path(rows[0]["model_file"]).parent / "config.json" if rows else matrix
    return int(read_json(config, RunError)["config"]["d_embed"]) if rows else BRIEF_DIMENSION


def _beaten(rows: list[PrdRow], name: str) -> dict[str, bool] | None:
    """Model -> whether its validation loss is below that of the model called `name`; None without one."""
    bar = next((row.loss for row in rows if row.model == name), None)
    if bar is None:
        return None
    return {row.model: row.loss is not None and row.loss < bar for row in rows if row.model != name}


# The best of a matrix, carried into what the PRD calls its later phases: a full diagnosis, with examples.

FOLDER = "top"


@dataclass(frozen=True)
class DiagnosedModel:
    """A model that was carried on: its row, its best run by validation, and what was found."""

    row: str
    run: str
    validation_cosine: float
    diagnosis: RunModelDiagnosis
    file: Path


def carry(
    store: Store,
    matrix: Path,
    table: dict[str, Any],
    count: int,
    exam: DocumentSelection,
    how: EvaluationConfig,
) -> list[DiagnosedModel]:
    """Diagnose the `count` best models and write `top/<row>.json`.

    They are chosen by validation cosine: choosing by the judged documents would make their figures too good.

    Args:
        table: the table of the matrix, of the task "next".
    Raises:
        What `diagnose_model` raises.
    """
    rows = [row for row in table["rows"] if row["kind"] == "model"]
    rows.sort(key=lambda row: -float(row["validation_cosine"]))
    carried = []
    for row in rows[:count]:
        runs = [RunPredictor(matrix / Path(seed["model_file"]).parent) for seed in row["per_seed"]]
        best = max(runs, key=lambda run: float(run.metadata["validation_cosine"]))
        found = diagnose_model(store, best, exam, how)
        file = matrix / FOLDER / f"{row['name']}.json"
        write_json(file, found.to_json())
        carried.append(
            DiagnosedModel(
                row["name"], str(best.folder), float(best.metadata["validation_cosine"]), found, file
            )
        )
    return carried
