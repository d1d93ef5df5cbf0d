"""A real Chromium, and what it looks at: a small matrix trained on documents written for these tests, its
report, and a server with two of its models. Pictures of both are kept in build/browser."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from browser.viewports import DESKTOP
from nextvec.corpus.chunking import make_chunker
from nextvec.corpus.encoders import EncoderConfig
from nextvec.corpus.ingest import ingest
from nextvec.corpus.store import Store
from nextvec.data.splits import SplitConfig
from nextvec.evaluation.harness import EvaluationConfig
from nextvec.experiments.evaluating import DocumentSelection
from nextvec.experiments.matrix import run_matrix
from nextvec.experiments.plan import MatrixPlan
from server_process import serving

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

if find_spec("playwright") is None:
    collect_ignore_glob = ["test_*.py"]  # `make test` goes without; `make test-browser` installs it

DOCUMENTS = Path(__file__).parent / "documents"
PICTURES = Path(__file__).parents[2] / "build" / "browser"
LARGEST_PICTURE, COLOURS = 300_000, 128
HELD_OUT = {"validation": ["tides", "orchard"], "test": ["harbour", "soup", "moon"]}


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Debian's chromium, without a window."""
    from playwright.sync_api import sync_playwright

    found = shutil.which("chromium")
    if found is None:
        pytest.fail("no chromium on this machine: apt-get install chromium")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """open_page(url, viewport=DESKTOP, **options of a context) -> the page. An error on it fails the test."""
    contexts: list[BrowserContext] = []
    errors: list[str] = []

    def opened(url: str, viewport: Any = DESKTOP, **options: Any) -> Page:
        contexts.append(browser.new_context(viewport=viewport, **options))
        page = contexts[-1].new_page()
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(url)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert errors == []


@pytest.fixture(scope="session")
def keep_picture() -> Callable[..., Path]:
    """keep_picture(page, name, height=None) -> the PNG in build/browser: the whole page, or so many pixels
    from its top. Those in docs/ are copies."""

    def keep(page: Page, name: str, height: int | None = None) -> Path:
        path = PICTURES / f"{name}.png"
        PICTURES.mkdir(parents=True, exist_ok=True)
        with Image.open(io.BytesIO(page.screenshot(full_page=True))) as taken:
            shown = taken.crop((0, 0, taken.width, height or taken.height))
            shown.convert("RGB").quantize(COLOURS).save(path, optimize=True)
        assert path.stat().st_size < LARGEST_PICTURE
        return path

    return keep


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The store of `documents/`: twelve on the sea, on food and on the sky, one sentence a chunk."""
    folder = tmp_path_factory.mktemp("library") / "store"
    encoder = EncoderConfig(device="cpu", precision="float32")
    chunker = make_chunker("sentence", {"max_words": 30})
    ingest(DOCUMENTS, folder, encoder=encoder, chunker=chunker, dtype="float32", quiet=True)
    return Store.open(folder)


@pytest.fixture(scope="session")
def matrix(library: Store, make_tiny: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """AMN, GRU and LSTM, two seeds each, evaluated beside the baselines on three documents."""
    folder = tmp_path_factory.mktemp("matrix")
    named = {Path(name).stem: name for name in library.index}
    held = {split: [named.pop(name) for name in names] for split, names in HELD_OUT.items()}
    split = folder / "split.json"
    split.write_text(json.dumps({**held, "train": list(named.values())}))
    selection = DocumentSelection(division=SplitConfig(file=str(split)))
    config = ("optim.epochs=4", "optim.lr=1e-3", "model.options.residual=ema", f"data.split.file={split}")
    run_matrix(
        library,
        MatrixPlan(str(library.path), ("amn", "gru", "lstm"), 2),
        lambda cell: make_tiny(cell.model, *config, seed=cell.seed),
        folder / "sea-food-sky",
        selection,
        EvaluationConfig(resamples=200, speed=True, quiet=True),
        quiet=True,
    )
    return folder / "sea-food-sky"


@pytest.fixture(scope="session")
def server(matrix: Path, library: Store) -> Iterator[str]:
    """Address of `nextvec serve` with an AMN, a GRU and the store they were trained on."""
    runs = [f"{name}={matrix / 'runs' / f'{name}-seed0'}" for name in ("amn", "gru")]
    with serving(*runs, "--store", str(library.path)) as url:
        yield url
