"""The figures of training show the histories as they were written."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes

from nextvec.experiments.runs import RunFolder
from nextvec.reporting.figures.training import (
    cosine_curves,
    gradient_norms,
    kept_epoch,
    loss_comparison,
    lr_schedule,
    validation_loss,
)
from nextvec.reporting.inputs import ReportInputs


@pytest.mark.parametrize(("draw", "figure"), [(loss_comparison, "loss"), (cosine_curves, "cosine")])
@pytest.mark.parametrize(("panel", "part"), [(0, "train"), (1, "validation")])
def test_a_line_is_the_mean_of_its_seeds(
    inputs: ReportInputs, draw: Any, figure: str, panel: int, part: str
) -> None:
    axes = draw(inputs).axes[panel]
    for row in inputs.trained:
        seeds = [[line[part][figure] for line in run.history] for run in inputs.runs_of(row)]
        assert drawn_line(axes, row) == pytest.approx(np.mean(seeds, axis=0))
        thin = [list(line.get_ydata()) for line in axes.lines if line.get_label().startswith("_")]
        assert all(seed in thin for seed in seeds)


def test_a_seed_that_stopped_early_does_not_bend_the_mean(inputs: ReportInputs) -> None:
    first, *others = inputs.runs_of("lstm")
    short = replace(first, history=first.history[:1])
    part = replace(inputs, runs=(short, *others))
    assert len(drawn_line(cosine_curves(part).axes[1], "lstm")) == 1
    longest = max(len(line.get_ydata()) for line in cosine_curves(part).axes[1].lines)
    assert longest == len(others[0].history) > 1


def test_losses_that_cannot_be_compared_are_apart(inputs: ReportInputs) -> None:
    assert labels(loss_comparison(inputs).axes) == ["loss (mse)"]
    huber = changed(inputs, "lstm", loss={"huber": 0.5}, terms=("huber",))
    drawn = loss_comparison(huber)
    assert labels(drawn.axes) == ["loss (mse)", "loss (0.5 huber)"]
    shown = [{line.get_label() for line in axes.lines} & {"amn", "lstm"} for axes in drawn.axes]
    assert shown == [{"amn"}, {"amn"}, {"lstm"}, {"lstm"}]


def test_options_are_said_where_terms_do_not_tell_losses_apart(inputs: ReportInputs) -> None:
    other = changed(inputs, "lstm", loss={"huber_delta": 2.0}, terms=("mse",))
    assert [label.replace("\n", " ") for label in labels(loss_comparison(other).axes)] == [
        "loss (mse, huber_delta 1.0)",
        "loss (mse, huber_delta 2.0)",
    ]


def test_the_kept_epoch_is_the_best_by_what_the_run_selects(inputs: ReportInputs) -> None:
    lines = [
        {"epoch": 1, "validation": {"cosine": 0.5, "loss": 1.0}},
        {"epoch": 2, "validation": {"cosine": 0.7, "loss": 3.0}},
        {"epoch": 3, "validation": {"cosine": 0.7, "loss": 2.0}},
    ]
    run = replace(inputs.runs[0], history=tuple(lines))
    assert kept_epoch(run)["epoch"] == 2
    assert kept_epoch(replace(run, config={"optim": {"select": "loss"}}))["epoch"] == 1
    for each in inputs.runs:
        assert each.result is not None
        assert kept_epoch(each)["epoch"] == each.result["epoch"]


def test_bars_of_validation_loss_are_ordered_and_written(inputs: ReportInputs) -> None:
    (axes,) = validation_loss(inputs).axes
    seeds = {
        row: [kept_epoch(run)["validation"]["mse"] for run in inputs.runs_of(row)] for row in inputs.trained
    }
    expected = sorted(float(np.mean(values)) for values in seeds.values())
    assert [bar.get_width() for bar in axes.patches] == pytest.approx(expected)
    assert {text.get_text() for text in axes.texts} == {f"{value:.6f}" for value in expected}
    (whiskers,) = [c for c in axes.collections if hasattr(c, "get_segments")]
    reach = sorted((low, high) for (low, _), (high, _) in whiskers.get_segments())
    assert reach == [pytest.approx((min(v), max(v))) for v in sorted(seeds.values())]


def test_the_same_schedule_is_one_line(inputs: ReportInputs) -> None:
    (axes,) = lr_schedule(inputs).axes
    assert len(axes.lines) == 1
    assert axes.lines[0].get_label() == "amn\nlstm"
    assert list(axes.lines[0].get_ydata()) == [line["lr"] for line in inputs.runs[0].history]
    assert axes.get_ylim()[0] == 0
    run = inputs.runs[0]
    lines = tuple({**line, "lr": 2 * line["lr"]} for line in run.history)
    other = replace(inputs, runs=(replace(run, history=lines), *inputs.runs[1:]))
    assert len(lr_schedule(other).axes[0].lines) == 2


def test_gradient_norms_stand_beside_where_they_are_clipped(inputs: ReportInputs) -> None:
    (axes,) = gradient_norms(inputs).axes
    clip = inputs.runs[0].config["optim"]["clip"]
    assert clip > 0
    assert list(drawn_line(axes, f"clipped at {clip:g}")) == [clip, clip]
    assert axes.get_yscale() == "log"
    unclipped = [
        replace(run, config={**run.config, "optim": {**run.config["optim"], "clip": 0.0}})
        for run in inputs.runs
    ]
    (axes,) = gradient_norms(replace(inputs, runs=tuple(unclipped))).axes
    assert not any("clipped" in str(line.get_label()) for line in axes.lines)


def test_one_epoch_and_runs_without_any_are_enough(interrupted_matrix: Any, inputs: ReportInputs) -> None:
    found = ReportInputs.of(interrupted_matrix)
    for draw in (loss_comparison, cosine_curves, lr_schedule, gradient_norms, validation_loss):
        assert draw(found).axes
    assert len(drawn_line(cosine_curves(found).axes[0], "lstm")) == 1


def test_hundreds_of_epochs_get_a_dozen_markers(inputs: ReportInputs) -> None:
    run = inputs.runs[0]
    lines = tuple({**run.history[0], "epoch": epoch} for epoch in range(1, 501))
    axes = cosine_curves(replace(inputs, runs=(replace(run, history=lines),))).axes[0]
    (line,) = [line for line in axes.lines if line.get_label() == run.row]
    assert len(range(0, 500, line.get_markevery())) <= 12


def changed(inputs: ReportInputs, row: str, *, loss: dict[str, Any], terms: tuple[str, ...]) -> ReportInputs:
    """The inputs with another loss in the runs of a row."""

    def other(run: RunFolder) -> RunFolder:
        lines = [
            {**line, "train": {"loss": 1.0, "cosine": 0.1, **{f"loss.{term}": 1.0 for term in terms}}}
            for line in run.history
        ]
        config = {**run.config, "loss": {**run.config["loss"], **loss}}
        return replace(run, config=config, history=tuple(lines))

    runs = tuple(other(run) if run.row == row else run for run in inputs.runs)
    return replace(inputs, runs=runs)


def drawn_line(axes: Axes, label: str) -> list[float]:
    """What is drawn under a label."""
    (line,) = [line for line in axes.lines if line.get_label() == label]
    return list(line.get_ydata())


def labels(axes: list[Axes]) -> list[str]:
    """What stands beside the y axes."""
    return [label for each in axes if (label := each.get_ylabel())]
