"""Faults of decoders: vectors that they were not made for, decoded all the same."""

from __future__ import annotations

import numpy as np

from nextvec.corpus.store import Store
from nextvec.data.windows import FloatArray
from nextvec.decoding.load import open_decoder
from nextvec.inference.predictor import RunPredictor
from nextvec.selfcheck.faults.command import refused
from nextvec.selfcheck.faults.encoders import DID, ROW
from nextvec.selfcheck.faults.fault import Seen, fault
from nextvec.selfcheck.faults.scene import Scene, store_of_another_encoder
from nextvec.vectors import RawVectors, UnitVectors

UNIT_SENT = "unit output sent to a decoder trained on raw"


def decode(store: Store, vectors: RawVectors | UnitVectors) -> Seen:
    """Texts for vectors, by the decoder that has the chunks of a store."""
    with open_decoder("nearest", store=store) as decoder:
        return refused(lambda: decoder.decode(vectors))  # type: ignore[arg-type]  # the second is the fault


def answers(scene: Scene) -> tuple[RawVectors, UnitVectors]:
    """What the shared run says after five chunks of some documents, raw and unit."""
    contexts: FloatArray = scene.shared.vectors[:4, :5]
    return RunPredictor(scene.shared.run).answer(contexts, np.full(len(contexts), 5))


@fault(
    "decoder of another encoder",
    ROW,
    did=DID,
    guard="the encoder's fingerprint in vectors and decoder; a mismatch is an error",
    alarm=("EncoderMismatchError", "vectors of the encoder encoder-a where those of encoder-b are needed"),
    without={"nextvec.vectors:RawVectors.of": lambda self, encoder, normalised=None: self},
)
def decoder_of_another_encoder(scene: Scene, faulty: bool) -> Seen:
    """The run's prediction goes to the decoder of the same documents under another encoder."""
    store = store_of_another_encoder(scene) if faulty else scene.shared.store
    return decode(store, answers(scene)[0])


@fault(
    UNIT_SENT,
    UNIT_SENT,
    did="gibberish",
    guard="raw and unit outputs are different types; a decoder takes raw",
    alarm=("VectorError", "raw vectors are needed, not UnitVectors"),
    without={
        "nextvec.decoding.base:require_raw": lambda vectors: RawVectors(vectors.values, vectors.encoder)
    },
)
def unit_output_decoded(scene: Scene, faulty: bool) -> Seen:
    """The run's other output goes to the decoder."""
    raw, units = answers(scene)
    return decode(scene.shared.store, units if faulty else raw)
