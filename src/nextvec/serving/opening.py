"""From what a user names to what is served: runs and exports, encoders shared where they can be, a store."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from nextvec.corpus.reading import Space, TextReader
from nextvec.corpus.store import Store
from nextvec.decoding.base import Decoder
from nextvec.decoding.load import NEAREST, check_decoders, open_decoder
from nextvec.decoding.nearest import Library
from nextvec.decoding.pipeline import Pipeline
from nextvec.errors import ConfigError, EncoderError, RunError
from nextvec.inference.base import TrainedPredictor
from nextvec.inference.predictor import open_predictor
from nextvec.retrieval.backends import open_index
from nextvec.serving.models import ServedModel

log = logging.getLogger("nextvec.serving")


@dataclass(frozen=True)
class ServingConfig:
    """What is served and how.

    Attributes:
        models: run folders, hub ids or exports by the names they are served under.
        device, engine, threads: as of `open_predictor`.
        store: whose passages are found; None finds none.
        index: where they are searched, as `open_index` reads it; None is exact, in memory.
        decoder: makes texts of vectors; see `open_decoder`.
        read: makes the reader of texts of a space, with whatever encoder that is to take.
    """

    models: Mapping[str, str]
    device: str = "cpu"
    engine: str | None = None
    threads: int = 1
    store: Path | None = None
    index: str | None = None
    decoder: str = NEAREST
    read: Callable[[Space], TextReader] = TextReader


def open_models(wanted: ServingConfig, held: ExitStack) -> list[ServedModel]:
    """All of them, in the order named.

    Args:
        held: closes the decoder.
    Raises:
        RunError, ConfigError, MissingDependencyError: as `open_predictor`.
        StoreError, EncoderError, DecoderError: what texts need cannot be had.
        EncoderMismatchError: a store or a decoder of another encoder.
    """
    check_decoders([wanted.decoder])
    predictors = {
        name: open_predictor(path, wanted.device, wanted.engine, threads=wanted.threads)
        for name, path in wanted.models.items()
    }
    texts = _Texts(wanted, held)
    return [ServedModel(name, found, texts.pipeline(name, found)) for name, found in predictors.items()]


class _Texts:
    """What models share that read and write texts."""

    def __init__(self, wanted: ServingConfig, held: ExitStack) -> None:
        self._wanted, self._held = wanted, held
        self._library = None if wanted.store is None else _library(wanted.store, wanted.index)
        self._readers: list[TextReader] = []
        self._decoder: Decoder | None = None

    def pipeline(self, name: str, predictor: TrainedPredictor) -> Pipeline | None:
        """Of one model; None, and a word why, where it can only be sent vectors."""
        if predictor.task != "next":
            log.info("%s fills gaps: it takes vectors, not texts", name)
            return None
        try:
            reader = self._reader(predictor.space)
        except (EncoderError, RunError) as error:
            if self._library is not None or self._wanted.decoder != NEAREST:
                raise
            log.info("%s takes vectors, not texts: %s", name, error)
            return None
        return Pipeline(predictor, reader, self._decoded_by(reader), self._library)

    def _reader(self, space: Space) -> TextReader:
        """An encoder takes memory: those that share a space share it."""
        for reader in self._readers:
            if reader.space == space:
                return reader
        self._readers.append(self._wanted.read(space))
        return self._readers[-1]

    def _decoded_by(self, reader: TextReader) -> Decoder | None:
        if self._wanted.decoder == NEAREST:
            return None
        if self._decoder is None:
            self._decoder = self._held.enter_context(open_decoder(self._wanted.decoder, reader=reader))
        return self._decoder


def _library(path: Path, index: str | None) -> Library:
    store = Store.open(path)
    return Library(store, None if index is None else open_index(index, store))


def named_models(given: tuple[str, ...]) -> dict[str, str]:
    """`RUN` or `NAME=RUN` -> paths by name; a folder's own name where none is given.

    Raises ConfigError: a name twice, or none.
    """
    found: dict[str, str] = {}
    for text in given:
        name, equals, path = text.partition("=")
        if not equals or Path(text).exists():
            name, path = Path(text).resolve().name, text
        if not name or not path:
            raise ConfigError(f"'{text}' is no NAME=RUN", remedy="write a run's folder, or a name before it")
        if name in found:
            raise ConfigError(f"two models are called '{name}'", remedy="name them: a=RUN b=RUN2")
        found[name] = path
    return found


def shares(text: str | None) -> dict[str, float]:
    """`a=0.9,b=0.1` -> shares by name. Raises ConfigError."""
    found: dict[str, float] = {}
    for part in () if text is None else text.split(","):
        name, _, share = part.partition("=")
        try:
            found[name.strip()] = float(share)
        except ValueError:
            raise ConfigError(f"'{part}' is no share", where="--split", remedy="write a=0.9,b=0.1") from None
    return found
