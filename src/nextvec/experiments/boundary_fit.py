"""Which finder of topic boundaries suits a run and a store, and by which rule: what does best on held-out
documents joined at known places. It is kept in the run's folder, for `nextvec surprise` and the server."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nextvec.config import from_dict
from nextvec.corpus.store import Store
from nextvec.data.gather import gather_rows
from nextvec.disk import locked, read_json, write_json
from nextvec.errors import RunError
from nextvec.evaluation.boundaries import (
    CURVES,
    DEFAULT,
    ReadDocument,
    Rule,
    boundaries,
    fit_rule,
    half_length,
    pk_errors,
)
from nextvec.evaluation.harness import check_made_for
from nextvec.experiments.evaluating import DocumentSelection
from nextvec.experiments.segmentation import held_out_documents, join_documents
from nextvec.inference.base import TrainedPredictor
from nextvec.models.saving import is_packaged

FILE = "boundaries.json"
SEGMENT_CHUNKS = (3, 20)


@dataclass(frozen=True)
class FittedFinder:
    """The finder that was chosen, and what it was chosen by.

    Attributes:
        finder: a name in `CURVES`.
        threshold, apart, width: its `Rule`.
        pk: every finder's Pk on joined documents that no rule was fitted on; the chosen one's is the lowest.
        store: what the documents were of.
        documents: how many were joined; `segment_chunks`: fewest and most chunks of a segment.
    """

    finder: str
    threshold: float
    apart: int
    width: int
    pk: dict[str, float]
    store: str
    documents: int
    segment_chunks: tuple[int, ...]
    seed: int

    @property
    def rule(self) -> Rule:
        return Rule(self.threshold, self.apart, self.width)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {**asdict(self), "segment_chunks": list(self.segment_chunks)}


def fit_finder(
    store: Store,
    run: TrainedPredictor,
    selection: DocumentSelection,
    *,
    count: int = 200,
    segment_chunks: tuple[int, int] = SEGMENT_CHUNKS,
    seed: int = 0,
) -> FittedFinder:
    """Join validation documents twice: rules are fitted on the first lot, the finder is chosen on the other.

    Of equals the one that needs no predictor is taken.

    Args:
        run: as `nextvec.experiments.surprise.next_predictor` gives it.
        selection: its split is not used.
    Raises:
        EvaluationError: documents too few to join.
        SplitError, LeakError, EncoderMismatchError, VectorError: see `nextvec.experiments.evaluating`.
    """
    check_made_for(run, store)
    there = held_out_documents(store, run, selection, "validation")
    lots = [join_documents(store, there, count, seed + lot, segment_chunks) for lot in range(2)]
    first, second = (
        [ReadDocument.of(run, gather_rows(store.vectors, joined.rows)) for joined in lot] for lot in lots
    )
    on, against = ([joined.cuts for joined in lot] for lot in lots)
    rules = {kind.name: fit_rule(kind, first, on)[0] for kind in CURVES.values()}
    k, pk = half_length(against), {}
    for kind in CURVES.values():
        rule = rules[kind.name]
        errors = [
            pk_errors(true, boundaries(kind.make(read, rule.width), rule), k)
            for read, true in zip(second, against, strict=True)
        ]
        pk[kind.name] = round(float(np.concatenate(errors).mean()), 6)
    best = min(CURVES.values(), key=lambda kind: (pk[kind.name], kind.predicts)).name
    return FittedFinder(
        best, **asdict(rules[best]), pk=pk, store=str(store.path), documents=count,
        segment_chunks=segment_chunks, seed=seed,
    )  # fmt: skip


def keep(fitted: FittedFinder, run: TrainedPredictor) -> Path:
    """Write it into the run's folder; returns the file.

    Raises:
        RunError: the model that comes with the package, which is not written to. BusyError, DiskError.
    """
    check_kept(run)
    with locked(run.folder):
        write_json(run.folder / FILE, fitted.to_json())
    return run.folder / FILE


def check_kept(run: TrainedPredictor) -> None:
    """Raises RunError: nothing is written into the package."""
    if is_packaged(run.folder):
        raise RunError(
            "comes with the package, which is not written to",
            where=run.folder,
            remedy="copy the folder, and give the copy",
        )


def chosen(
    run: TrainedPredictor, finder: str | None = None, threshold: float | None = None
) -> tuple[str, Rule]:
    """The finder and its rule: what was asked for, over what was fitted for the run, over `DEFAULT`.

    Raises RunError, ConfigError: a damaged file.
    """
    kept = kept_finder(run)
    name = finder or (DEFAULT if kept is None else kept.finder)
    rule = CURVES[name].usual if kept is None or kept.finder != name else kept.rule
    return name, rule if threshold is None else Rule(threshold, rule.apart, rule.width)


def kept_finder(run: TrainedPredictor) -> FittedFinder | None:
    """What was fitted for the run; None where nothing was. Raises RunError, ConfigError: a damaged
    file."""
    path = run.folder / FILE
    if not path.is_file():
        return None
    remedy = "fit it again: nextvec surprise RUN --store STORE --fit"
    said = read_json(path, RunError, remedy=remedy)
    if not isinstance(said, dict):
        raise RunError("is not what --fit writes", where=path, remedy=remedy)
    found = from_dict(FittedFinder, said, where=path)
    if found.finder not in CURVES:
        raise RunError(f"names no finder '{found.finder}'", where=path, remedy=remedy)
    return found
