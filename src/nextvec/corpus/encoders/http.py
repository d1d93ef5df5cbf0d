"""Encoders behind an HTTP endpoint: OpenAI-compatible `/v1/embeddings` and Hugging Face TEI `/embed`.

Texts go to the address the user gave and nowhere else: redirects are not followed, proxies and .netrc of
the environment are not used, and the API key is read from the environment variable the user names, sent
as a bearer token and never stored."""

from __future__ import annotations

import base64
import binascii
import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
import numpy as np

from nextvec.client.wire import waiting_time
from nextvec.corpus.encoders.base import Advance, digest
from nextvec.corpus.layout import FloatArray
from nextvec.errors import EncoderError

log = logging.getLogger("nextvec.corpus")

KINDS = ("openai", "tei")
PROBE = (
    "The ship left the harbour before dawn.",
    "Water boils at lower temperatures on high mountains.",
    "42",
)
UNIT_TOLERANCE = 1e-3
MAX_BYTES_A_TEXT = 2**20
"""Largest answer read for one text: 16,384 numbers of 64 characters."""
MAX_WAIT_S = 120.0
MAX_QUOTED = 300


class HttpEncoder:
    """Vectors from an endpoint. See `Encoder` for the attributes.

    The fingerprint is over the model's name, the kind of endpoint and the signs of 64 fixed projections
    of three probe sentences' vectors: the vectors themselves may differ in their last digits between two
    runs of one server, these signs hardly ever.

    Args:
        url: `https://host/v1/embeddings`, `https://host/v1`, `https://host`, or TEI's `http://host/embed`.
            Where that is not there (404), it is tried with, or without, /v1 once, which is logged.
        model: the model's name, sent to OpenAI-compatible servers.
        kind: "openai" or "tei"; by default from the address ("/embed" is TEI).
        key_variable: environment variable that holds the API key; none is sent without it.
        batch_size: texts a request.
        timeout: seconds for connecting and for each answer.
        retries: further tries after 429, 5xx, a time-out or a broken connection.
        dimensions: asked for from OpenAI-compatible servers that can shorten vectors.
        prompt, query_prompt: put before every text, before a query in its place (by default the same).
        role, query_role: what a text, or a query, is to the server: `input_type` of OpenAI-compatible servers
            that tell passages from queries, `prompt_name` of TEI.
        base64_response: ask OpenAI-compatible servers for base64 (smaller); either form is understood.
    Raises:
        EncoderError: an address that is not http(s), a missing key, or a server that cannot be reached,
            refuses or answers nonsense.
    """

    max_tokens: int | None = None

    def __init__(
        self,
        url: str,
        model: str,
        *,
        kind: str | None = None,
        key_variable: str | None = None,
        batch_size: int = 32,
        timeout: float = 60.0,
        retries: int = 5,
        dimensions: int | None = None,
        base64_response: bool = False,
        prompt: str | None = None,
        query_prompt: str | None = None,
        role: str | None = None,
        query_role: str | None = None,
    ) -> None:
        self._kind, self._url = resolve_endpoint(url, kind)
        self._where = str(self._url.copy_with(query=None))
        if batch_size < 1 or retries < 0 or timeout <= 0:
            raise EncoderError(
                "batch size, retries or time-out out of range", where=self._where, remedy="raise it"
            )
        self.name, self.batch_size, self._retries = model, batch_size, retries
        self._options: dict[str, Any] = {"encoding_format": "base64" if base64_response else "float"}
        if dimensions is not None:
            self._options["dimensions"] = dimensions
        self._passage = (prompt or "", role)
        self._query = (prompt or "" if query_prompt is None else query_prompt, query_role or role)
        self._key = _key(key_variable)
        self._client = httpx.Client(
            timeout=timeout,
            follow_redirects=False,
            trust_env=False,
            headers={"accept-encoding": "identity", **_authorization(self._key)},
        )
        self.path = f"http {self._kind}"
        self.dimension = 0
        probe = self._first_answer()
        self.dimension = int(probe.shape[1])
        if dimensions is not None and self.dimension != dimensions:
            raise EncoderError(
                f"{dimensions} dimensions were asked for, the server gives {self.dimension}",
                where=self._where,
                remedy="leave dimensions out of --encoder-option, or name a model that shortens its vectors",
            )
        norms = np.linalg.norm(probe, axis=1)
        self.unit = bool(np.all(np.abs(norms - 1) < UNIT_TOLERANCE))
        # TEI is asked for vectors before its own normalisation, which it applies unless told not to.
        self.normalises = self.unit or self._kind == "tei"
        identity = {
            "model": model,
            "endpoint": self._kind,
            "probe": _signs(probe),
            "dimension": self.dimension,
            # Encoders without them keep the fingerprint that they have had.
            **({"prompt": prompt} if prompt else {}),
            **({"role": role} if role else {}),
        }
        self.fingerprint: dict[str, Any] = {
            "name": model,
            "kind": self._kind,
            "fingerprint": digest(identity),
            **identity,
        }

    def _first_answer(self) -> FloatArray:
        """The probe's vectors. An address that is not there is tried with, or without, /v1 once."""
        try:
            return self.encode(PROBE)
        except _NotThereError as error:
            given, where = self._url, self._where
            self._url = _other_form(given)
            self._where = str(self._url.copy_with(query=None))
            try:
                probe = self.encode(PROBE)
            except EncoderError:
                raise EncoderError(
                    f"{error.message}; nor is there an answer at {self._where}",
                    where=where,
                    remedy=error.remedy,
                ) from None
            log.warning("%s is not there, %s is: it is asked from now on", where, self._where)
            return probe

    def count_tokens(self, texts: Sequence[str]) -> list[tuple[int, int]] | None:
        """None: only the server knows its tokenizer."""
        return None

    def encode(self, texts: Sequence[str], advance: Advance | None = None) -> FloatArray:
        """Vectors float32 [n, D] in the order of the texts. Raises EncoderError."""
        return self._encode(texts, self._passage, advance)

    def encode_queries(self, texts: Sequence[str]) -> FloatArray:
        """The same with the prompt and the role of a query."""
        return self._encode(texts, self._query)

    def _encode(
        self, texts: Sequence[str], told: tuple[str, str | None], advance: Advance | None = None
    ) -> FloatArray:
        prompt, role = told
        parts = [np.zeros((0, self.dimension), np.float32)] if not texts else []
        for start in range(0, len(texts), self.batch_size):
            batch = [prompt + text for text in texts[start : start + self.batch_size]]
            parts.append(self._ask(batch, role))
            if advance is not None:
                advance(len(batch))
        return np.concatenate(parts)

    def _ask(self, batch: list[str], role: str | None) -> FloatArray:
        if self._kind == "tei":
            body: dict[str, Any] = {"inputs": batch, "normalize": False, "truncate": True}
        else:
            body = {"input": batch, "model": self.name, **self._options}
        if role is not None:
            body["prompt_name" if self._kind == "tei" else "input_type"] = role
        answer = self._post(json.dumps(body).encode(), MAX_BYTES_A_TEXT * len(batch))
        if isinstance(answer, dict) and answer.get("error") is not None and "data" not in answer:
            said = self._excerpt(json.dumps(answer["error"], ensure_ascii=False).encode())
            raise EncoderError(f"answered 200 with an error: {said}", where=self._where, remedy=_remedy(200))
        try:
            rows = _openai_rows(answer, len(batch)) if self._kind == "openai" else answer
            vectors = np.stack([_vector(row) for row in rows])
        except (KeyError, TypeError, ValueError, IndexError, binascii.Error) as e:
            raise EncoderError(
                f"answer is not understood ({e})",
                where=self._where,
                remedy="say what it speaks: --encoder-option kind=openai, or kind=tei",
            ) from None
        dimension = self.dimension or vectors.shape[1]
        if vectors.shape != (len(batch), dimension) or not np.isfinite(vectors).all():
            raise EncoderError(
                f"answered {list(vectors.shape)} or not finite, {[len(batch), dimension]} is due",
                where=self._where,
                remedy="check the model behind it",
            )
        return vectors

    def _post(self, body: bytes, limit: int) -> Any:
        """POST with bounded retries; returns the parsed JSON."""
        for attempt in range(self._retries + 1):
            try:
                status, headers, data = self._once(body, limit)
                problem = f"answered {status}"
                if status == 200:
                    return _parse(data, self._where)
                if status != 429 and status < 500:
                    kind = _NotThereError if status == 404 else EncoderError
                    raise kind(f"{problem}: {self._excerpt(data)}", where=self._where, remedy=_remedy(status))
            except (httpx.TransportError, httpx.StreamError) as e:
                problem, headers = f"cannot be reached ({type(e).__name__}: {e})", {}
            if attempt < self._retries:
                wait = waiting_time(headers.get("retry-after"), attempt)
                if wait > MAX_WAIT_S:
                    raise EncoderError(
                        f"{problem}, come back in {wait:.0f} s", where=self._where, remedy="try later"
                    )
                log.warning("%s %s; next try in %.1f s", self._where, problem, wait)
                time.sleep(wait)
        raise EncoderError(
            f"{problem}, {self._retries + 1} tries",
            where=self._where,
            remedy="check that the server runs, then resume",
        )

    def _excerpt(self, data: bytes) -> str:
        """The beginning of what the server says, without the key, which some send back."""
        text = data.decode("utf-8", "replace")
        if self._key is not None:
            text = text.replace(self._key, "[API key]")
        return " ".join(text[:MAX_QUOTED].split())

    def _once(self, body: bytes, limit: int) -> tuple[int, Mapping[str, str], bytes]:
        headers = {"content-type": "application/json"}
        with self._client.stream("POST", self._url, content=body, headers=headers) as response:
            data = bytearray()
            for piece in response.iter_bytes(2**16):
                data += piece
                if len(data) > limit:
                    raise EncoderError(
                        f"answers more than {limit} bytes", where=self._where, remedy="check the server"
                    )
            return response.status_code, response.headers, bytes(data)


class _NotThereError(EncoderError):
    """Nothing is at this address, or no such model."""


def _other_form(url: httpx.URL) -> httpx.URL:
    """The address of the route without its /v1, or with one."""
    before, _, route = url.path.rpartition("/")
    before = before.removesuffix("/v1") if before.endswith("/v1") else f"{before}/v1"
    return url.copy_with(path=f"{before}/{route}")


def resolve_endpoint(url: str, kind: str | None) -> tuple[str, httpx.URL]:
    """(kind, full address) from what the user gave. Raises EncoderError."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as e:
        raise EncoderError(
            f"is not an address ({e})", where=url, remedy="give http://host:port/..."
        ) from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise EncoderError("is not an http address", where=url, remedy="give http://host:port/...")
    if parsed.userinfo:
        raise EncoderError(
            "address holds a password",
            where=parsed.host,
            remedy="leave it out: --encoder-option key_variable=NAME",
        )
    path = parsed.path.rstrip("/")
    chosen = kind or ("tei" if path.endswith("/embed") else "openai")
    if chosen not in KINDS:
        raise EncoderError(
            f"unknown kind of endpoint '{kind}'",
            where=url,
            remedy="choose --encoder-option kind=openai or kind=tei",
        )
    path = path.removesuffix("/embeddings" if chosen == "tei" else "/embed")  # the route of the other kind
    if chosen == "tei" and not path.endswith("/embed"):
        path += "/embed"
    if chosen == "openai" and not path.endswith("/embeddings"):
        path += "/embeddings" if path.endswith("/v1") else "/v1/embeddings"
    return chosen, parsed.copy_with(path=path)


def _authorization(key: str | None) -> dict[str, str]:
    return {} if key is None else {"authorization": f"Bearer {key}"}


def _key(variable: str | None) -> str | None:
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise EncoderError(f"environment variable {variable} is empty", remedy="put the API key into it")
    return key


def _openai_rows(answer: Any, n: int) -> list[Any]:
    rows = {int(item["index"]): item["embedding"] for item in answer["data"]}
    if sorted(rows) != list(range(n)):
        raise ValueError(f"{len(rows)} vectors for {n} texts")
    return [rows[i] for i in range(n)]


def _vector(value: Any) -> FloatArray:
    """A list of numbers, or base64 of little-endian float32."""
    if isinstance(value, str):
        return np.frombuffer(base64.b64decode(value, validate=True), "<f4").astype(np.float32)
    vector = np.asarray(value, np.float32)
    if vector.ndim != 1 or not vector.size:
        raise ValueError(f"an embedding of shape {list(vector.shape)}")
    return vector


def _signs(probe: FloatArray) -> str:
    """16 hex digits: signs of 64 fixed random projections of the probe's vectors laid end to end."""
    flat = probe.astype(np.float64).reshape(-1)
    directions = np.random.default_rng(20240501).standard_normal((64, flat.size))
    bits = directions @ flat > 0
    return np.packbits(bits).tobytes().hex()


def _parse(data: bytes, where: str) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise EncoderError(
            "answers something that is not JSON", where=where, remedy="check the address"
        ) from None


def _remedy(status: int) -> str:
    if status in (401, 403):
        return "name the environment variable of the API key: --encoder-option key_variable=NAME"
    if status == 413:
        return "send fewer texts at once: --encoder-option batch_size=8"
    return "check the address (--endpoint) and the model's name (--encoder)"
