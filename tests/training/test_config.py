"""Configurations: strict, every recipe loads, values that cannot be meant are refused with the key's name."""

from __future__ import annotations

import pytest

from nextvec.config import from_dict, read_toml, to_dict, write_toml
from nextvec.errors import ConfigError
from nextvec.training.config import TrainConfig, make_config, read_config, read_layer, recipe_names

MODEL = {"model": {"name": "lstm"}}


def test_brief_is_the_prd_to_the_letter():
    config = make_config("brief", MODEL)
    optim = config.optim
    assert (config.data.context, config.data.min_context, config.data.horizons) == (5, 5, (1,))
    assert config.loss.active() == {"mse": 1.0}
    assert (optim.lr, optim.weight_decay, optim.decay, optim.batch_size, optim.epochs) == (
        5e-4,
        0.01,
        "all",
        32,
        20,
    )
    assert (optim.schedule, optim.plateau_factor, optim.plateau_patience) == ("plateau", 0.5, 3)
    assert (optim.clip, optim.warmup, optim.patience, optim.max_updates) == (1.0, 0.0, 0, 0)
    assert config.runtime.precision == "float32"


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_survives_toml(name, tmp_path):
    config = make_config(name, MODEL)
    write_toml(tmp_path / "config.toml", config)
    assert from_dict(TrainConfig, read_toml(tmp_path / "config.toml"), where="file") == config


@pytest.mark.parametrize(
    ("objective", "base", "own"),
    [("infonce-brief", "brief", {"data": {"max_per_document": 8}}), ("mse-moment", "scratch", {})],
)
def test_a_recipe_on_a_base_is_the_base_with_the_objective(objective, base, own):
    layer = read_layer("objectives", objective)
    assert make_config(objective, MODEL) == make_config(base, MODEL, layer, own)
    assert make_config(objective, MODEL).loss != make_config(base, MODEL).loss


def test_the_briefs_contrastive_loss_has_all_of_its_negatives():
    """Tasks 2.3 (every other target of the batch), 2.4 (one drawn of the same document), 3.2 (the cap)."""
    config = make_config("infonce-brief", MODEL)
    loss = config.loss
    assert (loss.infonce, loss.temperature, loss.variance, loss.moment) == (1.0, 0.07, 1e-3, 1e-3)
    assert (loss.hard_negatives, loss.drawn_negative, loss.near_duplicate) == (True, True, 1.0)
    assert (config.data.max_per_document, config.data.context, config.optim.batch_size) == (8, 5, 32)


def test_later_layers_win():
    config = make_config("scratch", MODEL, {"optim": {"lr": 1.0}}, {"optim": {"lr": 2.0}})
    assert config.optim.lr == 2.0
    assert to_dict(config)["data"] == to_dict(make_config("scratch", MODEL))["data"]


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        ({"optim": {"learning_rate": 1.0}}, r"unknown key 'optim.learning_rate'"),
        ({"optim": {"lr": "4e-4"}}, r"'optim.lr' is str"),
        ({"optim": {"lr": 0.0}}, r"optim: lr is 0.0"),
        ({"optim": {"lr": float("inf")}}, r"optim: lr is inf"),
        ({"optim": {"batch_size": 0}}, r"optim: batch_size is 0"),
        ({"optim": {"warmup": 1.0}}, r"optim: warmup is 1.0"),
        ({"optim": {"plateau_factor": 1.0}}, r"optim: plateau_factor is 1.0"),
        ({"optim": {"weight_decay": float("nan")}}, r"optim: weight_decay is nan"),
        ({"optim": {"schedule": "linear"}}, r"choose one of: constant, cosine, plateau"),
        ({"data": {"context": 3, "min_context": 4}}, r"data: min_context is 4"),
        ({"data": {"horizons": [0]}}, r"data: horizons is \[0\]"),
        ({"data": {"horizons": []}}, r"data: horizons is \[\]"),
        ({"data": {"horizons": [2, 1]}}, r"data: horizons is \[2, 1\]; .*ascending"),
        ({"data": {"context": 513}}, r"data: context is 513; it must be between 1 and 512"),
        ({"data": {"task": "middle", "context": 5, "min_context": 5}}, r"data: context is 5; task middle"),
        ({"data": {"task": "middle", "context": 6}}, r"data: min_context is 1; task middle needs it to be"),
        (
            {"data": {"task": "middle", "context": 6, "min_context": 6, "horizons": [2]}},
            r"data: horizons is \[2\]; task middle",
        ),
        ({"data": {"task": "last"}}, r"choose one of: next, middle"),
        ({"data": {"conditional": 1.5}}, r"data: conditional is 1.5; it must be between 0 and 1"),
        ({"data": {"broken": -0.1}}, r"data: broken is -0.1; it must be between 0 and 1"),
        ({"data": {"max_per_document": -1}}, r"data: max_per_document is -1"),
        ({"data": {"curriculum": "hard"}}, r"choose one of: none, context, coherence"),
        ({"data": {"curriculum_share": 0.0}}, r"data: curriculum_share is 0.0"),
        ({"data": {"mixing_temperature": 0.0}}, r"data: mixing_temperature is 0.0"),
        ({"data": {"mixing": {"a": -1.0}}}, r"data: mixing gives 'a' the weight -1.0"),
        ({"data": {"mixing": {"a": 0.0}}}, r"data: mixing gives every source the weight 0"),
        ({"runtime": {"device": "tpu"}}, r"'runtime.device' is 'tpu'"),
        ({"runtime": {"seed": -1}}, r"runtime: seed is -1"),
    ],
)
def test_values_that_cannot_be_meant_name_their_key(layer, text):
    with pytest.raises(ConfigError, match=text):
        make_config("scratch", MODEL, layer)


def test_a_run_of_before_there_were_several_horizons_is_read(tmp_path):
    """Its batches held any number of windows of a document, and still do when it is resumed."""
    path = tmp_path / "config.toml"
    path.write_text('[model]\nname = "lstm"\n[data]\ncontext = 4\nhorizon = 2\n')
    config = read_config(path)
    assert (config.data.context, config.data.horizons, config.data.max_per_document) == (4, (2,), 0)
    write_toml(path, config)
    assert read_config(path) == config


def test_a_model_has_to_be_named():
    with pytest.raises(ConfigError, match=r"'model\.name' is missing"):
        make_config("scratch")


def test_an_unknown_recipe_lists_those_there_are():
    with pytest.raises(ConfigError, match="brief, default"):
        make_config("defualt", MODEL)
