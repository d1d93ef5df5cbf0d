"""Operation: health checks, figures for Prometheus, and the log of requests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import IO, Any, Literal, TypeVar

import orjson
from fastapi import APIRouter, Request, Response
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from nextvec.serving.errors import LATER, Refusal
from nextvec.serving.schemas import Health, errors

Phase = Literal["loading", "ready", "draining", "failed"]
M = TypeVar("M", Counter, Gauge, Histogram)

router = APIRouter(tags=["operation"])


class ServerState:
    """Where the server is in its life.

    Args:
        ready: called with 1 when requests begin to be taken, 0 when they no longer are.
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
        self.failure = failure
        self.enter("failed")

    def check(self) -> None:
        """Raises Refusal 503 unless requests are taken."""
        if self.phase != "ready":
            message, code = f"the server is {self.phase}", f"server_{self.phase}"
            raise Refusal(503, message, code=code, remedy=LATER, retry_after=2)


@router.get("/health/live", summary="Does the process answer? It never waits for a model.")
async def live() -> Health:
    """Always `{"status": "live"}`."""
    return Health(status="live")


@router.get("/health/ready", summary="Are requests taken?", responses=errors(503))
async def ready(request: Request) -> Health:
    """503 while models are loading and once the server ends."""
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


SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The figures of one server, in a registry of its own: two servers of one process do not mix."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def made(kind: type[M], name: str, documentation: str, *labels: str, **more: Any) -> M:
            return kind(f"nextvec_{name}", documentation, labels, registry=self.registry, **more)

        which = ("model", "arm")
        self.requests = made(Counter, "requests", "Requests answered.", "route", *which, "status")
        took = "From the head of a request to the end of its answer."
        self.seconds = made(Histogram, "request_seconds", took, "route", buckets=SECONDS)
        size, spent = "Windows that a model answered together.", "Seconds that a model took for a batch."
        self.batch_size = made(Histogram, "batch_size", size, "model", buckets=SIZES)
        self.batch_seconds = made(Histogram, "batch_seconds", spent, "model", buckets=SECONDS)
        self.rejected = made(Counter, "rejected", "Requests refused before their work.", "reason")
        self.outcomes = made(Counter, "outcomes", "Scores reported.", *which)
        self.scores = made(Gauge, "outcome_score_sum", "Sum of the scores reported.", *which)
        self.ready = made(Gauge, "ready", "1 while requests are taken.")
        self._depth = made(Gauge, "queue_depth", "Requests under way, by kind.", "lane")

    def count(self, route: str, model: str, variant: str, status: int, seconds: float) -> None:
        self.requests.labels(route, model, variant, status).inc()
        self.seconds.labels(route).observe(seconds)

    def batched(self, model: str, rows: int, seconds: float) -> None:
        self.batch_size.labels(model).observe(rows)
        self.batch_seconds.labels(model).observe(seconds)

    def scored(self, model: str, variant: str, score: float) -> None:
        self.outcomes.labels(model, variant).inc()
        self.scores.labels(model, variant).inc(score)

    def watch(self, queue: str, depth: Callable[[], float]) -> None:
        """Read how many requests are under way whenever figures are read."""
        self._depth.labels(queue).set_function(depth)

    def text(self) -> bytes:
        return generate_latest(self.registry)


FLUSH_SECONDS = 0.2


class RequestLog:
    """One line of JSON a request, without texts, vectors and keys.

    Lines are written a few times a second, and refusals of a crowd are only counted: under load the log costs
    little, and no one can flood it.

    Args:
        stream: takes bytes; None writes nothing.
    """

    def __init__(self, stream: IO[bytes] | None) -> None:
        self._stream = stream
        self._lines: list[bytes] = []
        self._refused: dict[str, int] = {}
        self._timer: asyncio.TimerHandle | None = None

    def write(self, event: str, **fields: Any) -> None:
        if self._stream is not None:
            self._put(event, fields)
            self._later()

    def refused(self, code: str) -> None:
        """One more of them; a line counts them."""
        if self._stream is not None:
            self._refused[code] = self._refused.get(code, 0) + 1
            self._later()

    def flush(self) -> None:
        self._timer = None
        if self._stream is None:
            return
        for code, count in self._refused.items():
            self._put("refused", {"code": code, "count": count})
        self._refused.clear()
        self._stream.write(b"".join(self._lines))
        self._stream.flush()
        self._lines.clear()

    def _put(self, event: str, fields: dict[str, Any]) -> None:
        line = {"time": datetime.now(UTC), "event": event, **fields}
        self._lines.append(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))

    def _later(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)
