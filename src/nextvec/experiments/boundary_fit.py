"""Which finder of topic boundaries suits a run and a store, and by which rule: what does best on held-out
documents joined at known places. It is kept in the run's folder, for `nextvec surprise` and the server."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np

from nextvec.corpus.store import Store
from nextvec.data.gather import gather_rows
from nextvec.disk import locked, write_json
from nextvec.errors import RunError
from nextvec.evaluation.boundaries import CURVES, ReadDocument, fit_rule, half_length, pk_errors
from nextvec.evaluation.harness import check_made_for
from nextvec.experiments.evaluating import DocumentSelection
from nextvec.experiments.segmentation import held_out_documents, join_documents
from nextvec.experiments.surprise import FILE, FittedFinder
from nextvec.inference.base import TrainedPredictor
from nextvec.models.saving import is_packaged

SEGMENT_CHUNKS = (3, 20)


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
        hypotheses = [kind.boundaries(read, rules[kind.name]) for read in second]
        errors = [pk_errors(true, cuts, k) for true, cuts in zip(against, hypotheses, strict=True)]
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
        write_json(run.folder / FILE, fitted.to_json(), sealed=True)
    return run.folder / FILE


def check_kept(run: TrainedPredictor) -> None:
    """Raises RunError: nothing is written into the package."""
    if is_packaged(run.folder):
        message = "comes with the package, which is not written to"
        raise RunError(message, where=run.folder, remedy="copy the folder, and give the copy")
