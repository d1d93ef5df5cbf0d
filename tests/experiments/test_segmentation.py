"""Documents joined at known places, and who finds these."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from nextvec.corpus.store import Store
from nextvec.data.splits import SplitConfig, split_documents
from nextvec.errors import EncoderMismatchError, EvaluationError, LeakError, SplitError
from nextvec.evaluation.boundaries import CURVES
from nextvec.experiments.evaluating import DocumentSelection
from nextvec.experiments.segmentation import (
    SegmentationReport,
    evaluate_segmentation,
    join_documents,
)
from nextvec.inference.predictor import RunPredictor


@pytest.fixture(scope="module")
def report(world: Store, trained: Path) -> SegmentationReport:
    run = RunPredictor(trained)
    return evaluate_segmentation(
        world, run, DocumentSelection(), count=30, baselines=("copy-last", "ridge"), quiet=True
    )


def test_joined_documents_are_runs_of_chunks_of_different_documents(world: Store) -> None:
    for joined in join_documents(world, range(40), 25, seed=1):
        starts = [0, *(np.flatnonzero(joined.cuts) + 1).tolist(), len(joined.rows)]
        assert 4 <= len(starts) - 1 <= 8
        assert len(set(joined.document.tolist())) == len(starts) - 1
        for a, b in pairwise(starts):
            document = world.documents[joined.document[a]]
            assert 5 <= b - a <= 12
            assert (np.diff(joined.rows[a:b]) == 1).all()
            assert document.first <= joined.rows[a]
            assert joined.rows[b - 1] < document.first + document.count


def test_nothing_is_used_again_before_it_must_be(world: Store) -> None:
    few = join_documents(world, range(40), 4, seed=0)
    assert max(Counter(np.concatenate([j.rows for j in few]).tolist()).values()) == 1
    many = join_documents(world, range(8), 40, seed=0)
    dealt = Counter(i for j in many for i in set(j.document.tolist()))
    assert max(dealt.values()) - min(dealt.values()) <= 1


def test_the_seed_decides(world: Store) -> None:
    one, same, other = (join_documents(world, range(20), 5, seed) for seed in (3, 3, 4))
    assert [j.rows.tolist() for j in one] == [j.rows.tolist() for j in same]
    assert [j.rows.tolist() for j in one] != [j.rows.tolist() for j in other]


def test_who_knows_the_law_finds_what_cosine_cannot(report: SegmentationReport) -> None:
    """This world's documents turn by one matrix: neighbours are hardly alike, ridge regression learns it."""
    rows = {row.name: row for row in report.rows}
    assert report.best.endswith(" of ridge")
    assert rows["surprise of ridge"].pk < 0.01
    assert rows["surprise of ridge"].f1 > 0.99
    for name in ("cosine-drop", "cosine-gap", "surprise of copy-last", "random", "even", "none"):
        assert rows[name].pk > 0.2
        assert rows[name].versus["pk"].low > 0
        assert rows[name].versus["f1"].high < 0


def test_every_finder_stands_in_the_table_once(report: SegmentationReport) -> None:
    predicting = [kind.name for kind in CURVES.values() if kind.predicts]
    others = [name for name in CURVES if name not in predicting]
    names = [f"{curve} of {who}" for who in ("copy-last", "ridge", "small-lstm") for curve in predicting]
    assert sorted(row.name for row in report.rows) == sorted([*names, *others, "none", "even", "random"])
    for row in report.rows:
        assert (row.kind == "model") == (row.predictor == "small-lstm")
        assert (row.rule is None) == (row.finder in ("none", "even", "random"))
        assert 0 <= row.pk <= row.window_diff <= 1
        assert 0 <= row.f1 <= 1
        assert bool(row.versus) == (row.name != report.best)
    rows = {row.name: row for row in report.rows}
    assert (rows["none"].boundary_ratio, rows["none"].f1, rows["none"].pk) == (0, 0, rows["none"].window_diff)
    assert rows["random"].boundary_ratio == pytest.approx(1, abs=0.3)
    assert rows["even"].boundary_ratio == pytest.approx(1, abs=0.3)


def test_figures_and_verdict_as_json(report: SegmentationReport, world: Store) -> None:
    output = json.loads(json.dumps(report.to_json(), allow_nan=False))
    held = split_documents(world, SplitConfig())
    assert output["origins"] == len(held.test)
    assert output["chunks"] <= round(12 * output["origins"] * output["used"])
    assert output["boundaries"] >= 3 * output["documents"]
    assert [row["name"] for row in output["rows"]] == [row.name for row in report.rows]
    own = min((row for row in report.rows if row.kind == "model"), key=lambda row: row.validation_pk)
    assert own.versus["pk"].low > 0
    assert output["verdicts"] == report.verdicts()
    assert output["verdicts"][0].startswith(f"{own.name} (its best curve on validation) is worse than")
    assert "the run loses to it" in output["verdicts"][1]


def test_a_run_that_wins_or_draws_is_said_to(report: SegmentationReport) -> None:
    def verdicts(difference: float, low: float, high: float) -> list[str]:
        gap = replace(report.rows[0].versus["pk"], value=difference, low=low, high=high)
        rows = tuple(
            replace(r, versus={**r.versus, "pk": gap}) if r.kind == "model" else r for r in report.rows
        )
        return replace(report, rows=rows).verdicts()

    [won] = verdicts(-0.1, -0.2, -0.01)
    assert " is better than the best baseline" in won
    [drew] = verdicts(0.01, -0.02, 0.04)
    assert " is not distinguishable from the best baseline" in drew


def test_what_cannot_be_evaluated(
    world: Store, trained: Path, make_world: Callable[..., Store], tmp_path: Path
) -> None:
    run = RunPredictor(trained)
    for split in ("validation", "all"):
        with pytest.raises(EvaluationError, match="thresholds are fitted on; evaluate test"):
            evaluate_segmentation(world, run, DocumentSelection(split), quiet=True)
    with pytest.raises(EvaluationError, match="1 documents of 5 chunks or more cannot be joined"):
        evaluate_segmentation(world, run, DocumentSelection(sources=("web",)), quiet=True)
    with pytest.raises(EvaluationError, match="no baseline 'best'; choose of: random"):
        evaluate_segmentation(world, run, DocumentSelection(), baselines=("best",), quiet=True)
    with pytest.raises(EvaluationError, match="0 joined documents; give 1"):
        evaluate_segmentation(world, run, DocumentSelection(), count=0, quiet=True)
    with pytest.raises(SplitError, match="no document of source 'radio'"):
        evaluate_segmentation(world, run, DocumentSelection(sources=("radio",)), quiet=True)
    with pytest.raises(LeakError, match="stand in training"):
        evaluate_segmentation(world, run, DocumentSelection(division=SplitConfig(salt="other")), quiet=True)
    with pytest.raises(EncoderMismatchError, match="another encoder"):
        evaluate_segmentation(
            make_world(tmp_path / "other", encoder="another"), run, DocumentSelection(), quiet=True
        )
