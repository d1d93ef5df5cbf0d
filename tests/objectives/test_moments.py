"""Variance, moments and MMD: formulas, laws and where they are zero."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from nextvec.errors import ConfigError
from nextvec.objectives.combine import Objective
from nextvec.objectives.config import LossConfig
from nextvec.objectives.distribution import kernel, mean_distance, mmd_squared
from nextvec.objectives.sample import Sample, Statistics


def value(name, sample, statistics, **options):
    made = Objective(LossConfig(**{"mse": 0.0, name: 1.0, **options}), statistics)
    return made(sample).total.item()


def whole(prediction, target=None):
    """A sample in which everything counts: one window of N positions."""
    rows = prediction[None]
    target = torch.zeros_like(rows) if target is None else target[None]
    return Sample(rows, target, torch.ones(rows.shape[:2], dtype=torch.bool), rows)


def statistics_of(rows):
    return Statistics(rows.mean(dim=0), rows.std(dim=0), rows)


def columns(sample, unit):
    """The dimensions of the predictions that count, as lists of numbers."""
    rows = sample.prediction[sample.mask]
    return (normalize(rows, dim=-1) if unit else rows).T.tolist()


def mean(values):
    return sum(values) / len(values)


def std(values):
    return math.sqrt(sum((v - mean(values)) ** 2 for v in values) / (len(values) - 1))


def test_moment_equals_its_formula(sample, statistics):
    one, known = sample(seed=1), statistics()
    parts = [
        (mean(c) - m) ** 2 + (std(c) - s) ** 2
        for c, m, s in zip(columns(one, False), known.mean.tolist(), known.std.tolist(), strict=True)
    ]
    assert value("moment", one, known) == pytest.approx(mean(parts))


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_variance_equals_its_formula(sample, statistics, gamma):
    one, known = sample(seed=2), statistics()
    spreads = [std(c) for c in columns(one, True)]
    goals = [std(c) for c in normalize(known.rows, dim=-1).T.tolist()]
    parts = [max(0.0, gamma * g - s) for g, s in zip(goals, spreads, strict=True)]
    expected = mean(parts) / mean(goals)
    assert value("variance", one, known, variance_gamma=gamma) == pytest.approx(expected, abs=1e-9)
    brief = mean([max(0.0, 1 - s) for s in spreads])
    assert value("variance", one, known, variance_form="brief") == pytest.approx(brief)


@pytest.mark.parametrize("D", [16, 256])
def test_the_briefs_form_is_always_on_and_ours_is_not(D):
    """The encoder's own vectors: nothing is wrong with them."""
    rows = torch.randn(2000, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    known = statistics_of(rows)
    assert value("variance", whole(rows), known) == pytest.approx(0.0, abs=1e-6)
    assert value("variance", whole(rows), known, variance_form="brief") == pytest.approx(
        1 - 1 / math.sqrt(D), abs=0.01
    )
    collapsed = whole(rows[:1].expand(100, D).clone())
    assert value("variance", collapsed, known) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("name", ["variance", "moment"])
def test_total_collapse_has_a_finite_gradient(name, statistics):
    leaf = torch.ones(8, 6, dtype=torch.float64, requires_grad=True)
    Objective(LossConfig(**{"mse": 0.0, name: 1.0}), statistics())(whole(leaf)).total.backward()
    assert leaf.grad.isfinite().all()


@pytest.mark.parametrize("name", ["variance", "moment", "mmd"])
def test_one_position_has_no_spread(name, statistics):
    leaf = torch.ones(1, 6, dtype=torch.float64, requires_grad=True)
    total = Objective(LossConfig(**{"mse": 0.0, name: 1.0}), statistics())(whole(leaf)).total
    total.backward()
    assert total.item() == 0
    assert (leaf.grad == 0).all()


@pytest.mark.parametrize(
    ("name", "options"), [("variance", {}), ("moment", {}), ("mmd", {})], ids=lambda v: str(v)
)
def test_terms_that_need_the_encoder_say_so(name, options):
    with pytest.raises(ConfigError, match=rf"loss\.{name}: .* needs the encoder's statistics"):
        Objective(LossConfig(**{"mse": 0.0, name: 1.0, **options}))


def test_the_briefs_variance_and_the_batchs_mmd_need_no_encoder(sample):
    for name, options in (("variance", {"variance_form": "brief"}), ("mmd", {"mmd_against": "batch"})):
        assert value(name, sample(seed=3), None, **options) > 0


def plain_mmd(x, y, distance, estimator):
    def k(a, b):
        squared = sum((p - q) ** 2 for p, q in zip(a, b, strict=True))
        return mean([math.exp(-squared / (2 * w * distance)) for w in (4, 2, 1, 0.5, 0.25)])

    def within(rows):
        pairs = [(i, j) for i in range(len(rows)) for j in range(len(rows))]
        return mean([k(rows[i], rows[j]) for i, j in pairs if estimator == "biased" or i != j])

    return within(x) + within(y) - 2 * mean([k(a, b) for a in x for b in y])


@pytest.mark.parametrize("estimator", ["biased", "unbiased"])
@pytest.mark.parametrize("against", ["encoder", "batch"])
def test_mmd_equals_a_plain_loop(sample, statistics, estimator, against):
    one, known = sample(seed=4), statistics()
    x = one.prediction[one.mask].tolist()
    other = known.rows if against == "encoder" else one.target[one.mask]
    distance = 2 * sum(std(c) ** 2 for c in other.T.tolist())
    expected = plain_mmd(x, other.tolist(), distance, estimator)
    found = value("mmd", one, known, mmd_against=against, mmd_estimator=estimator)
    assert found == pytest.approx(expected, rel=1e-9)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), shift=st.floats(0.5, 5.0))
def test_biased_mmd_is_0_for_equal_samples_and_above_it_for_others(seed, shift):
    x = torch.randn(20, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    distance = mean_distance(x)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(seed))
    assert mmd_squared(x, x[order], distance, "biased").item() == pytest.approx(0.0, abs=1e-12)
    assert mmd_squared(x, x + shift, distance, "biased") > 1e-3
    one = whole(x, x)
    assert value("mmd", one, statistics_of(x)) == pytest.approx(0.0, abs=1e-12)


def test_unbiased_mmd_of_one_distribution_is_0_on_average():
    draw = torch.Generator().manual_seed(0)
    found = []
    for _ in range(400):
        x, y = torch.randn(2, 12, 3, generator=draw, dtype=torch.float64)
        found.append(mmd_squared(x, y, torch.tensor(6.0), "unbiased").item())
    assert abs(mean(found)) < 3 * std(found) / math.sqrt(400)
    assert min(found) < 0


def test_the_kernel_is_one_at_distance_0_and_falls():
    x = torch.linspace(0, 5, 6, dtype=torch.float64)[:, None]
    values = kernel(x[:1], x, torch.tensor(1.0, dtype=torch.float64))[0].tolist()
    assert values[0] == 1
    assert values == sorted(values, reverse=True)


def test_mmd_compares_at_most_so_many_rows(sample, statistics):
    one, known = sample(seed=5), statistics()
    made = Objective(LossConfig(mse=0.0, mmd=1.0, mmd_rows=4), known)
    assert torch.equal(made.terms["mmd"].rows, known.rows[[0, 13, 26, 39]])
    rows = one.prediction[one.mask]
    thin = replace(whole(rows[::3]), prediction=rows[::3][None])
    assert made(one).total.item() == pytest.approx(made(thin).total.item())


def test_a_sample_of_the_encoders_rows_is_spread_over_them(statistics):
    known = statistics()
    assert torch.equal(known.some(100), known.rows)
    assert torch.equal(known.some(2), known.rows[[0, 39]])
