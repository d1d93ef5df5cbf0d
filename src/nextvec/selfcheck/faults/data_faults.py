"""Faults of the data: stores in which there is nothing to learn, or something else than it seems."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa

from nextvec.corpus.store import Store
from nextvec.data.windows import FloatArray, IntArray
from nextvec.decoding.load import open_decoder
from nextvec.diagnostics.sections import Verdict
from nextvec.evaluation.baselines import CopyLast
from nextvec.evaluation.harness import EvaluationConfig, evaluate
from nextvec.evaluation.predictor_protocol import unit
from nextvec.inference.predictor import RunPredictor
from nextvec.selfcheck.faults import fault, nothing
from nextvec.selfcheck.faults.fixture import (
    Fixture,
    Observation,
    Signal,
    TableEncoder,
    command,
    edit_table,
    ingest_vectors,
    refused,
    run_evaluate,
    spot_check,
    store_of_another_encoder,
    turned,
)
from nextvec.selfcheck.worlds import make_store
from nextvec.vectors import RawVectors, UnitVectors


def look(store: Path) -> Observation:
    """`nextvec diagnose data`, red verdicts and warnings as signals."""
    return command("diagnose", "data", store, "--reembed", 0, "--strict", "--quiet", "--json", "-")


def shuffled(vectors: FloatArray, seed: int = 6) -> FloatArray:
    """The chunks of every document [n, T, D] in random order."""
    rng = np.random.default_rng(seed)
    return np.stack([document[rng.permutation(len(document))] for document in vectors])


def telescoping(vectors: FloatArray) -> float:
    """The field's statistic: mean of cos(next) - cos(previous) over sliding windows of [n, T, D].

    cos(x_t, x_t+1) - cos(x_t-1, x_t) summed over t leaves the last term less the first.
    """
    units = unit(vectors).astype(np.float64)
    near = np.einsum("ntd,ntd->nt", units[:, :-1], units[:, 1:])
    return float((near[:, 1:] - near[:, :-1]).mean())


NIL = 0.02
"""The statistic of any of these stores is below this; its sampling error is about half of it."""


@fault(
    "forward signal by a statistic that telescopes",
    "mean of cos(next) - cos(previous) over sliding windows",
    did="telescopes to about 0 on any data; a project was closed on it",
    guard="the lag curve against a shuffled null instead",
    expected=("verdict order", "order carries no signal"),
    without={"nextvec.diagnostics.lags:LagCurve.ordered": property(lambda self: True)},
)
def telescopes(fixture: Fixture, faulty: bool) -> Observation:
    """Data in order and the same data shuffled: the field's statistic is 0 on both, the lag curve tells them
    apart."""
    vectors = shuffled(fixture.shared.noise) if faulty else fixture.shared.noise
    if abs(telescoping(vectors)) > NIL:
        return Observation(
            1, (Signal("fixture", f"the statistic is {telescoping(vectors):.4f} here, not 0"),)
        )
    return look(make_store(fixture.folder / "store", vectors).path)


@fault(
    "incoherent data",
    "incoherent data (adjacent cosine .35 instead of .47)",
    did='"backward" models',
    guard="diagnose data: lag curve 1..8, shuffled null, per source, duplicates",
    expected=("verdict order of a source", "source bad"),
    without={"nextvec.diagnostics.lags:_source_verdict": lambda part: Verdict("source", "ok", "")},
)
def incoherent(fixture: Fixture, faulty: bool) -> Observation:
    """One source of two has lost the order of its chunks."""
    vectors = fixture.shared.noise.copy()
    sources = ["good", "bad"] * (len(vectors) // 2)
    if faulty:
        vectors[1::2] = shuffled(vectors[1::2])
    return look(make_store(fixture.folder / "store", vectors, sources=sources).path)


@fault(
    "documents padded by repetition",
    "contexts padded by repetition",
    did="out of distribution",
    guard="diagnose data: adjacent chunks that are one vector",
    expected=("verdict repeated chunks", "documents padded by repetition"),
    without={"nextvec.diagnostics.lags:FEW_REPEATED": 1.0},
)
def padded_documents(fixture: Fixture, faulty: bool) -> Observation:
    """Short documents filled up to one length with copies of their last chunk."""
    vectors = fixture.shared.noise.copy()
    if faulty:
        vectors[::3, 12:] = vectors[::3, 11:12]
    return look(make_store(fixture.folder / "store", vectors).path)


@fault(
    "windows across articles",
    "windows across articles; texts misaligned after a filter",
    did="the next chunk of one article was the first of another",
    guard="windows carry (document, position); a store's chunks and documents must agree on them",
    expected=("StoreError", "begin"),
    without={"nextvec.corpus.store:check_positions": nothing},
)
def across_articles(fixture: Fixture, faulty: bool) -> Observation:
    """Two neighbouring articles are one document in the table of documents."""
    store = Path(shutil.copytree(fixture.shared.store.path, fixture.folder / "store"))
    if faulty:
        edit_table(store, "documents", _merge_first_two)
    return run_evaluate(store=store)


def _merge_first_two(table: pa.Table) -> pa.Table:
    counts = table["count"].to_pylist()
    merged = pa.array([counts[0] + counts[1], *counts[2:]], table.schema.field("count").type)
    kept = pa.concat_tables([table.slice(0, 1), table.slice(2)])
    return kept.set_column(table.schema.get_field_index("count"), table.schema.field("count"), merged)


@fault(
    "texts misaligned after a filter",
    "windows across articles; texts misaligned after a filter",
    did="texts of other vectors",
    guard="1 % of the chunks is encoded anew and compared",
    expected=("verdict texts misaligned", "give the vector of another row"),
    without={"nextvec.diagnostics.data:reembed": lambda *_, **__: "left out"},
)
def misaligned(fixture: Fixture, faulty: bool) -> Observation:
    """A filter has taken one text away, and all that follow have moved up."""
    shared = fixture.shared.store
    encoder = TableEncoder(shared.texts(np.arange(len(shared))), np.asarray(shared.vectors))
    store = Path(shutil.copytree(shared.path, fixture.folder / "store"))
    if faulty:
        edit_table(store, "chunks", _move_texts_up)
    return spot_check(Store.open(store), encoder)


def _move_texts_up(table: pa.Table) -> pa.Table:
    texts = table["text"].to_pylist()
    moved = pa.array([*texts[1:], texts[0]], table.schema.field("text").type)
    return table.set_column(table.schema.get_field_index("text"), table.schema.field("text"), moved)


@fault(
    "vectors that are not numbers",
    "",
    did="one NaN made every mean NaN",
    guard="vectors that are NaN, infinite or zero are refused when they are stored, by row",
    expected=("VectorError", "is NaN or infinite"),
    without={
        "nextvec.corpus.imports:check_vectors": lambda *_, **__: False,
        "nextvec.corpus.writer:to_stored": lambda vectors, chunks, dimension, dtype: vectors.astype(dtype),
    },
)
def not_a_number(fixture: Fixture, faulty: bool) -> Observation:
    """`nextvec ingest --vectors` with one NaN."""
    shared = fixture.shared.store
    vectors = np.array(shared.vectors)
    if faulty:
        vectors[7, 3] = np.nan
    return ingest_vectors(fixture.folder, "some", vectors, shared.chunks)


# Faults of encoders: vectors that cannot be compared, compared.

ROW = "encoder mismatch between data, bank and decoder"
DID = "retrieval 0 %, gibberish text"


@fault(
    "encoder of the store is not the model's",
    ROW,
    did=DID,
    guard="the encoder's fingerprint in store and model; a mismatch is an error",
    expected=("EncoderMismatchError", "fingerprints differ"),
    without={"nextvec.evaluation.harness:check_made_for": nothing},
)
def model_of_another_encoder(fixture: Fixture, faulty: bool) -> Observation:
    """The same documents, encoded by another encoder of the same dimension."""
    store = store_of_another_encoder(fixture) if faulty else fixture.shared.store
    return run_evaluate(fixture.shared.run, store=store.path)


@fault(
    "vectors of two encoders in one bank",
    ROW,
    did=DID,
    guard="a store takes vectors of its own encoder's fingerprint only",
    expected=("EncoderMismatchError", "their fingerprints differ"),
    without={"nextvec.corpus.imports:check_encoder": nothing, "nextvec.corpus.writer:check_encoder": nothing},
)
def two_encoders_in_one_store(fixture: Fixture, faulty: bool) -> Observation:
    """Twice `nextvec ingest --vectors` into one store."""
    store = fixture.shared.store
    half = len(store) // 2
    first = ingest_vectors(fixture.folder, "a", np.asarray(store.vectors[:half]), store.chunks.slice(0, half))
    chunks = store.chunks.slice(half)
    encoder = "another" if faulty else "one"
    return first + ingest_vectors(fixture.folder, "b", np.asarray(store.vectors[half:]), chunks, encoder)


@fault(
    "vectors are not of the encoder named",
    ROW,
    did=DID,
    guard="diagnose data encodes 1 % of the texts anew",
    expected=("verdict encoder mismatch", "another encoder"),
    without={"nextvec.diagnostics.data:reembed": lambda *_, **__: "left out"},
)
def wrong_vectors(fixture: Fixture, faulty: bool) -> Observation:
    """A store that names its encoder right, and holds vectors of another."""
    vectors = fixture.shared.vectors
    store = make_store(fixture.folder / "store", turned(vectors, 4) if faulty else vectors)
    encoder = TableEncoder(
        fixture.shared.store.texts(np.arange(len(store))), np.asarray(fixture.shared.store.vectors)
    )
    return spot_check(store, encoder)


class Candidate(CopyLast):
    name = "candidate"


class Exchanged(Candidate):
    """Gives its unit output first."""

    def predict(self, contexts: FloatArray, lengths: IntArray) -> tuple[FloatArray, FloatArray]:
        """Unit and raw, both [B, D]."""
        raw, units = super().predict(contexts, lengths)
        return units, raw


@fault(
    "raw and unit output exchanged",
    "",
    did="mse of unit vectors, cosine of raw ones",
    guard="unit predictions must be of unit length",
    expected=("EvaluationError", "the raw output goes first, the unit output second"),
    without={"nextvec.evaluation.predictor_protocol:checked": nothing},
)
def outputs_exchanged(fixture: Fixture, faulty: bool) -> Observation:
    """A predictor gives its two outputs in the wrong order."""
    store, split = fixture.shared.store, fixture.shared.split
    predictor = Exchanged(5) if faulty else Candidate(5)
    how = EvaluationConfig(baselines=("random",), resamples=50, quiet=True)
    return refused(lambda: evaluate(store, split, "test", [predictor], how))


# Faults of decoders: vectors that they were not made for, decoded all the same.

UNIT_SENT = "unit output sent to a decoder trained on raw"


def decode(store: Store, vectors: RawVectors | UnitVectors) -> Observation:
    """Texts for vectors, by the decoder that has the chunks of a store."""
    with open_decoder("nearest", store=store) as decoder:
        return refused(lambda: decoder.decode(vectors))  # type: ignore[arg-type]  # the second is the fault


def answers(fixture: Fixture) -> tuple[RawVectors, UnitVectors]:
    """What the shared run says after five chunks of some documents, raw and unit."""
    contexts: FloatArray = fixture.shared.vectors[:4, :5]
    return RunPredictor(fixture.shared.run).answer(contexts, np.full(len(contexts), 5))


@fault(
    "decoder of another encoder",
    ROW,
    did=DID,
    guard="the encoder's fingerprint in vectors and decoder; a mismatch is an error",
    expected=("EncoderMismatchError", "vectors of the encoder encoder-a where those of encoder-b are needed"),
    without={"nextvec.vectors:RawVectors.of": lambda self, encoder, normalised=None: self},
)
def decoder_of_another_encoder(fixture: Fixture, faulty: bool) -> Observation:
    """The run's prediction goes to the decoder of the same documents under another encoder."""
    store = store_of_another_encoder(fixture) if faulty else fixture.shared.store
    return decode(store, answers(fixture)[0])


@fault(
    UNIT_SENT,
    UNIT_SENT,
    did="gibberish",
    guard="raw and unit outputs are different types; a decoder takes raw",
    expected=("VectorError", "raw vectors are needed, not UnitVectors"),
    without={
        "nextvec.decoding.base:require_raw": lambda vectors: RawVectors(vectors.values, vectors.encoder)
    },
)
def unit_output_decoded(fixture: Fixture, faulty: bool) -> Observation:
    """The run's other output goes to the decoder."""
    raw, units = answers(fixture)
    return decode(fixture.shared.store, units if faulty else raw)
