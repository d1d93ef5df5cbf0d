"""A real `nextvec serve` process over two small models of `text_store`: a GRU and an AMN."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from nextvec.client import Client
from nextvec.corpus.reading import TextReader
from nextvec.corpus.store import Store
from nextvec.inference.predictor import RunPredictor
from nextvec.serving.token_input import CACHED as CL100K_BASE
from server_process import serving

# LlamaIndex brings tiktoken's copy of cl100k_base, so that no test has to fetch it.
TIKTOKEN_CACHE = Path(str(find_spec("llama_index.core").origin)).parent / "_static" / "tiktoken_cache"
KEY = "a-key-for-the-tests-only"


@pytest.fixture(scope="session")
def amn_run(
    text_store: Store, make_tiny: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of a small AMN trained on `text_store`."""
    from nextvec.training.loop import train

    folder = tmp_path_factory.mktemp("text-runs") / "small-amn"
    train(text_store, make_tiny("amn", "optim.epochs=1", "model.options.width=16"), folder, quiet=True)
    return folder


@pytest.fixture(scope="session")
def server(text_run: Path, amn_run: Path, text_store: Store) -> Iterator[str]:
    """The address of a server of `gru` (the default) and `amn`, with the store; it asks for KEY."""
    models = [f"gru={text_run}", f"amn={amn_run}", "--store", str(text_store.path)]
    vocabulary = str(TIKTOKEN_CACHE / CL100K_BASE)
    with serving(*models, "--token-vocabulary", vocabulary, key=KEY) as url:
        yield url


@pytest.fixture(scope="session")
def reader(text_run: Path) -> TextReader:
    """Of the encoder that the server's models share."""
    return TextReader(RunPredictor(text_run).space)


@pytest.fixture(scope="session")
def key() -> str:
    """That the server asks for."""
    return KEY


@pytest.fixture
def tiktoken_cache(monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where tiktoken finds cl100k_base."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(TIKTOKEN_CACHE))
    return TIKTOKEN_CACHE


@pytest.fixture
def client(server: str) -> Iterator[Client]:
    with Client(server, KEY) as opened:
        yield opened
