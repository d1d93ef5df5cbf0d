"""Sweeps: spaces that build, pruning, what is told of each model's tuning, and going on after a stop."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch

from by_hand import by_hand
from nextvec.config import from_dict, merge, read_toml, to_dict
from nextvec.corpus.store import Store
from nextvec.errors import ConfigError, NextvecError, RunError, SplitError
from nextvec.experiments import sweep
from nextvec.experiments.sweep import (
    TABLE,
    Choice,
    SweepPlan,
    assignments,
    importance,
    named_space,
    read_space,
    run_sweep,
    space_of,
)
from nextvec.interrupt import TrainingInterrupted
from nextvec.models import registry
from nextvec.training.config import TrainConfig, make_config
from nextvec.training.loop import train

SPACE = {"optim.lr": Choice(low=1e-4, high=1e-1, log=True)}


@pytest.fixture
def run(world: Store, make_tiny: Callable[..., Any], tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """run(trials, models=, set=): a sweep in tmp_path/"s"."""

    def call(
        trials: int, models: tuple[str, ...] = ("mlp",), set: tuple[str, ...] = (), **plan: Any
    ) -> dict[str, Any]:
        def configure(model: str, picked: dict[str, Any]) -> TrainConfig:
            kept = {key: value for key, value in picked.items() if key == "optim"}
            return from_dict(TrainConfig, merge(to_dict(make_tiny(model, *set)), kept), where="test")

        planned = SweepPlan(str(world.path), models, trials, **plan)
        return run_sweep(world, planned, configure, tmp_path / "s", space=SPACE, quiet=True)

    return call


@pytest.mark.parametrize("model", registry.names())
def test_every_corner_of_every_space_can_be_built(model: str) -> None:
    """Each value of each key, the others as in the preset; and the extremes of all together."""
    space = space_of(model)
    assert len(space) > len(named_space("shared")), "an architecture has a space of its own"
    corners = {key: c.choices or (c.low, c.high) for key, c in space.items()}
    picks = [{key: value} for key, values in corners.items() for value in values]
    picks += [{key: values[end] for key, values in corners.items()} for end in (0, -1)]
    for pick in picks:
        config = make_config("default", {"model": {"name": model}}, assignments(pick))
        with torch.device("meta"):
            registry.build(model, config.model.preset, 32, **config.model.options)


@pytest.mark.parametrize("recipe", ["default", "residual", "scratch"])
def test_what_a_recipe_starts_from_is_among_what_is_tried(recipe: str) -> None:
    own = make_config(recipe, {"model": {"name": "gru"}}).model.options.get("residual", "none")
    assert own in (named_space("shared")["model.options.residual"].choices or ())


def test_the_brief_s_hundred_experiments_can_be_configured() -> None:
    space = space_of("transformer", named_space("hundred"))
    assert {"data.context", "objective", "optim.lr"} <= space.keys()
    config = make_config(
        "default",
        {"model": {"name": "transformer"}},
        assignments({"objective": "infonce", "data.context": 5}),
    )
    assert config.loss.active() == {"infonce": 1.0}
    assert config.data.context == 5


def test_a_sweep_says_how_much_tuning_each_model_was_given(run, tmp_path: Path) -> None:
    figures = run(6, models=("mlp", "lstm"), startup=3)
    assert json.loads(by_hand(tmp_path / "s" / TABLE)) == json.loads(json.dumps(figures))
    assert sum(row["trials"] for row in figures["models"]) == 6
    for row in figures["models"]:
        assert row["trials"] == row["complete"] + row["pruned"] + row["fail"]
        if row["best"] is None:
            continue
        best = tmp_path / "s" / "best" / f"{row['model']}.toml"
        rate = read_toml(best)["optim"]["lr"]
        assert rate == pytest.approx(row["best"]["chosen"]["optim.lr"])
        metrics = json.loads((tmp_path / "s" / row["best"]["folder"] / "metrics.json").read_text())
        assert metrics["cosine"] == pytest.approx(row["best"]["value"])
        others = [
            t["value"] for t in figures["trials"] if t["model"] == row["model"] and t["value"] is not None
        ]
        assert row["best"]["value"] == max(others)


def test_the_shares_of_what_mattered_are_of_all_models_together() -> None:
    study = optuna.create_study(direction="maximize")
    rates = optuna.distributions.FloatDistribution(0.0, 1.0)
    models = optuna.distributions.CategoricalDistribution(["a", "b"])
    for model in "ab":
        for i in range(20):
            study.add_trial(
                optuna.trial.create_trial(
                    params={"model": model, f"{model}: optim.lr": i / 20},
                    distributions={"model": models, f"{model}: optim.lr": rates},
                    value=-((i / 20 - 0.5) ** 2),
                )
            )
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        shares = importance(study)
    assert list(shares) == ["optim.lr", "model"]
    assert sum(shares.values()) == pytest.approx(1)


def test_bad_trials_are_stopped_early(run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rates near zero learn nothing: after the start-up they are pruned before their last epoch."""
    figures = run(14, set=("optim.epochs=6", "optim.patience=0"), startup=3)
    pruned = [trial for trial in figures["trials"] if trial["state"] == "pruned"]
    assert pruned
    assert all(trial["value"] is None for trial in pruned)


def test_a_sweep_goes_on_where_it_was_stopped(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, bool]] = []

    def interrupted(store: Store, config: Any, folder: Path, **options: Any) -> Any:
        calls.append((folder.name, options["resume"]))
        if len(calls) == 2:
            limited = from_dict(TrainConfig, to_dict(config), where="test")

            def stop(line: dict[str, Any]) -> None:
                raise TrainingInterrupted(2, folder, 1)

            train(store, limited, folder, quiet=True, after_epoch=stop)
        return train(store, config, folder, **options)

    monkeypatch.setattr(sweep, "train", interrupted)
    with pytest.raises(TrainingInterrupted):
        run(3)
    figures = run(3)
    assert calls == [("0", False), ("1", False), ("1", True), ("3", False)]
    output = [(trial["trial"], trial["state"], trial["folder"]) for trial in figures["trials"]]
    assert output == [(0, "complete", "trials/0"), (2, "complete", "trials/1"), (3, "complete", "trials/3")]


def test_a_sweep_stopped_in_its_last_trial_finishes_it(run, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(store: Store, config: Any, folder: Path, **options: Any) -> Any:
        def stop(line: dict[str, Any]) -> None:
            raise TrainingInterrupted(2, folder, 1)

        return train(store, config, folder, quiet=True, after_epoch=stop)

    with monkeypatch.context() as patch:
        patch.setattr(sweep, "train", stopped)
        with pytest.raises(TrainingInterrupted):
            run(1)
    figures = run(1)
    assert [(trial["trial"], trial["state"]) for trial in figures["trials"]] == [(1, "complete")]


def test_what_can_be_trained_by_no_model_is_said_before_anything_is_written(run, tmp_path: Path) -> None:
    for change, message in (("loss.mse=0", "every loss weight is zero"), ("data.min_context=20", "longest")):
        with pytest.raises(NextvecError, match=message):
            run(1, models=("mlp", "lstm"), set=(change,))
    assert not (tmp_path / "s").exists()


def test_what_could_not_be_evaluated_afterwards_is_refused_before_the_first_update(
    run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "train", lambda *_, **__: pytest.fail("it trained"))
    with pytest.raises(SplitError, match="could not be evaluated afterwards: split 'test' has no documents"):
        run(1, set=("data.split.test=0",))
    assert not (tmp_path / "s").exists()


def test_more_trials_may_be_asked_of_a_finished_sweep_but_nothing_else(run) -> None:
    run(1)
    assert len(run(2)["trials"]) == 2
    with pytest.raises(RunError, match="another sweep"):
        run(2, seed=5)


def test_what_cannot_be_meant(tmp_path: Path) -> None:
    file = tmp_path / "space.toml"
    for text, message in (
        ('[space]\n"optim.lr" = { low = 1.0 }', "give either choices, or low and high"),
        ('[space]\n"optim.lr" = { low = 2.0, high = 1.0 }', "are not a range"),
        ('[space]\n"optim.lr" = { low = 0.0, high = 1.0, log = true }', "are not a range"),
        ('[spaces]\n"optim.lr" = { low = 2.0, high = 1.0 }', "unknown key 'spaces'"),
    ):
        file.write_text(text)
        with pytest.raises(ConfigError, match=message):
            read_space(file)
    with pytest.raises(ConfigError, match="no search space 'thousand'"):
        named_space("thousand")
    for wrong in ({"trials": 0}, {"models": ()}, {"metric": "accuracy"}, {"startup": 0}):
        with pytest.raises(ValueError, match=r".+"):
            SweepPlan(**{"store": "s", "models": ("a",), "trials": 1, **wrong})


def test_a_database_that_is_not_there(world: Store, make_tiny: Callable[..., Any], tmp_path: Path) -> None:
    plan = SweepPlan(str(world.path), ("mlp",), 1)
    with pytest.raises(ConfigError, match="cannot be opened"):
        run_sweep(world, plan, lambda *_: make_tiny("mlp"), tmp_path / "s", url="nowhere://x", quiet=True)
    assert not (tmp_path / "s").exists()
