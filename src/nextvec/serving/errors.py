"""What a client gets in place of an answer: one shape for everything, as OpenAI clients know it."""

from __future__ import annotations

import re
from http import HTTPStatus

import orjson
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from nextvec.errors import (
    DecoderError,
    EncoderError,
    EncoderMismatchError,
    MissingDependencyError,
    NextvecError,
    StoreError,
)

INVALID, DENIED, NOT_FOUND = "invalid_request_error", "authentication_error", "not_found_error"
BUSY, OURS = "overloaded_error", "server_error"
TYPES = {401: DENIED, 404: NOT_FOUND, 429: BUSY, 503: BUSY, 500: OURS, 501: OURS, 504: OURS}

UNFORESEEN = "internal_error"
ONE_OBJECT = "send one JSON object in UTF-8"
LATER = "try again after the seconds of Retry-After"


class Refusal(Exception):  # noqa: N818 - not every refusal is an error
    """A request that is not answered.

    Args:
        status: of HTTP.
        message: what is wrong, in one sentence without a final full stop.
        code: the same for a program, in snake case.
        param: the field at fault.
        remedy: what the client can do, in the imperative.
        retry_after: seconds until it may try again.
        close: whether the connection ends with it, because its body is not read to the end.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        remedy: str | None = None,
        retry_after: int | None = None,
        close: bool = False,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code
        self.param, self.remedy, self.retry_after, self.close = param, remedy, retry_after, close

    def body(self) -> bytes:
        body = {"message": self.message, "type": TYPES.get(self.status, INVALID)}
        return orjson.dumps(
            {"error": body | {key: getattr(self, key) for key in ("param", "code", "remedy")}}
        )

    def headers(self) -> list[tuple[bytes, bytes]]:
        found = [(b"content-type", b"application/json")]
        if self.retry_after is not None:
            found.append((b"retry-after", b"%d" % self.retry_after))
        if self.status == 401:
            found.append((b"www-authenticate", b"Bearer"))
        return found


def invalid(message: str, code: str, param: str, remedy: str) -> Refusal:
    """A request that can be read and not be meant: 422."""
    return Refusal(422, message, code=code, param=param, remedy=remedy)


def refusal_of(error: Exception) -> Refusal:
    """The refusal that a client gets for an error; of an unexpected one it gets only that it happened.

    A path of this machine is left out.
    """
    if isinstance(error, Refusal):
        return error
    if (found := _of_framework(error)) is not None:
        return found
    if not isinstance(error, NextvecError):
        return Refusal(500, "the server failed", code=UNFORESEEN, remedy="report the X-Request-Id")
    # The client can do nothing about these, whatever it sends.
    local = isinstance(error, EncoderError) and not isinstance(error, EncoderMismatchError)
    theirs = not local and not isinstance(error, StoreError | DecoderError | MissingDependencyError)
    where = error.where
    return Refusal(
        422 if theirs else 500,
        " ".join(error.message.split()),
        code=re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(error).__name__.removesuffix("Error")).lower(),
        param=None if where is None or "/" in where else where,
        remedy=error.remedy if theirs else None,
    )


def _of_framework(error: Exception) -> Refusal | None:
    """The same for what FastAPI finds; None for errors that are not its own."""
    if isinstance(error, RequestValidationError):
        return _of_validation(error)
    if not isinstance(error, HTTPException):
        return None
    phrase, remedy = HTTPStatus(error.status_code).phrase.lower(), "see /openapi.json for the routes"
    return Refusal(error.status_code, phrase, code=phrase.replace(" ", "_"), remedy=remedy)


def _of_validation(error: RequestValidationError) -> Refusal:
    """The first of what is wrong with the fields. What was sent is not repeated."""
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return Refusal(400, "the body is not JSON", code="invalid_json", remedy=ONE_OBJECT)
    param = ".".join(map(str, first["loc"][1:])) or str(first["loc"][0])
    return invalid(f"{param}: {first['msg']}", "invalid_field", param, "see /openapi.json for the fields")
