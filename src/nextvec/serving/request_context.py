"""What is known of one request while it is answered; the door makes it, routes add to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.requests import Request

if TYPE_CHECKING:
    from nextvec.serving.models import ServedModels

KEY = "nextvec.exchange"  # in an ASGI scope


@dataclass(slots=True)
class RequestContext:
    """One request and its answer.

    Attributes:
        request_id: the client's, if it is a sane one, or ours.
        started: when its head was read, on the clock of `time.perf_counter`.
        body: the whole of it, after the door.
        read: whether that has been done.
        route: which of the routes answers, for metrics.
        model, arm: who answers, and for which arm of a split; routes set them, headers and metrics tell them.
        vectors: how many were asked for, for the log.
        status: of the answer, once it has begun.
        code: of the refusal, if it is one.
        receive: the server's own, which tells when the client has gone.
    """

    request_id: str
    started: float
    receive: Any
    body: bytes = b""
    read: bool = False
    route: str = "other"
    model: str | None = None
    arm: str | None = None
    vectors: int = 0
    status: int = 0
    code: str | None = None


def context_of_request(request: Request) -> RequestContext:
    """That of a request behind the door."""
    found: RequestContext = request.scope[KEY]
    return found


def served(request: Request) -> ServedModels:
    """The models of this server; a dependency of the routes."""
    found: ServedModels = request.scope["app"].state.models
    return found
