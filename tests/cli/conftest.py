"""Running verbs in this process as the shell would, and an encoder that needs no weights."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nextvec.cli.main import run

TINY = [
    "--device=cpu",
    "--precision=float32",
    "--epochs=1",
    "--batch-size=4",
    "--lr=0.01",
    "--set=model.options.hidden=16",
    "--set=runtime.threads=1",
]


@dataclass(frozen=True)
class Outcome:
    """What a verb left: exit code, standard output, standard error."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output as JSON."""
        return json.loads(self.out)


class HashEncoder:
    """Vectors [n, 16] from the hash of each text."""

    name = "hash"
    dimension = 16
    max_tokens = 64
    normalises = True
    unit = False
    path = "cpu float32"

    def __init__(self) -> None:
        self.fingerprint: dict[str, Any] = {"name": self.name, "fingerprint": "hash"}

    def encode(self, texts: Sequence[str], advance: Callable[[int], object] | None = None) -> np.ndarray:
        if advance is not None:
            advance(len(texts))
        seeds = [int.from_bytes(hashlib.sha256(t.encode()).digest()[:8], "little") for t in texts]
        return np.stack([np.random.default_rng(s).standard_normal(16).astype(np.float32) for s in seeds])

    def count_tokens(self, texts: Sequence[str]) -> list[tuple[int, int]]:
        return [(len(text.split()), 0) for text in texts]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """Run a verb: cli("info", store) -> Outcome."""

    def call(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = 0
        with monkeypatch.context() as patch, warnings.catch_warnings():
            # As in a fresh process: no handler of pytest's, and warnings are shown, not raised.
            patch.setattr(logging.root, "handlers", [])
            warnings.simplefilter("default")
            try:
                run([str(a) for a in arguments])
            except SystemExit as left:
                code = left.code if isinstance(left.code, int) else 1
        return Outcome(code, *capsys.readouterr())

    return call


@pytest.fixture
def tiny() -> tuple[str, ...]:
    """Flags that make any model train in a second."""
    return tuple(TINY)


@pytest.fixture
def hash_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """`nextvec ingest` with its default encoder takes HashEncoder; any other is looked for as usual."""
    from nextvec.corpus import ingest
    from nextvec.corpus.encoders import EncoderConfig

    real = ingest.load_encoder

    def load(config: EncoderConfig) -> Any:
        default = config.name == EncoderConfig().name and config.endpoint is None
        return HashEncoder() if default else real(config)

    monkeypatch.setattr(ingest, "load_encoder", load)


@pytest.fixture
def snapshot() -> Callable[[Path], dict[str, str]]:
    """Every folder and every file's hash under a folder."""

    def of(folder: Path) -> dict[str, str]:
        return {
            p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
            if p.is_file()
            else "/"
            for p in sorted(folder.rglob("*"))
        }

    return of


@pytest.fixture
def stop_training(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """stop_training(n): SIGTERM comes to this process in the n-th validation from now, once."""
    from nextvec.training import loop

    real, seen = loop.validate, [0]

    def arm(nth: int) -> None:
        def validate(*arguments: Any) -> Any:
            seen[0] += 1
            if seen[0] == nth:
                os.kill(os.getpid(), signal.SIGTERM)
            return real(*arguments)

        monkeypatch.setattr(loop, "validate", validate)

    return arm
