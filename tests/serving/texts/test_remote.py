"""A server is evaluated as the run behind it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nextvec.client import Client
from nextvec.corpus.store import Store
from nextvec.errors import LeakError, RunError, ServerError
from nextvec.evaluation.harness import EvaluationConfig
from nextvec.experiments.evaluating import DocumentSelection, evaluate_runs
from nextvec.experiments.mixing import open_evaluated
from nextvec.inference.predictor import RunPredictor


@pytest.fixture
def address(server: str, key: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("NEXTVEC_API_KEY", key)
    return f"{server}#gru"


def test_its_row_is_that_of_the_run(address: str, text_run: Path, text_store: Store) -> None:
    # The small store says some sentences twice.
    how = EvaluationConfig(context=2, baselines=("copy-last",), resamples=10, leak_limit=0.5, quiet=True)
    rows = []
    for run in (open_evaluated(address), RunPredictor(text_run)):
        report = evaluate_runs(text_store, [run], DocumentSelection(), how)
        rows.append(next(row for row in report.rows if row.kind == "model"))
    there, here = rows
    for metric in ("cosine", "mse", "mrr", "recall@5"):
        assert there.figures[metric] == pytest.approx(here.figures[metric], abs=1e-5)


def test_what_stands_in_its_training_is_no_exam(address: str, text_store: Store) -> None:
    how = EvaluationConfig(context=2, baselines=("copy-last",), resamples=10, quiet=True)
    with pytest.raises(LeakError, match="stand in training"):
        evaluate_runs(text_store, [open_evaluated(address)], DocumentSelection(), how)


def test_it_says_what_it_was_trained_on(address: str, text_run: Path) -> None:
    remote, run = open_evaluated(address), RunPredictor(text_run)
    np.testing.assert_array_equal(remote.trained_on.chunks, run.trained_on.chunks)
    np.testing.assert_array_equal(remote.trained_on.ids, run.trained_on.ids)
    assert remote.horizons == run.horizons
    assert remote.training["split"] == run.training["split"]
    assert str(text_run.parent) not in str(remote.training)
    with pytest.raises(RunError, match="requested 9"):
        remote.at_horizon(9)


def test_an_unknown_model_and_a_wrong_key_are_said(address: str, server: str) -> None:
    with pytest.raises(ServerError, match="no such model"):
        open_evaluated(f"{server}#other")
    with Client(server, "a-key-that-is-not-right") as client, pytest.raises(ServerError) as caught:
        client.models()
    assert caught.value.status == 401
