"""A small matrix and what else a report is made of."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from by_hand import by_hand
from nextvec.corpus.store import Store
from nextvec.evaluation.harness import EvaluationConfig
from nextvec.evaluation.table import TABLE
from nextvec.experiments.evaluating import DocumentSelection
from nextvec.experiments.matrix import run_matrix
from nextvec.experiments.plan import MatrixPlan
from nextvec.reporting.inputs import ReportInputs
from nextvec.training.loop import METRICS

HOW = EvaluationConfig(resamples=100, speed=True, quiet=True)


@pytest.fixture(scope="session")
def matrix(world: Store, make_tiny: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a matrix of an AMN and an LSTM, two seeds each, two epochs, evaluated beside all
    baselines; copy it before changing anything in it."""
    out = tmp_path_factory.mktemp("matrix") / "small"
    plan = MatrixPlan(str(world.path), ("amn", "lstm"), 2)
    run_matrix(
        world,
        plan,
        lambda cell: make_tiny(cell.model, seed=cell.seed),
        out,
        DocumentSelection(),
        HOW,
        quiet=True,
    )
    return out


@pytest.fixture(scope="session")
def inputs(matrix: Path) -> ReportInputs:
    """All of `matrix`, with its store."""
    return ReportInputs.of(matrix)


@pytest.fixture(scope="session")
def deep_inputs(matrix: Path) -> ReportInputs:
    """The same, and figures may load its models."""
    return ReportInputs.of(matrix, deep=True)


@pytest.fixture
def interrupted_matrix(matrix: Path, tmp_path: Path) -> Path:
    """The matrix as it is before it was evaluated, one run having one epoch, one none."""
    folder = tmp_path / "interrupted"
    shutil.copytree(matrix, folder)
    for name in (TABLE, "answers.safetensors", *(f"runs/lstm-seed{n}/{METRICS}" for n in (0, 1))):
        (folder / name).unlink()
    history = folder / "runs/lstm-seed0/history.jsonl"
    history.write_text(by_hand(history).splitlines(keepends=True)[0])
    (folder / "runs/lstm-seed1/history.jsonl").unlink()
    return folder


@pytest.fixture
def interrupted_run(interrupted_matrix: Path) -> Path:
    """A run that was stopped in its second epoch."""
    return interrupted_matrix / "runs" / "lstm-seed0"
