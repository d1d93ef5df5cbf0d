"""The curve of a document's surprise as a picture."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

from nextvec.disk import atomic_path
from nextvec.errors import ConfigError, MissingDependencyError
from nextvec.experiments.surprise import Surprises

FORMATS = ("svg", "png")
LINE, BOUNDARY, PEAK = "#0072B2", "#999999", "#D55E00"  # Okabe and Ito: safe for colour-blind readers


def require_figure(path: Path) -> None:
    """Said before the work. Raises ConfigError for another format, MissingDependencyError."""
    if path.suffix[1:] not in FORMATS or path.is_dir():
        raise ConfigError(
            f"{path} is no .svg or .png file", where="--figure", remedy="give FILE.svg or FILE.png"
        )
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingDependencyError(
            "a picture needs matplotlib, which is not installed", remedy="pip install nextvec[figures]"
        )


def draw_surprise(found: Surprises, path: Path, peaks: int) -> None:
    """Write the curve with boundaries and peaks marked; the same bytes for the same figures."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    chunks = np.arange(2, len(found.texts) + 1)
    with rc_context({"svg.hashsalt": "nextvec", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(9, 3), layout="constrained")
        axis = figure.subplots()
        for number, at in enumerate(np.flatnonzero(found.cuts)):
            label = "a topic ends" if number == 0 else None
            axis.axvline(at + 1.5, color=BOUNDARY, linewidth=1, linestyle="--", label=label)
        axis.plot(chunks, found.surprise, color=LINE, linewidth=1.2, marker=".", label="surprise")
        high = found.peaks(peaks)
        axis.plot(high + 1, found.surprise[high - 1], "o", color=PEAK, label="peaks")
        axis.set_xlabel("chunk")
        axis.set_ylim(bottom=0)
        axis.set_ylabel("1 - cos(prediction, actual)")
        axis.set_title(f"{found.where}, read by {found.run}")
        axis.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
        axis.spines[["top", "right"]].set_visible(False)
        kind = path.suffix[1:]
        with atomic_path(path) as temporary:
            figure.savefig(
                temporary, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None
            )
