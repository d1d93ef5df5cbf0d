"""A server's model as a predictor that the judge takes."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nextvec.client.api import Client
from nextvec.client.wire import FloatArray
from nextvec.vectors import unit


class RemotePredictor:
    """A server's model as the judge sees it: contexts in, the prediction after the last vector out.

    Args:
        client: of the server; it stays open.
        model: None is the server's default.
    Attributes:
        name, context, dimension, encoder, horizons, conditional, metadata: as the server says of the model.
        horizon: it answers for so many chunks ahead.
    """

    kind: Literal["model"] = "model"

    def __init__(self, client: Client, model: str | None = None) -> None:
        said = client.describe(model)
        try:
            self.model, self.context, self.dimension = (
                str(said["id"]),
                int(said["context"]),
                int(said["dimension"]),
            )
            self.horizons = tuple(int(horizon) for horizon in said["horizons"])
            self.encoder: str | None = said["encoder"]
            self.metadata: dict[str, Any] = {"parameters": said["parameters"]}
            self.conditional = "query" in said["capabilities"]
        except (KeyError, TypeError, ValueError) as error:
            raise client.wire.nonsense("/v1/models", error) from None
        self.name, self.client, self.horizon = self.model, client, self.horizons[0]

    def predict(
        self, contexts: FloatArray, lengths: NDArray[np.int64], queries: FloatArray | None = None
    ) -> tuple[FloatArray, FloatArray]:
        """Raw and unit prediction [B, D] from contexts [B, T, D] padded on the right, lengths [B].

        Rows of one length travel together, as the server takes arrays without padding.
        """
        raw = np.empty((len(lengths), contexts.shape[2]), dtype=np.float32)
        for length in np.unique(lengths):
            rows = np.flatnonzero(lengths == length)
            for some in np.array_split(rows, -(-len(rows) // ROWS_A_REQUEST)):
                raw[some] = self._asked(contexts[some, :length], None if queries is None else queries[some])
        return raw, unit(raw)

    def _asked(self, contexts: FloatArray, queries: FloatArray | None) -> FloatArray:
        if queries is None or not queries.any():
            return self.client.predict(contexts, model=self.model, horizon=self.horizon)
        # A request carries one query.
        pairs = zip(contexts, queries, strict=True)
        return np.stack(
            [
                self.client.predict(
                    context, model=self.model, horizon=self.horizon, query=query if query.any() else None
                )
                for context, query in pairs
            ]
        )


ROWS_A_REQUEST = 32
