"""Runs evaluated as they were trained: their division, their sources, what they have seen."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from by_hand import by_hand
from nextvec.corpus.store import Store
from nextvec.data.splits import SplitConfig, split_documents
from nextvec.errors import EvaluationError, LeakError, SplitError
from nextvec.evaluation.harness import EvaluationConfig
from nextvec.experiments.diagnose import diagnose_model
from nextvec.experiments.evaluating import DocumentSelection, evaluate_runs, evaluation_windows
from nextvec.inference.predictor import RunPredictor
from nextvec.training.loop import train

HOW = EvaluationConfig(resamples=100, quiet=True)


def altered(trained: Path, folder: Path, **training: Any) -> RunPredictor:
    """A copy of the run that says something else of its training."""
    shutil.copytree(trained, folder)
    config = folder / "config.json"
    held = json.loads(by_hand(config))
    held["training"] |= training
    config.write_text(json.dumps(held))
    return RunPredictor(folder)


def test_the_runs_own_division_is_taken(world: Store, make_tiny: Callable[..., Any], tmp_path: Path) -> None:
    train(world, make_tiny("lstm", "data.split.salt=other"), tmp_path / "run", quiet=True)
    run = RunPredictor(tmp_path / "run")
    report = evaluate_runs(world, [run], DocumentSelection(), HOW)
    theirs = split_documents(world, SplitConfig(salt="other"))
    assert report.documents == len(theirs.test)
    assert report.leaks is not None
    assert report.leaks.dropped == 0
    with pytest.raises(LeakError, match="stand in training"):
        evaluate_runs(world, [run], DocumentSelection(division=SplitConfig()), HOW)


def test_a_split_file_decides(world: Store, trained: Path, tmp_path: Path) -> None:
    held = split_documents(world, SplitConfig())
    ids = {
        name: [world.documents[i].doc_id for i in held.of(name)] for name in ("train", "validation", "test")
    }
    ids["validation"], ids["test"] = ids["test"], ids["validation"]
    file = tmp_path / "split.json"
    file.write_text(json.dumps(ids))
    selection = DocumentSelection(division=SplitConfig(file=str(file)))
    report = evaluate_runs(world, [RunPredictor(trained)], selection, HOW)
    assert report.documents == len(held.validation)
    file.unlink()
    with pytest.raises(SplitError, match="give the split file with --split-file"):
        evaluate_runs(world, [RunPredictor(trained)], selection, HOW)


def test_runs_that_cannot_stand_in_one_table(world: Store, trained: Path, tmp_path: Path) -> None:
    run = RunPredictor(trained)
    other = altered(trained, tmp_path / "split", split={"salt": "other"})
    with pytest.raises(EvaluationError, match=r"differ in their split; .*--split-file"):
        evaluate_runs(world, [run, other], DocumentSelection(), HOW)
    other = altered(trained, tmp_path / "sources", sources=["web"])
    with pytest.raises(EvaluationError, match=r"differ in their sources; .*--train-sources"):
        evaluate_runs(world, [run, other], DocumentSelection(), HOW)
    both = evaluate_runs(world, [run, other], DocumentSelection(train_sources=()), HOW)
    assert [row.name for row in both.rows if row.kind == "model"] == ["small-lstm", "sources"]
    packaged = altered(trained, tmp_path / "packaged", store="", sources=[], split={})
    both = evaluate_runs(world, [packaged, run], DocumentSelection(), HOW)
    assert [row.name for row in both.rows if row.kind == "model"] == ["packaged", "small-lstm"]
    other = altered(trained, tmp_path / "horizon", horizons=[3, 4])
    with pytest.raises(
        EvaluationError, match=r"horizon: trained to predict 3, 4 ahead, evaluated at 1; .*--horizon 3"
    ):
        evaluate_runs(world, [other], DocumentSelection(), HOW)
    with pytest.raises(EvaluationError, match=r"trained for the task 'next', evaluated on 'middle'"):
        evaluate_runs(world, [run], DocumentSelection(), replace(HOW, task="middle", context=4))


def test_a_run_of_before_there_were_several_horizons(world: Store, trained: Path, tmp_path: Path) -> None:
    run = altered(trained, tmp_path / "run")
    run.training = {k: v for k, v in run.training.items() if k not in ("horizons", "task")} | {"horizon": 2}
    assert (run.horizons, run.task) == ((2,), "next")
    with pytest.raises(EvaluationError, match="trained to predict 2 ahead, evaluated at 1"):
        evaluate_runs(world, [run], DocumentSelection(), HOW)
    assert evaluate_runs(world, [run], DocumentSelection(), replace(HOW, horizon=2)).horizon == 2


def test_a_run_that_fills_gaps_is_evaluated_on_gaps(
    world: Store, make_tiny: Callable[..., Any], tmp_path: Path
) -> None:
    config = make_tiny("lstm", "data.context=4", "data.min_context=4", "data.task=middle")
    train(world, config, tmp_path / "run", quiet=True)
    run = RunPredictor(tmp_path / "run")
    assert run.task == "middle"
    with pytest.raises(EvaluationError, match="trained for the task 'middle', evaluated on 'next'"):
        evaluate_runs(world, [run], DocumentSelection(), HOW)
    how = replace(HOW, task="middle", context=4)
    report = evaluate_runs(world, [run], DocumentSelection(), how)
    assert (report.task, report.context) == ("middle", 4)
    windows, _ = evaluation_windows(world, [run], DocumentSelection(), 4, 1, "middle")
    assert len(windows) == report.windows
    with pytest.raises(EvaluationError, match="this run fills gaps"):
        diagnose_model(world, run, DocumentSelection(), how)


def test_baselines_are_fitted_on_what_the_runs_were_trained_on(world: Store, trained: Path) -> None:
    run = RunPredictor(trained)
    one = evaluate_runs(world, [run], DocumentSelection(train_sources=("web",)), HOW)
    both = evaluate_runs(world, [run], DocumentSelection(), HOW)
    assert one.windows == both.windows
    assert one.row("mean vector").figures["cosine"] != both.row("mean vector").figures["cosine"]
    assert one.row("copy-last").figures["cosine"] == both.row("copy-last").figures["cosine"]


def test_limited_to_a_source(world: Store, trained: Path) -> None:
    report = evaluate_runs(world, [RunPredictor(trained)], DocumentSelection(sources=("books",)), HOW)
    held = split_documents(world, SplitConfig(), ("books",))
    assert 0 < report.documents == len(held.test)


def test_baselines_alone_take_the_default_division(world: Store) -> None:
    report = evaluate_runs(world, [], DocumentSelection(split="validation"), HOW)
    assert report.documents == len(split_documents(world, SplitConfig()).validation)
    assert {row.kind for row in report.rows} == {"baseline"}


def test_evaluated_windows_are_those_of_the_table(world: Store, trained: Path) -> None:
    run = RunPredictor(trained)
    windows, documents = evaluation_windows(world, [run], DocumentSelection(), 5, 1)
    report = evaluate_runs(world, [run], DocumentSelection(), HOW)
    assert len(windows) == report.windows
    assert documents == split_documents(world, SplitConfig()).test
    assert set(np.unique(windows.document)) == set(documents)
    with pytest.raises(LeakError):
        evaluation_windows(world, [run], DocumentSelection(split="all"), 5, 1)


def test_a_split_without_documents(world: Store) -> None:
    selection = DocumentSelection(division=SplitConfig(test=0.0))
    with pytest.raises(SplitError, match="split 'test' has no documents"):
        evaluation_windows(world, [], selection, 5, 1)
    with pytest.raises(SplitError, match="split 'test' has no documents"):
        evaluate_runs(world, [], selection, HOW)
