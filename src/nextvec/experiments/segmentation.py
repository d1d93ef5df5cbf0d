"""Finding the places where documents were joined: surprise of a run, of baselines, TextTiling and chance.

Segments of held-out documents are put one after another; where they meet is known. A model reads on across
these places: that it is surprised there is the point. Every finder's rule (block width, threshold, distance)
is fitted on validation documents joined in the same way, and evaluated on the others.

Held-out documents are few, so a document gives segments to several joined ones, which are therefore not
independent: intervals resample the documents that segments were taken from. A pair of chunks counts to the
document that the chunk in its middle is of, a place between two chunks to that of the chunk after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nextvec.corpus.store import Store
from nextvec.data.gather import gather_rows
from nextvec.data.windows import IntArray
from nextvec.errors import EvaluationError
from nextvec.evaluation.baselines import named
from nextvec.evaluation.boundaries import (
    CURVES,
    Cuts,
    ReadDocument,
    Rule,
    fit_rule,
    found,
    half_length,
    pk_errors,
    window_diff_errors,
)
from nextvec.evaluation.harness import EvaluationConfig, check_made_for, fitted
from nextvec.evaluation.intervals import STANDING, DocumentBootstrap, Estimate
from nextvec.evaluation.predictor_protocol import Kind, NextVectorPredictor
from nextvec.experiments.evaluating import DocumentSelection, evaluation_windows, laid_out
from nextvec.inference.base import TrainedPredictor
from nextvec.progress import Progress

SEGMENTS, CHUNKS = (4, 8), (5, 20)
PREDICTORS = ("copy-last", "exponential averages")
TOLERANCE = 1


@dataclass(frozen=True, eq=False)
class Joined:
    """A document of T chunks made of segments of several.

    Attributes:
        rows: [T] of the store.
        document: [T] index in `store.documents` of the document that each chunk is of.
    """

    rows: IntArray
    document: IntArray

    @property
    def cuts(self) -> Cuts:
        """[T - 1] where segments meet."""
        return np.asarray(self.document[1:] != self.document[:-1])


def join_documents(
    store: Store, documents: Sequence[int], count: int, seed: int, chunks: tuple[int, int] = CHUNKS
) -> list[Joined]:
    """`count` documents of 4 to 8 segments of so many chunks (fewest, most), each of another document.

    Segments are dealt: documents in random order, all of them before one comes again, each giving the chunks
    that follow those it gave last. A chunk is used again only when its document has been dealt out.

    Args:
        documents: indices into `store.documents`; those of fewer chunks than a segment are left out.
    Raises:
        EvaluationError: fewer than 4 documents are long enough.
    """
    usable = [i for i in documents if store.documents[i].count >= chunks[0]]
    if len(usable) < SEGMENTS[0]:
        message = f"{len(usable)} documents of {chunks[0]} chunks or more cannot be joined"
        remedy = f"evaluate a split and sources with {SEGMENTS[0]} at least"
        raise EvaluationError(message, where=store.path, remedy=remedy)
    rng = np.random.default_rng(seed)
    waiting: list[int] = []
    given: dict[int, int] = {}
    made = []
    for _ in range(count):
        many = min(int(rng.integers(SEGMENTS[0], SEGMENTS[1] + 1)), len(usable))
        chosen = _deal(waiting, usable, many, rng)
        rows = [_segment(store, i, given, rng, chunks) for i in chosen]
        document = np.repeat(np.asarray(chosen, dtype=np.int64), [len(part) for part in rows])
        made.append(Joined(np.concatenate(rows), document))
    return made


def _deal(waiting: list[int], usable: list[int], many: int, rng: np.random.Generator) -> list[int]:
    chosen: list[int] = []
    while len(chosen) < many:
        if all(i in chosen for i in waiting):
            waiting += rng.permutation(usable).tolist()
        chosen.append(next(i for i in waiting if i not in chosen))
        waiting.remove(chosen[-1])
    return chosen


def _segment(
    store: Store, i: int, given: dict[int, int], rng: np.random.Generator, chunks: tuple[int, int]
) -> IntArray:
    """The next chunks of a document; from near its start again where too few are left."""
    document, (least, most) = store.documents[i], chunks
    start = given.get(i, document.count)
    if document.count - start < least:
        start = int(rng.integers(min(least, document.count - least + 1)))
    length = min(int(rng.integers(least, most + 1)), document.count - start)
    given[i] = start + length
    return document.first + np.arange(start, start + length, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class FinderRow:
    """One finder.

    Attributes:
        predictor: whose surprise it is; None where nothing is predicted.
        kind: "model" where that is the run.
        rule, validation_pk: what was fitted on validation, and how well it did there; None for those without.
        pk, window_diff, f1: over all joined documents; f1 is of boundaries, at most 1 chunk away.
        boundary_ratio: boundaries it gives over those there are.
        versus: the differences to the best baseline by Pk; empty for that one.
    """

    finder: str
    predictor: str | None
    kind: Kind
    rule: Rule | None
    validation_pk: float | None
    pk: float
    window_diff: float
    f1: float
    boundary_ratio: float
    versus: dict[str, Estimate]

    @property
    def name(self) -> str:
        """`surprise of lstm`."""
        return self.finder if self.predictor is None else f"{self.finder} of {self.predictor}"


@dataclass(frozen=True)
class SegmentationReport:
    """A table of finders.

    Attributes:
        chunks, boundaries: of all joined documents; `used`: how often a chunk is used on average.
        k: chunks between a pair of Pk and WindowDiff.
        best: name of the best baseline by Pk.
    """

    store: str
    split: str
    sources: tuple[str, ...]
    documents: int
    origins: int
    chunks: int
    boundaries: int
    used: float
    k: int
    seed: int
    best: str
    rows: tuple[FinderRow, ...]

    def verdicts(self) -> list[str]:
        """How the run stands against the best baseline, by its curve that did best on validation."""
        own = [row for row in self.rows if row.kind == "model"]
        chosen = min(own, key=lambda row: row.validation_pk or 0.0)
        gap = chosen.versus["pk"]
        how = STANDING[gap.better("lower")]
        lines = [
            f"{chosen.name} (its best curve on validation) is {how} the best baseline, {self.best}: Pk "
            f"{chosen.pk:.4f}, {gap.signed()}."
        ]
        if gap.excludes_zero and gap.value > 0:
            lines.append(f"To find where topics change, use {self.best}: the run loses to it.")
        return lines

    def to_json(self) -> dict[str, Any]:
        rows = [
            {"name": row.name, **asdict(row)} | {"versus": {k: e.to_json() for k, e in row.versus.items()}}
            for row in self.rows
        ]
        return {**asdict(self), "sources": list(self.sources), "rows": rows, "verdicts": self.verdicts()}


def evaluate_segmentation(
    store: Store,
    run: TrainedPredictor,
    selection: DocumentSelection,
    *,
    count: int = 200,
    seed: int = 0,
    segment_chunks: tuple[int, int] = CHUNKS,
    baselines: Sequence[str] = PREDICTORS,
    quiet: bool = False,
) -> SegmentationReport:
    """Join documents, fit every finder on validation, evaluate it on the split of the selection.

    Args:
        run: as `nextvec.experiments.surprise.next_predictor` gives it.
        baselines: predictors whose surprise stands in the table too.
    Raises:
        EvaluationError: documents too few to join, an unknown baseline, the validation split itself.
        SplitError, LeakError, EncoderMismatchError, VectorError: see `nextvec.experiments.evaluating`.
    """
    check_made_for(run, store)
    if selection.split in ("validation", "all"):
        message = f"split '{selection.split}' holds the documents that thresholds are fitted on"
        raise EvaluationError(message, where="--split", remedy="evaluate test")
    if count < 1:
        raise EvaluationError(f"{count} joined documents", where="--documents", remedy="give 1 or more")
    joined = {
        name: join_documents(
            store, held_out_documents(store, run, selection, name), count, seed + at, segment_chunks
        )
        for at, name in enumerate((selection.split, "validation"))
    }
    predictors = [*_fitted(store, run, selection, baselines), run]
    table = _Table(joined[selection.split], joined["validation"], seed)
    with Progress("reading joined documents", len(predictors), "predictors", quiet=quiet) as progress:
        for predictor in predictors:
            table.add(store, predictor)
            progress.advance(note=predictor.name)
    return table.report(store, selection)


def held_out_documents(
    store: Store, run: TrainedPredictor, selection: DocumentSelection, split: str
) -> list[int]:
    """Of the split, those that the run was not trained on."""
    windows, _ = evaluation_windows(store, [run], replace(selection, split=split), context=1, horizon=1)
    documents: list[int] = np.unique(windows.document).tolist()
    return documents


def _fitted(
    store: Store, run: TrainedPredictor, selection: DocumentSelection, names: Sequence[str]
) -> list[NextVectorPredictor]:
    kinds, how = [named(name) for name in names], EvaluationConfig(quiet=True)
    needed = any(kind.needs_training for kind in kinds)
    training = laid_out(store, [run], selection, how)[1] if needed else None
    if needed and training is None:
        message = "no training windows to fit baselines on"
        raise EvaluationError(message, where=store.path, remedy="name others: --baselines")
    return [fitted(kind, how, training) for kind in kinds]


@dataclass(frozen=True, eq=False)
class _Marks:
    """A finder's mistakes: pk, window_diff [N pairs], true, hypothesis, hits [G places]."""

    pk: NDArray[np.bool_]
    window_diff: NDArray[np.bool_]
    true: Cuts
    hypothesis: Cuts
    hits: NDArray[np.bool_]

    @property
    def f1_parts(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """F1 is the sum of the first over the sum of the second."""
        return 2 * self.hits.astype(np.int64), self.true.astype(np.int64) + self.hypothesis


class _Table:
    def __init__(self, test: list[Joined], validation: list[Joined], seed: int) -> None:
        self.test, self.validation, self.seed = test, validation, seed
        self.truths = [joined.cuts for joined in test]
        self.fitted_on = [joined.cuts for joined in validation]
        self.k = half_length(self.truths)
        self.rows: list[tuple[dict[str, Any], _Marks]] = []
        self._add_chance()

    def add(self, store: Store, predictor: NextVectorPredictor) -> None:
        """Its curves; those that need no predictor once."""
        validation, test = (
            [ReadDocument.of(predictor, gather_rows(store.vectors, joined.rows)) for joined in part]
            for part in (self.validation, self.test)
        )
        known = {metadata["finder"] for metadata, _ in self.rows}
        for kind in CURVES.values():
            if kind.predicts or kind.name not in known:
                rule, pk = fit_rule(kind, validation, self.fitted_on)
                of: tuple[str | None, Kind] = (predictor.name, predictor.kind)
                hypotheses = [kind.boundaries(read, rule) for read in test]
                self._add(kind.name, hypotheses, *(of if kind.predicts else (None, "baseline")), rule, pk)

    def _add_chance(self) -> None:
        """No boundaries, boundaries at random and evenly, as many as validation lets expect."""
        places = sum(len(cuts) for cuts in self.fitted_on)
        many = sum(int(cuts.sum()) for cuts in self.fitted_on)
        length = round((places + len(self.fitted_on)) / (many + len(self.fitted_on)))
        rng = np.random.default_rng(self.seed)
        self._add("none", [np.zeros_like(cuts) for cuts in self.truths])
        self._add("even", [(np.arange(len(cuts)) + 1) % length == 0 for cuts in self.truths])
        self._add("random", [rng.random(len(cuts)) < many / places for cuts in self.truths])

    def _add(
        self,
        finder: str,
        hypotheses: list[Cuts],
        predictor: str | None = None,
        kind: Kind = "baseline",
        rule: Rule | None = None,
        validation_pk: float | None = None,
    ) -> None:
        pairs = list(zip(self.truths, hypotheses, strict=True))
        marks = _Marks(
            np.concatenate([pk_errors(true, cuts, self.k) for true, cuts in pairs]),
            np.concatenate([window_diff_errors(true, cuts, self.k) for true, cuts in pairs]),
            np.concatenate(self.truths),
            np.concatenate(hypotheses),
            np.concatenate([found(true, cuts, TOLERANCE) for true, cuts in pairs]),
        )
        metadata = {"finder": finder, "predictor": predictor, "kind": kind, "rule": rule}
        self.rows.append(({**metadata, "validation_pk": validation_pk}, marks))

    def report(self, store: Store, selection: DocumentSelection) -> SegmentationReport:
        _, reference = min(
            (row for row in self.rows if row[0]["kind"] == "baseline"),
            key=lambda row: float(row[1].pk.mean()),
        )
        pairs = DocumentBootstrap(
            np.concatenate([j.document[(self.k + 1) // 2 :][: len(j.rows) - self.k] for j in self.test]),
            seed=self.seed,
        )
        places = DocumentBootstrap(np.concatenate([j.document[1:] for j in self.test]), seed=self.seed)
        rows = []
        for metadata, marks in self.rows:
            versus = {
                "pk": pairs.interval(marks.pk, reference.pk),
                "window_diff": pairs.interval(marks.window_diff, reference.window_diff),
                "f1": places.ratio(*marks.f1_parts, *reference.f1_parts),
            }
            rows.append(
                FinderRow(
                    **metadata,
                    pk=float(marks.pk.mean()),
                    window_diff=float(marks.window_diff.mean()),
                    f1=float(marks.f1_parts[0].sum() / marks.f1_parts[1].sum()),
                    boundary_ratio=float(marks.hypothesis.sum() / marks.true.sum()),
                    versus={} if marks is reference else versus,
                )
            )
        used = np.concatenate([joined.rows for joined in self.test])
        return SegmentationReport(
            store=str(store.path),
            split=selection.split,
            sources=selection.sources,
            documents=len(self.test),
            origins=len(np.unique(np.concatenate([joined.document for joined in self.test]))),
            chunks=len(used),
            boundaries=int(reference.true.sum()),
            used=len(used) / len(np.unique(used)),
            k=self.k,
            seed=self.seed,
            best=next(row.name for row in rows if not row.versus),
            rows=tuple(rows),
        )
