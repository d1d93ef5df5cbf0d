"""Faults of encoders: vectors that cannot be compared, compared."""

from __future__ import annotations

import numpy as np

from nextvec.data.windows import FloatArray, IntArray
from nextvec.evaluation.baselines import CopyLast
from nextvec.evaluation.harness import Judging, judge
from nextvec.selfcheck.faults.command import refused
from nextvec.selfcheck.faults.fault import Seen, fault, nothing
from nextvec.selfcheck.faults.scene import (
    Scene,
    TableEncoder,
    evaluate,
    ingest_vectors,
    spot_check,
    store_of_another_encoder,
    turned,
)
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
    store = store_of_another_encoder(scene) if faulty else scene.shared.store
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
    first = ingest_vectors(scene.folder, "a", np.asarray(store.vectors[:half]), store.chunks.slice(0, half))
    chunks = store.chunks.slice(half)
    encoder = "another" if faulty else "one"
    return first + ingest_vectors(scene.folder, "b", np.asarray(store.vectors[half:]), chunks, encoder)


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
    store = make_store(scene.folder / "store", turned(vectors, 4) if faulty else vectors)
    encoder = TableEncoder(
        scene.shared.store.texts(np.arange(len(store))), np.asarray(scene.shared.store.vectors)
    )
    return spot_check(store, encoder)


class Candidate(CopyLast):
    """Copy-last under a name of its own."""

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
    alarm=("EvaluationError", "the raw output goes first, the unit output second"),
    without={"nextvec.evaluation.predictor:checked": nothing},
)
def outputs_exchanged(scene: Scene, faulty: bool) -> Seen:
    """A predictor gives its two outputs in the wrong order."""
    store, split = scene.shared.store, scene.shared.split
    predictor = Exchanged(5) if faulty else Candidate(5)
    how = Judging(baselines=("random",), resamples=50, quiet=True)
    return refused(lambda: judge(store, split, "test", [predictor], how))
