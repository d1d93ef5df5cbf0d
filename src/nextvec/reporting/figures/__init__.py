"""The figures: how they are found, what they may need, how they are written.

A figure is a function from the inputs to a matplotlib `Figure`, in a module here; nothing else names it:

    @figure("rows")
    def cosine_comparison(inputs: ReportInputs) -> Figure:
        \"\"\"Cosine by model.

        Cosine to the true next vector. The dashed line is the best baseline.
        \"\"\"
        names = [row["name"] for row in inputs.rows]
        drawn, axes = canvas(height=bar_height(names))
        bars(axes, inputs, names, [row["cosine"] for row in inputs.rows])
        axes.set_xlabel("cosine to the true next vector")
        return drawn

Its docstring is its title and its caption: how to read it, in a sentence or two, and what is read aloud in
the picture's place. It stands in the section of the report that its module is called after. It takes no
state of pyplot, so that figures can be drawn in any order, and gives the same bytes for the same inputs.
Where the inputs are there but hold nothing to draw (no model with confidence, one epoch), it raises
`NothingToDraw` with the reason.
What has thousands of points is drawn with `rasterized=True`, so that the SVG stays small.
"""

from __future__ import annotations

import inspect
import io
import pkgutil
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from nextvec.disk import atomic_path
from nextvec.errors import ConfigError, MissingDependencyError, NothingToDraw
from nextvec.reporting.drawing import STYLE
from nextvec.reporting.inputs import Need, ReportInputs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Draw = Callable[[ReportInputs], "Figure"]
Format = Literal["svg", "png"]
FORMATS: tuple[Format, ...] = ("svg", "png")


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


_SPECS: dict[str, Spec] = {}


def figure(
    *needs: Need,
    name: str | None = None,
    section: str | None = None,
    on_request: bool = False,
    **values: object,
) -> Callable[[Draw], Draw]:
    """Register a figure under the title and the caption in its docstring.

    Args:
        needs: which of the inputs must be there (`ReportInputs.missing` says why it is not).
        name: of its files, and on the command line; by default that of the function.
        section: of the page; by default the name of the module.
        on_request: only drawn when asked for by name.
        values: written into the caption in the place of their names in braces.
    """

    def register(draw: Draw) -> Draw:
        called, stands_in = name or draw.__name__, section or draw.__module__.rpartition(".")[2]
        assert called not in _SPECS, f"two figures are called {called}"
        title, _, caption = inspect.cleandoc(draw.__doc__ or "").partition(".\n")
        caption = " ".join(caption.split()).format(**values)
        _SPECS[called] = Spec(called, title, caption, needs, stands_in, draw, on_request)
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
        remedy = "install nextvec[figures], or report with --figures none"
        raise MissingDependencyError("figures need matplotlib", remedy=remedy) from None
    for module in sorted(found.name for found in pkgutil.iter_modules(__path__)):
        import_module(f"{__name__}.{module}")
    return dict(_SPECS)


def chosen(names: Collection[str] | None = None) -> list[Spec]:
    """The figures of these names; where no names are given all but those on request.

    Raises:
        ConfigError: a name that no figure has.
    """
    known = specs()
    for name in names or ():
        if name not in known:
            message = f"no figure '{name}'"
            raise ConfigError(message, where="--figures", remedy=f"choose of: {', '.join(known)}")
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
