"""A lone run beside the baselines, so that its report has what a matrix has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nextvec.corpus.store import Store
from nextvec.evaluation.harness import EvaluationConfig
from nextvec.evaluation.report import KeptPredictions
from nextvec.experiments.evaluating import DocumentSelection, evaluate_runs
from nextvec.experiments.matrix import merge_seeds
from nextvec.inference.predictor import RunPredictor
from nextvec.models.saving import WEIGHTS


def judge_alone(store: Store, folder: Path) -> tuple[dict[str, Any], KeptPredictions]:
    """The table of a run and the baselines on the test documents, with every answer.

    Raises:
        RunError: no model in the folder yet, or a damaged one.
        What `evaluate_runs` raises.
    """
    run = RunPredictor(folder)
    middle = run.task == "middle"
    how = EvaluationConfig(
        context=int(run.training["context"]) if middle else EvaluationConfig.context,
        horizon=run.horizons[0],
        task="middle" if middle else "next",
        speed=True,
        keep=True,
        quiet=True,
    )
    report = evaluate_runs(store, [run], DocumentSelection(), how)
    report.row(run.name).metadata["model_file"] = WEIGHTS
    # A group of one: the row says of its seed what the rows of a matrix say of theirs.
    report = merge_seeds(report, {run.name: [run.name]})
    return {**report.to_json(), "failed": {}, "others": {}}, KeptPredictions.of(report, store.fingerprint)
