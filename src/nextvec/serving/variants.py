"""Which model answers a request, and what became of the answer, arm by arm."""

from __future__ import annotations

from collections import OrderedDict

from starlette.requests import Request

from nextvec.serving.errors import Refusal
from nextvec.serving.models import ServedModel
from nextvec.serving.request_context import context_of_request, served

MAX_REMEMBERED = 16384
STICKY = b"x-sticky-key"


class VariantLog:
    """The last requests that an arm of a split answered, until their outcome is told."""

    def __init__(self) -> None:
        self._arms: OrderedDict[str, tuple[str, str]] = OrderedDict()

    def note(self, request_id: str, model: str, arm: str) -> None:
        """Remember it, and forget the oldest where there are too many."""
        self._arms[request_id] = model, arm
        if len(self._arms) > MAX_REMEMBERED:
            self._arms.popitem(last=False)

    def take(self, request_id: str) -> tuple[str, str]:
        """Model and arm of it, once. Raises Refusal 404."""
        found = self._arms.pop(request_id, None)
        if found is None:
            raise Refusal(
                404,
                "no such request: no arm of a split answered it, its outcome was told already, or it is not "
                f"among the last {MAX_REMEMBERED}",
                code="request_not_found",
                param="request_id",
                remedy="send the X-Request-Id of the answer",
            )
        return found


def assigned(request: Request, name: str | None, user: str | None = None) -> ServedModel:
    """The model that answers, told in the answer's headers, the metrics and the log.

    Args:
        name: the model that was asked for, if one was.
        user: sticks to its arm of a split; the header X-Sticky-Key goes before it.
    Raises:
        Refusal: 404, no model of that name.
    """
    models, exchange = served(request), context_of_request(request)
    sticky = user
    if models.split:
        for key, value in request.scope["headers"]:
            if key == STICKY:
                sticky = value.decode("latin-1")
    model, arm = models.choose(name, sticky)
    exchange.model, exchange.arm = model.name, arm
    if arm is not None:
        answered: VariantLog = request.app.state.answered
        answered.note(exchange.request_id, model.name, arm)
    return model
