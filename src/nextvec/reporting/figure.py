"""What every figure shares: how it is found, what it may need, how it looks, how it is written.

A figure is a function from the inputs to a matplotlib `Figure`, in a module of `nextvec.reporting.figures`:

    @figure(
        "cosine_comparison",
        title="Cosine by model",
        caption="Cosine to the true next vector. The dashed line is the best baseline.",
        needs=("rows",),
    )
    def cosine_comparison(inputs: ReportInputs) -> Figure:
        names = [row["name"] for row in inputs.rows]
        drawn, axes = canvas(height=bar_height(names))
        bars(axes, inputs, names, [row["cosine"] for row in inputs.rows])
        axes.set_xlabel("cosine to the true next vector")
        return drawn

It stands in the section that its module is called after. It takes no state of pyplot, so that figures can
be drawn in any order, and gives the same bytes for the same inputs. Where the inputs are there but nothing in
it to draw (no model with confidence, one epoch), it raises `NothingToDraw` with the reason in words. What has
thousands of points is drawn with `rasterized=True`, so that the SVG stays small.
"""

from __future__ import annotations

import io
import pkgutil
import re
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nextvec.disk import atomic_path
from nextvec.errors import ConfigError, MissingDependencyError, NextvecError
from nextvec.reporting import figures
from nextvec.reporting.inputs import Need, ReportInputs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.container import BarContainer
    from matplotlib.figure import Figure

Draw = Callable[[ReportInputs], "Figure"]
Format = Literal["svg", "png"]
FORMATS: tuple[Format, ...] = ("svg", "png")

# Okabe and Ito, without black and yellow: safe for colour-blind readers, and to be seen on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", (0, (5, 1.5)), (0, (1, 1)))
BASELINE, BEST_BASELINE, INK = "#8C8C8C", "#4D4D4D", "#222222"
WIDTH = 7.0
LINE = 28
_AXIS_END = re.compile(r"(?<=-)(?=[A-Za-z_])")
STYLE: Any = {
    "figure.facecolor": "white",
    "figure.dpi": 100,
    "savefig.facecolor": "white",
    "savefig.dpi": 150,
    "figure.constrained_layout.use": True,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.4,
    "lines.markersize": 5,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "text.parse_math": False,  # names and texts are not ours: a $ in them is a $
    "image.cmap": "cividis",
    "svg.fonttype": "none",
    "svg.hashsalt": "nextvec",
}
"""Light in the light and in the dark: a figure brings its own white ground."""


class NothingToDraw(NextvecError):  # noqa: N818 - the report prints its reason; nothing went wrong
    """The inputs hold nothing that this figure could show."""


@dataclass(frozen=True)
class Spec:
    """A figure that can be drawn: its file name, what is said of it, what it needs, the section it is in."""

    name: str
    title: str
    caption: str
    needs: tuple[Need, ...]
    section: str
    draw: Draw
    on_request: bool = False


@dataclass(frozen=True)
class Look:
    """How one row of the table is drawn in every figure: a colour, a marker and a line that no other has."""

    colour: str
    marker: str
    line: Any


_SPECS: dict[str, Spec] = {}


def figure(
    name: str, *, title: str, caption: str, needs: Sequence[Need], on_request: bool = False
) -> Callable[[Draw], Draw]:
    """Register a figure.

    Args:
        name: of its files, and on the command line.
        title: what it shows, in a few words.
        caption: how to read it, in a sentence or two; also what is read aloud in the picture's place.
        needs: which of the inputs must be there (`ReportInputs.missing` says why it is not).
        on_request: only drawn when asked for by name.
    """

    def register(draw: Draw) -> Draw:
        assert name not in _SPECS, f"two figures are called {name}"
        section = draw.__module__.rpartition(".")[2]
        _SPECS[name] = Spec(name, title, caption, tuple(needs), section, draw, on_request)
        return draw

    return register


def specs() -> dict[str, Spec]:
    """Every figure by name: of all modules of `nextvec.reporting.figures`, in the order they stand there.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401 - asked for here, once, in place of in every module
    except ImportError:
        raise MissingDependencyError(
            "figures need matplotlib", remedy="install nextvec[figures], or report with --figures none"
        ) from None
    for module in sorted(found.name for found in pkgutil.iter_modules(figures.__path__)):
        import_module(f"{figures.__name__}.{module}")
    return dict(_SPECS)


def chosen(names: Collection[str] | None = None) -> list[Spec]:
    """The figures of these names; where no names are given all but those on request.

    Raises:
        ConfigError: a name that no figure has.
    """
    known = specs()
    for name in names or ():
        if name not in known:
            raise ConfigError(
                f"no figure '{name}'", where="--figures", remedy=f"choose of: {', '.join(known)}"
            )
    return [spec for spec in known.values() if (not spec.on_request if names is None else spec.name in names)]


def draw(inputs: ReportInputs, names: Collection[str] | None = None) -> Iterator[tuple[Spec, Figure | str]]:
    """Draw figures one after the other: those `chosen`.

    Yields: the figure with its picture or, in the picture's place, the reason in words why there is none.
    """
    import matplotlib

    for spec in chosen(names):
        reason = inputs.lacks(spec.needs)
        if reason is not None:
            yield spec, reason
            continue
        with matplotlib.rc_context(STYLE):
            try:
                drawn = spec.draw(inputs)
            except NothingToDraw as e:
                yield spec, str(e)
                continue
            lay_out(drawn)
        yield spec, drawn


def lay_out(drawn: Figure) -> None:
    """Find a place for everything, once for all formats: it takes longer than the drawing."""
    with _any_letters():
        drawn.draw_without_rendering()
    drawn.set_layout_engine("none")


@contextmanager
def _any_letters() -> Iterator[None]:
    """Texts of any language: the SVG has the letters, the PNG a box for those that the font lacks."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        yield


def render(drawn: Figure, form: Format) -> bytes:
    """The file of a figure: the same bytes for the same figure, with neither date nor version in it."""
    import matplotlib

    file = io.BytesIO()
    unsaid = {"svg": ("Date", "Creator"), "png": ("Software",)}[form]
    with matplotlib.rc_context(STYLE), _any_letters():
        drawn.savefig(file, format=form, metadata=dict.fromkeys(unsaid))
    return file.getvalue()


def save(drawn: Figure, folder: Path, name: str) -> dict[Format, bytes]:
    """Write `folder`/`name`.svg and .png, atomically; returns what was written."""
    files = {form: render(drawn, form) for form in FORMATS}
    for form, content in files.items():
        with atomic_path(folder / f"{name}.{form}") as path:
            path.write_bytes(content)
    return files


def canvas(
    *, width: float = WIDTH, height: float = 3.6, rows: int = 1, columns: int = 1, **options: Any
) -> tuple[Figure, Any]:
    """An empty figure in inches and its axes: one, or an array [rows, columns] of them (`options` as
    sharex, sharey)."""
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height))
    return made, made.subplots(rows, columns, squeeze=rows == columns == 1, **options)


def look(inputs: ReportInputs, row: str) -> Look:
    """How a row is drawn: a model in a colour and marker of its own, a baseline in grey and dashed."""
    if row not in inputs.trained:
        names = [each["name"] for each in inputs.baselines]
        at = names.index(row) if row in names else 0
        return Look(BASELINE, MARKERS[at % len(MARKERS)], "--")
    at = inputs.trained.index(row)
    line = LINES[at // len(COLOURS) % len(LINES)]
    return Look(COLOURS[at % len(COLOURS)], MARKERS[at % len(MARKERS)], line)


def bar_height(names: Sequence[str], *, panels: int = 1) -> float:
    """Inches that so many bars under each other need."""
    lines = max((wrapped(name).count("\n") + 1 for name in names), default=1)
    return panels * ((0.1 + 0.14 * lines) * len(names) + 1.0)


def wrapped(name: str) -> str:
    """The name of a row in lines of at most 28 characters, broken where one axis of a matrix ends."""
    lines = [""]
    for part in _AXIS_END.split(name):
        if lines[-1] and len(lines[-1] + part) > LINE:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def bars(
    axes: Axes,
    inputs: ReportInputs,
    names: Sequence[str],
    values: Sequence[float],
    spread: Sequence[tuple[float, float]] | None = None,
    *,
    best: str | None = None,
) -> BarContainer:
    """Bars from left to right, one a row of the table, the first on top. They start at 0 in any case.

    Baselines are hatched. Models have their colours while no two have the same; more of them share one.
    The legend may tell which is which.

    Args:
        spread: (low, high) of each value: the interval that is drawn over its bar; NaN draws none.
        best: the baseline to be marked.
    """
    places = range(len(names))
    apart = len(inputs.trained) <= len(COLOURS)
    colours = [
        BEST_BASELINE if name == best else look(inputs, name).colour
        if apart or name not in inputs.trained else COLOURS[0] for name in names
    ]  # fmt: skip
    kinds = [
        "best baseline" if name == best else "baseline" if name not in inputs.trained
        else "_" if apart else "model" for name in names
    ]  # fmt: skip
    hatches = ["" if name in inputs.trained else "///" for name in names]
    low_high = None
    if spread is not None:
        pairs = zip(values, spread, strict=True)
        low_high = tuple(zip(*((max(v - low, 0), max(high - v, 0)) for v, (low, high) in pairs), strict=True))
    made = axes.barh(places, values, color=colours, hatch=hatches, edgecolor="white", linewidth=0.4,
                     xerr=low_high, error_kw={"ecolor": INK, "elinewidth": 1, "capsize": 2},
                     label=kinds)  # fmt: skip
    axes.set_yticks(places, [wrapped(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    least, most = min([0, *values]), max([0, *values])
    if least == 0:
        axes.set_xlim(left=0)
    if most == 0:
        axes.set_xlim(right=0 if least else 1)
    return made
