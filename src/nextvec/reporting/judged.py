"""A lone run beside the baselines, so that its report has what a matrix has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nextvec.corpus.store import Store
from nextvec.evaluation.answers import Answers
from nextvec.evaluation.harness import Judging
from nextvec.evaluation.seeds import merge_seeds
from nextvec.experiments.judging import Exam, judge_runs
from nextvec.inference.predictor import RunPredictor
from nextvec.models.saving import WEIGHTS


def judge_alone(store: Store, folder: Path) -> tuple[dict[str, Any], Answers]:
    """The table of a run and the baselines on the test documents, with every answer.

    Raises:
        RunError: no model in the folder yet, or a damaged one.
        What `judge_runs` raises.
    """
    run = RunPredictor(folder)
    middle = run.task == "middle"
    how = Judging(
        context=int(run.training["context"]) if middle else Judging.context,
        horizon=run.horizons[0],
        task="middle" if middle else "next",
        speed=True,
        keep=True,
        quiet=True,
    )
    report = judge_runs(store, [run], Exam(), how)
    report.row(run.name).facts["model_file"] = WEIGHTS
    # A group of one: the row says of its seed what the rows of a matrix say of theirs.
    report = merge_seeds(report, {run.name: [run.name]})
    return {**report.to_json(), "failed": {}, "others": {}}, Answers.of(report, store.fingerprint)
