"""The models of a server: by name, a default, and a split of the requests that name none."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nextvec.corpus.reading import Space, TextReader
from nextvec.corpus.store import Store
from nextvec.data.windows import FloatArray, IntArray
from nextvec.decoding.base import Decoder
from nextvec.decoding.load import NEAREST, check_decoders, open_decoder
from nextvec.decoding.nearest import Library
from nextvec.decoding.pipeline import Pipeline
from nextvec.errors import ConfigError, EncoderError, RunError
from nextvec.inference.base import TrainedPredictor
from nextvec.inference.predictor import open_predictor
from nextvec.retrieval.backends import open_index
from nextvec.retrieval.context import available
from nextvec.retrieval.strategies import Strategy
from nextvec.serving.batching import Batcher
from nextvec.serving.bodies import ContextArrays
from nextvec.serving.errors import Refusal, invalid

SHARE_TOLERANCE = 1e-6
WARM_LENGTH = 8  # vectors at most: a long context is not worth a slow start
log = logging.getLogger("nextvec.serving")
NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")  # it stands in headers and in paths


class ServedModel:
    """One model under its name.

    Args:
        name: what requests call it.
        predictor: of a run or an export.
        pipeline: texts in and out of it, where the server has what that needs.
        strategy: how its passages are found where a request does not say; None is `Strategy.default`.
    Attributes:
        dimension: D.
        context: how many of the most recent vectors it reads.
        conditional: whether it takes a query to write towards.
        horizons: how many chunks ahead it predicts, the nearest first.
        created: when it was loaded, seconds since 1970.
    """

    def __init__(
        self,
        name: str,
        predictor: TrainedPredictor,
        pipeline: Pipeline | None = None,
        strategy: Strategy | None = None,
    ) -> None:
        self.name, self.predictor, self.pipeline, self.strategy = name, predictor, pipeline, strategy
        self.batcher: Batcher | None = None
        self.dimension, self.context = predictor.dimension, predictor.context
        self.conditional, self.horizons = predictor.conditional, predictor.horizons
        self.created = int(time.time())
        self._aimed = {horizon: predictor.at_horizon(horizon) for horizon in self.horizons}

    def at_horizon(self, horizon: int | None) -> TrainedPredictor:
        """The predictor at a horizon, by default the nearest. Raises Refusal for one it lacks."""
        found = self._aimed.get(self.horizons[0] if horizon is None else horizon)
        if found is None:
            message = f"{self.name} predicts {', '.join(map(str, self.horizons))} ahead, not {horizon}"
            raise invalid(message, "unknown_horizon", "horizon", f"give {self.horizons[0]}")
        return found

    def predict(
        self,
        windows: ContextArrays,
        horizon: int | None = None,
        query: FloatArray | None = None,
        *,
        ranking: bool = False,
    ) -> asyncio.Future[FloatArray]:
        """Raw predictions [N, D] of checked contexts, batched with those of other requests.

        Args:
            windows: [N, T, D], or N of [T, D].
            horizon: how many chunks ahead; None is the nearest.
            query: [D] what a conditional model is to write towards.
            ranking: in their place the queries of unit length to rank candidates by.
        Raises:
            Refusal: 422, a horizon that it lacks, or no query for ranking there.
        """
        at_horizon = self.at_horizon(horizon)
        if ranking and not at_horizon.ranking:
            message = f"{self.name} gives no query for ranking, or not at this horizon"
            raise invalid(message, "invalid_field", "output_type", "request the output_type cosine")
        if isinstance(windows, list):
            return asyncio.ensure_future(self._by_length(windows, horizon, query, ranking))
        queries = None if query is None else np.broadcast_to(query, (len(windows), self.dimension))

        def answer(contexts: FloatArray, lengths: IntArray, queries: FloatArray | None) -> FloatArray:
            if ranking:
                return at_horizon.predict_ranking(contexts, lengths, queries)[2]
            return at_horizon.answer(contexts, lengths, queries)[0].values

        assert self.batcher is not None, "the application has not started"
        kind = -1 if ranking else at_horizon.head  # what may share a batch
        return self.batcher.submit(windows[:, -self.context :], answer, kind, queries)

    async def _by_length(
        self, windows: list[FloatArray], horizon: int | None, query: FloatArray | None, ranking: bool
    ) -> FloatArray:
        """[N, D] of contexts that differ in length: those of one length together."""
        read = [window[-self.context :] for window in windows]
        rows: dict[int, list[int]] = {}
        for row, window in enumerate(read):
            rows.setdefault(len(window), []).append(row)
        groups = (np.stack([read[row] for row in group]) for group in rows.values())
        work = (self.predict(group, horizon, query, ranking=ranking) for group in groups)
        made = np.concatenate(await asyncio.gather(*work))
        found = np.empty_like(made)
        found[[row for group in rows.values() for row in group]] = made
        return found

    def warm(self, max_batch: int) -> None:
        """Predictions of several sizes, so that first requests do not pay for what is made on first use."""
        for size in (1, 2, max_batch // 2 or 1, max_batch):
            windows = np.zeros((size, min(self.context, WARM_LENGTH), self.dimension), np.float32)
            queries = np.zeros((size, self.dimension), np.float32) if self.conditional else None
            for at_horizon in self._aimed.values():
                at_horizon.predict(windows, np.full(size, windows.shape[1], np.int64), queries)

    def capabilities(self) -> list[str]:
        able = {
            "query": self.conditional,
            "ranking": self.predictor.ranking,
            "confidence": self.predictor.confident,
            "samples": self.predictor.generative,
            "texts": self.pipeline is not None,
        }
        return ["predict", *(name for name, there in able.items() if there)]


class ServedModels:
    """All models of a server.

    Args:
        models: at least one, under different names.
        default: answers when a request names none; by default the first.
        split: shares of such requests that go to each model, in place of the default.
    Raises:
        ConfigError: names that are twice or unknown, shares that are not positive or do not sum to 1.
    """

    def __init__(
        self,
        models: Sequence[ServedModel],
        default: str | None = None,
        split: Mapping[str, float] | None = None,
    ) -> None:
        check_shares([model.name for model in models], default, split)
        self._models = {model.name: model for model in models}
        self.default, self.split = default or models[0].name, dict(split or {})

    def __iter__(self) -> Any:
        return iter(self._models.values())

    @property
    def names(self) -> tuple[str, ...]:
        """In the order given."""
        return tuple(self._models)

    def named(self, name: str) -> ServedModel:
        """Raises Refusal 404."""
        found = self._models.get(name)
        if found is None:
            remedy = "GET /v1/models lists the names"
            raise Refusal(404, "no such model", code="model_not_found", param="model", remedy=remedy)
        return found

    def by_encoder(self, name: str) -> str | None:
        """The first model whose encoder has this name, with or without its owner; None where none has, or
        where a model is called so itself."""
        if name in self._models:
            return None
        for model in self._models.values():
            if model.pipeline is not None:
                full = model.pipeline.reader.encoder.name
                if name in (full, full.rpartition("/")[2]):
                    return model.name
        return None

    def choose(self, name: str | None = None, sticky: str | None = None) -> tuple[ServedModel, str | None]:
        """Which model answers, and for which variant of the split.

        The variant is None where there is no split or a model was named.

        Args:
            sticky: the same key always gets the same variant; without one it is drawn.
        Raises:
            Refusal: 404, no model of that name.
        """
        if name is not None:
            return self.named(name), None
        if not self.split:
            return self._models[self.default], None
        variant = self._variant(random.random() if sticky is None else _point(sticky))  # noqa: S311 - no secret
        return self._models[variant], variant

    def _variant(self, point: float) -> str:
        """The variant at a point of [0, 1)."""
        for name, share in self.split.items():
            point -= share
            if point < 0:
                return name
        return next(reversed(self.split))  # shares that sum to a little less than 1


def check_shares(names: Sequence[str], default: str | None, split: Mapping[str, float] | None) -> None:
    """Before models are loaded. Raises ConfigError as `ServedModels`."""
    if not names:
        raise ConfigError("no model to serve", remedy="name a run")
    if len(set(names)) < len(names):
        raise ConfigError("two models of one name", remedy="name them: a=RUN b=RUN2")
    for name in names:
        if not NAME.fullmatch(name):
            remedy = "name it with letters, digits, ., _ and -: a=RUN"
            raise ConfigError(f"'{name}' is not a name for a model", remedy=remedy)
    for name in ([] if default is None else [default]) + list(split or {}):
        if name not in names:
            raise ConfigError(f"no model '{name}'", remedy=f"name one of {', '.join(names)}")
    if split and default is not None:
        raise ConfigError("a default beside a split answers nothing", remedy="give one of the two")
    if split and (min(split.values()) <= 0 or abs(sum(split.values()) - 1) > SHARE_TOLERANCE):
        raise ConfigError("the shares of a split are positive and sum to 1", remedy="give a=0.9,b=0.1")


def _point(key: str) -> float:
    """A point of [0, 1), even and always the same for a key."""
    return int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()[:6]) / 2**48


@dataclass(frozen=True)
class ServingConfig:
    """What is served and how.

    Attributes:
        models: run folders, hub ids or exports by the names they are served under.
        device, engine, threads: as of `open_predictor`.
        store: whose passages are found; None finds none.
        index: where they are searched, as `open_index` reads it; None is exact, in memory.
        decoder: makes texts of vectors; see `open_decoder`.
        strategies: how passages are found, by the name of a model.
        read: makes the reader of texts of a space, with whatever encoder that is to take.
    """

    models: Mapping[str, str]
    device: str = "cpu"
    engine: str | None = None
    threads: int = 1
    store: Path | None = None
    index: str | None = None
    decoder: str = NEAREST
    strategies: Mapping[str, Strategy] = field(default_factory=dict)
    read: Callable[[Space], TextReader] = TextReader


def open_models(wanted: ServingConfig, held: ExitStack) -> list[ServedModel]:
    """All of them, in the order named.

    Args:
        held: closes the decoder.
    Raises:
        RunError, ConfigError, MissingDependencyError: as `open_predictor`.
        StoreError, EncoderError, DecoderError: what texts need is not available.
        EncoderMismatchError: a store or a decoder of another encoder.
        RetrievalError: a strategy that needs what is not there.
    """
    check_decoders([wanted.decoder])
    predictors = {
        name: open_predictor(path, wanted.device, wanted.engine, threads=wanted.threads)
        for name, path in wanted.models.items()
    }
    for name, strategy in wanted.strategies.items():
        strategy.check(available(predictors[name], decoder=wanted.decoder != NEAREST, steered=False))
    texts, chosen = _Texts(wanted, held), wanted.strategies
    return [
        ServedModel(name, found, texts.pipeline(name, found), chosen.get(name))
        for name, found in predictors.items()
    ]


class _Texts:
    """What models share that read and write texts."""

    def __init__(self, wanted: ServingConfig, held: ExitStack) -> None:
        self._wanted, self._held = wanted, held
        self._library = None
        if wanted.store is not None:
            store = Store.open(wanted.store)
            self._library = Library(store, None if wanted.index is None else open_index(wanted.index, store))
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
            raise ConfigError(f"'{text}' is not NAME=RUN", remedy="write a run's folder, or a name before it")
        if name in found:
            raise ConfigError(f"two models are called '{name}'", remedy="name them: a=RUN b=RUN2")
        found[name] = path
    return found


def strategies(text: str | None, names: Sequence[str]) -> dict[str, Strategy]:
    """`a=last-mean+passage,b=ranked` -> strategies by the names of models.

    Raises ConfigError: no model of that name, or a strategy that needs a request's query. RetrievalError: no
    strategy of that name.
    """
    found: dict[str, Strategy] = {}
    for part in () if text is None else text.split(","):
        name, _, strategy = (word.strip() for word in part.partition("="))
        if name not in names:
            remedy = f"write {names[0]}=last-mean+passage, or another of {', '.join(names)}"
            raise ConfigError(f"no model '{name}'", where="--strategy", remedy=remedy)
        found[name] = Strategy.named(strategy)
        if "query" in found[name].needs:
            message = f"'{strategy}' steers towards a query, which only a request has"
            remedy = f"write {name}=last-mean+passage, and send the strategy with the query"
            raise ConfigError(message, where="--strategy", remedy=remedy)
    return found


def shares(text: str | None) -> dict[str, float]:
    """`a=0.9,b=0.1` -> shares by name. Raises ConfigError."""
    found: dict[str, float] = {}
    for part in () if text is None else text.split(","):
        name, _, share = part.partition("=")
        try:
            found[name.strip()] = float(share)
        except ValueError:
            remedy = "write a=0.9,b=0.1"
            raise ConfigError(f"'{part}' is not a share", where="--split", remedy=remedy) from None
    return found
