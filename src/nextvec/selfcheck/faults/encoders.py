"""Faults of encoders: vectors that cannot be compared, compared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from nextvec.data.windows import FloatArray
from nextvec.evaluation.baselines import CopyLast
from nextvec.evaluation.diagnostics.data import Looking, diagnose_data
from nextvec.evaluation.diagnostics.verdicts import is_red
from nextvec.evaluation.harness import Judging, judge
from nextvec.selfcheck.faults.command import command, refused
from nextvec.selfcheck.faults.fault import Seen, Sign, fault, not_yet, nothing
from nextvec.selfcheck.faults.scene import D, Scene, TableEncoder, evaluate
from nextvec.selfcheck.predictors import Told
from nextvec.selfcheck.worlds import make_store

ROW = "encoder mismatch between data, bank and decoder"
DID = "retrieval 0 %, gibberish text"


@fault(
    "encoder of the store is not the model's",
    ROW,
    did=DID,
    guard="the encoder's fingerprint in store and model; a mismatch is an error",
    alarm=("EncoderMismatchError", "fingerprints differ"),
    without={"nextvec.evaluation.harness:check_made_for": nothing},
)
def model_of_another_encoder(scene: Scene, faulty: bool) -> Seen:
    """The same documents, encoded by another encoder of the same dimension."""
    vectors, encoder = scene.shared.vectors, "encoder-a"
    if faulty:
        turn = np.linalg.qr(np.random.default_rng(3).standard_normal((D, D)))[0]
        vectors, encoder = np.asarray(vectors @ turn, dtype=np.float32), "encoder-b"
    store = make_store(scene.folder / "store", vectors, encoder=encoder)
    return evaluate(scene.shared.run, store=store.path)


@fault(
    "vectors of two encoders in one bank",
    ROW,
    did=DID,
    guard="a store takes vectors of its own encoder's fingerprint only",
    alarm=("EncoderMismatchError", "their fingerprints differ"),
    without={"nextvec.corpus.imports:check_encoder": nothing, "nextvec.corpus.writer:check_encoder": nothing},
)
def two_encoders_in_one_store(scene: Scene, faulty: bool) -> Seen:
    """Twice `nextvec ingest --vectors` into one store."""
    store = scene.shared.store
    half = len(store) // 2
    first = _ingest(scene.folder, "a", np.asarray(store.vectors[:half]), store.chunks.slice(0, half), "one")
    chunks = store.chunks.slice(half)
    encoder = "another" if faulty else "one"
    return first + _ingest(scene.folder, "b", np.asarray(store.vectors[half:]), chunks, encoder)


def _ingest(folder: Path, name: str, vectors: FloatArray, chunks: object, encoder: str) -> Seen:
    np.save(folder / f"{name}.npy", vectors)
    pq.write_table(chunks, folder / f"{name}.parquet")
    return command(
        "ingest", "--vectors", folder / f"{name}.npy", "--chunks", folder / f"{name}.parquet",
        "--encoder", encoder, "--out", folder / "store", "--quiet",
    )  # fmt: skip


@fault(
    "vectors are not of the encoder named",
    ROW,
    did=DID,
    guard="diagnose data encodes 1 % of the texts anew",
    alarm=("verdict encoder mismatch", "another encoder"),
    without={"nextvec.evaluation.diagnostics.data:reembed": lambda *_, **__: "left out"},
)
def wrong_vectors(scene: Scene, faulty: bool) -> Seen:
    """A store that names its encoder right, and holds vectors of another."""
    vectors = scene.shared.vectors
    if faulty:
        turn = np.linalg.qr(np.random.default_rng(4).standard_normal((D, D)))[0]
        vectors = np.asarray(vectors @ turn, dtype=np.float32)
    store = make_store(scene.folder / "store", vectors)
    encoder = TableEncoder(
        scene.shared.store.texts(np.arange(len(store))), np.asarray(scene.shared.store.vectors)
    )
    found = diagnose_data(store, Looking(resamples=100, quiet=True), encoder=encoder).verdicts
    alarms = [v for v in found if v.level in ("warning", "red")]
    return Seen(int(is_red(found)), tuple(Sign(f"verdict {v.name}", v.text) for v in alarms))


not_yet(
    "decoder of another encoder",
    ROW,
    did=DID,
    guard="the encoder's fingerprint in the decoder",
    why="no decoder in this version",
)
not_yet(
    "unit output sent to a decoder trained on raw",
    "unit output sent to a decoder trained on raw",
    did="gibberish",
    guard="raw and unit outputs are different types; decoders take raw; A/B/C test",
    why="no decoder in this version",
)


@fault(
    "raw and unit output exchanged",
    "",
    did="mse of unit vectors, cosine of raw ones",
    guard="unit predictions must be of unit length",
    alarm=("EvaluationError", "the raw output goes first, the unit output second"),
    without={"nextvec.evaluation.predictor:checked": nothing},
)
def outputs_exchanged(scene: Scene, faulty: bool) -> Seen:
    """A predictor gives its two outputs in the wrong order."""
    store, split = scene.shared.store, scene.shared.split
    right = CopyLast(5).predict
    predictor = Told(lambda contexts, lengths: right(contexts, lengths)[0], name="candidate")
    if faulty:
        predictor.predict = lambda c, n: right(c, n)[::-1]  # type: ignore[method-assign]
    how = Judging(baselines=("random",), resamples=50, quiet=True)
    return refused(lambda: judge(store, split, "test", [predictor], how))
