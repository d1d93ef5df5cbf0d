"""Several terms in one loss: the sum, the gradient norms, the warning, the model's own loss."""

from __future__ import annotations

import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nextvec.errors import ConfigError, NextvecWarning, TrainingError
from nextvec.objectives.combine import Objective, needs_statistics
from nextvec.objectives.config import LossConfig


def single(name, sample, statistics):
    return Objective(LossConfig(**{"mse": 0.0, name: 1.0}), statistics)(sample).total


@settings(max_examples=30, deadline=None)
@given(
    weights=st.dictionaries(
        st.sampled_from(["mse", "cosine", "infonce", "variance", "moment", "mmd"]), st.floats(0, 100)
    )
)
def test_the_total_is_the_weighted_sum(sample, statistics, weights):
    one, known = sample(seed=1), statistics()
    config = LossConfig(**{"mse": 1.0, **weights})
    counted = {name: weight for name, weight in {"mse": 1.0, **weights}.items() if weight > 0}
    if not counted:
        with pytest.raises(ConfigError, match="every loss weight is zero"):
            Objective(config, known)
        return
    loss = Objective(config, known)(one)
    parts = {name: single(name, one, known).item() for name in counted}
    assert {name: value.item() for name, value in loss.terms.items()} == pytest.approx(parts)
    expected = sum(weight * parts[name] for name, weight in counted.items())
    assert loss.total.item() == pytest.approx(expected, rel=1e-9)


def test_gradient_norms_are_those_of_each_weighted_term(sample, statistics):
    known = statistics()
    leaf = sample(seed=2).prediction.requires_grad_()
    weights = {"mse": 3.0, "infonce": 0.05, "moment": 2.0}
    objective = Objective(LossConfig(**weights, learn_temperature=True), known).double()
    loss = objective(sample(leaf, seed=2))
    norms = objective.gradient_norms(loss, [leaf])
    assert list(norms) == list(weights)
    for name, weight in weights.items():
        (expected,) = torch.autograd.grad(weight * single(name, sample(leaf, seed=2), known), leaf)
        assert norms[name] == pytest.approx(expected.norm().item(), rel=1e-6)
    assert leaf.grad is None
    assert all(parameter.grad is None for parameter in objective.parameters())
    loss.total.backward()  # the graph is still there
    assert leaf.grad is not None


def test_a_term_that_drowns_the_others_is_warned_of(sample):
    """Re-introduces the fault of a contrastive term with 700 times the gradient."""
    leaf = sample(seed=3).prediction.requires_grad_()
    drowned = Objective(LossConfig(mse=1.0, infonce=700.0))
    with pytest.warns(NextvecWarning, match=r"loss\.infonce .* more than 50 times that of loss\.mse"):
        drowned.gradient_norms(drowned(sample(leaf, seed=3)), [leaf])
    fair = Objective(LossConfig(mse=1.0, infonce=0.1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fair.gradient_norms(fair(sample(leaf, seed=3)), [leaf])


def test_a_term_that_is_satisfied_is_not_called_drowned(sample, statistics):
    """A hinge far from its edge asks for nothing, and that is no fault of the other term."""
    leaf = sample(seed=4).prediction.requires_grad_()
    objective = Objective(LossConfig(mse=1.0, variance=1.0, variance_gamma=0.01), statistics())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        norms = objective.gradient_norms(objective(sample(leaf, seed=4)), [leaf])
    assert norms["variance"] == 0
    assert norms["mse"] > 0


def test_a_models_own_loss_is_weighed_with_the_rest(sample):
    one = sample(seed=5)
    own = {"generative": torch.tensor(3.0)}
    loss = Objective(LossConfig(generative=0.5), generative=True)(one, own=own)
    assert loss.terms["generative"].item() == 3.0
    assert loss.total.item() == pytest.approx(single("mse", one, None).item() + 1.5)
    alone = Objective(LossConfig(mse=0.0), generative=True)
    assert alone(one, own=own).total.item() == 3.0
    assert set(Objective(LossConfig())(one, own=own).terms) == {"mse"}
    with pytest.raises(TrainingError, match=r"loss\.generative: the model gives no such loss"):
        alone(one)


@pytest.mark.parametrize(
    ("weights", "needed"),
    [
        ({"mse": 1.0, "cosine": 1.0}, False),
        ({"infonce": 1.0}, False),
        ({"infonce": 1.0, "bank": 8}, True),
        ({"moment": 0.1}, True),
        ({"variance": 1.0, "variance_form": "brief"}, False),
        ({"variance": 1.0, "variance_form": "encoder"}, True),
        ({"mmd": 1.0, "mmd_against": "batch"}, False),
        ({"mmd": 1.0, "mmd_against": "encoder"}, True),
    ],
)
def test_statistics_are_needed_just_where_a_term_refuses_to_be_without(weights, needed):
    config = LossConfig(**weights)
    assert needs_statistics(config) == needed
    if needed:
        with pytest.raises(ConfigError, match="needs the encoder's statistics"):
            Objective(config)
    else:
        assert Objective(config).weights == config.active()


def test_only_what_is_weighed_is_computed_and_kept(statistics):
    objective = Objective(LossConfig(infonce=1.0, bank=5), statistics())
    assert set(objective.weights) == set(objective.terms) == {"mse", "infonce"}
    assert {key for key in objective.state_dict() if "mse" in key} == set()
    assert objective.state_dict()["terms.infonce.targets"].shape == (5, 6)
