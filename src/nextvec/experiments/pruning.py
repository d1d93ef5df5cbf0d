"""From a run to smaller runs: importance measured on its training documents, what is least important taken
out, the rest trained a little further by the run's own configuration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from copy import copy
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from nextvec.checkpoint import CONFIG, read_checkpoint
from nextvec.config import to_dict
from nextvec.corpus.store import Store
from nextvec.data.splits import SplitConfig
from nextvec.disk import locked, read_object, refuse_taken
from nextvec.errors import ConfigError, EncoderMismatchError, RunError
from nextvec.evaluation.intervals import Estimate
from nextvec.evaluation.predictor_protocol import one_thread
from nextvec.evaluation.results import Report
from nextvec.experiments.evaluating import DocumentSelection, evaluate_runs, own_question, with_its_file
from nextvec.experiments.pruning_units import Importance, chosen, find_units, nonzero, sizes, smaller, zeroed
from nextvec.experiments.runs import RunFolder
from nextvec.hardware import find_hardware
from nextvec.inference.bench.worker import in_turns, percentiles_ms
from nextvec.inference.predictor import ModelPredictor, RunPredictor
from nextvec.models.base import NextVectorModel
from nextvec.models.ops.parameters import count_parameters
from nextvec.models.saving import CONFIG as SAVED
from nextvec.models.saving import load_model
from nextvec.training.build import Start
from nextvec.training.config import TrainConfig
from nextvec.training.loop import assess, train
from nextvec.training.session import UNFINISHED, build_session

Method = Literal["structured", "magnitude"]
IMPORTANCE_BATCHES = 16


@dataclass(frozen=True)
class PruningPlan:
    """What is pruned, and how.

    Attributes:
        keep: shares of the units (or weights) that stay, each in (0, 1]; 1.0 only trains on, as a control.
        updates: of the training that follows; at least 1.
        split_file: in place of the run's own.
        batches: of training documents that importance is measured on.
    Raises:
        ConfigError: a share or a number that cannot be meant.
    """

    keep: tuple[float, ...]
    method: Method = "structured"
    updates: int = 200
    split_file: Path | None = None
    batches: int = IMPORTANCE_BATCHES

    def __post_init__(self) -> None:
        if not self.keep or len(set(self.keep)) < len(self.keep) or not all(0 < k <= 1 for k in self.keep):
            given = ",".join(f"{k:g}" for k in self.keep) or "nothing"
            message = f"{given} are not shares to keep"
            raise ConfigError(message, where="--keep", remedy="write --keep 0.5 or 0.75,0.5")
        for flag, value in (("--fine-tune-updates", self.updates), ("--batches", self.batches)):
            if value < 1:
                raise ConfigError(f"is {value}", where=flag, remedy="give at least 1")


@dataclass(frozen=True)
class PrunedRun:
    """One outcome: the model as it was cut, and the folder of the run it was trained on in."""

    keep: float
    cut: NextVectorModel
    folder: Path


class RunToPrune:
    """The run that is pruned, with everything that has to fit before anything is done."""

    def __init__(self, run: Path, store: Store, plan: PruningPlan) -> None:
        """
        Raises:
            RunError, ConfigError: no run there, or a damaged one.
            EncoderMismatchError: it was trained on vectors of another encoder than the store's.
            SplitError: its split file is not there.
        """
        self.run, self.store, self.plan = run, store, plan
        self.config, (model, info) = RunFolder.read(run).settings, load_model(run)
        self.model = model.float()
        trained = info.get("encoder", {}).get("fingerprint")
        if trained != store.encoder["fingerprint"] or self.model.d_embed != store.dimension:
            message = "was trained on vectors of another encoder"
            raise EncoderMismatchError(message, where=run, remedy="give the store of its encoder")
        if plan.split_file is not None:
            split = replace(self.config.data.split, file=str(plan.split_file.resolve()))
            self.config = replace(self.config, data=replace(self.config.data, split=split))
        with_its_file(self.config.data.split)

    def cutter(self) -> Callable[[float], tuple[NextVectorModel, dict[str, int]]]:
        """What makes of a share to keep the model cut to it, and its sizes where they are others.

        Raises:
            ModelError: its architecture, or its head, cannot be pruned this way.
        """
        model = self.model
        if self.plan.method == "magnitude":
            return lambda keep: (zeroed(model, keep), {})
        units = find_units(model)
        scores = self._importance().scores

        def cut(keep: float) -> tuple[NextVectorModel, dict[str, int]]:
            if keep == 1:
                return model, {}
            kept = chosen(units, scores, keep)
            return smaller(model, units, kept), sizes(units, kept)

        return cut

    def _importance(self) -> Importance:
        """Of the units, by the run's own loss on its first training batches, dropout included."""
        hardware = find_hardware(self.config.runtime)
        session = build_session(self.store, self.config, self.run, hardware, Start(self.model.state_dict()))
        session.network.train()
        importance = Importance(session.model, find_units(session.model))
        for batch in islice(session.training.epoch(0), self.plan.batches):
            answer = assess(session, batch.to(session.fabric.device))
            session.fabric.backward(answer.loss.total)
            importance.add()
            session.model.zero_grad(set_to_none=True)
        return importance

    def tuning(self, changed: dict[str, int]) -> TrainConfig:
        """The run's own configuration for a short training of a model with `changed` sizes: as many epochs as
        the updates take, the whole material from the start, from no other checkpoint."""
        model = replace(self.config.model, options={**self.config.model.options, **changed}, pretrained="")
        data = replace(self.config.data, curriculum="none")
        # An epoch has at least one batch, so this is enough; max_updates ends it.
        optim = replace(
            self.config.optim, epochs=self.plan.updates, max_updates=self.plan.updates, max_seconds=0.0
        )
        return replace(self.config, model=model, data=data, optim=optim)

    def origin(self, keep: float) -> dict[str, Any]:
        """What the new run says of where it comes from."""
        return {"run": str(self.run.resolve()), "method": self.plan.method, "keep": keep}


def prune(run: Path, store: Store, plan: PruningPlan, out: Path, *, quiet: bool = False) -> list[PrunedRun]:
    """Cut a run to each share of `plan.keep` and train on; each outcome is a run as any other.

    Args:
        out: the folder of the new run; of several shares each gets a folder in it, `keep-0.5`.
    What was stopped goes on: a share that is finished in `out` is taken as it is.

    Raises:
        RunError: `out` holds something else, or the run is damaged. BusyError: another process is writing it.
        ModelError: the architecture cannot be pruned this way.
        EncoderMismatchError, SplitError, ConfigError: run, store and split do not go together.
        TrainingInterrupted: everything is saved; the same again goes on.
    """
    several = len(plan.keep) > 1
    folders = [out / f"keep-{keep:g}" if several else out for keep in plan.keep]
    if not any(folder.is_dir() for folder in folders) if several else not (out / CONFIG).is_file():
        refuse_taken(out, RunError, "give another folder", besides=() if several else UNFINISHED)
    source = RunToPrune(run, store, plan)
    for keep, folder in zip(plan.keep, folders, strict=True):
        refuse_other(folder, {**source.origin(keep), "keep_zeros": plan.method == "magnitude"})
    cut = source.cutter()
    made = []
    with locked(out) if several else nullcontext():  # a training locks its own folder
        for keep, folder in zip(plan.keep, folders, strict=True):
            resume = (folder / CONFIG).is_file()
            model, changed = cut(keep)
            start = Start(model.state_dict(), source.origin(keep), keep_zeros=plan.method == "magnitude")
            train(store, source.tuning(changed), folder, resume=resume, start=start, quiet=quiet)
            made.append(PrunedRun(keep, model, folder))
    return made


def refuse_other(folder: Path, origin: dict[str, Any]) -> None:
    """Raise RunError where `folder` holds a run that does not come from `origin`."""
    held = read_checkpoint(folder)
    if held is not None:
        found = held.metadata.get("origin")
    elif (folder / SAVED).is_file():  # stopped after its first epoch, before the checkpoint
        found = read_object(folder / SAVED, RunError, needs={}).get("origin")
    else:
        return
    if found != origin:
        why = "is there already and not empty: another run, or one pruned otherwise"
        raise RunError(why, where=folder, remedy="give another folder")


# What pruning costs and what it saves: cosine beside size and latency, on documents never trained on.

BASELINES = ("exponential averages",)
"""The strongest by cosine of the simple predictors, to see what there was to lose."""
ROUNDS, CALLS = 20, 10


@dataclass(frozen=True)
class PruningRow:
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
    versus: Estimate | None
    p50_ms: float


@dataclass(frozen=True)
class PruningTable:
    """The rows and what they were evaluated on; `method` and `updates` as in `PruningPlan`."""

    run: str
    method: str
    updates: int
    split: str
    context: int
    windows: int
    documents: int
    baseline: str
    baseline_cosine: float
    lines: tuple[PruningRow, ...]

    def to_json(self) -> dict[str, Any]:
        rows = [
            {**asdict(row), "versus": None if row.versus is None else row.versus.to_json()}
            for row in self.lines
        ]
        return {**asdict(self), "lines": rows}


def prune_and_evaluate(
    run: Path,
    store: Store,
    plan: PruningPlan,
    out: Path,
    split: str = "test",
    sources: tuple[str, ...] = (),
    *,
    quiet: bool = False,
) -> PruningTable:
    """`prune`, evaluated on documents that the run never saw. Raises as `prune`, `evaluate_runs`."""
    original = RunPredictor(run)
    made = prune(run, store, plan, out, quiet=quiet)
    division = None if plan.split_file is None else SplitConfig(file=str(plan.split_file.resolve()))
    how = own_question(original, baselines=BASELINES, samples=0, quiet=quiet)
    tuned = [RunPredictor(each.folder, f"keep {each.keep:g}") for each in made]
    cut = [_in_place_of(original, each) for each in made]
    report = evaluate_runs(
        store, [original, *cut, *tuned], DocumentSelection(split, sources, division=division), how
    )
    latency = latencies([original, *tuned], how.context)
    first = _line(report, original, original, latency)
    lines = [
        _line(report, predictor, original, latency, each, before.name)
        for predictor, each, before in zip(tuned, made, cut, strict=True)
    ]
    best = report.row(BASELINES[0]).figures["cosine"]
    assert best is not None
    return PruningTable(
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


def _in_place_of(original: RunPredictor, pruned: PrunedRun) -> RunPredictor:
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
    pruned: PrunedRun | None = None,
    before: str | None = None,
) -> PruningRow:
    """The row of one predictor; `before` names the row of what it was before it was trained on."""
    row, first = report.row(predictor.name), report.row(original.name)
    cosine = row.figures["cosine"]
    assert cosine is not None
    given, now = to_dict(original.model.config), to_dict(predictor.model.config)
    versus = None
    if pruned is not None and report.bootstrap is not None:
        versus = report.bootstrap.interval(row.values["cosine"], first.values["cosine"])
    return PruningRow(
        name=predictor.name,
        keep=None if pruned is None else pruned.keep,
        folder=None if pruned is None else str(pruned.folder),
        sizes={key: value for key, value in now.items() if given.get(key) != value},
        parameters=count_parameters(predictor.model),
        nonzero=nonzero(predictor.model),
        bytes=int(predictor.metadata["bytes"]),
        cosine=cosine,
        cut_cosine=None if before is None else report.row(before).figures["cosine"],
        recall_at_5=row.figures.get("recall@5"),
        versus=versus,
        p50_ms=latency[predictor.name],
    )
