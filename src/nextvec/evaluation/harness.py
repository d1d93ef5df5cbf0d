"""The one entry of the evaluator: predictors and baselines on the same windows, in one report."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from nextvec.data.gather import VectorSource
from nextvec.data.splits import Split, fitting_documents
from nextvec.data.trained import TrainedOn
from nextvec.data.windows import Task, Windows, by_original, make_windows, with_queries
from nextvec.errors import (
    EncoderMismatchError,
    EvaluationError,
    NextvecWarning,
    SplitError,
    VectorError,
    WindowError,
)
from nextvec.evaluation.baselines import BASELINES, QUERY_BASELINES, Baseline
from nextvec.evaluation.baselines.simple import window_mean
from nextvec.evaluation.evaluation_set import LIMIT, SAMPLES, EvaluationSet, Leaks, without_leaks
from nextvec.evaluation.intervals import RESAMPLES, DocumentBootstrap
from nextvec.evaluation.metrics import KS, METRICS, Scores
from nextvec.evaluation.predictor_protocol import NextVectorPredictor, measure_speed, ranks_by_query
from nextvec.evaluation.ranking import CANDIDATES, make_pool
from nextvec.evaluation.results import PredictorRow, Report, compare
from nextvec.progress import Progress

if TYPE_CHECKING:
    from nextvec.corpus.store import Store

LEAST_TO_CHOOSE_ON = 5
"""Validation documents of the evaluated sources from which on a baseline chooses its variant on them alone:
three once chose a penalty for a ridge of 433,000 training windows that cost it .001 of cosine."""


@dataclass(frozen=True)
class EvaluationConfig:
    """How a table is made.

    Attributes:
        context: chunks read at least before each target, and the context of the baselines.
        horizon: how many chunks ahead the target is.
        task: "next", or "middle": the target stands amid the `context` chunks read, half on each side.
        queries: those that can use it are given a chunk 1 to 8 after the target (drawn by `seed` and the
            target alone), which then is no candidate for anyone.
        candidates: "split" (every chunk of the same documents), "store", or "document" (the target's own);
            always without what has been read.
        ks: recall@k to report; None takes 1, 5, 10, 20, 50 as far as the pool is larger.
        baselines: names to evaluate beside the predictors; None is all of them.
        seed, resamples: of the bootstrap over documents; `seed` of the queries too.
        leak_limit: share of leaking documents or texts above which evaluation is refused (`without_leaks`).
        samples: how many vectors a window a generative predictor is asked for: 0 (no figures of samples) or
            at least 2.
        speed: also measure latency and throughput.
        keep: keep every predictor's answers in the report (`nextvec.evaluation.results`).
        quiet: no progress lines.
    """

    context: int = 5
    horizon: int = 1
    task: Task = "next"
    queries: bool = False
    candidates: str = "split"
    ks: tuple[int, ...] | None = None
    baselines: tuple[str, ...] | None = None
    seed: int = 0
    resamples: int = RESAMPLES
    leak_limit: float = LIMIT
    samples: int = SAMPLES
    speed: bool = False
    keep: bool = False
    quiet: bool = False

    def __post_init__(self) -> None:
        for what, given, known in (
            ("task", self.task, get_args(Task)),
            ("candidate set", self.candidates, CANDIDATES),
        ):
            if given not in known:
                choices = ", ".join(known)
                raise EvaluationError(f"there is no {what} '{given}'", remedy=f"choose one of: {choices}")
        if not 0 <= self.leak_limit <= 1:
            message = f"{self.leak_limit:g} is not a share"
            raise EvaluationError(message, where="--leak-limit", remedy="give 0 to 1")
        if self.samples < 0 or self.samples == 1:
            message = f"{self.samples} samples do not make a distribution"
            raise EvaluationError(message, remedy="request 0, or 2 or more")
        for k in self.ks or ():
            if k not in KS:
                choices = ", ".join(map(str, KS))
                raise EvaluationError(f"there is no recall@{k}", remedy=f"choose of: {choices}")
        for name in self.baselines or ():
            if name not in self.known:
                without = " without queries" if name in QUERY_BASELINES else ""
                choices = ", ".join(self.known)
                message = f"there is no baseline '{name}'{without}"
                raise EvaluationError(message, remedy=f"choose of: {choices}")

    @property
    def known(self) -> dict[str, type[Baseline]]:
        """The baselines that can stand in the table, in its order."""
        return {**BASELINES, **QUERY_BASELINES} if self.queries else BASELINES

    def windows(self, store: Store, documents: Sequence[int]) -> Windows:
        """The windows of these documents (indices into `store.documents`). Raises WindowError: none."""
        windows = make_windows(store, documents, self.context, self.horizon, self.task)
        return with_queries(windows, self.seed) if self.queries else windows


@dataclass(frozen=True)
class FittingData:
    """What the baselines are fitted on, and what must not stand in the evaluation set.

    Attributes:
        vectors: of the store that the windows belong to; train and validation are the windows of its train
            and validation documents (`fitting_documents` of them).
        seen: keys of everything trained on.
    """

    vectors: VectorSource
    train: Windows
    validation: Windows | None
    seen: TrainedOn

    @classmethod
    def of(cls, store: Store, split: Split, how: EvaluationConfig) -> FittingData | None:
        """Material of a store's train and validation documents; None where no training window can be cut."""
        try:
            chosen = fitting_documents(store, split.train)
            train = by_original(how.windows(store, chosen), store.documents)
        except WindowError:
            return None
        try:
            validation = how.windows(store, fitting_documents(store, split.validation))
        except WindowError:
            validation = None
        return cls(store.vectors, train, validation, TrainedOn.of(store, split.train))


def evaluate(
    store: Store,
    split: Split,
    name: str,
    predictors: Sequence[NextVectorPredictor] = (),
    config: EvaluationConfig | None = None,
    *,
    training: FittingData | None = None,
    seen: TrainedOn | None = None,
) -> Report:
    """Evaluate predictors and baselines on one split of a store.

    Args:
        split: the documents evaluated (`split_documents`, limited to sources where wanted).
        name: "train" (labelled in-sample), "validation", "test" or "all".
        training: what the baselines are fitted on, `FittingData.of` a store and its whole split. Without it,
            the train documents of `split`; and with `name` "all", where nothing is left to fit on, only the
            baselines without parameters are evaluated, and the report says so.
        seen: what the predictors were trained on, when that is not (only) what the baselines are fitted on.
    Raises:
        SplitError: the split has no documents. WindowError: they are too short.
        LeakError: more than `leak_limit` of them stands in training.
        EncoderMismatchError: a predictor made for another encoder. VectorError: of another dimension.
        EvaluationError: k larger than the pool, NaN predictions.
    """
    how = config or EvaluationConfig()
    _check_names(predictors)
    for predictor in predictors:
        check_made_for(predictor, store)
    if training is None and name != "all":
        training = FittingData.of(store, split, how)
    evaluation_set, leaks, training = prepare(store, split, name, how, training, seen)
    table = _Table(evaluation_set, _checked_ks(evaluation_set, how), how)
    chosen = [cls for n, cls in how.known.items() if how.baselines is None or n in how.baselines]
    able = [cls for cls in chosen if training is not None or not cls.needs_training]
    everyone = chain((fitted(cls, how, training) for cls in able), predictors)  # each when it is its turn
    with Progress("evaluating", len(able) + len(predictors), "predictors", quiet=how.quiet) as progress:
        for predictor in everyone:
            table.add(predictor)
            progress.advance(note=predictor.name)
    left_out = [cls.name for cls in chosen if cls not in able]
    return table.report(store, name, leaks, left_out)


def prepare(
    store: Store,
    split: Split,
    name: str,
    how: EvaluationConfig,
    training: FittingData | None,
    seen: TrainedOn | None,
) -> tuple[EvaluationSet, Leaks | None, FittingData | None]:
    """What `evaluate` evaluates on, what was dropped from it, and what its baselines are fitted on.

    It raises whatever `evaluate` would of the material, and needs no predictor: so it can be asked before
    one is trained.
    """
    documents = evaluated_documents(store, split, name)
    windows = how.windows(store, documents)
    training = _tuned_on(store, split, training, how)
    windows, leaks = _without_known(store, windows, name, how, training, seen)
    evaluation_set = make_evaluation_set(store, windows, documents, how, training)
    _checked_ks(evaluation_set, how)
    return evaluation_set, leaks, training


def evaluated_documents(
    store: Store, split: Split, name: str, sources: Sequence[str] = ()
) -> tuple[int, ...]:
    """What is evaluated of a split, or of some sources in it. Raises SplitError: nothing."""
    documents = tuple(i for i in split.evaluated(name) if not sources or store.documents[i].source in sources)
    if not documents:
        message = f"split '{name}' has no documents"
        raise SplitError(message, where=store.path, remedy="evaluate another split or other sources")
    return documents


@dataclass
class _Table:
    """Collects the rows; a predictor's vectors are dropped once its figures are known."""

    evaluation_set: EvaluationSet
    ks: tuple[int, ...]
    how: EvaluationConfig
    rows: list[PredictorRow] = field(default_factory=list)

    def add(self, predictor: NextVectorPredictor) -> None:
        started = time.perf_counter()
        scores = Scores.of(predictor, self.evaluation_set)
        row = PredictorRow(predictor.name, predictor.kind, dict(getattr(predictor, "metadata", {})))
        if ranks_by_query(predictor):
            row.metadata["ranked_by"] = "query"
        row.metadata["predict_seconds"] = round(time.perf_counter() - started, 3)
        left_out = {f"recall@{k}" for k in KS if k not in self.ks}
        for metric in METRICS.values():
            if metric.name in left_out or not metric.needs <= scores.has:
                row.figures[metric.name] = None
                continue
            row.figures[metric.name] = metric.figure(scores)
            if metric.values is not None:
                row.values[metric.name] = metric.values(scores)
        if self.how.keep:
            row.units = scores.unit.astype(np.float16)
        if self.how.speed:
            row.metadata.update(measure_speed(predictor, self.evaluation_set.dimension, self.how.context))
        self._warn_of_masks(row)
        self.rows.append(row)

    def _warn_of_masks(self, row: PredictorRow) -> None:
        """Many targets ranked 2 to 5 and hardly one first: something read stands among the candidates."""
        one, five = row.figures["recall@1"], row.figures["recall@5"]
        if one is None or five is None:
            return
        count, chance = len(self.evaluation_set), self.evaluation_set.pool.chance_recall(5)
        hits, expected = five * count, chance * count
        # The second condition keeps quiet about a handful of lucky hits of a predictor at chance.
        if five > 10 * one and hits > expected + 3 * expected**0.5:
            text = f"{row.name}: recall@5 {five:.3f} is more than 10 x recall@1 {one:.3f}; look for what was"
            warnings.warn(f"{text} read among the candidates", NextvecWarning, stacklevel=4)

    def report(self, store: Store, name: str, leaks: Leaks | None, left_out: list[str]) -> Report:
        windows, pool = self.evaluation_set.windows, self.evaluation_set.pool
        report = Report(
            store=str(store.path),
            split=name,
            encoder=str(store.encoder.get("name", "")),
            context=windows.context,
            horizon=windows.horizon,
            task=windows.task,
            queries=None if windows.query is None else int((windows.query >= 0).sum()),
            windows=len(windows),
            documents=len(set(windows.document.tolist())),
            candidates=self.how.candidates,
            pool=len(pool) if self.how.candidates != "document" else int(pool.eligible.max()),
            eligible=float(pool.eligible.mean()),
            ties=int((pool.ties > 0).sum()),
            chance=pool.chance(self.ks),
            leaks=leaks,
            in_sample=name == "train",
            seed=self.how.seed,
            left_out=left_out,
            rows=self.rows,
            evaluated=windows if self.how.keep else None,
            squared_length=float(np.square(self.evaluation_set.targets, dtype=np.float64).sum(axis=1).mean()),
        )
        if report.documents > 1:
            report.bootstrap = DocumentBootstrap(windows.document, self.how.resamples, self.how.seed)
        compare(report)
        return report


def _check_names(predictors: Sequence[NextVectorPredictor]) -> None:
    names = [*BASELINES, *QUERY_BASELINES, *(predictor.name for predictor in predictors)]
    for name in names:
        if names.count(name) > 1:
            message = f"two predictors are called '{name}'"
            raise EvaluationError(message, remedy="give each row a name of its own")


def check_made_for(predictor: Any, store: Store) -> None:
    """Raises EncoderMismatchError, VectorError: a predictor (or a decoder: anything with a name) was made for
    other vectors than the store's, as far as it has `encoder` and `dimension`."""
    fingerprint = getattr(predictor, "encoder", None)
    if fingerprint is not None and fingerprint != store.encoder.get("fingerprint"):
        raise EncoderMismatchError(
            f"{predictor.name} was trained on vectors of another encoder than "
            f"'{store.encoder.get('name', '?')}' (fingerprints differ)",
            where=store.path,
            remedy="evaluate it on a store made with its own encoder",
        )
    dimension = getattr(predictor, "dimension", None)
    if dimension is not None and dimension != store.dimension:
        message = f"{predictor.name} takes vectors of {dimension} dimensions, the store has {store.dimension}"
        raise VectorError(
            message, where=store.path, remedy="evaluate it on a store made with its own encoder"
        )


def _tuned_on(
    store: Store, split: Split, training: FittingData | None, how: EvaluationConfig
) -> FittingData | None:
    """Limited to sources, baselines are fitted on everything but choose their variant on validation documents
    of these sources, where there are enough of them."""
    if training is None or training.vectors is not store.vectors:
        return training
    try:
        windows = how.windows(store, split.validation)
    except WindowError:
        return training
    enough = len(np.unique(windows.document)) >= LEAST_TO_CHOOSE_ON
    return replace(training, validation=windows) if enough else training


def _without_known(
    store: Store,
    windows: Windows,
    name: str,
    how: EvaluationConfig,
    training: FittingData | None,
    seen: TrainedOn | None,
) -> tuple[Windows, Leaks | None]:
    """Drop what leaks from any split but train, which is in-sample anyway."""
    known = [t for t in (None if training is None else training.seen, seen) if t is not None]
    if name == "train" or not known:
        return windows, None
    windows, leaks = without_leaks(store, windows, TrainedOn.union(known), split=name, limit=how.leak_limit)
    if len(windows) == 0:
        message = "no window is left"
        raise EvaluationError(
            message, where=f"split {name} of {store.path}", remedy="evaluate other documents"
        )
    return windows, leaks


def make_evaluation_set(
    store: Store,
    windows: Windows,
    documents: Sequence[int],
    how: EvaluationConfig,
    training: FittingData | None,
) -> EvaluationSet:
    """The evaluation set of these windows, which are of these documents (indices into `store.documents`)."""
    chosen = documents
    if how.candidates == "store":
        chosen = [i for i, document in enumerate(store.documents) if document.view_of is None]
    ranges = [(store.documents[i].first, store.documents[i].count) for i in chosen]
    pool = make_pool(windows, store.vectors, ranges, store.texts, how.candidates)
    mean = None if training is None else window_mean(training.vectors, training.train)
    return EvaluationSet(store.vectors, windows, pool, mean, how.seed, how.samples)


def _checked_ks(evaluation_set: EvaluationSet, how: EvaluationConfig) -> tuple[int, ...]:
    most = int(evaluation_set.pool.eligible.max())
    if how.ks is None:
        return tuple(k for k in KS if k < most)
    for k in how.ks:
        if k >= most:
            message = f"recall@{k} among {most} candidates would be 1 whatever is predicted"
            remedy = "choose a smaller k or a larger candidate set"
            raise EvaluationError(message, where=f"candidates '{how.candidates}'", remedy=remedy)
    return how.ks


def fitted(cls: type[Baseline], how: EvaluationConfig, training: FittingData | None) -> Baseline:
    """A baseline of that kind, fitted where there is something to fit on."""
    made = cls(how.context, how.seed)
    started = time.perf_counter()
    if training is not None:
        made.fit(training.vectors, training.train, training.validation)
    made.metadata["seconds"] = round(time.perf_counter() - started, 3)
    return made
