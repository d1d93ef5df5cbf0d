"""Rule 0: every metric of the registry, on predictors of known truth in worlds of known truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from nextvec.evaluation.metrics import METRICS, Metric, Scores
from nextvec.evaluation.predictor_protocol import unit
from nextvec.evaluation.ranking import ranks
from nextvec.evaluation.trajectory import offset_cosines
from nextvec.selfcheck.expectations import EXPECTATIONS
from nextvec.selfcheck.oracle import OracleRow, run_oracle
from nextvec.selfcheck.predictors import exact, near

PREDICTORS = {
    "oracle",
    "copy-last",
    "linear average",
    "last and mean",
    "mean vector",
    "shuffled context",
    "random",
}
EVERYWHERE = {"rotation": PREDICTORS, "ar1": PREDICTORS | {"kalman filter", "kalman samples"}}


@pytest.fixture(scope="module", params=[0, 1])
def rows(request: pytest.FixtureRequest) -> list[OracleRow]:
    """The table, in the worlds of two seeds."""
    return run_oracle(request.param)


def test_every_metric_says_what_is_expected(rows: list[OracleRow]) -> None:
    assert [str(row) for row in rows if not row.ok] == []


def test_every_metric_is_tried_on_every_predictor_in_every_world(rows: list[OracleRow]) -> None:
    tried = {(row.metric, row.predictor, row.world) for row in rows}
    wanted = {
        (metric, predictor, world)
        for metric in METRICS
        for world, predictors in EVERYWHERE.items()
        for predictor in {*predictors, "oracle - random"}
    }
    assert tried == wanted
    assert len(rows) == len(tried)
    assert set(EXPECTATIONS) == set(METRICS)


def test_the_oracle_is_perfect_and_random_is_at_chance(rows: list[OracleRow]) -> None:
    found = {(row.metric, row.predictor, row.world): row for row in rows}
    for world in EVERYWHERE:
        for metric in (m.name for m in METRICS.values() if m.better == "higher"):
            assert found[metric, "oracle", world].measured == pytest.approx(1, abs=2e-5)
            assert found[metric, "random", world].measured < 0.6
        for k in (1, 5, 10, 20, 50):
            row = found[f"recall@{k}", "random", world]
            assert row.expected.startswith("chance")
            assert row.measured < 0.2


def test_a_metric_without_expectation_fails_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METRICS, "charm", Metric("charm", "higher", None, lambda j: 1.0))
    red = [row for row in run_oracle(metrics=("charm", "mse")) if not row.ok]
    assert [row.metric for row in red] == ["charm"]
    assert "charm of every predictor in every world: expected a stated value" in str(red[0])
    assert red[0].to_json()["measured"] is None


def test_a_metric_that_cannot_tell_the_oracle_from_random_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METRICS, "charm", Metric("charm", "higher", None, lambda j: 1.0))
    monkeypatch.setitem(EXPECTATIONS, "charm", lambda case: exact(1))
    red = [row for row in run_oracle(metrics=("charm",)) if not row.ok]
    assert {(row.predictor, row.world) for row in red} == {("oracle - random", w) for w in EVERYWHERE}
    # figures that differ by less than their tolerances do not tell either
    monkeypatch.setitem(EXPECTATIONS, "cosine", lambda case: near(0.5, scale=64))
    assert not any(row.ok for row in run_oracle(metrics=("cosine",)) if row.predictor == "oracle - random")


def values_of(values: Callable[[Scores], np.ndarray]) -> dict[str, Callable]:
    """A metric that is the mean of these values."""
    return {"values": values, "figure": lambda j: float(values(j).mean())}


def unmasked(j: Scores) -> np.ndarray:
    pool = j.evaluation_set.pool
    return ranks(j.unit, j.evaluation_set.vectors, replace(pool, read_high=pool.read_low))


def late(j: Scores) -> dict[int, np.ndarray]:
    shifted = offset_cosines(j.unit, j.evaluation_set, range(-2, 5))
    return {k - 1: values for k, values in shifted.items()}


def late_margin(j: Scores) -> float:
    profile = {k: np.nanmean(values) for k, values in late(j).items()}
    return float(profile[0] - max(value for k, value in profile.items() if k))


BROKEN = {
    "cosine of raw predictions": (
        "cosine",
        values_of(lambda j: (j.raw * j.evaluation_set.target_units).sum(axis=1)),
    ),
    "mse of unit predictions": (
        "mse",
        values_of(lambda j: ((j.unit - j.evaluation_set.targets) ** 2).mean(axis=1)),
    ),
    "mse summed over dimensions": (
        "mse",
        values_of(lambda j: ((j.raw - j.evaluation_set.targets) ** 2).sum(axis=1)),
    ),
    "a threshold called recall": ("recall@5", values_of(lambda j: j.cosines > 0.5)),
    "ranks from 0": ("recall@1", values_of(lambda j: j.ranks <= 2)),
    "context left among the candidates": ("recall@1", values_of(lambda j: unmasked(j) <= 1)),
    "rank of the mean instead of mean rank": ("mrr", {"figure": lambda j: 1 / float(j.ranks.mean())}),
    "forward margin the wrong way round": ("forward_margin", values_of(lambda j: -j.cosines)),
    "offset test off by one": ("offset_margin", {"figure": late_margin}),
    "rollout one step short": ("rollout@5", {"figure": lambda j: float(j.rollout.cosine[:, -2].mean())}),
    "rollout against its own start": (
        "rollout@5",
        {"figure": lambda j: float(j.rollout.drift[:, -1].mean())},
    ),
    "variance of the unit output": (
        "variance_ratio",
        {"figure": lambda j: float(j.unit.var(axis=0).sum() / j.evaluation_set.targets.var(axis=0).sum())},
    ),
    "moments about zero": (
        "moments_std_ratio",
        {"figure": lambda j: float(np.sqrt((j.raw**2).mean() / (j.evaluation_set.targets**2).mean()))},
    ),
    "cosine with the mean left in": ("cosine_without_mean", values_of(lambda j: j.cosines)),
    "skill against nothing": ("skill", {"figure": lambda j: float(j.cosines.mean())}),
    "par of the last chunk only": (
        "par",
        {"figure": lambda j: float((j.unit * j.evaluation_set.last_units).sum(axis=1).mean())},
    ),
    "energy score without the pairs": (
        "energy_score",
        values_of(lambda j: j.generated.energy + np.sqrt(j.generated.variance / 2)),
    ),
    "energy score of the point alone": (
        "energy_score",
        values_of(lambda j: np.linalg.norm(j.raw - j.evaluation_set.targets, axis=1)),
    ),
    "energy score of unit samples": ("energy_score", values_of(lambda j: j.generated.energy / 8)),
    "diversity with samples paired with themselves": (
        "diversity",
        values_of(lambda j: j.generated.diversity * (j.generated.n - 1) / j.generated.n),
    ),
    "spread without its square root": (
        "spread_ratio",
        {"figure": lambda j: float(j.generated.variance.mean() / max(j.generated.error.mean(), 1e-9))},
    ),
    "spread about the point by one sample": (
        "spread_ratio",
        {"figure": lambda j: float(np.sqrt(j.generated.variance.mean() / j.evaluation_set.dimension))},
    ),
    "pairs with themselves": (
        "pairwise_cosine",
        {"figure": lambda j: float((unit(j.raw) ** 2).sum(axis=1).mean())},
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_metric_is_seen(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, change = BROKEN[fault]
    whole = {"values": None} | change
    monkeypatch.setitem(METRICS, name, replace(METRICS[name], **whole))
    red = [row for row in run_oracle(metrics=(name,)) if not row.ok]
    assert red
    assert {row.metric for row in red} == {name}
