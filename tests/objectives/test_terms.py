"""What every term keeps to, with every option it has. A new term is tried here because it is registered."""

from __future__ import annotations

import math
import sys
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nextvec import objectives
from nextvec.errors import ConfigError
from nextvec.objectives.combine import Objective, find_terms
from nextvec.objectives.config import OWN, LossConfig
from nextvec.objectives.terms import TERMS, term

OPTIONS = {
    "huber": [{"huber_delta": 0.3}],
    "infonce": [
        {"hard_negatives": True},
        {"drawn_negative": True},
        {"learn_temperature": True},
        {"bank": 4},
        {"bank": 20, "hard_negatives": True, "drawn_negative": True, "near_duplicate": 0.6},
    ],
    "context": [{"near_duplicate": 0.5}],
    "variance": [{"variance_form": "brief"}, {"variance_gamma": 1.5}],
    "mmd": [{"mmd_against": "batch"}, {"mmd_estimator": "unbiased"}, {"mmd_rows": 3}],
}
EVERY = [(name, options) for name in TERMS for options in ({}, *OPTIONS.get(name, []))]
every_term = pytest.mark.parametrize(("name", "options"), EVERY, ids=lambda v: str(v))


def only(name, options=None):
    return LossConfig(**{**{"mse": 0.0, name: 1.0}, **(options or {})})


def make(name, options, statistics, dtype=torch.float64):
    return Objective(only(name, options), statistics(dtype=dtype)).to(dtype)


def test_every_weight_has_its_term():
    assert set(LossConfig().weights()) == {*TERMS, OWN}
    assert set(OPTIONS) <= set(TERMS)


def test_a_file_of_its_own_is_found(tmp_path, monkeypatch):
    """One file with `@term` and a weight are enough: nothing is imported by hand."""
    (tmp_path / "absolute.py").write_text(
        "from nextvec.objectives.terms import Term, term\n\n\n"
        "@term('absolute')\nclass Absolute(Term):\n"
        "    def forward(self, sample):\n"
        "        return sample.mean((sample.raw - sample.goal).abs().mean(-1))\n"
    )
    monkeypatch.setattr(objectives, "__path__", [*objectives.__path__, str(tmp_path)])
    monkeypatch.setattr(LossConfig, "weights", lambda self: {"absolute": 1.0})
    try:
        find_terms()
        assert Objective(LossConfig()).weights == {"absolute": 1.0}
        assert type(Objective(LossConfig()).terms["absolute"]).__name__ == "Absolute"
    finally:
        TERMS.pop("absolute", None)
        sys.modules.pop("nextvec.objectives.absolute", None)


def test_a_weight_without_a_term_is_named(monkeypatch):
    monkeypatch.setattr(LossConfig, "weights", lambda self: {"absolute": 1.0})
    with pytest.raises(ConfigError, match=r"no class of nextvec\.objectives is the term 'absolute'"):
        Objective(LossConfig())


@pytest.mark.parametrize("name", ["mse", "nonsense"])
def test_a_term_is_registered_once_and_under_a_weight(name):
    with pytest.raises(ValueError, match=f"'{name}'"):
        term(name)(TERMS["mse"])


@pytest.mark.parametrize("K", [1, 2])
@every_term
def test_gradients_equal_finite_differences(name, options, K, sample, statistics):
    objective = make(name, options, statistics)
    objective(sample(seed=8, K=K))  # a bank is filled
    objective.eval()  # and stays as it is, so that the function is one
    prediction = sample(seed=1, K=K).prediction.requires_grad_()
    learned = tuple(objective.parameters())

    def total(leaf, *_):
        return objective(sample(leaf, seed=1, K=K)).total

    assert torch.autograd.gradcheck(total, (prediction, *learned))
    gradients = torch.autograd.grad(total(prediction), (prediction, *learned))
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


@pytest.mark.parametrize("K", [1, 2])
@every_term
def test_padding_contributes_nothing(name, options, K, sample, statistics):
    clean, spoilt = (make(name, options, statistics) for _ in range(2))
    for seed in (2, 3):  # the second time there is a bank
        prediction = sample(seed=seed, K=K).prediction
        value = clean(sample(prediction, seed=seed, K=K)).total
        outside = ~sample(K=K).mask & ~sample(K=K).broken.repeat_interleave(K, dim=1)
        leaf = prediction.masked_fill(outside[..., None], math.nan).requires_grad_()
        total = spoilt(sample(leaf, seed=seed, K=K, padding=math.nan)).total
        assert total.item() == value.item()
        (gradient,) = torch.autograd.grad(total, leaf)
        assert gradient.isfinite().all()
        assert (gradient[outside] == 0).all()


@every_term
def test_predictions_of_low_precision_are_evaluated_in_float32(name, options, sample, statistics):
    objective = make(name, options, statistics, torch.float32)
    leaf = sample(seed=4, dtype=torch.float32).prediction.bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        inside = objective.eval()(sample(leaf, seed=4, dtype=torch.float32)).total
    outside = objective(sample(leaf, seed=4, dtype=torch.float32)).total
    assert inside.dtype == torch.float32
    assert inside.item() == outside.item()
    (gradient,) = torch.autograd.grad(inside, leaf)
    assert gradient.isfinite().all()
    wide = objective(sample(leaf.float(), seed=4, dtype=torch.float32)).total
    assert inside.item() == pytest.approx(wide.item(), rel=1e-2)


@every_term
@settings(max_examples=10, deadline=None)
@given(order=st.permutations(range(5)))
def test_the_order_of_the_stretches_does_not_matter(name, options, sample, statistics, order):
    if "mmd_rows" in options:  # of more predictions than that it takes some
        options = {**options, "mmd_rows": 100}
    one = sample(seed=5)
    # Confidence and prediction are of the same order in both.
    evaluated = one.confidence(one.target)
    rows = torch.tensor(order)
    parts = ("prediction", "target", "mask", "inputs", "lengths", "documents", "broken", "query", "drawn")
    moved = replace(
        one, **{part: getattr(one, part)[rows] for part in parts}, confidence=lambda _: evaluated[rows]
    )
    objective = make(name, options, statistics).eval()
    expected = objective(replace(one, confidence=lambda _: evaluated)).total.item()
    assert objective(moved).total.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


@every_term
def test_a_small_step_against_the_gradient_helps(name, options, sample, statistics):
    objective = make(name, options, statistics).eval()
    leaf = sample(seed=6).prediction.requires_grad_()
    value = objective(sample(leaf, seed=6)).total
    (gradient,) = torch.autograd.grad(value, leaf)
    step = 1e-3 / gradient.norm()
    after = objective(sample((leaf - step * gradient).detach(), seed=6)).total
    assert after < value


@every_term
def test_where_nothing_counts_the_loss_is_0_and_can_be_differentiated(name, options, sample, statistics):
    some = sample(seed=7)
    leaf = some.prediction.requires_grad_()
    empty = replace(some, mask=torch.zeros_like(some.mask))
    value = make(name, options, statistics)(empty).total
    assert value.item() == 0
    (gradient,) = torch.autograd.grad(value, leaf)
    assert (gradient == 0).all()


@every_term
def test_nothing_is_learned_or_remembered_in_eval_mode(name, options, sample, statistics):
    objective = make(name, options, statistics)
    before = {key: value.clone() for key, value in objective.state_dict().items()}
    values = [objective.eval()(sample(seed=9)).total.item() for _ in range(2)]
    assert values[0] == values[1]
    assert all(torch.equal(value, before[key]) for key, value in objective.state_dict().items())


@every_term
def test_the_state_travels(name, options, sample, statistics):
    first, second = make(name, options, statistics), make(name, options, lambda dtype: statistics(seed=5))
    for seed in (10, 11):
        first(sample(seed=seed))
    second.load_state_dict(first.state_dict())
    assert second(sample(seed=12)).total.item() == first(sample(seed=12)).total.item()
    assert all(torch.equal(v, second.state_dict()[key]) for key, v in first.state_dict().items())
