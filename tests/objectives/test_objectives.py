"""Loss terms against their formulas, gradients against finite differences, and the guards on weights."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nextvec.errors import ConfigError, NextvecWarning
from nextvec.objectives.combine import TERMS, Objective
from nextvec.objectives.regression import cosine, masked_mean, mse


def batch(
    seed: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    prediction = torch.randn(3, 4, 5, generator=g, dtype=dtype)
    target = torch.randn(3, 4, 5, generator=g, dtype=dtype)
    mask = torch.rand(3, 4, generator=g) < 0.6
    mask[0, 0] = True
    return prediction, target, mask


def test_terms_equal_their_formulas():
    prediction, target, mask = batch()
    rows = [(b, t) for b in range(3) for t in range(4) if mask[b, t]]
    squares = [float((prediction[r] - target[r]).square().sum()) / 5 for r in rows]
    cosines = [
        float(prediction[r] @ target[r]) / float(prediction[r].norm() * target[r].norm()) for r in rows
    ]
    assert mse(prediction, target, mask).item() == pytest.approx(sum(squares) / len(rows), rel=1e-12)
    assert cosine(prediction, target, mask).item() == pytest.approx(1 - sum(cosines) / len(rows), rel=1e-12)


@pytest.mark.parametrize("name", sorted(TERMS))
def test_gradients_equal_finite_differences(name):
    prediction, target, mask = batch(1)
    prediction.requires_grad_()
    assert torch.autograd.gradcheck(lambda p: TERMS[name](p, target, mask), prediction)


@pytest.mark.parametrize("name", sorted(TERMS))
def test_what_is_masked_contributes_nothing(name):
    prediction, target, mask = batch(2)
    value = TERMS[name](prediction, target, mask)
    prediction[~mask], target[~mask] = 1e30, math.inf
    prediction.requires_grad_()
    spoiled = TERMS[name](prediction, target, mask)
    assert spoiled.item() == value.item()
    (gradient,) = torch.autograd.grad(masked_mean(prediction.sum(-1), mask), prediction)
    assert (gradient[~mask] == 0).all()


@pytest.mark.parametrize("name", sorted(TERMS))
def test_the_oracle_has_no_loss(name):
    _, target, mask = batch(3)
    assert TERMS[name](target, target, mask).item() == pytest.approx(0.0, abs=1e-12)


def test_mse_of_unit_vectors_is_two_times_one_minus_cosine_over_d():
    prediction, target, mask = (
        torch.nn.functional.normalize(t, dim=-1) if t.is_floating_point() else t for t in batch(4)
    )
    assert mse(prediction, target, mask).item() == pytest.approx(
        2 * cosine(prediction, target, mask).item() / 5
    )


def test_low_precision_predictions_are_judged_in_the_targets_precision():
    prediction, target, mask = batch(5, torch.float32)
    assert mse(prediction.bfloat16(), target, mask).dtype == torch.float32


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 100), st.floats(0.01, 100))
def test_total_is_the_weighted_sum(a, b):
    prediction, target, mask = batch(6)
    loss = Objective({"mse": a, "cosine": b})(prediction, target, mask)
    parts = {
        "mse": a * mse(prediction, target, mask).item(),
        "cosine": b * cosine(prediction, target, mask).item(),
    }
    assert loss.total.item() == pytest.approx(sum(parts.values()), rel=1e-9)
    assert set(loss.terms) == {name for name, w in (("mse", a), ("cosine", b)) if w > 0}


@pytest.mark.parametrize(
    ("weights", "text"),
    [
        ({"mse": 0.0, "cosine": 0.0}, "every loss weight is zero"),
        ({}, "every loss weight is zero"),
        ({"mse": -1.0}, "loss.mse"),
        ({"mse": math.nan}, "loss.mse"),
        ({"msse": 1.0}, "unknown loss term 'msse'"),
    ],
)
def test_weights_that_train_on_nothing_are_refused(weights, text):
    with pytest.raises(ConfigError, match=text):
        Objective(weights)


def test_gradient_norms_are_those_of_each_weighted_term():
    prediction, target, mask = batch(7)
    leaf = prediction.requires_grad_()
    objective = Objective({"mse": 3.0, "cosine": 0.5})
    loss = objective(leaf, target, mask)
    norms = objective.gradient_norms(loss, [leaf])
    for name, weight in objective.weights.items():
        (expected,) = torch.autograd.grad(weight * TERMS[name](leaf, target, mask), leaf)
        assert norms[name] == pytest.approx(expected.norm().item(), rel=1e-9)
    assert leaf.grad is None
    loss.total.backward()  # the graph is still there
    assert leaf.grad is not None


def test_a_term_that_drowns_the_others_is_warned_of():
    """Re-introduces the fault of a contrastive term with 700 times the gradient."""
    prediction, target, mask = batch(8)
    leaf = prediction.requires_grad_()
    drowned = Objective({"mse": 1.0, "cosine": 1e3})
    with pytest.warns(NextvecWarning, match=r"loss\.cosine .* more than 50 times that of loss\.mse"):
        drowned.gradient_norms(drowned(leaf, target, mask), [leaf])
    fair = Objective({"mse": 1.0, "cosine": 1.0})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fair.gradient_norms(fair(leaf, target, mask), [leaf])
