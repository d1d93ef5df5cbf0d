"""A small world for training tests: documents of a hidden AR(1) state, and configurations that run in
seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nextvec.config import merge, parse_assignments
from nextvec.corpus.store import NewDocument, Store, StoreWriter
from nextvec.training.config import TrainConfig, make_config

D = 12
MakeConfig = Callable[..., TrainConfig]
MakeStore = Callable[..., Store]

TINY: dict[str, Any] = {
    "model": {"name": "lstm", "options": {"hidden": 16}},
    "data": {"context": 6, "split": {"validation": 0.25, "test": 0.0, "near_duplicate": 1.0}},
    "optim": {"batch_size": 4, "epochs": 3, "lr": 1e-2},
    "runtime": {"device": "cpu", "precision": "float32", "threads": 1},
}


def write_store(path: Path, *, documents: int = 24, scale: float = 1.0, seed: int = 0) -> Store:
    """Documents of 2 to 30 chunks; each vector is 0.9 of a slowly moving state and a little noise, of norm
    ~scale.
    """
    rng = np.random.default_rng(seed)
    made, vectors = [], []
    for i in range(documents):
        count = int(rng.integers(2, 31))
        state, rows = rng.standard_normal(D), []
        for _ in range(count):
            state = 0.9 * state + 0.44 * rng.standard_normal(D)
            rows.append(state + 0.2 * rng.standard_normal(D))
        unit = np.asarray(rows) / np.linalg.norm(rows, axis=1, keepdims=True)
        vectors.append(scale * unit)
        made.append(
            NewDocument.from_chunks(f"doc-{i}", [f"chunk {j} of {i}" for j in range(count)], source="ar1")
        )
    with StoreWriter(
        path,
        encoder={"name": "ar1", "fingerprint": "ar1"},
        dimension=D,
        chunker={"name": "none"},
        dtype="float32",
        normalised=scale == 1.0,
    ) as writer:
        writer.add_shard(made[: documents // 2], np.concatenate(vectors[: documents // 2]), path="test")
        writer.add_shard(made[documents // 2 :], np.concatenate(vectors[documents // 2 :]), path="test")
    return Store.open(path)


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The tiny store, of unit vectors, in two shards."""
    return write_store(tmp_path_factory.mktemp("training") / "store")


@pytest.fixture(scope="session")
def make_store(tmp_path_factory: pytest.TempPathFactory) -> MakeStore:
    """Write another tiny store: make_store(documents=..., scale=..., seed=...)."""
    return lambda **options: write_store(tmp_path_factory.mktemp("training") / "store", **options)


@pytest.fixture(scope="session")
def tiny() -> MakeConfig:
    """A configuration that runs in a second: tiny("optim.epochs=2", recipe="brief")."""

    def make(*assignments: str, recipe: str = "scratch") -> TrainConfig:
        base = (
            TINY
            if recipe == "scratch"
            else {**TINY, "data": {"split": TINY["data"]["split"]}, "optim": {"epochs": 3}}
        )
        return make_config(recipe, merge(base, parse_assignments(assignments)))

    return make
