"""The questions that the brief left open, each answered by one matrix: the same cap on updates, evaluated
beside the baselines on documents that no model saw.

    python benchmarks/experiments.py STORE --out FOLDER [--only objectives,context] [flags of nextvec matrix]

A folder that was interrupted goes on. Prints one table a question; FOLDER/QUESTION/matrix.json has all of it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

UPDATES = "300"
SUPERVISION = "data.min_context+data.context+optim.batch_size=1+32+16,5+5+32,32+32+16"
CONTEXTS = "data.context+optim.batch_size=1+512,2+256,3+170,5+102,10+51,20+26,32+16"
OBJECTIVES = "mse,cosine,infonce,infonce-hard,mse-infonce,mse-moment,mse-variance,infonce-brief"


@dataclass(frozen=True)
class Question:
    """A matrix and what it is compared by: every row against the row of its model that ends in `against`."""

    asks: str
    flags: tuple[str, ...]
    against: str
    seeds: int = 1
    shown: tuple[str, ...] = ("variance_ratio", "moments_raw")
    updates: str = UPDATES
    recipe: str = "scratch"


QUESTIONS = {
    "objectives": Question(
        "Which objective for which figure?",
        ("--models", "amn,transformer", "--objectives", OBJECTIVES),
        "mse",
        seeds=3,
    ),
    "objectives-residual": Question(
        "The same, learning only what exponential averages miss.",
        ("--models", "transformer", "--objectives", "mse,cosine,infonce,mse-infonce"),
        "mse",
        seeds=3,
        recipe="residual",
    ),
    "supervision": Question(
        "The loss at every position, at the last of 5 (the brief's windows) or of 32? Equal seconds.",
        ("--models", "gru,transformer", "--vary", SUPERVISION, "--set", "optim.max_seconds=20"),
        "min_context=1",
        seeds=2,
        updates="0",
    ),
    "supervision-longer": Question(
        "The same with 60 seconds.",
        ("--models", "gru", "--vary", SUPERVISION, "--set", "optim.max_seconds=60"),
        "min_context=1",
        updates="0",
    ),
    "residual": Question(
        "What should a model start from?",
        ("--models", "gru,transformer", "--vary", "model.options.residual=none,last,mean,weights,ridge,ema"),
        "residual=none",
    ),
    "gate": Question(
        "Does a learned gate on the residual help?",
        ("--models", "transformer", "--vary", "model.options.gate=false,true"),
        "gate=false",
        recipe="residual",
    ),
    "context": Question(
        "How much context? The same number of targets in an update.",
        ("--models", "gru", "--vary", CONTEXTS),
        "context=32",
    ),
    "horizon": Question(
        "How far ahead? Each against the baselines at the same distance.",
        ("--models", "gru", "--tasks", "next,next-2,next-5,multi"),
        "next",
        recipe="residual",
    ),
    "layers": Question(
        "How deep?",
        ("--models", "gru,transformer", "--vary", "model.options.layers=1,2,4"),
        "layers=2",
    ),
    "epochs": Question(
        "20 epochs or 50?",
        ("--models", "amn", "--vary", "optim.epochs=20,50", "--set", "optim.patience=0"),
        "epochs=20",
        updates="0",
    ),
    "middle": Question(
        "Is the middle easier than the next?",
        ("--models", "gru", "--tasks", "next,middle"),
        "next",
        recipe="residual",
    ),
    "curriculum": Question(
        "Easy first? From one chunk up, or coherent windows first, over half of 6 epochs, 75 updates each.",
        ("--models", "mlp", "--vary", "data.curriculum=none,context,coherence", "--epochs", "6"),
        "curriculum=none",
        updates="75",
        recipe="default",
    ),
    "mixing": Question(
        "Sources by their size (1), nearer to each other (3), or even (100)?",
        ("--models", "mlp", "--vary", "data.mixing_temperature=1,3,100"),
        "mixing_temperature=1",
        updates="50",
        recipe="default",
    ),
    "negatives": Question(
        "Continuations of other documents among the windows, and a confidence that tells them: at what cost?",
        ("--models", "mlp", "--vary", "data.broken+loss.continuation=0+0,0.25+0.001,0.25+0.1"),
        "broken=0-continuation=0",
        updates="50",
        recipe="default",
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("store")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default=",".join(QUESTIONS), help=f"of: {', '.join(QUESTIONS)}")
    parser.add_argument("--seeds", type=int, help="instead of each question's own number")
    arguments, further = parser.parse_known_args()
    requested = arguments.only.split(",")
    if unknown := set(requested) - QUESTIONS.keys():
        parser.error(f"no question {', '.join(sorted(unknown))}; choose of {', '.join(QUESTIONS)}")
    for name in requested:
        question = QUESTIONS[name]
        seeds = str(arguments.seeds or question.seeds)
        out = arguments.out / name
        command = [str(Path(sys.executable).with_name("nextvec")), "matrix", arguments.store]
        command += [*question.flags, "--seeds", seeds, "--max-updates", question.updates]
        command += ["--recipe", question.recipe]
        command += ["--out", str(out), "--no-speed", *further]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
        if done.returncode not in (0, 1):  # 1: some run failed, and is reported
            sys.exit(done.returncode)
        print(f"## {name}: {question.asks}\n\n`nextvec {' '.join(command[1:])}`\n")
        print(tables(json.loads((out / "matrix.json").read_text()), question), flush=True)


def tables(matrix: dict[str, Any], question: Question) -> str:
    """Markdown: one table for each thing that is predicted."""
    parts = [table(matrix, question)]
    for name, other in matrix["others"].items():
        parts += [f"### {name}\n", table(other, question)]
    return "\n".join([*parts, *(f"FAILED {run}: {why}\n" for run, why in matrix["failed"].items())])


def table(report: dict[str, Any], question: Question) -> str:
    """Every model's row, how it differs from the row compared with, and the best baseline of each figure."""
    rows = {row["name"]: row for row in report["rows"]}
    best = sorted({report["best_baseline"][metric] for metric in ("cosine", "recall@5", "mrr")})
    models = [name for name, row in rows.items() if row["kind"] == "model"]
    others = {name: _compared_with(name, models, question.against) for name in models}
    compared = any(others.values())
    header = ["predictor", "cosine", "recall@5", "MRR", *question.shown]
    header += ["cosine against it", "recall@5 against it"] if compared else []
    lines = ["| " + " | ".join(header) + " |", "|---" + "|---:" * (len(header) - 1) + "|"]
    for name in [*best, *models]:
        row = rows[name]
        figures = [_with_seeds(row, metric) for metric in ("cosine", "recall@5", "mrr")]
        figures += [f"{row[metric]:.3f}" for metric in question.shown]
        if compared:
            figures += [_difference(report, m, name, others.get(name)) for m in ("cosine", "recall@5")]
        lines.append("| " + " | ".join([name, *figures]) + " |")
    message = (
        f'"Against it": the difference from the row of the same model that ends in `{question.against}`,'
    )
    return "\n".join([*lines, "", *([f"{message} 95 % interval over documents.", ""] if compared else [])])


def _compared_with(name: str, models: list[str], against: str) -> str | None:
    other = f"{name.split('-')[0]}-{against}"
    return other if other in models and other != name else None


def _with_seeds(row: dict[str, Any], metric: str) -> str:
    spread = row.get(f"{metric}_seed_std")
    return f"{row[metric]:.4f}" + (f" ± {spread:.4f}" if spread else "")


def _difference(report: dict[str, Any], metric: str, name: str, other: str | None) -> str:
    for pair in report["pairs"] if other else ():
        if pair["metric"] == metric and {pair["row"], pair["than"]} == {name, other}:
            sign = 1 if pair["row"] == name else -1
            low, high = sorted((sign * pair["low"], sign * pair["high"]))
            return f"{sign * pair['difference']:+.4f} [{low:+.4f}, {high:+.4f}]"
    return ""


if __name__ == "__main__":
    main()
