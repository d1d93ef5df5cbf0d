"""The case: one predictor's answers in one exam, with those of the baselines beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nextvec.data.windows import FloatArray, IntArray, VectorSource, Windows, gather_rows
from nextvec.errors import EvaluationError
from nextvec.evaluation.diagnostics.model.part import Estimate, Values, estimate
from nextvec.evaluation.exam import Exam, context_blocks
from nextvec.evaluation.metrics import METRICS, Judgement
from nextvec.evaluation.offsets import offset_profile
from nextvec.evaluation.predictor import Predictor, ask, row_dots, unit
from nextvec.evaluation.rollout import Rollout, rollable
from nextvec.progress import Progress

if TYPE_CHECKING:
    from nextvec.corpus.store import Document

Texts = Callable[[IntArray], Sequence[str]]
Change = Callable[[FloatArray, IntArray, IntArray], tuple[FloatArray, IntArray]]


@dataclass(frozen=True)
class Answers:
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
    def of(cls, judgement: Judgement, name: str) -> Answers:
        """Keep the small part of a judgement."""
        margin = METRICS["forward_margin"].values
        assert margin is not None
        return cls(
            name,
            judgement.cosines,
            np.asarray(margin(judgement)),
            METRICS["mse"].figure(judgement),
            offset_profile(judgement.offsets),
            judgement.rollout if len(rollable(judgement.exam)) else None,
        )


@dataclass(frozen=True)
class Case:
    """One predictor in one exam.

    Attributes:
        model: what is diagnosed.
        judgement: its predictions.
        baselines: name -> the fitted baselines.
        answers: name -> answers, of the baselines and (last) of the model.
        documents: `store.documents`, which the windows' `document` indexes.
        texts: gives the texts of an array of rows.
        train_vectors: the source of the vectors trained on, and `trained` the rows of these; None where
            nothing was trained on.
    """

    exam: Exam
    model: Predictor
    judgement: Judgement
    baselines: Mapping[str, Predictor]
    answers: Mapping[str, Answers]
    documents: Sequence[Document]
    texts: Texts
    train_vectors: VectorSource | None = None
    trained: IntArray | None = None

    @cached_property
    def best(self) -> str:
        """The baseline with the highest cosine."""
        return max(self.baselines, key=lambda name: float(self.answers[name].cosine.mean()))

    @cached_property
    def best_judgement(self) -> Judgement:
        """The predictions of the best baseline."""
        return Judgement.of(self.baselines[self.best], self.exam)

    @property
    def document(self) -> IntArray:
        """[N] the document of each window."""
        return self.exam.windows.document

    @property
    def cosine(self) -> Values:
        """[N] cosine of the model's prediction and the target."""
        return self.judgement.cosines

    @property
    def best_cosine(self) -> Values:
        """[N] the same of the best baseline."""
        return self.answers[self.best].cosine

    @cached_property
    def position(self) -> IntArray:
        """[N] place of the target in its document, from 0."""
        return self.exam.windows.target - self.exam.windows.first

    @cached_property
    def length(self) -> IntArray:
        """[N] chunks of the target's document."""
        return np.array([self.documents[i].count for i in self.document], dtype=np.int64)

    @cached_property
    def source(self) -> NDArray[np.str_]:
        """[N] source of the target's document."""
        return np.array([self.documents[i].source for i in self.document])

    @cached_property
    def context_mean(self) -> FloatArray:
        """[N, D] direction of the mean of the last `context` vectors read."""
        means = np.empty((len(self.exam), self.exam.dimension), dtype=np.float32)
        for piece, contexts, lengths in self.exam.blocks(self.exam.windows.context):
            means[piece] = unit(contexts.sum(axis=1) / lengths[:, None].astype(np.float32))
        return means

    @cached_property
    def shift(self) -> Values:
        """[N] topic shift: distance 1 - cos of the target from the mean of the context."""
        return 1.0 - row_dots(self.exam.target_units, self.context_mean)

    def gain(self, which: NDArray[np.bool_] | None = None) -> Estimate:
        """Cosine of the model less that of the best baseline, over all windows or those of a mask."""
        mask = np.ones(len(self.exam), dtype=np.bool_) if which is None else which
        return estimate(self.document[mask], self.cosine[mask], self.best_cosine[mask])


def open_case(
    exam: Exam,
    model: Predictor,
    baselines: Sequence[Predictor],
    documents: Sequence[Document],
    texts: Texts,
    *,
    train_vectors: VectorSource | None = None,
    trained: IntArray | None = None,
    quiet: bool = True,
) -> Case:
    """Ask the model and the (fitted) baselines for every window of the exam.

    Raises:
        EvaluationError: no baseline, a baseline's name given to the model, or predictions that mean nothing.
    """
    if not baselines or model.name in {b.name for b in baselines}:
        raise EvaluationError(
            "a diagnosis needs baselines beside the model, under other names than its own",
            where=model.name,
            remedy="add a baseline, or rename the run",
        )
    answers = {}
    with Progress("judging", len(baselines) + 1, "predictors", quiet=quiet) as progress:
        for predictor in (*baselines, model):
            judgement = Judgement.of(predictor, exam)
            answers[predictor.name] = Answers.of(judgement, predictor.name)
            progress.advance(note=predictor.name)
    by_name = {b.name: b for b in baselines}
    return Case(exam, model, judgement, by_name, answers, documents, texts, train_vectors, trained)


def score(
    predictor: Predictor,
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
