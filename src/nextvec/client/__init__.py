"""A client of `nextvec serve`, and a server's model as a predictor that the evaluator takes.

    with Client("http://127.0.0.1:8000") as client:
        raw = client.predict(vectors)                      # [T, D] -> [D], or [N, T, D] -> [N, D]
        client.predict_text("First paragraph. ...")["passages"]
        with client.session() as session:
            expected = session.push(vector)                # after every vector

Vectors travel as npy (float32, no pickle). Requests go to the address that was given and nowhere else:
redirects are not followed, proxies and .netrc of the environment are not used.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, Self
from urllib.parse import quote

import httpx
import numpy as np
from numpy.typing import NDArray

from nextvec.client.wire import FloatArray, Json, Wire, packed, rows_of
from nextvec.errors import ServerError
from nextvec.vectors import unit

OutputType = Literal["decoder", "cosine"]
ROWS_A_REQUEST = 32


class Client:
    """Requests to one server. Safe to share between threads; close it, or leave it as a context manager.

    Args:
        url: such as http://127.0.0.1:8000; with /v1 and with a route it is the same address. Where there
            is nothing under /v1, as behind some proxies, routes are asked for without it, which is logged.
        api_key: sent as a bearer token.
        model: asked where a call names none; None is the server's default.
        timeout: seconds for connecting and for each answer.
        retries: further tries after 429, 503 and a refused connection; the server's Retry-After is waited
            for where it is at most a minute.
        transport: another than the network, for tests.
    Raises:
        ServerError: no http address. Every call raises it for what the server refuses (`status` tells which)
            and for a server that cannot be reached.
    """

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        *,
        model: str | None = None,
        timeout: float = 30.0,
        retries: int = 3,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.wire, self.model = Wire(url, api_key, timeout, retries, transport), model

    @property
    def url(self) -> str:
        return self.wire.url

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connections."""
        self.wire.http.close()

    def predict(
        self,
        vectors: FloatArray,
        *,
        model: str | None = None,
        output_type: OutputType = "decoder",
        horizon: int | None = None,
        query: FloatArray | None = None,
        user: str | None = None,
    ) -> FloatArray:
        """The vector expected after vectors [T, D] -> [D], or after each of [N, T, D] -> [N, D].

        Args:
            output_type: "decoder" is raw, as the encoder would give it; "cosine" is of unit length.
            horizon: so many chunks ahead; the model's nearest by default.
            query: [D] what a conditional model is to write towards.
            user: the same user always gets the same variant of a split.
        """
        given = np.asarray(vectors, dtype=np.float32)
        options = self._options(model, output_type=output_type, horizon=horizon)
        headers = {} if user is None else {"x-sticky-key": user}
        if query is None:
            found = self.wire.npy("/v1/predict", given, options, headers)
        else:
            coded = [packed(one) for one in (given if given.ndim == 3 else given[None])]
            body = {**options, "input": coded, "query": packed(query), "encoding_format": "base64"}
            found = rows_of(self.wire.post("/v1/predict", body, headers))
        return found if given.ndim == 3 else found[0]

    def predict_text(self, text: str, *, model: str | None = None, **options: Any) -> Json:
        """What follows a text. Options: horizon, passages, query, attention (see the server's OpenAPI)."""
        return self.wire.post("/v1/predict/text", {"text": text, **self._options(model, **options)})

    def encode(
        self, texts: str | Sequence[str], *, model: str | None = None, output_type: OutputType = "decoder"
    ) -> FloatArray:
        """[n, D] a vector a text, by the encoder of a model."""
        given = texts if isinstance(texts, str) else list(texts)
        options = self._options(model, output_type=output_type, encoding_format="base64")
        return rows_of(self.wire.post("/v1/encode", {"input": given, **options}))

    def decode(self, vectors: FloatArray, *, model: str | None = None, n: int = 1) -> list[Json]:
        """For each of the raw vectors [N, D] (or one, [D]) its texts, the best first."""
        given = np.atleast_2d(np.asarray(vectors, dtype=np.float32))
        body = {"input": [packed(one) for one in given], **self._options(model, n=n)}
        return list(self.wire.post("/v1/decode", body)["data"])

    def retrieve(
        self,
        text: str | None = None,
        vectors: FloatArray | None = None,
        *,
        model: str | None = None,
        **options: Any,
    ) -> list[Json]:
        """Passages that come next after a text, or after vectors [T, D]. Options: n, strategy, query."""
        body = {**_read(text, vectors), **self._options(model, **options)}
        return list(self.wire.post("/v1/retrieve", body)["passages"])

    def rollout(
        self,
        text: str | None = None,
        vectors: FloatArray | None = None,
        *,
        model: str | None = None,
        steps: int = 5,
        **options: Any,
    ) -> Json:
        """Go on from a text, or from vectors [T, D]. Options: passages, min_cosine, snap, seed, ..."""
        body = {**_read(text, vectors), **self._options(model, steps=steps, **options)}
        return self.wire.post("/v1/rollout", body)

    def surprise(self, text: str, *, model: str | None = None, **options: Any) -> Json:
        """How unexpected each chunk of a text is, and where topics change. Options: finder, threshold."""
        return self.wire.post("/v1/surprise", {"text": text, **self._options(model, **options)})

    @contextmanager
    def session(self, model: str | None = None) -> Iterator[RemoteSession]:
        """A session that keeps the model's state on the server; it is deleted in the end."""
        opened = RemoteSession(self, str(self.wire.post("/v1/sessions", self._options(model))["id"]))
        try:
            yield opened
        finally:
            opened.close()

    def models(self) -> list[Json]:
        """What the server serves."""
        return list(self.wire.get("/v1/models")["data"])

    def describe(self, model: str | None = None) -> Json:
        """What the server says of a model; None is this client's, or the server's default."""
        name = self.model if model is None else model
        if name is None:
            name = self.wire.get("/v1/models").get("default")
        if name is None:
            unsaid = "splits its requests between models, and none was named"
            raise ServerError(unsaid, where=self.url, remedy="name a model")
        return self.wire.get(f"/v1/models/{quote(name, safe='')}")

    def training(self, model: str) -> Json:
        """How a model was trained, and keys of what it was trained on (`nextvec.experiments.evaluating`)."""
        return self.wire.get(f"/v1/models/{quote(model, safe='')}/training")

    def outcome(self, request_id: str, score: float) -> None:
        """Tell how good an answer was (0 to 1): it is counted for the variant of the split that gave it."""
        self.wire.post("/v1/outcomes", {"request_id": request_id, "score": score})

    def ready(self) -> bool:
        try:
            return self.wire.http.get("/health/ready").status_code == 200
        except httpx.TransportError:
            return False

    def _options(self, model: str | None, **options: Any) -> Json:
        named = self.model if model is None else model
        return {name: value for name, value in {"model": named, **options}.items() if value is not None}


class RemoteSession:
    """A session on the server: vectors one after another, a prediction after each.

    Attributes:
        id: the server's name of it. Whoever knows it can go on with the session.
    """

    def __init__(self, client: Client, identity: str) -> None:
        self.id, self._wire, self._path = identity, client.wire, f"/v1/sessions/{quote(identity, safe='')}"

    def push(self, vectors: FloatArray, *, output_type: OutputType = "decoder") -> FloatArray:
        """Read a vector [D] and give what is expected next, [D]; of vectors [T, D] after each, [T, D]."""
        given = np.asarray(vectors, dtype=np.float32)
        found = self._wire.npy(f"{self._path}/vectors", np.atleast_2d(given), {"output_type": output_type})
        return found if given.ndim == 2 else found[0]

    def push_text(self, text: str, **options: Any) -> Json:
        """Read a text's chunks. Options: passages, encoding_format."""
        return self._wire.post(f"{self._path}/text", {"text": text, **options})

    def describe(self) -> Json:
        """Its model, how many vectors it has read, the bytes of its state."""
        return self._wire.get(self._path)

    def close(self) -> None:
        """Delete it; one that has expired is gone already."""
        try:
            self._wire.send("DELETE", self._path)
        except ServerError as error:
            if error.status != 404:
                raise


def _read(text: str | None, vectors: FloatArray | None) -> Json:
    """What is read: one of the two."""
    if (text is None) == (vectors is None):
        raise ServerError("nothing to read, or two things", remedy="give one of text and vectors")
    if vectors is None:
        return {"text": text}
    return {"input": np.asarray(vectors, dtype=np.float32).tolist()}


class RemotePredictor:
    """A server's model as the evaluator sees it: contexts in, the prediction after the last vector out.

    Args:
        client: of the server; it stays open.
        model: None is the server's default.
    Attributes:
        name, context, dimension, encoder, horizons, conditional, metadata: as the server says of the model.
        horizon: it answers for so many chunks ahead.
    """

    kind: Literal["model"] = "model"

    def __init__(self, client: Client, model: str | None = None) -> None:
        described = client.describe(model)
        try:
            self.model, self.dimension = str(described["id"]), int(described["dimension"])
            self.context = int(described["context"])
            self.horizons = tuple(int(horizon) for horizon in described["horizons"])
            self.encoder: str | None = described["encoder"]
            self.metadata: dict[str, Any] = {"parameters": described["parameters"]}
            self.conditional = "query" in described["capabilities"]
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
                raw[some] = self._predicted(
                    contexts[some, :length], None if queries is None else queries[some]
                )
        return raw, unit(raw)

    def _predicted(self, contexts: FloatArray, queries: FloatArray | None) -> FloatArray:
        ask = partial(self.client.predict, model=self.model, horizon=self.horizon)
        if queries is None or not queries.any():
            return ask(contexts)
        # A request carries one query.
        pairs = zip(contexts, queries, strict=True)
        return np.stack([ask(context, query=query if query.any() else None) for context, query in pairs])
