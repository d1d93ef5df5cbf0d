"""Evaluation of runs: the evaluator knows predictors, a run knows what it was trained on; this joins them."""

from __future__ import annotations

import binascii
import os
from base64 import b64decode
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar, runtime_checkable

import numpy as np

from nextvec.client import Client, RemotePredictor
from nextvec.config import from_dict
from nextvec.corpus.store import Store
from nextvec.data.splits import Split, SplitConfig, split_documents
from nextvec.data.trained import TrainedOn
from nextvec.data.windows import Task, Windows, make_windows
from nextvec.errors import EvaluationError, NextvecError, RunError, ServerError, SplitError
from nextvec.evaluation.evaluation_set import EvaluationSet, without_leaks
from nextvec.evaluation.harness import EvaluationConfig, FittingData, evaluate, evaluated_documents, prepare
from nextvec.evaluation.intervals import caution
from nextvec.evaluation.predictor_protocol import NextVectorPredictor
from nextvec.evaluation.results import Report
from nextvec.training.config import DataConfig


@dataclass(frozen=True)
class DocumentSelection:
    """Which documents are evaluated, and how they were divided.

    Attributes:
        split: "train", "validation", "test" or "all".
        sources: only documents of these are evaluated; all when empty.
        train_sources: the baselines are fitted on these; None takes those of the runs.
        division: how documents are divided; None takes the division of the runs.
    """

    split: str = "test"
    sources: tuple[str, ...] = ()
    train_sources: tuple[str, ...] | None = None
    division: SplitConfig | None = None


@runtime_checkable
class TrainedOnDocuments(Protocol):
    """What was trained on some documents of a store.

    Attributes:
        folder: where it lies.
        training: "sources" and "split" it was trained with.
    """

    @property
    def folder(self) -> Path: ...
    @property
    def training(self) -> dict[str, Any]: ...


class EvaluatedRun(NextVectorPredictor, TrainedOnDocuments, Protocol):
    """A predictor that says what it was trained for and on: a run, or an ensemble of runs.

    Attributes:
        horizons, task: what it predicts.
        conditional: it was trained to be given what to write towards.
        trained_on: keys of every document and chunk it was trained on.
    """

    @property
    def horizons(self) -> tuple[int, ...]: ...
    @property
    def task(self) -> str: ...
    @property
    def conditional(self) -> bool: ...
    @property
    def trained_on(self) -> TrainedOn: ...

    def at_horizon(self, horizon: int) -> Self:
        """The same, answering for one of its horizons."""
        ...


Some = TypeVar("Some", bound=EvaluatedRun)


def evaluate_runs(
    store: Store, runs: Sequence[EvaluatedRun], selection: DocumentSelection, how: EvaluationConfig
) -> Report:
    """Evaluate trained runs beside the baselines; with no runs, the baselines alone.

    The runs' own division of documents and training sources are taken where the selection names none, so
    that the baselines are fitted on just what the models were trained on.

    Raises:
        EvaluationError: runs that cannot stand in one table (another horizon, division or training sources),
            or queries that none of them could use.
        SplitError, LeakError, EncoderMismatchError, WindowError: see `nextvec.evaluation.harness.evaluate`.
    """
    runs = [for_question(run, how) for run in runs]
    if how.queries and runs and not any(run.conditional for run in runs):
        message = "trained without queries, evaluated with them"
        remedy = "evaluate it without --queries, or beside a run trained with data.conditional above 0"
        raise EvaluationError(message, where=", ".join(str(run.folder) for run in runs), remedy=remedy)
    evaluated, training = laid_out(store, runs, selection, how)
    seen = TrainedOn.union([run.trained_on for run in runs]) if runs else None
    return evaluate(store, evaluated, selection.split, runs, how, training=training, seen=seen)


def laid_out(
    store: Store, runs: Sequence[TrainedOnDocuments], selection: DocumentSelection, how: EvaluationConfig
) -> tuple[Split, FittingData | None]:
    """The evaluated documents, and what the baselines are fitted on: nothing where everything is evaluated.

    Raises as `division_of`.
    """
    division, trained = division_of(runs, selection), selection.train_sources
    evaluated = divide(store, division, selection.sources, selection.split)
    if trained is None:
        trained = common(runs, "sources", tuple)
    if selection.split == "all":
        return evaluated, None
    held = [source for source in trained if source in store.sources]
    return evaluated, FittingData.of(store, split_documents(store, division, held), how)


def check_evaluation(
    store: Store,
    selection: DocumentSelection,
    how: EvaluationConfig,
    division: SplitConfig,
    sources: tuple[str, ...],
) -> EvaluationSet:
    """What runs that are trained on these sources, so divided, will be evaluated on.

    Raises, before anything is trained, what `evaluate_runs` would of the documents and the question.
    """
    trained = sources if selection.train_sources is None else selection.train_sources
    chosen = replace(selection, division=selection.division or division, train_sources=trained)
    evaluated, training = laid_out(store, [], chosen, how)
    seen = TrainedOn.of(store, split_documents(store, division, sources).train)
    return prepare(store, evaluated, selection.split, how, training, seen)[0]


SMALL = 1000
"""Documents of a store up to which it is looked at before a training; the test split of more is not small."""
ENOUGH = 5
"""A test split of fewer is worth a warning before training; tables caution below `FEW_DOCUMENTS`."""
WIDE = 0.3
"""The share of documents for test that is advised where there are few."""


def wider(division: SplitConfig) -> str:
    """How more documents come to be evaluated, without what this division does already."""
    fixed = division.file is not None or division.folds or division.test >= WIDE
    share = "" if fixed else f"a larger share for test: --set data.split.test={WIDE}, "
    return f"{share}documents of your choice: --split-file, or every document once: nextvec matrix --folds 5"


def check_test_split(store: Store, data: DataConfig, *, leak_limit: float | None = None) -> EvaluationSet:
    """What `nextvec evaluate RUN` will evaluate a run with this data on, where nothing else is asked.

    Raises, before anything is trained, what it would refuse then.
    """
    context = data.context if data.task == "middle" else EvaluationConfig.context
    how = EvaluationConfig(context=context, horizon=data.horizons[0], task=data.task, quiet=True)
    if leak_limit is not None:
        how = replace(how, leak_limit=leak_limit)
    return check_evaluation(store, DocumentSelection(), how, data.split, data.sources)


def foretell(store: Store, data: DataConfig) -> str | None:
    """What a run with this data should be told before it is trained: that the documents of its test split are
    few, or cannot be evaluated at all. None where there is nothing to say."""
    if len(store.documents) > SMALL:
        return None
    try:
        found = check_test_split(store, data)
    except NextvecError as error:
        return f"what is trained now cannot be evaluated on its test split: {error}"
    few = caution(len(np.unique(found.windows.document)), len(found), ENOUGH)
    if few is None:
        return None
    short = _too_short(store, data, found.windows)
    return f"the test split is {few}{short}; it takes more documents, or {wider(data.split)}"


def _too_short(store: Store, data: DataConfig, windows: Windows) -> str:
    """How many documents of the test split have too few chunks for any of these windows."""
    test = split_documents(store, data.split, data.sources).evaluated("test")
    needed = windows.context + windows.horizon
    short = sum(store.documents[i].count < needed for i in test)
    have = "has" if short == 1 else "have"
    return f" ({short} more {have} fewer than {needed} chunks, too few for a window)" if short else ""


def for_question(run: Some, how: EvaluationConfig) -> Some:
    """The run, answering the evaluator's question. Raises EvaluationError where it was not trained for it."""
    if run.task != how.task:
        message = f"trained for the task '{run.task}', evaluated on '{how.task}'"
        raise EvaluationError(message, where=run.folder, remedy=f"evaluate it with --task {run.task}")
    if how.horizon not in run.horizons:
        trained = ", ".join(map(str, run.horizons))
        message = f"trained to predict {trained} ahead, evaluated at {how.horizon}"
        raise EvaluationError(
            message, where=run.folder, remedy=f"evaluate it with --horizon {run.horizons[0]}"
        )
    return run.at_horizon(how.horizon)


def own_question(run: EvaluatedRun, **more: Any) -> EvaluationConfig:
    """What a run was trained for, as a question of the evaluator's; `more` of its fields."""
    middle = run.task == "middle"
    context = int(run.training["context"]) if middle else EvaluationConfig.context
    task: Task = "middle" if middle else "next"
    return EvaluationConfig(context=context, horizon=run.horizons[0], task=task, **more)


def evaluate_flags(data: DataConfig) -> str:
    """The flags with which `nextvec evaluate` asks what was trained for, each after a space."""
    flags = [
        " --task middle" if data.task == "middle" else "",
        f" --horizon {data.horizons[0]}" if data.horizons[0] > 1 else "",
        " --queries" if data.conditional else "",
    ]
    return "".join(flags)


def evaluation_windows(
    store: Store,
    runs: Sequence[EvaluatedRun],
    selection: DocumentSelection,
    context: int,
    horizon: int,
    task: Task = "next",
) -> tuple[Windows, tuple[int, ...]]:
    """The windows that `evaluate_runs` evaluates, and the documents they are of."""
    split = divide(store, division_of(runs, selection), selection.sources, selection.split)
    documents = evaluated_documents(store, split, selection.split)
    windows = make_windows(store, documents, context, horizon, task)
    if selection.split != "train":
        seen = TrainedOn.union([run.trained_on for run in runs])
        windows, _ = without_leaks(store, windows, seen, split=selection.split)
    return windows, documents


def division_of(runs: Sequence[TrainedOnDocuments], selection: DocumentSelection) -> SplitConfig:
    """How documents are divided. Raises EvaluationError, SplitError: runs that differ, a file not there."""
    return with_its_file(selection.division or common(runs, "split", SplitConfig))


def with_its_file(division: SplitConfig) -> SplitConfig:
    """The same. Raises SplitError: its split file is not there."""
    if division.file is not None and not Path(division.file).is_file():
        raise SplitError("is not there", where=division.file, remedy="give the split file with --split-file")
    return division


def common(runs: Sequence[TrainedOnDocuments], key: str, kind: type[Any]) -> Any:
    """What all runs say of `key`; an empty `kind` when no run does. The model of the package, trained on no
    store of the user's, goes with the others."""
    found = [run.training[key] for run in runs if run.training.get("store") != ""]
    if any(value != found[0] for value in found):
        flag = "--train-sources" if key == "sources" else "--split-file"
        message = f"the runs differ in their {key}"
        remedy = f"evaluate them apart, or choose one with {flag}"
        raise EvaluationError(message, where=", ".join(str(run.folder) for run in runs), remedy=remedy)
    if not found:
        return kind()
    return from_dict(kind, found[0], where=runs[0].folder) if isinstance(found[0], dict) else found[0]


def divide(store: Store, division: SplitConfig, sources: tuple[str, ...], split: str) -> Split:
    """The evaluated documents. "all" needs no division: it is every document of the sources."""
    if split == "all":
        division = replace(division, file=None, near_duplicate=1.0)
    return split_documents(store, division, sources)


# A server's model on the selection: evaluated as a run is, with what the server says of its training.

API_KEY = "NEXTVEC_API_KEY"
SCHEMES = ("http://", "https://")


class RemoteRun(RemotePredictor):
    """A model of `nextvec serve` as a run.

    Args:
        address: of the server; a model other than its default is named behind #, http://HOST:PORT#NAME.
        client: to ask with; by default one with the API key of the environment variable NEXTVEC_API_KEY.
    Attributes:
        folder: the address, for messages.
    Raises:
        ServerError: it cannot be reached, refuses, or is no server of nextvec.
    """

    def __init__(self, address: str, client: Client | None = None) -> None:
        url, _, model = address.partition("#")
        super().__init__(client or Client(url, os.environ.get(API_KEY) or None), model or None)
        self.folder = Path(address)

    @cached_property
    def _description(self) -> dict[str, Any]:
        return self.client.training(self.model)

    @property
    def training(self) -> dict[str, Any]:
        """How it was trained. A split file is known by name only: name your own with --split-file."""
        found: dict[str, Any] = self._description["training"]
        return found

    @property
    def task(self) -> str:
        return str(self.training["task"])

    @cached_property
    def trained_on(self) -> TrainedOn:
        """Keys of every document and chunk it was trained on. Raises ServerError."""
        coded = self._description["trained_on"]
        try:
            held = (b64decode(coded[name], validate=True) for name in ("chunks", "documents", "ids"))
            return TrainedOn(*(np.unique(np.frombuffer(x, "<u8").astype(np.uint64)) for x in held))
        except (KeyError, TypeError, ValueError, binascii.Error) as error:
            message = f"a training list that is not understood ({error})"
            raise ServerError(message, where=self.client.url) from None

    def at_horizon(self, horizon: int) -> Self:
        """The same, answering for one of its horizons. Raises RunError for another."""
        if horizon not in self.horizons:
            message = f"predicts {', '.join(map(str, self.horizons))} ahead, requested {horizon}"
            raise RunError(message, where=self.client.url, remedy=f"give --horizon {self.horizons[0]}")
        other = copy(self)
        other.horizon = horizon
        return other
