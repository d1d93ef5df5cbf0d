"""What travels between client and server, and how it is sent again: npy, base64, retries.

Retries are ours rather than tenacity 9.2 or stamina 26.1: neither reads Retry-After or refuses a wait that is
too long, so they would replace six lines of each loop here, for .04 s more to import."""

from __future__ import annotations

import base64
import io
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from nextvec.errors import ServerError

FloatArray = NDArray[np.float32]
Json = dict[str, Any]
Pairs = Mapping[str, Any] | None

log = logging.getLogger("nextvec.client")

VERSION = "/v1"
NPY, JSON = "application/x-npy", "application/json"
MAX_ANSWER_BYTES = 2**28
MAX_WAIT_S = 60.0
LATER = (429, 503)
"""The request was refused before any work: it may be sent again."""
REACH = "check the address, and that the server runs"


@dataclass(frozen=True)
class ServerResponse:
    path: str
    status: int
    headers: Mapping[str, str]
    data: bytes


class Wire:
    """Requests to one address. Arguments and errors are those of `Client`."""

    def __init__(
        self, url: str, key: str | None, timeout: float, retries: int, transport: httpx.BaseTransport | None
    ) -> None:
        self.url, self.retries = base_url(url), retries
        self._prefix: str | None = None  # of the routes, as soon as an answer has shown it
        self.http = httpx.Client(
            base_url=self.url,
            timeout=timeout,
            follow_redirects=False,
            trust_env=False,
            transport=transport,
            headers={} if key is None else {"authorization": f"Bearer {key}"},
        )

    def get(self, path: str) -> Json:
        return self.parsed(self.send("GET", path))

    def post(self, path: str, body: Json, headers: Pairs = None) -> Json:
        """JSON there, JSON back."""
        data = json.dumps(body, allow_nan=False).encode()
        return self.parsed(self.send("POST", path, data, {"content-type": JSON, **(headers or {})}))

    def npy(self, path: str, values: FloatArray, options: Pairs = None, headers: Pairs = None) -> FloatArray:
        """An array there, an array [N, D] back."""
        sent = {"content-type": NPY, "accept": NPY, **(headers or {})}
        answer = self.send("POST", path, to_npy(values), sent, options)
        try:
            found = np.load(io.BytesIO(answer.data), allow_pickle=False)
        except ValueError as error:
            raise self.nonsense(path, error) from None
        return np.atleast_2d(np.asarray(found, dtype=np.float32))

    def send(
        self, method: str, path: str, data: bytes | None = None, headers: Pairs = None, options: Pairs = None
    ) -> ServerResponse:
        """One request, sent again while the server says that it can be. Raises ServerError."""
        where = f"{self.url}{self._form(path)}"
        for attempt in range(self.retries + 1):
            try:
                answer = self._first_that_is_there(method, path, data, headers, options)
            except httpx.ConnectError as error:
                # Nothing was sent, so nothing was done: another try does no harm.
                problem: ServerError = ServerError(f"cannot be reached ({error})", where=where, remedy=REACH)
                wait = waiting_time(None, attempt)
            except httpx.TransportError as error:
                broken = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
                raise ServerError(f"gave no answer ({broken})", where=where, remedy=REACH) from None
            else:
                if answer.status < 300:
                    return answer
                problem = _refusal(answer, where)
                wait = waiting_time(answer.headers.get("retry-after"), attempt)
                if answer.status not in LATER or wait > MAX_WAIT_S:
                    raise problem
            if attempt < self.retries:
                time.sleep(wait)
        raise problem

    def _form(self, path: str) -> str:
        """The route as this server has it: behind some proxies the routes have no /v1."""
        return path if self._prefix is None else self._prefix + path.removeprefix(VERSION)

    def _first_that_is_there(self, method: str, path: str, *request: Any) -> ServerResponse:
        """One answer. The first 404 that no server of ours gave is asked again without /v1, once."""
        answer = self._once(method, self._form(path), *request)
        if self._prefix is None and path.startswith(VERSION):
            self._prefix = VERSION
            if answer.status == 404 and not _described(answer).get("code"):  # no server of ours
                other = self._once(method, path.removeprefix(VERSION), *request)
                if other.status != 404:
                    self._prefix = ""
                    addresses = self.url, path, self.url, path.removeprefix(VERSION)
                    log.warning(
                        "%s%s is not there, %s%s is: the routes are asked for without /v1", *addresses
                    )
                    return other
        return answer

    def _once(
        self, method: str, path: str, data: bytes | None, headers: Pairs, options: Pairs
    ) -> ServerResponse:
        """One request, its answer read to the end. Raises httpx.TransportError, and ServerError: too long."""
        with self.http.stream(method, path, content=data, headers=headers, params=options) as response:
            read = bytearray()
            for piece in response.iter_bytes():
                read += piece
                if len(read) > MAX_ANSWER_BYTES:
                    raise self.nonsense(path, f"more than {MAX_ANSWER_BYTES >> 20} MiB")
            return ServerResponse(path, response.status_code, response.headers, bytes(read))

    def parsed(self, answer: ServerResponse) -> Json:
        """An answer's JSON. Raises ServerError."""
        try:
            found: Json = json.loads(answer.data)
            return found
        except (ValueError, RecursionError) as error:
            raise self.nonsense(answer.path, error) from None

    def nonsense(self, path: str, why: object) -> ServerError:
        """The error of an answer that no server of ours gives."""
        message = f"an answer that is not understood ({why})"
        return ServerError(message, where=f"{self.url}{path}", remedy="check the address")


def base_url(url: str) -> str:
    """What stands before /v1 in an address: a host's, that of OpenAI's clients (/v1) or that of a route.

    Raises ServerError: it is none.
    """
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, ValueError) as error:
        raise ServerError(f"is not an address ({error})", where=url, remedy="give http://HOST:PORT") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ServerError("is not an http address", where=url, remedy="give http://HOST:PORT")
    if parsed.userinfo:
        remedy = "give a key as api_key or in NEXTVEC_API_KEY"
        raise ServerError("holds a password", where=parsed.host, remedy=remedy)
    before, version, _ = f"{parsed.path.rstrip('/')}/".partition(f"{VERSION}/")
    bare = parsed.copy_with(path=before if version else parsed.path, query=None, fragment=None)
    return str(bare).rstrip("/")


def to_npy(values: FloatArray) -> bytes:
    file = io.BytesIO()
    np.save(file, np.ascontiguousarray(values, dtype="<f4"), allow_pickle=False)
    return file.getvalue()


def packed(values: FloatArray) -> str:
    """Base64 of little-endian float32, row by row."""
    return base64.b64encode(np.ascontiguousarray(values, dtype="<f4").tobytes()).decode("ascii")


def unpacked(coded: str) -> FloatArray:
    """[D] what `packed` made of one vector. Raises ValueError."""
    return np.frombuffer(base64.b64decode(coded, validate=True), dtype="<f4").astype(np.float32)


def rows_of(envelope: Mapping[str, Any]) -> FloatArray:
    """[N, D] the vectors of an answer, in their order; base64 or lists of numbers."""
    rows = sorted(envelope["data"], key=lambda item: int(item["index"]))
    coded = [item["embedding"] for item in rows]
    return np.stack([unpacked(one) if isinstance(one, str) else np.asarray(one, np.float32) for one in coded])


def waiting_time(retry_after: str | None, attempt: int) -> float:
    """Seconds to wait: what the server asks for (seconds or a date), else 0.5, 1, 2, ... up to 30."""
    if retry_after:
        if retry_after.strip().isdecimal():
            return float(retry_after)
        try:
            when = parsedate_to_datetime(retry_after)
        except ValueError:
            # Nothing that HTTP knows: the usual waiting time.
            return waiting_time(None, attempt)
        if when.tzinfo is None:
            when = when.replace(tzinfo=UTC)
        return max((when - datetime.now(UTC)).total_seconds(), 0.0)
    return float(min(0.5 * 2**attempt, 30.0))


def _described(answer: ServerResponse) -> Json:
    """What a refusal in the shape of our servers says; empty of any other answer."""
    try:
        found = json.loads(answer.data)["error"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _refusal(answer: ServerResponse, where: str) -> ServerError:
    described = _described(answer)
    if "message" not in described:
        described = {"message": " ".join(answer.data[:200].decode("utf-8", "replace").split())}
    message = f"answered {answer.status}: {described['message']}"
    error = ServerError(message, where=where, remedy=described.get("remedy"))
    error.status, error.kind = answer.status, described.get("type")
    return error
