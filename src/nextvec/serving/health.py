"""Whether the server lives, whether it takes requests, and its figures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from fastapi import APIRouter, Request, Response

from nextvec.serving.errors import Refusal
from nextvec.serving.schemas import Health, errors

Phase = Literal["loading", "ready", "draining", "failed"]

router = APIRouter(tags=["operation"])


class ServerState:
    """Where the server is in its life.

    Args:
        ready: told 1 when requests begin to be taken, 0 when they no longer are.
    Attributes:
        failure: what kept a model from its first answer; the server then ends.
    """

    def __init__(self, ready: Callable[[float], None] = lambda value: None) -> None:
        self.phase: Phase = "loading"
        self.failure: Exception | None = None
        self._ready = ready

    def enter(self, phase: Phase) -> None:
        """Go on to the next part of it."""
        self.phase = phase
        self._ready(float(phase == "ready"))

    def fail(self, failure: Exception) -> None:
        """There will be no answers."""
        self.failure = failure
        self.enter("failed")

    def check(self) -> None:
        """Raises Refusal 503 unless requests are taken."""
        if self.phase != "ready":
            raise Refusal(
                503,
                f"the server is {self.phase}",
                code=f"server_{self.phase}",
                remedy="try again after the seconds of Retry-After",
                retry_after=2,
            )


@router.get("/health/live", summary="Does the process answer? It never waits for a model.")
async def live() -> Health:
    """Always `{"status": "live"}`."""
    return Health(status="live")


@router.get("/health/ready", summary="Are requests taken?", responses=errors(503))
async def ready(request: Request) -> Health:
    """503 while models are loading and once the server is told to end."""
    state: ServerState = request.app.state.state
    state.check()
    return Health(status="ready")


@router.get(
    "/metrics",
    summary="Figures for Prometheus.",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **errors(401)},
)
async def metrics(request: Request) -> Response:
    """In the text format."""
    return Response(request.app.state.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")
