"""Seeds in one row: figures are means, intervals are of the mean."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from nextvec.data.splits import Split
from nextvec.evaluation.baselines import BASELINES
from nextvec.evaluation.harness import EvaluationConfig, evaluate
from nextvec.evaluation.results import COMPARED, Report
from nextvec.experiments.matrix import merge_seeds

D = 8
SPLIT = Split(tuple(range(16)), tuple(range(16, 20)), tuple(range(20, 32)))
SEEDS = ("m-seed0", "m-seed1", "m-seed2")


@pytest.fixture(scope="module")
def make_report(worlds: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory):
    vectors = worlds.noisy(np.random.default_rng(0), 32, 14, D)
    store = worlds.store(tmp_path_factory.mktemp("seeds") / "store", vectors)

    def make() -> Report:
        reported = []
        for seed, name in enumerate((*SEEDS, "other")):
            noise = np.random.default_rng(seed).standard_normal(D) * 0.05 * (seed + 1)
            metadata = {
                "parameters": 7,
                "seconds": 1.0 + seed,
                "seed": seed,
                "device": "cpu",
                "epoch": seed + 1,
            }
            reported.append(
                worlds.FunctionPredictor(
                    lambda c, n, noise=noise: worlds.kalman(c, n) + noise,
                    name=name,
                    metadata=metadata | {"model_file": f"runs/{name}/model.safetensors"},
                )
            )
        return evaluate(store, SPLIT, "test", reported, EvaluationConfig(resamples=200, quiet=True))

    return make


@pytest.fixture(scope="module")
def before(make_report) -> Report:
    return make_report()


@pytest.fixture(scope="module")
def merged(make_report) -> Report:
    return merge_seeds(make_report(), {"m": SEEDS})


def test_one_row_for_all_seeds_and_the_others_stay(merged: Report) -> None:
    assert [row.name for row in merged.rows] == [*BASELINES, "other", "m"]
    assert merged.row("m").kind == "model"


def test_figures_are_the_means(before: Report, merged: Report) -> None:
    rows = [before.row(name) for name in SEEDS]
    assert len({row.figures["cosine"] for row in rows}) == 3
    means = {key for key in rows[0].figures if not key.startswith("skill")}
    for key in means:
        known = [row.figures[key] for row in rows]
        assert merged.row("m").figures[key] == pytest.approx(np.mean(known), abs=1e-12)
    for key, values in merged.row("m").values.items():
        np.testing.assert_allclose(values, np.mean([row.values[key] for row in rows], axis=0))
        assert merged.row("m").figures[key] == pytest.approx(values.mean(), abs=1e-6)


def test_skill_is_that_of_the_mean(before: Report, merged: Report) -> None:
    """Not the mean of skills: it is taken anew from the mean cosine, against the same references."""
    linear = before.row("linear average").figures["cosine"]
    cosine = merged.row("m").figures["cosine"]
    assert merged.row("m").figures["skill"] == pytest.approx((cosine - linear) / (1 - linear))


def test_intervals_are_made_anew(before: Report, merged: Report) -> None:
    assert merged.best == before.best
    row = merged.row("m")
    assert set(row.versus) == set(before.row("m-seed0").versus)
    for metric, interval in row.versus.items():
        best = merged.row(merged.best[metric])
        assert interval == merged.bootstrap.interval(row.values[metric], best.values[metric])
        assert interval.value == pytest.approx(
            np.mean([before.row(name).versus[metric].value for name in SEEDS]), abs=1e-9
        )
    for name in (*BASELINES, "other"):
        assert merged.row(name).versus == before.row(name).versus


def test_the_spread_over_seeds(before: Report, merged: Report) -> None:
    metadata = merged.row("m").metadata
    assert metadata["seeds"] == 3
    for key in ("cosine", "mse", "recall@5", "mrr"):
        known = [before.row(name).figures[key] for name in SEEDS]
        assert metadata[f"{key}_seed_std"] == pytest.approx(np.std(known, ddof=1))
    assert [seed["name"] for seed in metadata["per_seed"]] == list(SEEDS)
    for seed in metadata["per_seed"]:
        row = before.row(seed["name"])
        assert {key: seed[key] for key in ("cosine", "mse", "recall@1", "recall@5", "mrr")} == {
            key: row.figures[key] for key in ("cosine", "mse", "recall@1", "recall@5", "mrr")
        }
        assert (seed["seed"], seed["seconds"]) == (row.metadata["seed"], row.metadata["seconds"])
        assert seed["model_file"] == row.metadata["model_file"]


def test_facts_agree_or_are_means_or_go(merged: Report) -> None:
    metadata = merged.row("m").metadata
    assert (metadata["parameters"], metadata["device"]) == (7, "cpu")
    assert isinstance(metadata["parameters"], int)
    assert metadata["seconds"] == pytest.approx(2.0)
    assert metadata["epoch"] == pytest.approx(2.0)
    assert "model_file" not in metadata


def test_one_seed_keeps_its_figures_and_has_no_spread(before: Report, make_report) -> None:
    merged = merge_seeds(make_report(), {"m": ["m-seed1"], "rest": ["other", "m-seed0", "m-seed2"]})
    one, was = merged.row("m"), before.row("m-seed1")
    assert one.figures == pytest.approx(was.figures)
    assert one.versus.keys() == was.versus.keys()
    assert one.metadata["seeds"] == 1
    assert "cosine_seed_std" not in one.metadata
    assert merged.row("rest").metadata["seeds"] == 3


def test_a_figure_that_one_seed_lacks_is_not_made_up(make_report) -> None:
    report = make_report()
    report.row("m-seed2").figures["mrr"] = None
    merged = merge_seeds(report, {"m": SEEDS})
    assert merged.row("m").figures["mrr"] is None
    assert merged.row("m").figures["cosine"] is not None


def test_the_report_around_the_rows_stays(before: Report, merged: Report) -> None:
    ours, theirs = merged.to_json(), before.to_json()
    for key in ("store", "split", "context", "windows", "documents", "pool", "chance", "best_baseline"):
        assert ours[key] == theirs[key]
    assert set(COMPARED) >= set(merged.best)
    assert Path(ours["store"]).is_dir()


def test_an_unknown_row(make_report) -> None:
    with pytest.raises(KeyError, match="m-seed9"):
        merge_seeds(make_report(), {"m": ["m-seed9"]})
