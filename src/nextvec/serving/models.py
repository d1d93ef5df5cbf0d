"""The models of a server: by name, a default, and a split of the requests that name none."""

from __future__ import annotations

import asyncio
import hashlib
import random
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from nextvec.data.windows import FloatArray, IntArray
from nextvec.errors import ConfigError
from nextvec.serving.batching import Batcher
from nextvec.serving.bodies import ContextArrays
from nextvec.serving.errors import Refusal

if TYPE_CHECKING:
    from nextvec.decoding.pipeline import Pipeline
    from nextvec.inference.base import TrainedPredictor

SHARE_TOLERANCE = 1e-6
WARM_LENGTH = 8  # vectors at most: a long context is not worth a slow start
NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")  # it stands in headers and in paths


class ServedModel:
    """One model under its name.

    Args:
        name: what requests call it.
        predictor: of a run or an export.
        pipeline: texts in and out of it, where the server has what that needs.
    Attributes:
        horizons: how many chunks ahead it can be asked for, the nearest first.
    """

    def __init__(self, name: str, predictor: TrainedPredictor, pipeline: Pipeline | None = None) -> None:
        self.name, self.predictor, self.pipeline = name, predictor, pipeline
        self.batcher: Batcher | None = None
        self.horizons = predictor.horizons
        self._aimed = {horizon: predictor.at_horizon(horizon) for horizon in self.horizons}

    @property
    def dimension(self) -> int:
        """D."""
        return self.predictor.dimension

    @property
    def context(self) -> int:
        """How many of the most recent vectors it reads."""
        return self.predictor.context

    @property
    def conditional(self) -> bool:
        """Whether it can be told what to write towards."""
        return self.predictor.conditional

    def at_horizon(self, horizon: int | None) -> TrainedPredictor:
        """The predictor at a horizon, by default the nearest. Raises Refusal for one it lacks."""
        found = self._aimed.get(self.horizons[0] if horizon is None else horizon)
        if found is None:
            there = ", ".join(map(str, self.horizons))
            raise Refusal(
                422,
                f"{self.name} predicts {there} ahead, not {horizon}",
                code="unknown_horizon",
                param="horizon",
                remedy=f"give {self.horizons[0]}",
            )
        return found

    def predict(
        self, windows: ContextArrays, horizon: int | None = None, query: FloatArray | None = None
    ) -> asyncio.Future[FloatArray]:
        """Raw predictions [N, D] of checked contexts, batched with those of other requests.

        Args:
            windows: [N, T, D], or N of [T, D].
            horizon: how many chunks ahead; None is the nearest.
            query: [D] what a conditional model is to write towards.
        Raises:
            Refusal: 422, a horizon that it lacks.
        """
        at_horizon = self.at_horizon(horizon)
        if isinstance(windows, list):
            return asyncio.ensure_future(self._by_length(windows, horizon, query))
        queries = None if query is None else np.broadcast_to(query, (len(windows), self.dimension))

        def answer(contexts: FloatArray, lengths: IntArray, told: FloatArray | None) -> FloatArray:
            return at_horizon.engine(contexts, lengths, told, at_horizon.head)

        assert self.batcher is not None, "the application has not started"
        return self.batcher.submit(windows[:, -self.context :], answer, at_horizon.head, queries)

    async def _by_length(
        self, windows: list[FloatArray], horizon: int | None, query: FloatArray | None
    ) -> FloatArray:
        """[N, D] of contexts that differ in length: those of one length together."""
        read = [window[-self.context :] for window in windows]
        rows: dict[int, list[int]] = {}
        for row, window in enumerate(read):
            rows.setdefault(len(window), []).append(row)
        groups = [np.stack([read[row] for row in group]) for group in rows.values()]
        answers = await asyncio.gather(*(self.predict(group, horizon, query) for group in groups))
        made = np.concatenate(answers)
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

    @cached_property
    def card(self) -> dict[str, Any]:
        """What `/v1/models` tells of it."""
        predictor = self.predictor
        model = getattr(predictor, "model", None)
        return {
            "id": self.name,
            "object": "model",
            "owned_by": "nextvec",
            "architecture": getattr(predictor, "architecture", None) or getattr(model, "architecture", None),
            "dimension": self.dimension,
            "encoder": predictor.encoder,
            "context": self.context,
            "horizons": list(self.horizons),
            "engine": predictor.engine.name,
            "precision": getattr(predictor, "precision", "fp32"),
            "parameters": predictor.metadata.get("parameters"),
            "capabilities": self._capabilities(),
        }

    def _capabilities(self) -> list[str]:
        told = {
            "query": self.conditional,
            "confidence": self.predictor.confident,
            "samples": self.predictor.generative,
            "texts": self.pipeline is not None,
        }
        return ["predict", *(name for name, there in told.items() if there)]


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
            raise Refusal(
                404,
                "no such model",
                code="model_not_found",
                param="model",
                remedy="ask GET /v1/models for names",
            )
        return found

    def choose(self, name: str | None = None, sticky: str | None = None) -> tuple[ServedModel, str | None]:
        """Who answers, and for which arm of the split; None where there is no split or a model was named.

        Args:
            sticky: the same key always gets the same arm; without one it is drawn.
        Raises:
            Refusal: 404, no model of that name.
        """
        if name is not None:
            return self.named(name), None
        if not self.split:
            return self._models[self.default], None
        arm = self._arm(random.random() if sticky is None else _point(sticky))  # noqa: S311 - no secret
        return self._models[arm], arm

    def _arm(self, point: float) -> str:
        """The arm at a point of [0, 1)."""
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
            raise ConfigError(
                f"'{name}' is no name for a model", remedy="name it with letters, digits, ., _ and -: a=RUN"
            )
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
