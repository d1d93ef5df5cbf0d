"""What a configuration may not say, and what it needs of the inputs."""

from __future__ import annotations

import math

import pytest

from nextvec.config import from_dict
from nextvec.errors import ConfigError
from nextvec.objectives.config import LossConfig, check_data


def read(**values):
    return from_dict(LossConfig, values, where="run.toml", prefix="loss.")


def test_the_default_is_the_mean_squared_error():
    assert read().active() == {"mse": 1.0}
    assert read().active(generative=True) == {"mse": 1.0, "generative": 1.0}
    assert read(mse=0.0, infonce=2, moment=1e-3).active() == {"infonce": 2.0, "moment": 1e-3}


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"infonse": 1.0}, "unknown key 'loss.infonse'; did you mean 'loss.infonce'?"),
        ({"mean_squared": 1.0}, "unknown key 'loss.mean_squared'"),
        ({"mse": -1.0}, "loss: mse is -1.0"),
        ({"mmd": math.nan}, "loss: mmd is nan"),
        ({"huber": math.inf}, "loss: huber is inf"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"temperature": 2.0}, "temperature is 2.0"),
        ({"near_duplicate": 1.5}, "near_duplicate is 1.5"),
        ({"huber_delta": 0.0}, "huber_delta is 0.0"),
        ({"variance_gamma": -1.0}, "variance_gamma is -1.0"),
        ({"infonce": 1.0, "bank": -1}, "bank is -1"),
        ({"mmd_rows": 1}, "mmd_rows is 1"),
        ({"variance_form": "ours"}, "choose one of: encoder, brief"),
        ({"hard_negatives": True}, "hard_negatives is set, but infonce has no weight"),
        ({"drawn_negative": True}, "drawn_negative is set, but infonce has no weight"),
        ({"bank": 10}, "bank is set, but infonce has no weight"),
        ({"learn_temperature": True}, "learn_temperature is set, but infonce has no weight"),
    ],
)
def test_what_cannot_be_meant_is_refused(values, text):
    with pytest.raises(ConfigError) as caught:
        read(**values)
    assert text in str(caught.value)
    assert str(caught.value).startswith("run.toml: ")


def test_training_on_nothing_is_refused():
    nothing = read(mse=0.0)
    with pytest.raises(ConfigError, match=r"every loss weight is zero.*loss\.infonce") as caught:
        nothing.active()
    assert "generative" not in str(caught.value)
    assert nothing.active(generative=True) == {"generative": 1.0}
    with pytest.raises(ConfigError, match=r"every loss weight is zero.*loss\.generative"):
        read(mse=0.0, generative=0.0).active(generative=True)


@pytest.mark.parametrize(
    ("values", "inputs", "text"),
    [
        (
            {"infonce": 1.0, "hard_negatives": True},
            ([1, 1, 0], 8),
            "no training document has a second target",
        ),
        ({"infonce": 1.0}, ([40, 0], 8), "only one training document has targets"),
        ({"infonce": 1.0, "bank": 99}, ([40], 8), "only one training document has targets"),
        ({"infonce": 1.0}, ([40, 40], 1), "loss.infonce: a batch of 1 holds no negatives"),
        (
            {"infonce": 1.0, "hard_negatives": True},
            ([4, 4], 1),
            "loss.infonce: a batch of 1 holds no negatives",
        ),
        ({"variance": 1.0}, ([4, 4], 1), "loss.variance: a batch of 1 target has no spread"),
        ({"moment": 1.0}, ([4, 4], 1), "loss.moment: a batch of 1 target has no spread"),
        ({"mmd": 1.0}, ([4, 4], 1), "loss.mmd: a batch of 1 target has no spread"),
        ({"continuation": 1.0}, ([4, 4], 8), "loss.continuation: no continuation is broken"),
    ],
)
def test_material_that_gives_a_term_nothing_is_refused(values, inputs, text):
    with pytest.raises(ConfigError) as caught:
        check_data(LossConfig(**values), *inputs)
    assert text in str(caught.value)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("values", "inputs", "more"),
    [
        ({}, ([1], 1), {}),
        ({"infonce": 1.0}, ([1, 1], 2), {}),
        ({"infonce": 1.0, "hard_negatives": True}, ([0, 2], 8), {}),
        ({"infonce": 1.0, "hard_negatives": True}, ([9], 1), {"targets_per_window": 4}),
        ({"infonce": 1.0, "drawn_negative": True}, ([2], 1), {}),
        ({"infonce": 1.0, "bank": 9}, ([1, 1], 1), {}),
        ({"moment": 1.0}, ([9], 1), {"targets_per_window": 4}),
        ({"continuation": 1.0}, ([4], 1), {"broken": 0.2}),
    ],
)
def test_material_that_suffices_is_taken(values, inputs, more):
    assert check_data(LossConfig(**values), *inputs, **more) is None
