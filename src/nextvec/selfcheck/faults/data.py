"""Faults of the data: stores in which there is nothing to learn, or something else than it seems."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa

from nextvec.corpus.store import Store
from nextvec.data.windows import FloatArray
from nextvec.evaluation.diagnostics.verdicts import Verdict
from nextvec.evaluation.predictor import unit
from nextvec.selfcheck.faults.command import command
from nextvec.selfcheck.faults.fault import Seen, Sign, fault, nothing
from nextvec.selfcheck.faults.scene import (
    Scene,
    TableEncoder,
    edit_table,
    evaluate,
    ingest_vectors,
    spot_check,
)
from nextvec.selfcheck.worlds import make_store


def look(store: Path) -> Seen:
    """`nextvec diagnose data`, red verdicts and warnings as signs."""
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
    alarm=("verdict order", "order carries no signal"),
    without={"nextvec.evaluation.diagnostics.lags:LagCurve.ordered": property(lambda self: True)},
)
def telescopes(scene: Scene, faulty: bool) -> Seen:
    """Data in order and the same data shuffled: the field's statistic is 0 on both, the lag curve tells them
    apart."""
    vectors = shuffled(scene.shared.noise) if faulty else scene.shared.noise
    if abs(telescoping(vectors)) > NIL:
        return Seen(1, (Sign("scene", f"the statistic is {telescoping(vectors):.4f} here, not 0"),))
    return look(make_store(scene.folder / "store", vectors).path)


@fault(
    "incoherent data",
    "incoherent data (adjacent cosine .35 instead of .47)",
    did='"backward" models',
    guard="diagnose data: lag curve 1..8, shuffled null, per source, duplicates",
    alarm=("verdict order of a source", "source bad"),
    without={"nextvec.evaluation.diagnostics.lags:_source_verdict": lambda part: Verdict("source", "ok", "")},
)
def incoherent(scene: Scene, faulty: bool) -> Seen:
    """One source of two has lost the order of its chunks."""
    vectors = scene.shared.noise.copy()
    sources = ["good", "bad"] * (len(vectors) // 2)
    if faulty:
        vectors[1::2] = shuffled(vectors[1::2])
    return look(make_store(scene.folder / "store", vectors, sources=sources).path)


@fault(
    "documents padded by repetition",
    "contexts padded by repetition",
    did="out of distribution",
    guard="diagnose data: adjacent chunks that are one vector",
    alarm=("verdict repeated chunks", "documents padded by repetition"),
    without={"nextvec.evaluation.diagnostics.lags:FEW_REPEATED": 1.0},
)
def padded_documents(scene: Scene, faulty: bool) -> Seen:
    """Short documents filled up to one length with copies of their last chunk."""
    vectors = scene.shared.noise.copy()
    if faulty:
        vectors[::3, 12:] = vectors[::3, 11:12]
    return look(make_store(scene.folder / "store", vectors).path)


@fault(
    "windows across articles",
    "windows across articles; texts misaligned after a filter",
    did="the next chunk of one article was the first of another",
    guard="windows carry (document, position); a store's chunks and documents must agree on them",
    alarm=("StoreError", "begin"),
    without={"nextvec.corpus.store:check_positions": nothing},
)
def across_articles(scene: Scene, faulty: bool) -> Seen:
    """Two neighbouring articles are one document in the table of documents."""
    store = Path(shutil.copytree(scene.shared.store.path, scene.folder / "store"))
    if faulty:
        edit_table(store, "documents", _merge_first_two)
    return evaluate(store=store)


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
    alarm=("verdict texts misaligned", "give the vector of another row"),
    without={"nextvec.evaluation.diagnostics.data:reembed": lambda *_, **__: "left out"},
)
def misaligned(scene: Scene, faulty: bool) -> Seen:
    """A filter has taken one text away, and all that follow have moved up."""
    shared = scene.shared.store
    encoder = TableEncoder(shared.texts(np.arange(len(shared))), np.asarray(shared.vectors))
    store = Path(shutil.copytree(shared.path, scene.folder / "store"))
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
    alarm=("VectorError", "is NaN or infinite"),
    without={
        "nextvec.corpus.imports:check_vectors": lambda *_, **__: False,
        "nextvec.corpus.writer:to_stored": lambda vectors, chunks, dimension, dtype: vectors.astype(dtype),
    },
)
def not_a_number(scene: Scene, faulty: bool) -> Seen:
    """`nextvec ingest --vectors` with one NaN."""
    shared = scene.shared.store
    vectors = np.array(shared.vectors)
    if faulty:
        vectors[7, 3] = np.nan
    return ingest_vectors(scene.folder, "some", vectors, shared.chunks)
