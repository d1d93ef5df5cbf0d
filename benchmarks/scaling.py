"""What more documents, more parameters and a longer context bring, and which architecture wins when.

    python benchmarks/scaling.py STORE --split-file splits.json --judge-sources SOURCES --out FOLDER

Every question is a matrix of the default recipe (a point and a query for ranking, each starting from its
best baseline), so an interrupted run goes on. Documents: one random order of the training documents, its
first 1/64, 1/16, 1/4, and all of it; with fewer documents more epochs. Learning rates are chosen on
validation documents, for each architecture, at 1/16. Prints a table a question and writes FOLDER/scaling.json
and FOLDER/scaling.svg. Hours of one core; `--only` asks single questions.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from nextvec.corpus.store import Store
from nextvec.evaluation.results import KEPT
from nextvec.reporting.drawing import BASELINE, COLOURS, MARKERS, STYLE, canvas

Wide = NDArray[np.float64]
BASELINES = "copy-last,last and mean,exponential averages,ridge on averages,listwise averages"
CURVES = "mlp,lstm,transformer,mamba2,lcm"
RATES = "5e-4,1e-3,2e-3"
EPOCHS = {64: 12, 16: 6, 4: 2, 1: 1}  # 1/64 of the documents twelve times, ..., all of them once
CONTEXTS = "8+256,16+128,32+64,64+32,128+16,256+8"  # and full windows in a batch: 2,048 targets each
SIZES = "96+2+2+160,192+3+3+320,384+4+6+640,640+5+10+1088,768+5+12+1408"  # hidden, layers, heads, ffn
METRICS = ("cosine", "recall@5", "mrr")
DRAWS = 1000


def shares(store: Store, split_file: Path, out: Path) -> dict[int, tuple[Path, int]]:
    """Split files with a share of the training documents each, nested: share -> file and chunks."""
    split = json.loads(split_file.read_text(encoding="utf-8"))
    order = sorted(split["train"])
    np.random.default_rng(0).shuffle(order)
    count = {document.doc_id: document.count for document in store.documents}
    made = {}
    for share in EPOCHS:
        kept = order[: len(order) // share]
        file = out / f"split-{share}.json"
        content = {**split, "train": kept, "unused": order[len(kept) :] + split.get("unused", [])}
        file.write_text(json.dumps(content), encoding="utf-8")
        made[share] = (file, sum(count[doc_id] for doc_id in kept))
    return made


def matrix(out: Path, store: Path, *flags: str) -> None:
    """Train what is not there yet and make the table; with --join there is none."""
    command = [sys.executable, "-m", "nextvec", "matrix", str(store), "--out", str(out)]
    command += ["--no-speed", "--baselines", BASELINES, *flags]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
    if done.returncode not in (0, 1):  # 1: some run failed, and is reported
        sys.exit(done.returncode)


def per_document(out: Path, metric: str) -> tuple[dict[str, Wide], Wide]:
    """Of each predictor the sum of a metric over the windows of each document; and how many these are."""
    arrays, message = read_kept(out)
    documents, index = np.unique(arrays["document"], return_inverse=True)
    sums = {
        name: np.bincount(index, arrays[f"values.{i}"].astype(np.float64), len(documents))
        for i, (name, which) in enumerate(json.loads(message["values"]))
        if which == metric
    }
    return sums, np.bincount(index, minlength=len(documents)).astype(np.float64)


def read_kept(out: Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """What every predictor of a matrix scored, window by window, and which is which."""
    with safe_open(out / KEPT, "np") as file:
        names = [name for name in file.keys() if not name.startswith("units")]  # noqa: SIM118
        return {name: file.get_tensor(name) for name in names}, file.metadata()


def fit(chunks: Sequence[float], errors: Wide) -> Wide:
    """errors [n, R] = a * chunks^-b by least squares of logarithms -> [2, R]: b, and log a."""
    slope, level = np.polyfit(np.log(chunks), np.log(errors), 1)
    return np.stack((-slope, level))


def curve(folders: dict[int, Path], chunks: dict[int, int], metric: str, name: str) -> dict[str, Any]:
    """One predictor's figures by share, its exponent and what ten times more chunks would give, each with an
    interval: 95 % of resamples of the documents, the same for every share. Not over seeds."""
    parts = {share: per_document(folder, metric) for share, folder in folders.items()}
    parts = {share: part for share, part in parts.items() if name in part[0]}
    weights = next(iter(parts.values()))[1]
    draws = np.random.default_rng(0).multinomial(len(weights), np.full(len(weights), 1 / len(weights)), DRAWS)
    draws = np.concatenate((np.ones((1, len(weights)), dtype=draws.dtype), draws))  # the first: as they are
    values = np.stack([draws @ sums[name] / (draws @ weights) for sums, _ in parts.values()])
    sizes = [float(chunks[share]) for share in parts]
    exponent, level = fit(sizes, 1 - values)
    ahead = 1 - np.exp(level - exponent * np.log(10 * max(sizes)))

    def interval(drawn: Wide) -> list[float]:
        return [float(drawn[0]), *np.quantile(drawn[1:], (0.025, 0.975)).tolist()]

    return {
        "metric": metric,
        "predictor": name,
        "chunks": sizes,
        "values": [interval(row) for row in values],
        "exponent": interval(exponent),
        "ten_times_more": interval(ahead),
    }


def best_rates(out: Path) -> dict[str, str]:
    """Of each architecture of a matrix the learning rate with the lowest validation loss."""
    best: dict[str, tuple[float, str]] = {}
    for metrics in sorted((out / "runs").glob("*/metrics.json")):
        name, rate = metrics.parent.name.removesuffix("-seed0").split("-lr=")
        loss = json.loads(metrics.read_text(encoding="utf-8"))["loss"]
        best[name] = min(best.get(name, (float("inf"), "")), (loss, rate))
    return {name: rate for name, (_, rate) in best.items()}


def documents(
    store: Path, out: Path, files: dict[int, tuple[Path, int]], flags: Sequence[str]
) -> dict[str, Any]:
    """The curves over documents: each architecture at its own rate, evaluated on test documents."""
    matrix(
        *(out / "rates", store, "--join", "--models", CURVES, "--vary", f"optim.lr={RATES}"),
        *("--split-file", str(files[16][0]), "--epochs", str(EPOCHS[16]), *flags),
    )
    rates = best_rates(out / "rates")
    curves = []
    for rate in sorted(set(rates.values())):
        models = [name for name, own in rates.items() if own == rate]
        folders = {share: out / f"documents-{share}-lr={rate}" for share in files}
        for share, (file, _) in files.items():
            chosen = ("--models", ",".join(models), "--lr", rate, "--epochs", str(EPOCHS[share]))
            matrix(folders[share], store, "--split-file", str(file), *chosen, *flags)
        chunks = {share: count for share, (_, count) in files.items()}
        names = models if curves else [*models, *BASELINES.split(",")]
        curves += [curve(folders, chunks, metric, name) for name in names for metric in METRICS]
    return {"rates": rates, "curves": curves}


def sweep(out: Path, store: Path, file: Path, flags: Sequence[str], *vary: str) -> list[dict[str, Any]]:
    """One epoch of a small decoder for each setting, on validation documents -> name, parameters, figures."""
    requested = ("--models", "lcm", "--split", "validation", "--split-file", str(file))
    matrix(out, store, *requested, *vary, *flags)
    table = json.loads((out / "matrix.json").read_text(encoding="utf-8"))
    shown = ("name", "parameters", "seconds", *METRICS)
    return [{key: row[key] for key in shown} for row in table["rows"] if row["kind"] == "model"]


def table(curves: Sequence[dict[str, Any]], metric: str) -> str:
    """Markdown: a row a predictor, a column a number of chunks."""
    chosen = [one for one in curves if one["metric"] == metric]
    sizes = [f"{size:,.0f}" for size in chosen[0]["chunks"]]
    lines = ["| predictor | " + " | ".join([*sizes, "exponent", "ten times more"]) + " |"]
    lines.append("|---" + "|---:" * (len(sizes) + 2) + "|")
    for one in chosen:
        exponent, low, high = one["exponent"]
        ahead, least, most = one["ten_times_more"]
        cells = [f"{value:.4f}" for value, _, _ in one["values"]]
        cells += [f"{exponent:.4f} [{low:.4f}, {high:.4f}]", f"{ahead:.4f} [{least:.4f}, {most:.4f}]"]
        lines.append("| " + " | ".join([one["predictor"], *cells]) + " |")
    return "\n".join(lines)


def draw(curves: Sequence[dict[str, Any]], path: Path) -> None:
    """Two panels, cosine and recall@5 over training chunks, with the two best baselines of each in grey."""
    with mpl.rc_context(STYLE):
        figure, panels = canvas(height=3.4, rows=1, columns=2)
        for axes, metric in zip(panels.flat, ("cosine", "recall@5"), strict=True):
            shown = [one for one in curves if one["metric"] == metric]
            models = [one for one in shown if one["predictor"] in CURVES.split(",")]
            best = sorted((one for one in shown if one not in models), key=lambda one: -one["values"][-1][0])
            looks = [
                {"marker": marker, "color": colour} for marker, colour in zip(MARKERS, COLOURS, strict=False)
            ]
            looks = looks[: len(models)] + [{"color": BASELINE, "linestyle": line} for line in ("-", "--")]
            for one, look in zip([*models, *best[:2]], looks, strict=True):
                values = [value for value, _, _ in one["values"]]
                axes.plot(one["chunks"], values, label=one["predictor"], **look)
            axes.set(xscale="log", xlabel="training chunks", title=metric)
            axes.set_xticks(shown[0]["chunks"], [f"{chunks:,.0f}" for chunks in shown[0]["chunks"]])
            axes.minorticks_off()
            axes.legend(ncols=2)
        figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("store", type=Path)
    parser.add_argument("--split-file", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    questions = ("documents", "context", "parameters")
    parser.add_argument("--only", default=",".join(questions), help=f"of: {', '.join(questions)}")
    given, flags = parser.parse_known_args()
    given.out.mkdir(parents=True, exist_ok=True)
    files = shares(Store.open(given.store), given.split_file, given.out)
    found: dict[str, Any] = {}
    if "documents" in given.only:
        found["documents"] = documents(given.store, given.out, files, flags)
        for metric in METRICS:
            print(f"{metric} by training chunks, {found['documents']['rates']}\n")
            print(table(found["documents"]["curves"], metric), "\n")
        draw(found["documents"]["curves"], given.out / "scaling.svg")
    if "context" in given.only:
        varied = ("--vary", f"data.context+optim.batch_size={CONTEXTS}", "--epochs", "2")
        found["context"] = sweep(given.out / "context", given.store, files[4][0], flags, *varied)
    if "parameters" in given.only:
        sizes = "+".join(f"model.options.{key}" for key in ("hidden", "layers", "heads", "ffn"))
        varied = ("--set", 'model.preset="m7"', "--vary", f"{sizes}={SIZES}", "--epochs", "1")
        found["parameters"] = sweep(given.out / "parameters", given.store, files[1][0], flags, *varied)
    for question in ("context", "parameters"):
        for row in found.get(question, ()):
            print(" | ".join(f"{v:.4f}" if isinstance(v, float) else str(v) for v in row.values()))
    (given.out / "scaling.json").write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
