"""A server's model on the exam: judged as a run is, with what the server says of its training."""

from __future__ import annotations

import binascii
import os
from base64 import b64decode
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np

from nextvec.client import Client, RemotePredictor
from nextvec.data.trained import Keys, TrainedOn
from nextvec.errors import RunError, ServerError

API_KEY = "NEXTVEC_API_KEY"
SCHEMES = ("http://", "https://")


class RemoteRun(RemotePredictor):
    """A model of `nextvec serve` as a run.

    Args:
        address: of the server; a model other than its default is named behind #, http://HOST:PORT#NAME.
        client: to ask with; by default one with the API key of the environment variable NEXTVEC_API_KEY.
    Attributes:
        folder: the address, for messages.
    Raises:
        ServerError: it cannot be reached, refuses, or is no server of nextvec.
    """

    def __init__(self, address: str, client: Client | None = None) -> None:
        url, _, model = address.partition("#")
        super().__init__(client or Client(url, os.environ.get(API_KEY) or None), model or None)
        self.folder = Path(address)

    @cached_property
    def _told(self) -> dict[str, Any]:
        return self.client.training(self.model)

    @property
    def training(self) -> dict[str, Any]:
        """How it was trained. A split file is known by name only: name your own with --split-file."""
        found: dict[str, Any] = self._told["training"]
        return found

    @property
    def task(self) -> str:
        """Either "next" or "middle"."""
        return str(self.training["task"])

    @cached_property
    def trained_on(self) -> TrainedOn:
        """Keys of every document and chunk it was trained on. Raises ServerError."""
        said = self._told["trained_on"]
        try:
            return TrainedOn(*(_keys(said[name]) for name in ("chunks", "documents", "ids")))
        except (KeyError, TypeError, ValueError, binascii.Error) as error:
            raise ServerError(
                f"a training list that is not understood ({error})", where=self.client.url
            ) from None

    def aimed(self, horizon: int) -> Self:
        """The same, answering for one of its horizons. Raises RunError for another."""
        if horizon not in self.horizons:
            raise RunError(
                f"predicts {', '.join(map(str, self.horizons))} ahead, asked for {horizon}",
                where=self.client.url,
                remedy=f"give --horizon {self.horizons[0]}",
            )
        other = copy(self)
        other.horizon = horizon
        return other


def _keys(coded: str) -> Keys:
    return np.unique(np.frombuffer(b64decode(coded, validate=True), "<u8").astype(np.uint64))
