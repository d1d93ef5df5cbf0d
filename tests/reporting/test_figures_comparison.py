"""The figures that compare predictors show the table, its intervals and its best baseline."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.colors import to_hex

from nextvec.errors import NothingToDraw
from nextvec.reporting.drawing import BEST_BASELINE, beside_best, best_baseline
from nextvec.reporting.figures.comparison import (
    cosine_comparison,
    efficiency,
    latency_vs_performance,
    mse_comparison,
    params_vs_performance,
    pareto_front,
    recall_comparison,
    results,
    topk_accuracy,
    training_time_vs_performance,
)
from nextvec.reporting.inputs import ReportInputs

COSTS = {
    params_vs_performance: "parameters",
    training_time_vs_performance: "seconds",
    latency_vs_performance: "latency_p50_ms",
}


@pytest.mark.parametrize(
    ("draw", "metric", "falling"),
    [
        (cosine_comparison, "cosine", True),
        (mse_comparison, "mse", False),
        (recall_comparison, "recall@5", True),
    ],
)
def test_bars_are_the_table_best_first(inputs: ReportInputs, draw: Any, metric: str, falling: bool) -> None:
    axes, differences = draw(inputs).axes
    values = {row["name"]: row[metric] for row in inputs.rows}
    names = tick_names(axes)
    assert sorted(names) == sorted(values)
    widths = [bar.get_width() for bar in axes.patches]
    assert widths == [values[name] for name in names]
    assert widths == sorted(values.values(), reverse=falling)
    best = best_baseline(inputs, metric)
    assert best is not None
    marked = [
        names[i] for i, bar in enumerate(axes.patches) if to_hex(bar.get_facecolor()) == BEST_BASELINE.lower()
    ]
    assert marked == [best["name"]]
    assert best[metric] in [line.get_xdata()[0] for line in axes.lines]
    assert f"{'right' if falling else 'left'} is better" in differences.get_xlabel()


def test_differences_are_those_of_the_table(inputs: ReportInputs) -> None:
    axes, differences = cosine_comparison(inputs).axes
    rows = {row["name"]: row for row in inputs.rows}
    low, high = differences.get_xlim()
    points = {place: (x, container) for container in differences.containers
              for x, place in [container.lines[0].get_xydata()[0]]}  # fmt: skip
    beyond = {round(text.get_position()[1]): text.get_text() for text in differences.texts}
    for place, name in enumerate(tick_names(axes)):
        interval = rows[name]["versus_best_baseline"].get("cosine")
        if interval is None:
            assert place not in points | beyond
        elif place in points:
            x, container = points[place]
            assert x == interval["difference"]
            (segment,) = container.lines[2][0].get_segments()
            assert segment[:, 0] == pytest.approx([interval["low"], interval["high"]])
            hollow = container.lines[0].get_fillstyle() == "none"
            assert hollow == (interval["better"] is None)
        else:
            assert not low < interval["difference"] < high
            assert f"{interval['difference']:+.3g}" in beyond[place]
    models = [place for place, name in enumerate(tick_names(axes)) if rows[name]["kind"] == "model"]
    assert set(models) <= set(points)
    seeds = [line for line in differences.lines if line.get_marker() == "|" and line.get_markersize() == 9]
    assert [len(line.get_xdata()) for line in seeds] == [2] * len(models)


@given(low=st.floats(-1, 1), width=st.floats(0.01, 1))
def test_a_whisker_reaches_over_the_line_where_nothing_is_clear(low: float, width: float) -> None:
    versus = {"cosine": {"difference": low + width / 2, "low": low, "high": low + width}}
    best = {"name": "copy-last", "kind": "baseline", "cosine": 0.25, "versus_best_baseline": {}}
    row = {"name": "gru", "kind": "model", "cosine": 0.25 + low + width / 2, "versus_best_baseline": versus}
    made = made_of([best, row], {"cosine": "copy-last"})
    left, right = beside_best(made, row, "cosine")
    assert left <= row["cosine"] <= right
    clear = low > 1e-9 or low + width < -1e-9
    assert clear == (not left - 1e-9 <= best["cosine"] <= right + 1e-9)
    assert beside_best(made, best, "cosine") == (0.25, 0.25)


def test_without_intervals_there_are_bars_only(inputs: ReportInputs) -> None:
    rows = [{**row, "versus_best_baseline": {}} for row in inputs.rows]
    assert len(cosine_comparison(with_rows(inputs, rows)).axes) == 1
    alone = [row for row in rows if row["kind"] == "model"][:1]
    (axes,) = cosine_comparison(with_rows(inputs, alone, best={})).axes
    assert [bar.get_width() for bar in axes.patches] == [alone[0]["cosine"]]


def test_a_figure_that_no_row_has_is_not_drawn(inputs: ReportInputs) -> None:
    with pytest.raises(NothingToDraw, match="no predictor has a figure by recall@5"):
        recall_comparison(with_rows(inputs, without(inputs.rows, "recall@5")))


def test_results_show_the_same_rows_by_cosine_and_rank(inputs: ReportInputs) -> None:
    cosine, rank = results(inputs).axes
    names = tick_names(cosine)
    by_name = {row["name"]: row for row in inputs.rows}
    assert [bar.get_width() for bar in cosine.patches] == [by_name[name]["cosine"] for name in names]
    assert [bar.get_width() for bar in rank.patches] == [by_name[name]["recall@5"] for name in names]
    few = results(with_rows(inputs, without(inputs.rows, "recall@5"))).axes[1]
    assert few.get_xlabel() == "mean reciprocal rank of the true next chunk"
    assert [bar.get_width() for bar in few.patches] == [by_name[name]["mrr"] for name in names]


def test_the_heat_map_holds_every_recall(inputs: ReportInputs) -> None:
    axes, bar = topk_accuracy(inputs).axes
    rows = sorted(inputs.rows, key=lambda row: -row["mrr"])
    names = tick_names(axes)
    assert names == [*(row["name"] for row in rows), "chance"]
    assert inputs.table is not None
    ks = [int(label) for label in labels_of(axes, "x")]
    assert [f"recall@{k}" for k in ks] == [m for m in inputs.table["chance"] if m != "mrr"]
    cells = {(text.get_position()[1] - 0.5, text.get_position()[0] - 0.5): text for text in axes.texts}
    assert len(cells) == len(names) * len(ks)
    for place, row in enumerate([*rows, {"versus_best_baseline": {}, **inputs.table["chance"]}]):
        for column, k in enumerate(ks):
            text, metric = cells[place, column], f"recall@{k}"
            assert text.get_text().startswith(f"{row[metric]:.3f}")
            sign = {True: "+", False: "\N{MINUS SIGN}", None: " "}
            assert text.get_text()[-1] == sign[row["versus_best_baseline"].get(metric, {}).get("better")]
            assert (text.get_weight() == "bold") == (row is best_baseline(inputs, metric))
    assert bar.get_ylim() == (0, 1)


def test_a_heat_map_of_other_ranks_or_of_none(inputs: ReportInputs) -> None:
    assert inputs.table is not None
    rows = without(inputs.rows, *(f"recall@{k}" for k in (1, 5, 20, 50)))
    few = replace(inputs, table={**inputs.table, "rows": rows, "chance": {"recall@10": 0.1, "mrr": 0.1}})
    assert labels_of(topk_accuracy(few).axes[0], "x") == ["10"]
    with pytest.raises(NothingToDraw, match="too few candidates"):
        topk_accuracy(replace(few, table={**few.table, "chance": {"mrr": 0.1}}))


@pytest.mark.parametrize("draw", COSTS)
def test_every_model_stands_where_its_cost_and_cosine_are(inputs: ReportInputs, draw: Any) -> None:
    (axes,) = draw(inputs).axes
    points = {c.get_label(): tuple(c.lines[0].get_xydata()[0]) for c in axes.containers}
    for row in inputs.models:
        assert points[row["name"]] == (row[COSTS[draw]], row["cosine"])
    assert axes.get_xscale() == "log"
    best = best_baseline(inputs, "cosine")
    assert best is not None
    assert [best["cosine"]] * 2 in [list(line.get_ydata()) for line in axes.lines]


def test_what_lies_below_the_axis_is_named(inputs: ReportInputs) -> None:
    low = {"random": -0.9, "mean vector": -0.8}
    rows = [{**row, "cosine": low.get(row["name"], row["cosine"])} for row in inputs.rows]
    (axes,) = latency_vs_performance(with_rows(inputs, rows)).axes
    shown = {container.get_label() for container in axes.containers}
    assert shown == {row["name"] for row in rows} - set(low)
    message = axes.get_xlabel().replace("\n", " ")
    assert message.endswith("below the axis: random -0.900, mean vector -0.800")


@given(st.lists(st.tuples(st.floats(0.1, 9), st.floats(-1, 1)), min_size=1, max_size=12))
def test_nothing_is_faster_and_better_than_the_front(points: list[tuple[float, float]]) -> None:
    rows = [{"name": str(i), "ms": ms, "cosine": cosine} for i, (ms, cosine) in enumerate(points)]
    front = pareto_front(rows, "ms")
    for one in front:
        assert not any(
            other["ms"] <= one["ms"] and other["cosine"] >= one["cosine"]
            and (other["ms"], other["cosine"]) != (one["ms"], one["cosine"])
            for other in rows
        )  # fmt: skip
    for row in rows:
        assert any(one["ms"] <= row["ms"] and one["cosine"] >= row["cosine"] for one in front)


def test_what_was_not_measured_is_said(inputs: ReportInputs) -> None:
    slow = with_rows(inputs, without(inputs.rows, "latency_p50_ms"))
    with pytest.raises(NothingToDraw, match="a latency above 0 is in no row"):
        latency_vs_performance(slow)
    with pytest.raises(NothingToDraw, match="a number of parameters above 0 is in no row"):
        efficiency(with_rows(inputs, inputs.baselines))


def test_efficiency_is_cosine_over_millions_of_parameters(inputs: ReportInputs) -> None:
    (axes,) = efficiency(inputs).axes
    found = dict(zip(tick_names(axes), (bar.get_width() for bar in axes.patches), strict=True))
    assert found == {r["name"]: pytest.approx(r["cosine"] * 1e6 / r["parameters"]) for r in inputs.models}
    assert list(found.values()) == sorted(found.values(), reverse=True)


def made_of(rows: list[dict[str, Any]], best: dict[str, str]) -> ReportInputs:
    return ReportInputs(
        Path("made-up"), "matrix", (), {"rows": rows, "best_baseline": best}, None, None, None
    )


def with_rows(
    inputs: ReportInputs, rows: list[dict[str, Any]], best: dict[str, str] | None = None
) -> ReportInputs:
    """The inputs with other rows in its table and, if given, other best baselines."""
    assert inputs.table is not None
    table = {**inputs.table, "rows": rows}
    return replace(inputs, table=table if best is None else {**table, "best_baseline": best})


def without(rows: list[dict[str, Any]], *metrics: str) -> list[dict[str, Any]]:
    """The rows as they are where these figures are not known."""
    return [{key: deepcopy(value) for key, value in row.items() if key not in metrics} for row in rows]


def tick_names(axes: Axes) -> list[str]:
    """The rows, from top to bottom."""
    return labels_of(axes, "y")


def labels_of(axes: Axes, which: str) -> list[str]:
    """What is written at the ticks of an axis."""
    return [tick.get_text() for tick in getattr(axes, f"get_{which}ticklabels")()]
