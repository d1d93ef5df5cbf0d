"""Ensembles: weights from validation only, the same after loading, refused when a member has changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nextvec
from by_hand import by_hand
from nextvec.corpus.store import Store
from nextvec.data.gather import gather_contexts
from nextvec.data.splits import SplitConfig, split_documents
from nextvec.data.windows import make_windows
from nextvec.errors import ConfigError, EvaluationError, RunError
from nextvec.evaluation.baselines import BASELINES
from nextvec.evaluation.harness import EvaluationConfig
from nextvec.experiments.ensemble import EnsembleRun, MixtureWeights, fit_mixture, latest, load
from nextvec.experiments.evaluating import DocumentSelection, evaluate_runs
from nextvec.experiments.mixing import export_ensemble, fit_ensemble, open_evaluated
from nextvec.inference.predictor import RunPredictor, open_predictor
from nextvec.reporting.card import write_ensemble_card
from nextvec.training.loop import train

HOW_SPLIT = SplitConfig()
HOW = EvaluationConfig(resamples=50, quiet=True, baselines=("copy-last", "linear average"))


@pytest.fixture(scope="module")
def runs(world: Store, make_tiny: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folders = [tmp_path_factory.mktemp("ensemble") / model for model in ("lstm", "mlp")]
    for folder in folders:
        train(world, make_tiny(folder.name), folder, quiet=True)
    return folders


@pytest.fixture(scope="module")
def fitted(world: Store, runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> EnsembleRun:
    out = tmp_path_factory.mktemp("ensembles") / "mixed"
    return fit_ensemble(
        world, runs, ["ridge", "exponential averages"], DocumentSelection(), HOW, out
    ).ensemble


def test_it_is_evaluated_as_a_run_is_and_the_same_after_loading(world: Store, fitted: EnsembleRun) -> None:
    loaded = load(fitted.folder)
    windows = make_windows(world, range(len(world.documents)), 5, 1)
    contexts, lengths = gather_contexts(world.vectors, windows, fitted.context)
    for now, then in zip(loaded.predict(contexts, lengths), fitted.predict(contexts, lengths), strict=True):
        np.testing.assert_allclose(now, then, atol=1e-6)
    report = evaluate_runs(world, [loaded], DocumentSelection(), HOW)
    assert report.row("mixed").figures["cosine"] is not None
    assert report.row("mixed").metadata["members"] == ["lstm", "mlp", "ridge", "exponential averages"]


def test_on_what_it_was_fitted_on_no_member_is_better(
    world: Store, fitted: EnsembleRun, runs: list[Path]
) -> None:
    selection = DocumentSelection(split="validation")
    report = evaluate_runs(world, [fitted, *map(RunPredictor, runs)], selection, HOW)
    best = report.row("mixed").figures["mse"]
    assert all(best <= row.figures["mse"] + 1e-7 for row in report.rows)


def test_weights_find_the_member_that_is_right(world: Store) -> None:
    turn = np.linalg.qr(np.random.default_rng(7).standard_normal((16, 16)))[0].astype(
        np.float32
    )  # the world's

    class Member:
        kind = "model"

        def __init__(self, name: str, noise: float) -> None:
            self.name, self.noise, self.context = name, noise, 3

        def predict(self, contexts: Any, lengths: Any) -> Any:
            rng = np.random.default_rng(len(contexts))
            raw = contexts[np.arange(len(lengths)), lengths - 1] @ turn.T
            raw = raw + self.noise * rng.standard_normal(raw.shape).astype(np.float32)
            return raw, raw / np.linalg.norm(raw, axis=1, keepdims=True)

    split = split_documents(world, HOW_SPLIT)
    windows = make_windows(world, split.of("validation"), 5, 1)
    mixture = fit_mixture([Member("good", 0.0), Member("noise", 30.0)], world.vectors, windows)
    assert mixture.unit[0] > 5 * mixture.unit[1]
    assert mixture.unit.sum() == pytest.approx(1.0)
    assert (mixture.raw >= 0).all()
    with pytest.raises(EvaluationError, match="two members"):
        fit_mixture([Member("alone", 0.0)], world.vectors, windows)


def test_each_member_is_given_its_own_last_vectors() -> None:
    contexts = np.arange(2 * 4 * 1, dtype=np.float32).reshape(2, 4, 1)
    contexts[1, 2:] = 0
    taken, lengths = latest(contexts, np.array([4, 2]), 3)
    assert taken[..., 0].tolist() == [[1, 2, 3], [4, 5, 0]]
    assert lengths.tolist() == [3, 2]
    assert latest(contexts, np.array([4, 2]), 4)[0] is contexts


def test_what_cannot_be_mixed(world: Store, runs: list[Path], tmp_path: Path) -> None:
    for folders, baselines, message in (
        ([], ["ridge", "copy-last"], "0 runs"),
        (runs[:1], [], "1 runs and 0 baselines"),
        (runs, ["nearest neighbour's successor"], "looks its answers up"),
        (runs, ["oracle"], "no baseline 'oracle'"),
    ):
        with pytest.raises(EvaluationError, match=message):
            fit_ensemble(world, folders, baselines, DocumentSelection(), HOW, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "mine").write_text("x")
    with pytest.raises(RunError, match="already"):
        fit_ensemble(world, runs, [], DocumentSelection(), HOW, tmp_path)


@pytest.mark.parametrize("damage", ["json", "weights", "baselines", "gone", "member"])
def test_a_damaged_ensemble_is_named(
    fitted: EnsembleRun, runs: list[Path], tmp_path: Path, damage: str
) -> None:
    copies = tmp_path / "runs"
    for folder in runs:
        shutil.copytree(folder, copies / folder.name)
    made = EnsembleRun(
        tmp_path / "mixed", [RunPredictor(copies / r.name) for r in runs], fitted.baselines, fitted.mixture
    )
    from nextvec.experiments.ensemble import save

    save(made)
    assert open_evaluated(tmp_path / "mixed").name == "mixed"
    file = tmp_path / "mixed" / "ensemble.json"
    held = json.loads(by_hand(file))
    if damage == "json":
        file.write_text("{}")
    elif damage == "member":
        file.write_text(
            json.dumps({**held, "members": [*held["members"][:-1], {"baseline": "oracle", "context": 5}]})
        )
    elif damage == "gone":
        shutil.rmtree(copies / "mlp")
    elif damage == "baselines":
        (tmp_path / "mixed" / "baselines.safetensors").write_bytes(b"nothing")
    else:
        shutil.copytree(copies / "lstm" / "final", copies / "lstm", dirs_exist_ok=True)
        with (copies / "lstm" / "model.safetensors").open("ab") as f:
            f.write(b"0")
    with pytest.raises(RunError):
        load(tmp_path / "mixed")


def test_it_answers_as_a_run_does(world: Store, fitted: EnsembleRun) -> None:
    """The direction is the evaluated one, in a batch, in a session and through `nextvec.Predictor`."""
    opened = open_predictor(fitted.folder)
    assert isinstance(opened, EnsembleRun)
    x = np.asarray(world.vectors[:7])
    raw, units = fitted.predict(x[None], np.array([7]))
    answer = nextvec.Predictor.load(fitted.folder).predict(x)
    np.testing.assert_allclose(answer.unit.values, units[0], atol=1e-5)
    assert np.linalg.norm(answer.raw.values) == pytest.approx(float(np.linalg.norm(raw)), rel=1e-4)
    served = opened.engine(x[None], np.array([7]))
    np.testing.assert_allclose(served[0], answer.raw.values, atol=1e-5)
    np.testing.assert_allclose(opened.stream().read(x)[-1], answer.raw.values, atol=1e-5)
    assert opened.space == RunPredictor(fitted.runs[0].folder).space
    with pytest.raises(ConfigError, match="its members have engines of their own"):
        open_predictor(fitted.folder, engine="compiled")


def test_it_can_be_exported_and_has_a_card(world: Store, fitted: EnsembleRun, tmp_path: Path) -> None:
    mixture = MixtureWeights(np.array([0.6, 0.4]), np.array([0.7, 0.3]))
    mixed = EnsembleRun(tmp_path / "mixed", fitted.runs[1:], [BASELINES["copy-last"](5)], mixture)
    (made,) = export_ensemble(mixed, tmp_path / "fast", store=world)
    assert made.parity.cosine_min > 0.9999
    (tmp_path / "moved").mkdir()
    moved = (tmp_path / "fast").rename(tmp_path / "moved" / "fast")
    loaded = load(moved)
    assert [run.engine.name for run in loaded.runs] == ["onnx"]
    x = np.asarray(world.vectors[:7])[None]
    for now, then in zip(loaded.predict(x, np.array([7])), mixed.predict(x, np.array([7])), strict=True):
        np.testing.assert_allclose(now, then, atol=1e-4)
    with pytest.raises(RunError, match="is an export already"):
        export_ensemble(loaded, tmp_path / "again")
    card = write_ensemble_card(moved, licence="mit").read_text()
    assert "license: mit" in card
    assert "| mlp | model | 0.700 | 0.600 |" in card
    assert "| copy-last | baseline | 0.300 | 0.400 |" in card
    (moved / "README.md").write_text("mine")
    with pytest.raises(RunError, match="was not written by nextvec card"):
        write_ensemble_card(moved)
