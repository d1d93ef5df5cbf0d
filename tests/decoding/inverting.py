"""What the tests of the inverter share: a store of a few texts, and a training that takes a second or two."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from nextvec.config import from_dict, merge, parse_assignments
from nextvec.corpus.store import NewDocument, Store, StoreWriter
from nextvec.decoding.inverter import InverterConfig

D = 16
TEXTS = (
    "The river rises in the hills and runs to the sea.",
    "Salmon come up in October, and herons wait below the weir.",
    "A ferryman rowed people across before the bridge was built.",
    "Rye bread takes an hour in the oven, and its crust is hard.",
    "Buns with currants are made on Fridays.",
    "A comet was first seen from the dome of copper.",
    "Saturn shows its rings, and six moons stand beside it.",
    "Clouds end the work of most nights.",
    "Steam engines took on water at the station.",
    "Goods trains carried slate, wool and milk to the market.",
    "The signal at the junction was left at danger.",
    "Walkers follow the old track – under bridges of grey stone.",
)
TINY = {
    "network": {"width": 32, "layers": 2, "heads": 2, "ffn": 64, "prefix": 2, "dropout": 0.0},
    "tokens": {"vocabulary": 320},
    "optim": {
        "lr": 0.01,
        "batch_tokens": 512,
        "topic_updates": 2,
        "noise": 0.0,
        "max_updates": 4,
        "epochs": 10,
    },
    "runtime": {"device": "cpu", "precision": "float32", "threads": 1},
}


def write_pairs(folder: Path, *, texts: tuple[str, ...] = TEXTS, seed: int = 0) -> Store:
    """Two documents to learn from, with these texts and vectors of length about 12, and one to validate on;
    `folder`/split.json says which is which."""
    rng = np.random.default_rng(seed)
    half = len(texts) // 2
    parts = {"a": texts[:half], "b": texts[half:], "c": ("The sea is far.", "The oven is cold.", "It rains.")}
    made = [NewDocument.from_chunks(name, list(part), source="s", title=name) for name, part in parts.items()]
    vectors = 3 * rng.standard_normal((sum(map(len, parts.values())), D))
    with StoreWriter(
        folder / "store",
        encoder={"name": "world", "fingerprint": "world"},
        dimension=D,
        chunker={"kind": "sentence"},
        dtype="float32",
        normalised=False,
    ) as writer:
        writer.add_shard(made, vectors, path="test")
    split = {"train": ["a", "b"], "validation": ["c"], "test": []}
    (folder / "split.json").write_text(json.dumps(split))
    return Store.open(folder / "store")


def tiny(store: Store, *assignments: str) -> InverterConfig:
    """A configuration that trains in a second: tiny(store, "optim.max_updates=8")."""
    split = {"data": {"split": {"file": str(store.path.parent / "split.json")}}}
    return from_dict(InverterConfig, merge(TINY, split, parse_assignments(assignments)), where="test")
