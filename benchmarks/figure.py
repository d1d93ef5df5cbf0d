"""The README's picture: every predictor of a matrix by cosine and by rank, side by side.

    python benchmarks/figure.py MATRIX docs/results.svg

Both axes start at 0. Cosine and rank order the predictors differently: that is the point of the picture.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from nextvec.experiments.matrix import read_table

MODEL, BASELINE, BEST = "#0072B2", "#999999", "#E69F00"  # Okabe and Ito: safe for colour-blind readers
PANELS = (("cosine", "cosine to the true next vector"), ("recall@5", "recall@5 of the true next chunk"))
HIDDEN = ("random",)


def main() -> None:
    """Draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("matrix", type=Path, help="a folder made by `nextvec matrix`")
    parser.add_argument("out", type=Path, help="the .svg or .png to write")
    arguments = parser.parse_args()
    table = read_table(arguments.matrix)
    rows = sorted((r for r in table["rows"] if r["name"] not in HIDDEN), key=lambda r: r["cosine"])
    plt.rcParams.update({"svg.hashsalt": "nextvec", "font.size": 9, "svg.fonttype": "none"})
    figure, axes = plt.subplots(
        1, 2, sharey=True, figsize=(8.5, 0.32 * len(rows) + 1.2), layout="constrained"
    )
    for axis, (metric, label) in zip(axes, PANELS, strict=True):
        best = table["best_baseline"][metric]
        colours = [MODEL if r["kind"] == "model" else BEST if r["name"] == best else BASELINE for r in rows]
        spread = [r.get(f"{metric}_seed_std", 0.0) for r in rows]
        axis.barh([r["name"] for r in rows], [r[metric] for r in rows], color=colours, xerr=spread)
        line = next(r[metric] for r in rows if r["name"] == best)
        axis.axvline(line, color=BEST, linewidth=1, linestyle="--")
        axis.set_xlabel(label)
        axis.set_xlim(left=0)
        axis.spines[["top", "right"]].set_visible(False)
    names = ("model (mean of seeds, bar: their deviation)", "best baseline", "other baselines")
    marks = [plt.Rectangle((0, 0), 1, 1, color=c) for c in (MODEL, BEST, BASELINE)]
    figure.legend(marks, names, loc="outside upper center", ncols=3, frameon=False)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.out, metadata={"Date": None} if arguments.out.suffix == ".svg" else None)
    print(f"{len(rows)} predictors drawn to {arguments.out}")


if __name__ == "__main__":
    main()
