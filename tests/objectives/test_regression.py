"""Regression terms against their formulas."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from nextvec.objectives.combine import Objective
from nextvec.objectives.config import LossConfig
from nextvec.objectives.terms import cosine_similarity


def value(name, sample, **options):
    return Objective(LossConfig(**{**{"mse": 0.0, name: 1.0}, **options}))(sample).total.item()


def rows(sample):
    """Predictions and targets that count, as lists of numbers."""
    places = [(b, t) for b in range(5) for t in range(3) if sample.mask[b, t]]
    return [(sample.prediction[p].tolist(), sample.target[p].tolist()) for p in places]


def test_terms_equal_their_formulas(sample):
    one = sample(seed=1)
    pairs = rows(one)
    squares = [sum((a - b) ** 2 for a, b in zip(p, t, strict=True)) for p, t in pairs]
    products = [sum(a * b for a, b in zip(p, t, strict=True)) for p, t in pairs]
    lengths = [(sum(a * a for a in p) * sum(b * b for b in t)) ** 0.5 for p, t in pairs]
    cosines = [a / b for a, b in zip(products, lengths, strict=True)]
    assert value("mse", one) == pytest.approx(sum(squares) / len(pairs) / 6)
    assert value("mse_sum", one) == pytest.approx(sum(squares) / len(pairs))
    assert value("cosine", one) == pytest.approx(1 - sum(cosines) / len(pairs))
    assert one.count == len(pairs) == 10


@pytest.mark.parametrize("delta", [0.2, 1.0, 50.0])
def test_huber_is_squared_near_and_linear_far(sample, delta):
    one = sample(seed=2)
    off = [abs(a - b) for p, t in rows(one) for a, b in zip(p, t, strict=True)]
    parts = [r * r / 2 if r <= delta else delta * (r - delta / 2) for r in off]
    assert value("huber", one, huber_delta=delta) == pytest.approx(sum(parts) / len(parts))


@pytest.mark.parametrize("name", ["mse", "mse_sum", "cosine", "huber"])
def test_the_oracle_has_no_loss(sample, name):
    one = sample(seed=3)
    assert value(name, sample(one.target, seed=3)) == pytest.approx(0.0, abs=1e-12)


def test_mse_of_unit_vectors_is_two_times_one_minus_cosine_over_d(sample):
    one = sample(seed=4)
    unit = {part: normalize(getattr(one, part), dim=-1) for part in ("prediction", "target")}
    made = type(one)(**{**vars(one), **unit})
    assert value("mse", made) == pytest.approx(2 * value("cosine", made) / 6)


@settings(max_examples=20, deadline=None)
@given(scale=st.floats(1e-3, 1e3))
def test_cosine_leaves_the_length_free(sample, scale):
    one = sample(seed=5)
    assert value("cosine", sample(scale * one.prediction, seed=5)) == pytest.approx(value("cosine", one))


def test_cosine_similarity_is_in_the_targets_precision():
    prediction, target = torch.ones(2, 3).bfloat16(), torch.tensor([[1.0, 0, 0], [1, 1, 1]])
    assert cosine_similarity(prediction, target).tolist() == pytest.approx([3**-0.5, 1.0])
