"""What every part of a diagnosis has: verdicts, lines to print, JSON; and estimates with intervals."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from nextvec.data.gather import VectorSource, gather_rows
from nextvec.data.windows import FloatArray, IntArray, Windows
from nextvec.errors import EvaluationError
from nextvec.evaluation.evaluation_set import EvaluationSet, context_blocks
from nextvec.evaluation.intervals import Estimate, Values, estimate
from nextvec.evaluation.metrics import METRICS, Scores
from nextvec.evaluation.predictor_protocol import NextVectorPredictor, ask, row_dots, unit
from nextvec.evaluation.trajectory import Rollout, offset_profile, rollable
from nextvec.progress import Progress

if TYPE_CHECKING:
    from nextvec.corpus.store import Document

# A verdict: what a check found, in one sentence, and how grave it is.

Level = Literal["ok", "note", "warning", "red"]
LEVELS: tuple[Level, ...] = ("ok", "note", "warning", "red")
"""From harmless to grave. A note is worth knowing, a warning worth a look; what is red makes figures taken
from it meaningless."""


@dataclass(frozen=True)
class Verdict:
    """What one check found.

    Attributes:
        name: the check, for programs: "order", "texts misaligned"...
        level: how grave it is.
        text: the finding with its figures.
    """

    name: str
    level: Level
    text: str


def is_red(verdicts: Iterable[Verdict]) -> bool:
    return any(verdict.level == "red" for verdict in verdicts)


def plain(value: Any) -> Any:
    """Dataclasses, numpy numbers and arrays as JSON; what is not finite becomes null."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Section(ABC):
    """One section of a diagnosis; subclasses are frozen dataclasses."""

    title: ClassVar[str]

    @abstractmethod
    def verdicts(self) -> list[Verdict]:
        """What was found; nothing where nothing can be said."""

    @abstractmethod
    def lines(self) -> list[str]:
        """The figures, as lines of text."""

    def to_json(self) -> dict[str, Any]:
        """Every field, JSON-ready, with the verdicts."""
        content: dict[str, Any] = plain(self)
        return {**content, "verdicts": plain(self.verdicts())}


def sample(count: int, most: int, seed: int) -> IntArray:
    """At most `most` of `count` indices, ascending, drawn evenly at random."""
    if count <= most:
        return np.arange(count, dtype=np.int64)
    return np.sort(np.random.default_rng(seed).choice(count, most, replace=False)).astype(np.int64)


def spearman(one: NDArray[Any], other: NDArray[Any]) -> float | None:
    """Rank correlation of [N] and [N], ties at their mean rank; None where one of them does not vary."""
    a, b = _mean_ranks(one), _mean_ranks(other)
    if len(a) < 2 or a.std() == 0 or b.std() == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])


def _mean_ranks(values: NDArray[Any]) -> Values:
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts - 1) / 2)[which], dtype=np.float64)


# The case: one predictor's answers in one evaluation set, with those of the baselines beside them.

Texts = Callable[[IntArray], Sequence[str]]
Change = Callable[[FloatArray, IntArray, IntArray], tuple[FloatArray, IntArray]]


@dataclass(frozen=True)
class PredictorSummary:
    """What one predictor answered, without its vectors.

    Attributes:
        cosine, margin: [N] cosine to the target, and that less the cosine to the last chunk read.
        mse: mean over windows and dimensions of the squared error of the raw output.
        offsets: k -> mean cosine to the chunk k after the target.
        rollout: None where no document is long enough.
    """

    name: str
    cosine: Values
    margin: Values
    mse: float
    offsets: dict[int, float]
    rollout: Rollout | None

    @classmethod
    def of(cls, scores: Scores, name: str) -> PredictorSummary:
        margin = METRICS["forward_margin"].values
        assert margin is not None
        return cls(
            name,
            scores.cosines,
            np.asarray(margin(scores)),
            METRICS["mse"].figure(scores),
            offset_profile(scores.offsets),
            scores.rollout if len(rollable(scores.evaluation_set)) else None,
        )


@dataclass(frozen=True)
class DiagnosisContext:
    """One predictor in one evaluation set.

    Attributes:
        model: what is diagnosed.
        scores: its predictions.
        baselines: name -> the fitted baselines.
        answers: name -> answers, of the baselines and (last) of the model.
        documents: `store.documents`, which the windows' `document` indexes.
        texts: gives the texts of an array of rows.
        train_vectors: the source of the vectors trained on, and `trained` the rows of these; None where
            nothing was trained on.
    """

    evaluation_set: EvaluationSet
    model: NextVectorPredictor
    scores: Scores
    baselines: Mapping[str, NextVectorPredictor]
    summaries: Mapping[str, PredictorSummary]
    documents: Sequence[Document]
    texts: Texts
    train_vectors: VectorSource | None = None
    trained: IntArray | None = None

    @cached_property
    def best(self) -> str:
        return max(self.baselines, key=lambda name: float(self.summaries[name].cosine.mean()))

    @cached_property
    def best_scores(self) -> Scores:
        return Scores.of(self.baselines[self.best], self.evaluation_set)

    @property
    def document(self) -> IntArray:
        return self.evaluation_set.windows.document

    @property
    def cosine(self) -> Values:
        """[N] cosine of the model's prediction and the target."""
        return self.scores.cosines

    @property
    def best_cosine(self) -> Values:
        """[N] the same of the best baseline."""
        return self.summaries[self.best].cosine

    @cached_property
    def position(self) -> IntArray:
        """[N] place of the target in its document, from 0."""
        return self.evaluation_set.windows.target - self.evaluation_set.windows.first

    @cached_property
    def length(self) -> IntArray:
        return np.array([self.documents[i].count for i in self.document], dtype=np.int64)

    @cached_property
    def source(self) -> NDArray[np.str_]:
        return np.array([self.documents[i].source for i in self.document])

    @cached_property
    def shift(self) -> Values:
        """[N] topic shift: 1 - cos of the target and the mean of the last `context` vectors read."""
        means = np.empty((len(self.evaluation_set), self.evaluation_set.dimension), dtype=np.float32)
        for piece, contexts, lengths in self.evaluation_set.blocks(self.evaluation_set.windows.context):
            means[piece] = unit(contexts.sum(axis=1) / lengths[:, None].astype(np.float32))
        return 1.0 - row_dots(self.evaluation_set.target_units, means)

    def gain(self, which: NDArray[np.bool_] | None = None) -> Estimate:
        """Cosine of the model less that of the best baseline, over all windows or those of a mask."""
        mask = np.ones(len(self.evaluation_set), dtype=np.bool_) if which is None else which
        return estimate(self.document[mask], self.cosine[mask], self.best_cosine[mask])


def prepare(
    evaluation_set: EvaluationSet,
    model: NextVectorPredictor,
    baselines: Sequence[NextVectorPredictor],
    documents: Sequence[Document],
    texts: Texts,
    *,
    train_vectors: VectorSource | None = None,
    trained: IntArray | None = None,
    quiet: bool = True,
) -> DiagnosisContext:
    """Ask the model and the (fitted) baselines for every window of the evaluation set.

    Raises:
        EvaluationError: no baseline, a baseline's name given to the model, or predictions that mean nothing.
    """
    if not baselines or model.name in {b.name for b in baselines}:
        message = "a diagnosis needs baselines beside the model, under other names than its own"
        raise EvaluationError(message, where=model.name, remedy="add a baseline, or rename the run")
    summaries = {}
    with Progress("evaluating", len(baselines) + 1, "predictors", quiet=quiet) as progress:
        for predictor in (*baselines, model):
            scores = Scores.of(predictor, evaluation_set)
            summaries[predictor.name] = PredictorSummary.of(scores, predictor.name)
            progress.advance(note=predictor.name)
    by_name = {b.name: b for b in baselines}
    return DiagnosisContext(
        evaluation_set, model, scores, by_name, summaries, documents, texts, train_vectors, trained
    )


def score(
    predictor: NextVectorPredictor,
    vectors: VectorSource,
    windows: Windows,
    *,
    width: int | None = None,
    change: Change | None = None,
) -> tuple[Values, Values]:
    """Cosine and mse (mean over dimensions, of the raw output) of each window, [N] and [N].

    Args:
        width: how many of the last vectors read are gathered; None takes what the predictor uses.
        change: what to do to contexts [B, T, D] and lengths [B] before asking, given the windows' indices.
    """
    cosine, mse = np.empty(len(windows)), np.empty(len(windows))
    for piece, contexts, lengths in context_blocks(vectors, windows, width or predictor.context):
        if change is not None:
            contexts, lengths = change(contexts, lengths, piece)
        raw, units = ask(predictor, contexts, lengths)
        targets = gather_rows(vectors, windows.target[piece])
        cosine[piece] = row_dots(units, unit(targets))
        mse[piece] = row_dots(raw - targets, raw - targets) / targets.shape[1]
    return cosine, mse
