"""The figures of order, and those that load the models again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes

from nextvec.corpus.store import Store
from nextvec.diagnostics.lags import lag_curves, sum_store
from nextvec.errors import NothingToDraw
from nextvec.evaluation.harness import EvaluationConfig
from nextvec.experiments.evaluating import DocumentSelection
from nextvec.experiments.matrix import run_matrix
from nextvec.experiments.plan import MatrixPlan
from nextvec.reporting.figures import draw, dynamics, inside, render
from nextvec.reporting.figures.dynamics import lag_curve, offset_profiles, rollout_decay
from nextvec.reporting.figures.inside import (
    attention_maps,
    calibration,
    length_calibration,
    raw_dimensions,
    rollout_curve,
)
from nextvec.reporting.inputs import ReportInputs
from nextvec.reporting.predicted import PredictedWindows
from reporting.answers import of_windows, with_oracle


def lines(axes: Axes) -> dict[str, tuple[list[float], list[float]]]:
    """Label -> x and y of the lines that have one."""
    return {
        str(line.get_label()): (list(map(float, line.get_xdata())), list(map(float, line.get_ydata())))
        for line in axes.lines
    }


def test_the_lag_curve_is_that_of_the_diagnosis(inputs: ReportInputs) -> None:
    store = inputs.store
    assert store is not None
    whole, *parts = lag_curves(sum_store(store, range(len(store.documents))), resamples=10)
    first, second = lag_curve(inputs).axes
    assert lines(first)["all sources"][1] == pytest.approx([lag.cosine.value for lag in whole.lags])
    assert lines(first)["in random order"][1] == pytest.approx([lag.shuffled for lag in whole.lags])
    for part in parts:
        assert lines(second)[str(part.source)][1] == pytest.approx([lag.cosine.value for lag in part.lags])


def test_of_a_large_store_some_documents_are_read(
    inputs: ReportInputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dynamics, "MOST_CHUNKS", 120)
    assert lag_curve(inputs).axes[0].get_title() == "all 10 documents"


def test_an_oracle_peaks_at_the_target(inputs: ReportInputs) -> None:
    drawn = offset_profiles(with_oracle(inputs, "lstm"))
    seen = lines(drawn.axes[0])
    k, cosine = seen["lstm"]
    assert cosine[k.index(0)] == pytest.approx(1, abs=1e-3)
    assert max(cosine) == cosine[k.index(0)]
    others = [c for at, c in zip(k, cosine, strict=True) if at]
    sides = [line for line in drawn.axes[0].lines if line.get_linewidth() > 2]
    assert others == pytest.approx([float(y) for side in sides for y in side.get_ydata()], abs=1e-3)
    assert -1 not in seen["copy-last"][0]


def test_rollout_needs_only_the_table(inputs: ReportInputs) -> None:
    bare = replace(inputs, answers=None, store=None)
    left, right = rollout_decay(bare).axes
    names = [label.get_text() for label in left.get_yticklabels()]
    for row in inputs.rows:
        place = names.index(row["name"])
        at = [line for line in left.lines if set(line.get_ydata()) == {place}]
        assert list(at[0].get_xdata()) == pytest.approx([row["cosine"], row["rollout@5"]])
        (repeated,) = (line for line in right.lines if set(line.get_ydata()) == {place})
        assert repeated.get_xdata()[0] == row["rollout_repetition@5"]


def test_nothing_rolls_out_of_short_documents(inputs: ReportInputs) -> None:
    assert inputs.table is not None
    rows = [{**row, "rollout@5": None} for row in inputs.rows]
    with pytest.raises(NothingToDraw, match="goes on for 5 chunks"):
        rollout_decay(replace(inputs, table={**inputs.table, "rows": rows}))


def test_models_are_loaded_only_when_asked(inputs: ReportInputs) -> None:
    names = ["calibration", "length_calibration", "raw_dimensions", "rollout_curve", "attention_maps"]
    assert all("--deep" in str(found) for _, found in draw(inputs, names))


def test_attention_stands_beside_the_texts(deep_inputs: ReportInputs) -> None:
    drawn = attention_maps(deep_inputs)
    store, answers = deep_inputs.store, deep_inputs.answers
    assert store is not None
    assert answers is not None
    maps = [axes for axes in drawn.axes if axes.images]
    assert len(maps) == 3
    for axes in maps:
        weights = np.ma.filled(axes.images[0].get_array(), np.nan)
        assert np.nansum(weights, axis=1) == pytest.approx(np.arange(len(weights)) + 1, abs=1e-5)
        assert np.isnan(weights[np.triu_indices(len(weights), 1)]).all()
        read = [label.get_text() for label in axes.get_yticklabels()]
        came = axes.get_title(loc="right").partition("Then came: ")[2]
        target = next(int(row) for row in answers.target if store.texts([int(row)]) == [came])
        texts = store.texts(range(target - len(read), target))
        assert [label.rpartition("  ")[0] for label in read] == texts


def test_without_an_attention_mixture_there_is_no_map(deep_inputs: ReportInputs) -> None:
    assert deep_inputs.table is not None
    rows = [row for row in deep_inputs.rows if row["name"] != "amn"]
    with pytest.raises(NothingToDraw, match="no attention mixture network"):
        attention_maps(replace(deep_inputs, table={**deep_inputs.table, "rows": rows}))


def test_texts_are_shown_as_they_are(deep_inputs: ReportInputs, monkeypatch: pytest.MonkeyPatch) -> None:
    strange = "cost $x_{1}$ \\frac \x07 <b>&amp;\n 漢字 " + "y" * 100
    monkeypatch.setattr(Store, "texts", lambda self, rows: [strange] * len(rows))
    ((_, drawn),) = draw(deep_inputs, ["attention_maps"])
    assert not isinstance(drawn, str)
    svg = render(drawn, "svg").decode()
    assert "cost $x_{1}$ \\frac &lt;b&gt;&amp;amp; 漢字 yyy" in svg
    assert "y" * inside.SHOWN not in svg
    assert render(drawn, "png").startswith(b"\x89PNG")


def test_raw_output_is_that_of_the_models(deep_inputs: ReportInputs) -> None:
    ground = PredictedWindows.of(deep_inputs)
    drawn = raw_dimensions(deep_inputs)
    for predictor in inside.opened(ground):
        axes = next(axes for axes in drawn.axes if axes.get_title() == predictor.name)
        contexts = np.concatenate([c for _, c, _ in ground.evaluation_set.blocks(12)])
        lengths = np.concatenate([n for _, _, n in ground.evaluation_set.blocks(12)])
        raw, _ = predictor.predict(contexts, lengths)
        assert axes.lines[1].get_ydata() == pytest.approx(raw.std(axis=0), abs=1e-5)
        assert axes.lines[0].get_xdata() == pytest.approx(
            ground.evaluation_set.targets.mean(axis=0), abs=1e-5
        )


def test_rollout_step_by_step_begins_with_the_prediction(deep_inputs: ReportInputs) -> None:
    left, right = rollout_curve(deep_inputs).axes
    steps, cosine = lines(left)["lstm"]
    ground = PredictedWindows.of(deep_inputs)
    able = (ground.evaluation_set.pool.target + len(steps) - 1) < ground.evaluation_set.pool.end
    first = (ground.units("lstm") * ground.targets).sum(axis=1)
    assert len(steps) == 7
    assert cosine[0] == pytest.approx(float(first[able].mean()), abs=1e-3)
    assert lines(right)["copy-last"][1] == pytest.approx([1] * 7)


def test_expected_cosine_beside_the_scored_one(deep_inputs: ReportInputs) -> None:
    drawn = length_calibration(deep_inputs)
    ground = PredictedWindows.of(deep_inputs)
    for name in ("amn", "lstm"):
        expected, scored = lines(drawn.axes[0])[name]
        assert expected == sorted(expected)
        assert min(expected) > 0
        own = (ground.units(name) * ground.targets).sum(axis=1)
        assert min(own) - 1e-3 <= min(scored) <= max(scored) <= max(own) + 1e-3


def test_calibration_needs_confidence(deep_inputs: ReportInputs) -> None:
    with pytest.raises(NothingToDraw, match="no model was trained with confidence"):
        calibration(deep_inputs)
    with pytest.raises(NothingToDraw, match="one document was evaluated"):
        assert deep_inputs.answers is not None
        calibration(of_windows(deep_inputs, np.flatnonzero(
            deep_inputs.answers.document == deep_inputs.answers.document[0])))  # fmt: skip


def test_calibration_of_a_model_with_confidence(
    world: Store, make_tiny: Callable[..., Any], tmp_path: Path
) -> None:
    sure = ("loss.continuation=0.1", "data.broken=0.3")
    run_matrix(
        world,
        MatrixPlan(str(world.path), ("gru",), 1),
        lambda cell: make_tiny(cell.model, *sure, seed=cell.seed),
        tmp_path / "m",
        DocumentSelection(),
        EvaluationConfig(resamples=20, quiet=True, baselines=("copy-last",)),
        quiet=True,
    )
    inputs = ReportInputs.of(tmp_path / "m", deep=True)
    axes = calibration(inputs).axes[0]
    ((label, (output, follows)),) = ((k, v) for k, v in lines(axes).items() if k.startswith("gru: off by "))
    assert output == sorted(output)
    assert all(0 <= value <= 1 for value in (*output, *follows))
    ground = PredictedWindows.of(inputs)
    every, true = inside._continuations(next(inside.opened(ground)), ground.evaluation_set)
    assert true.mean() == 0.5
    assert every[true == 1].mean() > every[true == 0].mean()
    assert label != "gru: off by -"
