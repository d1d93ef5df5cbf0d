"""The figures of errors show the errors that were kept."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from nextvec.data.splits import SplitConfig, split_documents
from nextvec.diagnostics.groups import quantile_masks
from nextvec.errors import NothingToDraw
from nextvec.reporting import drawing, predicted
from nextvec.reporting.figures.error_analysis import (
    error_by_length,
    error_by_similarity,
    error_histogram,
    mse_histogram,
)
from nextvec.reporting.inputs import ReportInputs
from nextvec.reporting.predicted import PredictedWindows
from reporting.answers import of_windows


@pytest.mark.parametrize(("draw", "metric"), [(error_histogram, "cosine"), (mse_histogram, "mse")])
def test_every_window_is_in_a_histogram(inputs: ReportInputs, draw, metric: str) -> None:
    drawn = draw(inputs)
    assert inputs.answers is not None
    panels = {axes.get_title(): axes for axes in drawn.axes}
    assert set(panels) == {"amn", "lstm"}
    for name, axes in panels.items():
        bars = [patch for patch in axes.patches if hasattr(patch, "get_height")]
        values = inputs.answers.values[name][metric]
        assert sum(bar.get_height() for bar in bars) == len(values)
        error = 1 - values if metric == "cosine" else values
        fullest = max(bars, key=lambda bar: bar.get_height())
        inside = (error >= fullest.get_x() - 1e-6) & (error <= fullest.get_x() + fullest.get_width() + 1e-6)
        assert inside.sum() >= fullest.get_height()


def test_without_single_errors_there_is_no_histogram(inputs: ReportInputs) -> None:
    assert inputs.answers is not None
    values = {row: {"cosine": own["cosine"]} for row, own in inputs.answers.values.items()}
    bare = replace(inputs, answers=replace(inputs.answers, values=values))
    with pytest.raises(NothingToDraw, match="no mse of single windows was kept"):
        mse_histogram(bare)
    assert error_histogram(bare).axes


def test_boxes_hold_the_errors_of_their_lengths(
    inputs: ReportInputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert inputs.answers is not None
    error = 1 - inputs.answers.values["lstm"]["cosine"]
    lengths = np.argsort(np.argsort(error)) // 5 + 6  # the worse a window, the longer its document
    monkeypatch.setattr(PredictedWindows, "lengths", property(lambda self: lengths))
    drawn = error_by_length(inputs)
    axes = next(axes for axes in drawn.axes if axes.get_title() == "lstm")
    groups = quantile_masks(lengths, 4)
    assert len(groups) > 2
    medians = [float(np.median(error[which])) for which in groups]
    levels = [line.get_ydata() for line in axes.lines]
    flat = [float(level[0]) for level in levels if len(level) == 2 and level[0] == level[1]]
    assert all(any(abs(level - median) < 1e-6 for level in flat) for median in medians)
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert labels[0].split("-")[0] == "6"
    assert labels[-1].split("-")[-1] == str(lengths.max())
    assert axes.get_ylim()[0] == 0


def test_what_was_trained_on_is_the_train_split(inputs: ReportInputs) -> None:
    assert inputs.store is not None
    train = split_documents(inputs.store, SplitConfig()).train
    documents = [inputs.store.documents[i] for i in train]
    rows = np.concatenate([np.arange(d.first, d.first + d.count) for d in documents])
    assert PredictedWindows.of(inputs).trained.tolist() == sorted(rows.tolist())


def test_similarity_to_the_training_data_is_that_of_the_nearest_chunk(inputs: ReportInputs) -> None:
    ground = PredictedWindows.of(inputs)
    assert inputs.store is not None
    trained = np.asarray(inputs.store.vectors[ground.trained])
    trained /= np.linalg.norm(trained, axis=1, keepdims=True)
    nearest = (ground.targets @ trained.T).max(axis=1)
    drawn = error_by_similarity(inputs)
    left, right = drawn.axes
    points = left.lines[0]
    assert np.sort(points.get_xdata()) == pytest.approx(np.sort(nearest), abs=1e-5)
    own, baseline = (1 - ground.answers.values[row]["cosine"] for row in (ground.best, ground.baseline))
    assert np.sort(points.get_ydata()) == pytest.approx(np.sort(own))
    leads = next(line for line in right.lines if line.get_label() == ground.best)
    groups = quantile_masks(nearest, 8)
    assert leads.get_ydata() == pytest.approx([float((baseline - own)[g].mean()) for g in groups], abs=1e-5)


def test_a_search_that_would_take_long_looks_at_fewer_windows(
    inputs: ReportInputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    ground = PredictedWindows.of(inputs)
    assert len(predicted.searchable(ground)) == len(ground)
    monkeypatch.setattr(predicted, "FEWEST_WINDOWS", 3)
    monkeypatch.setattr(predicted, "MOST_PRODUCTS", len(ground.trained) * 16 * 10)
    assert len(predicted.searchable(ground)) == 10
    assert len(predicted.searchable(ground, share=0.01)) == 3


def test_of_very_many_windows_some_are_looked_at(inputs: ReportInputs) -> None:
    assert inputs.answers is not None
    part = PredictedWindows.of(inputs, 7)
    assert len(part) == 7
    at = np.searchsorted(inputs.answers.target, part.answers.target)
    assert inputs.answers.target[at].tolist() == part.answers.target.tolist()
    same = of_windows(inputs, at).answers
    assert same is not None
    assert same.units["lstm"].tolist() == part.answers.units["lstm"].tolist()
    assert same.values["lstm"]["mse"].tolist() == part.answers.values["lstm"]["mse"].tolist()


def test_without_lists_of_what_was_trained_on(inputs: ReportInputs) -> None:
    with pytest.raises(NothingToDraw, match="no run here lists what it was trained on"):
        error_by_similarity(replace(inputs, runs=()))


def test_more_models_than_panels(inputs: ReportInputs) -> None:
    names = [f"model-{i}" for i in range(20)]
    drawn, panels = drawing.panels(names)
    assert [name for name, _ in panels] == names[:16]
    assert [text.get_text() for text in drawn.texts] == ["the best 16 of 20 models"]
