"""Faults of the instruments themselves: figures that say something else than they seem to."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from nextvec.data.gather import gather_contexts
from nextvec.data.windows import FloatArray
from nextvec.evaluation.metrics import KS, METRICS
from nextvec.evaluation.ranking import Pool, make_pool
from nextvec.evaluation.trajectory import OFFSETS, offset_cosines
from nextvec.models.base import NextVectorModel
from nextvec.selfcheck.faults import fault, patched
from nextvec.selfcheck.faults.fixture import Fixture, Observation, Signal, command, run_evaluate
from nextvec.selfcheck.faults.training_faults import resave
from nextvec.selfcheck.oracle import OracleRow, run_oracle
from nextvec.selfcheck.worlds import make_store

NO_ORACLE: dict[str, Any] = {
    "nextvec.selfcheck.predictors:Expected.holds": lambda *_: True,
    "nextvec.selfcheck.oracle:_told_apart": lambda metric, world, *_: believed(metric, world.name),
    "nextvec.selfcheck.oracle:_without_expectation": lambda metric: believed(metric, "every world"),
}
"""The oracle suite, believing whatever is measured."""


def believed(metric: str, world: str) -> OracleRow:
    """A row that nothing was asked of."""
    return OracleRow(metric, "every predictor", world, "anything", 0.0, 0.0, ok=True)


def oracle_suite(*names: str) -> Observation:
    """The oracle suite on some metrics: its red rows as signals."""
    red = [row for row in run_oracle(metrics=names) if not row.ok]
    return Observation(int(bool(red)), tuple(Signal("oracle suite", str(row)) for row in red))


@fault(
    "model that says the mean vector",
    "model scores the mean vector's cosine",
    did='"78 %" believed',
    guard="baselines in every table; collapse figures; diagnose model compares with the mean vector",
    expected=("verdict mean vector", "no better than the mean vector"),
    without={
        "nextvec.diagnostics.collapse:MeanShare.beaten": property(lambda self: True),
        "nextvec.diagnostics.collapse:LEAST_SPREAD": -1.0,
    },
)
def mean_vector(fixture: Fixture, faulty: bool) -> Observation:
    """A model whose head has learned to ignore what it is given."""
    run, shared = fixture.copy_run(), fixture.shared
    if faulty:
        rows = [np.asarray(shared.vectors[i]) for i in shared.split.train]
        mean = np.concatenate(rows).mean(axis=0)
        resave(run, lambda model: say_always(model, mean))
    return command(
        "diagnose", "model", run, "--store", shared.store.path, "--no-speed", "--quiet", "--json", "-"
    )


def say_always(model: NextVectorModel, vector: FloatArray) -> None:
    """Make the last layer of the head a constant."""
    last = [layer for layer in model.head.modules() if isinstance(layer, nn.Linear)][-1]
    last.weight.zero_()
    last.bias.copy_(last.bias.new_tensor(vector) / model.scale)


def one_too_far(units: Any, evaluation_set: Any, offsets: Any = OFFSETS) -> Any:
    """The offset profile as the field had it: what it calls 0 is the chunk after the target."""
    moved = offset_cosines(units, evaluation_set, [k + 1 for k in offsets])
    return {k - 1: values for k, values in moved.items()}


@fault(
    "off-by-one in the offset test",
    "off-by-one in the offset test",
    did="a near-perfect predictor failed its gate",
    guard="the oracle suite; k = 0 is the target",
    expected=("oracle suite", "offset_margin of oracle in rotation"),
    without=NO_ORACLE,
)
def offset_by_one(fixture: Fixture, faulty: bool) -> Observation:
    """The offset profile counts from the chunk after the target."""
    wrong = {"nextvec.evaluation.metrics:offset_cosines": one_too_far} if faulty else {}
    with patched(wrong):
        return oracle_suite("offset_margin", "offset_accuracy")


@fault(
    "top-5 that was a threshold",
    '"top-5" that was a threshold; a bank of 6 vectors',
    did="a share of cosines above 0.5 was read as retrieval",
    guard="recall only by rank; the oracle suite holds every recall against its chance",
    expected=("oracle suite", "recall@5 of"),
    without=NO_ORACLE,
)
def threshold(fixture: Fixture, faulty: bool) -> Observation:
    """recall@5 computed as the share of windows with a cosine above 0.5."""
    lax = replace(METRICS["share_above_0.5"], name="recall@5")
    wrong = {"nextvec.selfcheck.oracle:METRICS": METRICS | {"recall@5": lax}} if faulty else {}
    with patched(wrong):
        return oracle_suite("recall@5")


BANK = ("--candidates", "document", "--k")


@fault(
    "bank of six vectors",
    '"top-5" that was a threshold; a bank of 6 vectors',
    did="chance was 83 %",
    guard="pool size and chance beside every recall; a note where chance alone finds more than half",
    expected=("note", "Chance alone"),
    without={"nextvec.evaluation.results:EASY": 1.0},
)
def bank_of_six(fixture: Fixture, faulty: bool) -> Observation:
    """Documents of 11 chunks, 5 of them read: the target is one of 6 at most."""
    store = make_store(fixture.folder / "store", fixture.shared.noise[:, :11])
    return run_evaluate(store=store.path, flags=[*BANK, "1,5"] if faulty else ["--k", "1,5"])


@fault(
    "k beyond the bank",
    '"top-5" that was a threshold; a bank of 6 vectors',
    did="recall@k of 1, whatever was predicted",
    guard="k is refused unless it is below the number of candidates",
    expected=("EvaluationError", "would be 1 whatever is predicted"),
    without={"nextvec.evaluation.harness:_checked_ks": lambda evaluation_set, how: how.ks or KS},
)
def k_beyond_the_bank(fixture: Fixture, faulty: bool) -> Observation:
    """recall@10 among 6 candidates."""
    store = make_store(fixture.folder / "store", fixture.shared.noise[:, :11])
    return run_evaluate(store=store.path, flags=[*BANK, "10"] if faulty else ["--k", "10"])


def unmasked(*arguments: Any, **named: Any) -> Pool:
    """The candidates with what was read among them."""
    pool = make_pool(*arguments, **named)
    return replace(pool, read_high=pool.read_low)


@fault(
    "context left among the candidates",
    "context chunks left among the candidates",
    did="recall@1 1 %, recall@5 50 %",
    guard="what was read is masked; a warning when recall@5 > 10 x recall@1",
    expected=("NextvecWarning", "is more than 10 x recall@1"),
    without={"nextvec.evaluation.harness:_Table._warn_of_masks": lambda *_: None},
)
def context_among_candidates(fixture: Fixture, faulty: bool) -> Observation:
    """The mask of what was read is lost."""
    store = make_store(fixture.folder / "store", fixture.shared.noise)
    with patched({"nextvec.evaluation.harness:make_pool": unmasked} if faulty else {}):
        return run_evaluate(store=store.path, flags=["--baselines", "copy-last,linear average"])


@fault(
    "copies of the context among the candidates",
    "context chunks left among the candidates",
    did="recall@1 1 %, recall@5 50 %",
    guard="a warning when recall@5 > 10 x recall@1",
    expected=("NextvecWarning", "is more than 10 x recall@1"),
    without={"nextvec.evaluation.harness:_Table._warn_of_masks": lambda *_: None},
)
def copies_among_candidates(fixture: Fixture, faulty: bool) -> Observation:
    """Every document is ingested twice, under two ids and with vectors that differ by rounding."""
    vectors, count = fixture.shared.noise, len(fixture.shared.noise)
    if faulty:
        rounded = vectors + 0.01 * np.random.default_rng(5).standard_normal(vectors.shape)
        vectors = np.concatenate([vectors, rounded.astype(np.float32)])

    def text(document: int, place: int) -> str:
        return f"chunk {place} of document {document % count} says {document % count * 1000 + place}"

    store = make_store(fixture.folder / "store", vectors, texts=text)
    return run_evaluate(store=store.path, flags=["--baselines", "copy-last,linear average"])


def repeat_padded(vectors: Any, windows: Any, width: int) -> Any:
    """Contexts padded on the right by repeating the last vector, and called full."""
    contexts, lengths = gather_contexts(vectors, windows, width)
    place = np.minimum(np.arange(width), lengths[:, None] - 1)
    return np.take_along_axis(contexts, place[:, :, None], axis=1), np.full_like(lengths, width)


@fault(
    "contexts padded by repetition",
    "contexts padded by repetition",
    did="out of distribution",
    guard="variable lengths and masks, never silent padding; the oracle suite reads contexts of every length",
    expected=("oracle suite", "forward_margin of kalman filter in ar1"),
    without=NO_ORACLE,
)
def padded_contexts(fixture: Fixture, faulty: bool) -> Observation:
    """The harness fills short contexts up by repeating their last vector."""
    with patched({"nextvec.evaluation.evaluation_set:gather_contexts": repeat_padded} if faulty else {}):
        return oracle_suite("forward_margin")


@fault(
    "metric that nobody has tried",
    "",
    did="an instrument was believed because it printed a figure",
    guard="a metric without stated expectations fails the oracle suite",
    expected=("oracle suite", "novelty of every predictor"),
    without=NO_ORACLE,
)
def untried_metric(fixture: Fixture, faulty: bool) -> Observation:
    """A new entry of the registry, no message of it."""
    novelty = {"novelty": replace(METRICS["surprise"], name="novelty")} if faulty else {}
    with patched({"nextvec.selfcheck.oracle:METRICS": METRICS | novelty}):
        return oracle_suite("surprise", "novelty")
