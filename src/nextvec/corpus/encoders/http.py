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
from nextvec.corpus.encoders.base import Advance, Encoder, EncoderConfig, digest
from nextvec.corpus.layout import FloatArray
from nextvec.errors import EncoderError, EncoderMismatchError
from nextvec.vectors import UNIT_TOLERANCE, unit

log = logging.getLogger("nextvec.corpus")

KINDS = ("openai", "tei")
ADDRESS = "give http://host:port/..."
PROBE = (
    "The ship left the harbour before dawn.",
    "Water boils at lower temperatures on high mountains.",
    "42",
)
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
        config: with an `endpoint`.
    Raises:
        EncoderError: an address that is not http(s), a missing key, or a server that cannot be reached,
            refuses or answers nonsense.
    """

    max_tokens: int | None = None

    def __init__(self, config: EncoderConfig) -> None:
        assert config.endpoint is not None
        self._kind, url = resolve_endpoint(config.endpoint, config.kind)
        self._ask_at(url)
        if config.batch_size < 1 or config.retries < 0 or config.timeout <= 0:
            raise self._error("batch size, retries or time-out out of range", "raise it")
        self.name, self.batch_size, self._retries = config.name, config.batch_size, config.retries
        self._options: dict[str, Any] = {"encoding_format": "base64" if config.base64_response else "float"}
        if config.dimensions is not None:
            self._options["dimensions"] = config.dimensions
        prompt = config.prompt or ""
        self._passage = (prompt, config.role)
        query_prompt = prompt if config.query_prompt is None else config.query_prompt
        self._query = (query_prompt, config.query_role or config.role)
        self._key = _key(config.key_variable)
        signed = {} if self._key is None else {"authorization": f"Bearer {self._key}"}
        self._client = httpx.Client(
            timeout=config.timeout,
            follow_redirects=False,
            trust_env=False,
            headers={"accept-encoding": "identity", **signed},
        )
        self.path = f"http {self._kind}"
        self.dimension = 0
        probe = self._first_answer()
        self.dimension = int(probe.shape[1])
        if config.dimensions not in (None, self.dimension):
            raise self._error(
                f"{config.dimensions} dimensions were asked for, the server gives {self.dimension}",
                "leave dimensions out of --encoder-option, or name a model that shortens its vectors",
            )
        norms = np.linalg.norm(probe, axis=1)
        self.unit = bool(np.all(np.abs(norms - 1) < UNIT_TOLERANCE))
        # TEI is asked for vectors before its own normalisation, which it applies unless told not to.
        self.normalises = self.unit or self._kind == "tei"
        self.fingerprint = self._described(config, probe)

    def _described(self, config: EncoderConfig, probe: FloatArray) -> dict[str, Any]:
        settings = {"prompt": config.prompt, "role": config.role}
        identity = {
            "model": self.name,
            "endpoint": self._kind,
            "probe": _signs(probe),
            "dimension": self.dimension,
            # Encoders without them keep the fingerprint that they have had.
            **{key: value for key, value in settings.items() if value},
        }
        return {"name": self.name, "kind": self._kind, "fingerprint": digest(identity), **identity}

    def _ask_at(self, url: httpx.URL) -> None:
        self._url, self._where = url, str(url.copy_with(query=None))

    def _error(self, message: str, remedy: str | None) -> EncoderError:
        return EncoderError(message, where=self._where, remedy=remedy)

    def _first_answer(self) -> FloatArray:
        """The probe's vectors. An address that is not there is tried with, or without, /v1 once."""
        try:
            return self.encode(PROBE)
        except _NotThereError as error:
            where = self._where
            self._ask_at(_other_form(self._url))
            try:
                probe = self.encode(PROBE)
            except EncoderError:
                message = f"{error.message}; nor is there an answer at {self._where}"
                raise EncoderError(message, where=where, remedy=error.remedy) from None
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
        self, texts: Sequence[str], settings: tuple[str, str | None], advance: Advance | None = None
    ) -> FloatArray:
        prompt, role = settings
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
            excerpt = self._excerpt(json.dumps(answer["error"], ensure_ascii=False).encode())
            raise self._error(f"answered 200 with an error: {excerpt}", _remedy(200))
        try:
            rows = _openai_rows(answer, len(batch)) if self._kind == "openai" else answer
            vectors = np.stack([_vector(row) for row in rows])
        except (KeyError, TypeError, ValueError, IndexError, binascii.Error) as e:
            remedy = "say what it speaks: --encoder-option kind=openai, or kind=tei"
            raise self._error(f"answer is not understood ({e})", remedy) from None
        dimension = self.dimension or vectors.shape[1]
        if vectors.shape != (len(batch), dimension) or not np.isfinite(vectors).all():
            message = f"answered {list(vectors.shape)} or not finite, {[len(batch), dimension]} is due"
            raise self._error(message, "check the model behind it")
        return vectors

    def _post(self, body: bytes, limit: int) -> Any:
        """POST with bounded retries; returns the parsed JSON."""
        for attempt in range(self._retries + 1):
            try:
                status, headers, data = self._once(body, limit)
                problem = f"answered {status}"
                if status == 200:
                    return self._parsed(data)
                if status != 429 and status < 500:
                    kind = _NotThereError if status == 404 else EncoderError
                    raise kind(f"{problem}: {self._excerpt(data)}", where=self._where, remedy=_remedy(status))
            except (httpx.TransportError, httpx.StreamError) as e:
                problem, headers = f"cannot be reached ({type(e).__name__}: {e})", {}
            if attempt < self._retries:
                wait = waiting_time(headers.get("retry-after"), attempt)
                if wait > MAX_WAIT_S:
                    raise self._error(f"{problem}, come back in {wait:.0f} s", "try later")
                log.warning("%s %s; next try in %.1f s", self._where, problem, wait)
                time.sleep(wait)
        raise self._error(f"{problem}, {self._retries + 1} tries", "check that the server runs, then resume")

    def _parsed(self, data: bytes) -> Any:
        try:
            return json.loads(data)
        except (ValueError, RecursionError):
            raise self._error("answers something that is not JSON", "check the address") from None

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
                    raise self._error(f"answers more than {limit} bytes", "check the server")
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
        raise EncoderError(f"is not an address ({e})", where=url, remedy=ADDRESS) from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise EncoderError("is not an http address", where=url, remedy=ADDRESS)
    if parsed.userinfo:
        remedy = "leave it out: --encoder-option key_variable=NAME"
        raise EncoderError("address holds a password", where=parsed.host, remedy=remedy)
    path = parsed.path.rstrip("/")
    chosen = kind or ("tei" if path.endswith("/embed") else "openai")
    if chosen not in KINDS:
        remedy = "choose --encoder-option kind=openai or kind=tei"
        raise EncoderError(f"unknown kind of endpoint '{kind}'", where=url, remedy=remedy)
    path = path.removesuffix("/embeddings" if chosen == "tei" else "/embed")  # the route of the other kind
    if chosen == "tei" and not path.endswith("/embed"):
        path += "/embed"
    if chosen == "openai" and not path.endswith("/embeddings"):
        path += "/embeddings" if path.endswith("/v1") else "/v1/embeddings"
    return chosen, parsed.copy_with(path=path)


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


def _remedy(status: int) -> str:
    if status in (401, 403):
        return "name the environment variable of the API key: --encoder-option key_variable=NAME"
    if status == 413:
        return "send fewer texts at once: --encoder-option batch_size=8"
    return "check the address (--endpoint) and the model's name (--encoder)"


# A server's encoder that was shown to be one that can be loaded here: both encode 32 fixed texts, and their
# vectors have to be the same. The two then share a space: a store of the one takes vectors of the other.

LEAST_COSINE = 0.999
"""Two precisions are nearer than that to each other; another pooling or prompt is far below."""
LENGTHS_APART = 0.02

SENTENCES = (
    "The ship left the harbour before dawn.",
    "Water boils at lower temperatures on high mountains.",
    "In 1931 the bridge was closed for repairs that took seven years.",
    "She asked him twice; he did not answer.",
    "Die Mühle stand am Fluss, und das Rad drehte sich Tag und Nacht.",
    "Le vent se lève, il faut tenter de vivre.",
    "图书馆在星期天关门。",
    "На станции никого не было.",
    "Interest rates rose by a quarter of a point, to 5.25 %.",
    "def mean(values): return sum(values) / len(values)",
    "Photosynthesis turns light, water and carbon dioxide into sugar.",
    "WARNING: DO NOT OPEN WHILE THE MACHINE IS RUNNING",
    "The court held that the contract was void, because no price had been agreed.",
    "Add the eggs one at a time, beating well after each.",
    "Every even number greater than two is, it is believed, the sum of two primes.",
    "He scored twice in the last five minutes of the match.",
)
PROOF = (
    *SENTENCES,
    *(" ".join(SENTENCES[i : i + 3]) for i in range(10)),
    "42",
    "harbour",
    "naïve café, œuvre, Straße",
    "one\ntwo\n\nthree",
    " ".join(SENTENCES),
    " ".join(SENTENCES * 6),
)
"""32 texts: words, sentences, passages, and two that are longer than most encoders read."""


class ProvedEncoder:
    """A server's vectors under the name and the fingerprint of an encoder that is here. See `Encoder` for the
    attributes.

    Args:
        served: gives the vectors.
        local: what they are to be the same as.
    Raises:
        EncoderMismatchError: they are not; the worst text is quoted.
    """

    def __init__(self, served: Encoder, local: Encoder) -> None:
        self.least = _compared(served, local)
        self._served, self._local = served, local
        self.name, self.dimension, self.max_tokens = local.name, local.dimension, local.max_tokens
        self.normalises, self.unit = local.normalises or served.unit, served.unit
        self.path = f"{served.path} as {local.name} (cosine {self.least:.5f} at least)"
        self.fingerprint: dict[str, Any] = {**local.fingerprint, "served": served.fingerprint}

    @property
    def tokenizer_file(self) -> Any:
        """The local one's; None where it has none."""
        return getattr(self._local, "tokenizer_file", None)

    def encode(self, texts: Sequence[str], advance: Advance | None = None) -> FloatArray:
        """The server's vectors float32 [n, D] in the order of the texts. Raises EncoderError."""
        return self._served.encode(texts, advance)

    def count_tokens(self, texts: Sequence[str]) -> list[tuple[int, int]] | None:
        """By the local tokenizer."""
        return self._local.count_tokens(texts)


def _compared(served: Encoder, local: Encoder) -> float:
    """The least cosine of the two over the probe. Raises EncoderMismatchError."""

    def error(message: str) -> EncoderMismatchError:
        remedy = f"leave same_as out of --encoder-option, or serve the weights of '{local.name}'"
        return EncoderMismatchError(f"the server's {message}", remedy=remedy)

    if served.dimension != local.dimension:
        sizes = f"{served.dimension} dimensions, '{local.name}' {local.dimension}"
        raise error(f"'{served.name}' gives {sizes}")
    ours, theirs = local.encode(PROOF), served.encode(PROOF)
    cosines = (unit(ours).astype(np.float64) * unit(theirs)).sum(axis=1)
    worst = int(cosines.argmin())
    if cosines[worst] < LEAST_COSINE:
        raise error(
            f"'{served.name}' is not '{local.name}': the cosine of their vectors is {cosines[worst]:.4f} "
            f"for a text of {len(PROOF[worst])} characters, '{PROOF[worst][:40]}'"
        )
    ratio = np.linalg.norm(theirs, axis=1) / np.linalg.norm(ours, axis=1)
    if not served.unit and np.abs(ratio - 1).max() > LENGTHS_APART:
        raise error(
            f"vectors have the directions of those of '{local.name}' and lengths "
            f"{ratio.min():.3f} to {ratio.max():.3f} times theirs"
        )
    return float(cosines[worst])
