"""Every figure there is, drawn from a small matrix: whole, honest, always the same; and what they share."""

from __future__ import annotations

import io
import itertools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from PIL import Image

from nextvec.errors import ConfigError, MissingDependencyError, NothingToDraw
from nextvec.reporting import drawing
from nextvec.reporting import figures as figure
from nextvec.reporting.drawing import bars, canvas, look
from nextvec.reporting.figures import FORMATS, render, save
from nextvec.reporting.inputs import ReportInputs

PRD = {"loss_comparison", "cosine_comparison", "topk_accuracy", "params_vs_performance"}
PICTURES = Path(__file__).parent / "pictures"
SHRUNK, TOLERANCE = 4, 3.0
"""Pictures are compared in grey at a quarter of their size: how fonts are hinted does not count."""


@pytest.fixture(scope="module")
def drawn(deep_inputs: ReportInputs) -> dict[str, Figure | str]:
    """Every figure there is, or why it could not be drawn."""
    return {spec.name: found for spec, found in figure.draw(deep_inputs, set(figure.specs()))}


def test_the_figures_of_the_prd_are_there(drawn: dict[str, Figure | str]) -> None:
    assert {name for name, _ in figures(drawn)} >= PRD
    without = {name: why for name, why in drawn.items() if isinstance(why, str)}
    assert len(drawn) - len(without) > 20
    assert all(len(why.split()) > 3 for why in without.values())


def test_axes_are_labelled(drawn: dict[str, Figure | str]) -> None:
    bare = [
        f"{name}: {which} of panel {panel}"
        for name, found in figures(drawn)
        for panel, axes in enumerate(found.axes)
        for which in ("x", "y")
        if not labelled(found, axes, which)
    ]
    assert bare == []


def labelled(found: Figure, axes: Axes, which: str) -> bool:
    """By a label of its own or one it shares, or by ticks that are names; what has no axis needs none."""
    axis = getattr(axes, f"{which}axis")
    siblings = getattr(axes, f"get_shared_{which}_axes")().get_siblings(axes)
    labels = [getattr(each, f"get_{which}label")() for each in siblings]
    common = getattr(found, f"get_sup{which}label")()
    ticks = [tick.get_text() for tick in axis.get_ticklabels()]
    named = any(any(letter.isalpha() for letter in tick) for tick in ticks)
    return not axes.axison or not axis.get_visible() or any(labels) or bool(common) or named or not any(ticks)


def test_bars_start_at_zero(drawn: dict[str, Figure | str]) -> None:
    seen = 0
    for name, found in figures(drawn):
        for axes, container in itertools.product(found.axes, all_of(found, BarContainer)):
            if container not in axes.containers:
                continue
            lying = container.orientation == "horizontal"
            low, high = sorted(axes.get_xlim() if lying else axes.get_ylim())
            starts = {bar.get_x() if lying else bar.get_y() for bar in container}
            assert starts == {0.0}, name
            assert low <= 0 <= high, name
            assert (axes.get_xscale() if lying else axes.get_yscale()) == "linear", name
            seen += 1
    assert seen > 3


def test_what_is_drawn_is_finite(drawn: dict[str, Figure | str]) -> None:
    for name, found in figures(drawn):
        data = [np.asarray(line.get_xydata(), float) for axes in found.axes for line in axes.lines]
        data += [np.ma.filled(c.get_offsets(), 0.0) for axes in found.axes for c in axes.collections]
        data += [np.ma.filled(image.get_array(), 0.0) for axes in found.axes for image in axes.images]
        data += [np.array([b.get_width(), b.get_height()]) for c in all_of(found, BarContainer) for b in c]
        assert data, name
        assert not any(np.isinf(values).any() for values in data), name
        assert any(np.isfinite(values).any() for values in data), name


def test_titles_and_captions_say_something(drawn: dict[str, Figure | str]) -> None:
    for spec in figure.specs().values():
        assert spec.title, spec.name
        assert spec.caption.endswith("."), spec.name
        assert set(spec.needs) <= {"rows", "histories", "answers", "store", "deep"}, spec.name
        assert spec.name in drawn


SOME = ["cosine_comparison", "topk_accuracy", "loss_comparison", "prediction_map", "error_histogram"]


@pytest.mark.parametrize("names", [SOME, pytest.param(None, marks=pytest.mark.slow)])
def test_the_same_material_gives_the_same_bytes(
    deep_inputs: ReportInputs, matrix: Path, names: list[str] | None
) -> None:
    again = ReportInputs.of(matrix, deep=True)
    several = zip(figure.draw(deep_inputs, names), figure.draw(again, names), strict=True)
    drawn = [(spec.name, one, two) for (spec, one), (_, two) in several if isinstance(one, Figure)]
    assert len(drawn) >= len(SOME)
    for name, one, two in drawn:
        assert isinstance(two, Figure)
        assert [render(one, form) for form in FORMATS] == [render(two, form) for form in FORMATS], name


def test_what_cannot_be_drawn_is_said(interrupted_matrix: Path) -> None:
    found = {spec.name: result for spec, result in figure.draw(ReportInputs.of(interrupted_matrix))}
    assert isinstance(found["loss_comparison"], Figure)
    assert found["cosine_comparison"] == ReportInputs.of(interrupted_matrix).missing["rows"]


def test_an_unknown_figure_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no figure 'nonsense'; choose of: .*loss_comparison"):
        figure.chosen(["loss_comparison", "nonsense"])
    assert [spec.name for spec in figure.chosen(["loss_comparison"])] == ["loss_comparison"]
    assert figure.chosen([]) == []


def test_without_matplotlib_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependencyError, match=r"nextvec\[figures\]"):
        figure.specs()


def test_a_figure_that_finds_nothing_is_left_out(
    inputs: ReportInputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    figure.specs()
    monkeypatch.setattr(figure, "_SPECS", dict(figure._SPECS))

    @figure.figure()
    def empty(inputs: ReportInputs) -> Figure:
        """Empty.

        Nothing.
        """
        raise NothingToDraw("there is nothing in it")

    ((spec, result),) = figure.draw(inputs, ["empty"])
    assert (spec.name, spec.title, spec.caption) == ("empty", "Empty", "Nothing.")
    assert (spec.section, result) == (__name__.rpartition(".")[2], "there is nothing in it")


def test_every_model_looks_different(fifteen: ReportInputs) -> None:
    looks = [look(fifteen, name) for name in fifteen.trained]
    assert len({(each.colour, each.marker) for each in looks}) == 15
    assert len({(each.colour, str(each.line)) for each in looks}) == 15
    assert look(fifteen, "copy-last").colour not in {each.colour for each in looks}


def test_files_are_written(inputs: ReportInputs, tmp_path: Path) -> None:
    drawn = some_bars(inputs)
    files = save(drawn, tmp_path / "plots", "some")
    assert {path.name: path.read_bytes() for path in (tmp_path / "plots").iterdir()} == {
        f"some.{form}": content for form, content in files.items()
    }
    assert b"<dc:date>" not in files["svg"]
    assert b"matplotlib.org" not in files["png"] + files["svg"]


@pytest.mark.parametrize("name", ["bars", "topk_accuracy"])
def test_it_looks_as_it_did(fifteen: ReportInputs, name: str, tmp_path: Path) -> None:
    """Where a figure is meant to look different now, put the picture that this leaves in place of the old."""
    if name == "bars":
        drawn = some_bars(fifteen)
    else:
        ((_, drawn),) = figure.draw(fifteen, [name])
    found = Image.open(io.BytesIO(render(drawn, "png"))).convert("L").reduce(SHRUNK)
    found.save(tmp_path / f"{name}.png", optimize=True)
    expected = Image.open(PICTURES / f"{name}.png")
    assert found.size == expected.size, tmp_path
    difference = np.abs(np.asarray(found, float) - np.asarray(expected, float)).mean()
    assert difference < TOLERANCE, f"{difference:.1f} of 255 from {name}.png; see {tmp_path}"


def some_bars(inputs: ReportInputs) -> Figure:
    """Bars of both kinds, with intervals."""
    import matplotlib

    rows = inputs.rows
    with matplotlib.rc_context(drawing.STYLE):
        drawn, axes = canvas(height=drawing.bar_height([row["name"] for row in rows]))
        values = [row["cosine"] for row in rows]
        bars(axes, inputs, [r["name"] for r in rows], values, [(v - 0.05, v + 0.02) for v in values])
        axes.set_xlabel("cosine")
    return drawn


def test_bars_below_zero_are_shown_whole(fifteen: ReportInputs) -> None:
    drawn, axes = canvas()
    bars(axes, fifteen, ["copy-last", "model-3"], [-0.5, -0.2])
    assert axes.get_xlim()[0] < -0.5
    assert axes.get_xlim()[1] == 0
    _, axes = canvas()
    bars(axes, fifteen, ["copy-last"], [0.0])
    assert axes.get_xlim() == (0, 1)
    assert drawn.axes


@pytest.fixture
def fifteen() -> ReportInputs:
    """A table of fifteen models and two baselines, with figures made up."""
    names = ["copy-last", "linear average", *(f"model-{i}" for i in range(15))]
    rows = [
        {
            "name": name,
            "kind": "baseline" if i < 2 else "model",
            "cosine": 0.3 + i / 50,
            **{f"recall@{k}": min(k / 60 + i / 100, 1.0) for k in (1, 5, 10, 20, 50)},
            "mrr": 0.1 + i / 50,
            "versus_best_baseline": {},
        }
        for i, name in enumerate(names)
    ]
    metrics = ("cosine", "mrr", *(f"recall@{k}" for k in (1, 5, 10, 20, 50)))
    table = {
        "rows": rows,
        "best_baseline": dict.fromkeys(metrics, "linear average"),
        "chance": {f"recall@{k}": k / 100 for k in (1, 5, 10, 20, 50)},
    }
    return ReportInputs(Path("made-up"), "matrix", (), table, None, None, None)


def figures(drawn: dict[str, Figure | str]) -> list[tuple[str, Figure]]:
    return [(name, found) for name, found in drawn.items() if isinstance(found, Figure)]


def all_of(found: Figure, kind: type[Any]) -> list[Any]:
    return [each for axes in found.axes for each in axes.containers if isinstance(each, kind)]
