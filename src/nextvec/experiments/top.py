"""The best of a matrix, carried into what the PRD calls its later phases: a full diagnosis, with examples."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nextvec.corpus.store import Store
from nextvec.disk import write_json
from nextvec.evaluation.harness import Judging
from nextvec.experiments.diagnose import RunDiagnosis, diagnose_model
from nextvec.experiments.judging import Exam
from nextvec.inference.predictor import RunPredictor

FOLDER = "top"


@dataclass(frozen=True)
class Carried:
    """A model that was carried on: its row, its best run by validation, and what was found."""

    row: str
    run: str
    validation_cosine: float
    diagnosis: RunDiagnosis
    file: Path


def carry(
    store: Store, matrix: Path, table: dict[str, Any], count: int, exam: Exam, how: Judging
) -> list[Carried]:
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
        best = max(runs, key=lambda run: float(run.facts["validation_cosine"]))
        found = diagnose_model(store, best, exam, how)
        file = matrix / FOLDER / f"{row['name']}.json"
        write_json(file, found.to_json())
        carried.append(
            Carried(row["name"], str(best.folder), float(best.facts["validation_cosine"]), found, file)
        )
    return carried
