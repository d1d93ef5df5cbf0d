"""What is known of one request while it is answered, and which model answers it; the gateway makes it, routes
add to it."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any

from starlette.requests import Request

from nextvec.serving.errors import Refusal
from nextvec.serving.served_models import ServedModel, ServedModels
from nextvec.serving.settings import header

KEY = "nextvec.request"  # in an ASGI scope


@dataclass(slots=True)
class RequestContext:
    """One request and its answer.

    Attributes:
        request_id: the client's, if it is a sane one, or ours.
        started: when its head was read, on the clock of `time.perf_counter`.
        body: the whole of it, after the gateway.
        read: whether that has been done.
        route: which of the routes answers, for metrics.
        model, variant: which model answers, and for which variant of a split (A/B); routes set them, headers,
            metrics and the log name them, the variant as "arm".
        vectors: how many were sent, for the log.
        status: of the answer, once it has begun.
        code: of the refusal, if it is one.
        receive: the server's own, which says when the client has gone.
    """

    request_id: str
    started: float
    receive: Any
    body: bytes = b""
    read: bool = False
    route: str = "other"
    model: str | None = None
    variant: str | None = None
    vectors: int = 0
    status: int = 0
    code: str | None = None


def context_of_request(request: Request) -> RequestContext:
    found: RequestContext = request.scope[KEY]
    return found


def client_of(request: Request) -> str:
    """Who asks: its API key where the server has keys, else its address (of IPv6 the first 64 bits, which one
    machine may vary the rest of)."""
    if request.app.state.settings.api_keys:
        return hashlib.sha256(request.headers["authorization"].partition(" ")[2].strip().encode()).hexdigest()
    host = request.client.host if request.client else ""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    return str(address if address.version == 4 else ip_network((int(address) >> 64 << 64, 64)))


def served(request: Request) -> ServedModels:
    """The models of this server; a dependency of the routes."""
    found: ServedModels = request.scope["app"].state.models
    return found


MAX_REMEMBERED = 16384


class VariantLog:
    """The last requests that a variant of a split answered, until their outcome is reported."""

    def __init__(self) -> None:
        self._variants: OrderedDict[str, tuple[str, str]] = OrderedDict()

    def note(self, request_id: str, model: str, variant: str) -> None:
        """Remember it, and forget the oldest where there are too many."""
        self._variants[request_id] = model, variant
        if len(self._variants) > MAX_REMEMBERED:
            self._variants.popitem(last=False)

    def take(self, request_id: str) -> tuple[str, str]:
        """Model and variant of it, once. Raises Refusal 404."""
        found = self._variants.pop(request_id, None)
        if found is None:
            raise Refusal(
                404,
                "no such request: no variant of a split answered it, its outcome was reported, or it is "
                f"not among the last {MAX_REMEMBERED}",
                code="request_not_found",
                param="request_id",
                remedy="send the X-Request-Id of the answer",
            )
        return found


def assigned(request: Request, name: str | None, user: str | None = None) -> ServedModel:
    """The model that answers, named in the answer's headers, the metrics and the log.

    Args:
        name: the model that the request names, if it names one.
        user: sticks to its variant of a split; the header X-Sticky-Key goes before it.
    Raises:
        Refusal: 404, no model of that name.
    """
    models, context = served(request), context_of_request(request)
    sticky = user
    if models.split and (given := header(request.scope["headers"], b"x-sticky-key")) is not None:
        sticky = given.decode("latin-1")
    model, variant = models.choose(name, sticky)
    context.model, context.variant = model.name, variant
    if variant is not None:
        answered: VariantLog = request.app.state.answered
        answered.note(context.request_id, model.name, variant)
    return model
