"""What pruning costs and what it saves: cosine beside size and latency, on documents never trained on."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nextvec.config import to_dict
from nextvec.corpus.store import Store
from nextvec.data.splits import SplitConfig
from nextvec.evaluation.bootstrap import Interval
from nextvec.evaluation.harness import Judging
from nextvec.evaluation.report import Report
from nextvec.evaluation.speed import one_thread
from nextvec.experiments.judging import Exam, judge_runs
from nextvec.experiments.pruning.magnitude import nonzero
from nextvec.experiments.pruning.run import Plan, Pruned, prune
from nextvec.inference.bench.stopwatch import in_turns, percentiles_ms
from nextvec.inference.predictor import ModelPredictor, RunPredictor
from nextvec.models.ops.parameters import count_parameters

BASELINES = ("exponential averages",)
"""The strongest by cosine of the simple predictors, to see what there was to lose."""
CONTEXT = 5
ROUNDS, CALLS = 20, 10


@dataclass(frozen=True)
class Line:
    """One row. `cut_cosine` is the model's before it was trained on; `versus` its cosine less the unpruned
    run's; both None for that run itself. `sizes` is what its configuration has other than the run's."""

    name: str
    keep: float | None
    folder: str | None
    sizes: dict[str, Any]
    parameters: int
    nonzero: int
    bytes: int
    cosine: float
    cut_cosine: float | None
    recall_at_5: float | None
    versus: Interval | None
    p50_ms: float


@dataclass(frozen=True)
class Table:
    """The rows and what they were judged on; `method` and `updates` as in `Plan`."""

    run: str
    method: str
    updates: int
    split: str
    context: int
    windows: int
    documents: int
    baseline: str
    baseline_cosine: float
    lines: tuple[Line, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def prune_and_judge(
    run: Path,
    store: Store,
    plan: Plan,
    out: Path,
    split: str = "test",
    sources: tuple[str, ...] = (),
    *,
    quiet: bool = False,
) -> Table:
    """`prune`, and what came of it on documents that the run never saw. Raises as `prune`, `judge_runs`."""
    original = RunPredictor(run)
    made = prune(run, store, plan, out, quiet=quiet)
    division = None if plan.split_file is None else SplitConfig(file=str(plan.split_file.resolve()))
    middle = original.task == "middle"
    how = Judging(
        context=original.context if middle else CONTEXT,
        horizon=original.horizons[0],
        task="middle" if middle else "next",
        baselines=BASELINES,
        samples=0,
        quiet=quiet,
    )
    tuned = [RunPredictor(each.folder, f"keep {each.keep:g}") for each in made]
    cut = [_in_place_of(original, each) for each in made]
    report = judge_runs(store, [original, *cut, *tuned], Exam(split, sources, division=division), how)
    latency = latencies([original, *tuned], how.context)
    first = _line(report, original, original, latency)
    lines = [
        _line(report, predictor, original, latency, each, before.name)
        for predictor, each, before in zip(tuned, made, cut, strict=True)
    ]
    best = report.row(BASELINES[0]).figures["cosine"]
    assert best is not None
    return Table(
        run=str(run), method=plan.method, updates=plan.updates, split=split, context=how.context,
        windows=report.windows, documents=report.documents,
        baseline=BASELINES[0], baseline_cosine=best, lines=(first, *lines),
    )  # fmt: skip


def latencies(predictors: Sequence[RunPredictor], context: int) -> dict[str, float]:
    """Name -> p50 in milliseconds of one prediction after `context` vectors, on one thread, in turns."""
    dimension = predictors[0].model.d_embed
    x = np.random.default_rng(0).standard_normal((1, context, dimension), dtype=np.float32)
    lengths = np.full(1, context)
    calls = {each.name: (lambda each=each: each.predict(x, lengths)) for each in predictors}
    with one_thread():
        times = in_turns(calls, ROUNDS, CALLS)
    return {name: percentiles_ms(spent)["p50_ms"] for name, spent in times.items()}


def _in_place_of(original: RunPredictor, pruned: Pruned) -> RunPredictor:
    """The run with the cut model for its own, before any further training."""
    found = copy(original)
    name = f"keep {pruned.keep:g}, as cut"
    ModelPredictor.__init__(found, pruned.cut, original.context, name, original.encoder)
    return found


def _line(
    report: Report,
    predictor: RunPredictor,
    original: RunPredictor,
    latency: dict[str, float],
    pruned: Pruned | None = None,
    before: str | None = None,
) -> Line:
    """The row of one predictor; `before` names the row of what it was before it was trained on."""
    row, first = report.row(predictor.name), report.row(original.name)
    cosine = row.figures["cosine"]
    assert cosine is not None
    given, now = to_dict(original.model.config), to_dict(predictor.model.config)
    versus = None
    if pruned is not None and report.bootstrap is not None:
        versus = report.bootstrap.interval(row.values["cosine"], first.values["cosine"])
    return Line(
        name=predictor.name,
        keep=None if pruned is None else pruned.keep,
        folder=None if pruned is None else str(pruned.folder),
        sizes={key: value for key, value in now.items() if given.get(key) != value},
        parameters=count_parameters(predictor.model),
        nonzero=nonzero(predictor.model),
        bytes=int(predictor.facts["bytes"]),
        cosine=cosine,
        cut_cosine=None if before is None else report.row(before).figures["cosine"],
        recall_at_5=row.figures.get("recall@5"),
        versus=versus,
        p50_ms=latency[predictor.name],
    )
