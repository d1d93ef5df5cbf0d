"""The application: models, limits and routes put together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Match, Route
from starlette.types import ASGIApp

from nextvec.errors import NextvecError
from nextvec.serving import operation
from nextvec.serving.batching import Batcher
from nextvec.serving.errors import Refusal, refusal_of
from nextvec.serving.gateway import Gateway
from nextvec.serving.operation import Metrics, RequestLog
from nextvec.serving.request_context import VariantLog, context_of_request
from nextvec.serving.routes import coding, models, predict, sessions, text
from nextvec.serving.schemas import components
from nextvec.serving.served_models import ServedModels
from nextvec.serving.sessions import Sessions
from nextvec.serving.settings import GUARDED, Settings
from nextvec.serving.token_input import TokenVocabulary
from nextvec.serving.work import AdmissionQueue
from nextvec.version import __version__

PARTS = (operation, models, predict, text, coding, sessions)
VECTORS, TEXTS = "vectors", "texts"


class Server(FastAPI):
    """FastAPI with the gateway around everything, its own middleware too."""

    def build_middleware_stack(self) -> ASGIApp:
        """The gateway and all that is behind it; around it the answers to pages of other origins, if any."""
        state = self.state
        gateway = Gateway(
            super().build_middleware_stack(),
            state.settings,
            state=state.state,
            queues={"/v1/predict": state.queues[VECTORS], "": state.queues[TEXTS]},
            direct={"/v1/predict": predict.predict},
            metrics=state.metrics,
            requests=state.requests,
        )
        return _across_origins(gateway, state.settings.cors_origins)

    def openapi(self) -> dict[str, Any]:
        """The description of the routes, with the dimension of the models that are served."""
        if self.openapi_schema is None:
            found = super().openapi()
            dimensions = {model.dimension for model in self.state.models}
            found["components"]["schemas"] |= components(dimensions.pop() if len(dimensions) == 1 else None)
            if self.state.settings.api_keys:
                found["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
                for path, operations in found["paths"].items():
                    for each in operations.values() if path.startswith(GUARDED) else ():
                        each["security"] = [{"key": []}]
        assert self.openapi_schema is not None
        return self.openapi_schema


def create_app(
    settings: Settings,
    models: ServedModels,
    log: IO[bytes] | None = None,
    tokens: TokenVocabulary | None = None,
) -> Server:
    """The server's application.

    Its lifespan warms the models and opens the threads; `app.state.state.phase` says where it is.

    Args:
        settings: the limits.
        models: what is served.
        log: takes a line of JSON a request; None keeps no log.
        tokens: what token arrays mean; by default the vocabulary of OpenAI's clients, where it is here.
    """
    app = Server(
        title="nextvec",
        summary="Predicts the next vector of a document read as a sequence of embedding vectors.",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        lifespan=_lifespan,
    )
    metrics = Metrics()
    queues = {
        VECTORS: AdmissionQueue(settings.queue, settings.max_wait),
        TEXTS: AdmissionQueue(settings.text_queue, settings.work_timeout),
    }
    for name, queue in queues.items():
        metrics.watch(name, partial(getattr, queue, "under_way"))
    state = app.state
    state.settings, state.models, state.metrics, state.queues = settings, models, metrics, queues
    state.state, state.requests = operation.ServerState(metrics.ready.set), RequestLog(log)
    state.answered, state.tokens = VariantLog(), tokens or TokenVocabulary()
    state.workers = ThreadPoolExecutor(settings.text_threads, thread_name_prefix="nextvec-work")
    state.sessions = Sessions(each=settings.client_sessions)
    for kind in (NextvecError, Refusal, HTTPException, RequestValidationError, Exception):
        app.add_exception_handler(kind, _answered)
    for part in PARTS:
        app.include_router(part.router)
    app.router.routes.extend(page_routes())
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Threads while it runs; ready once the models are warm."""
    state = app.state
    settings, metrics = state.settings, state.metrics
    for model in state.models:
        observe = partial(metrics.batched, model.name)
        model.batcher = Batcher(settings.max_batch, settings.batch_wait, observe)
    warming = asyncio.create_task(_warm(app))
    try:
        yield
    finally:
        warming.cancel()
        state.state.enter("draining")
        for model in state.models:
            model.batcher.close()
        state.workers.shutdown(wait=False, cancel_futures=True)
        state.requests.flush()


async def _warm(app: FastAPI) -> None:
    state: operation.ServerState = app.state.state
    try:
        for model in app.state.models:
            await asyncio.to_thread(model.warm, app.state.settings.max_batch)
    except Exception as error:  # noqa: BLE001 - whoever runs the application raises it
        state.fail(error)
    if state.phase == "loading":
        state.enter("ready")


async def _answered(request: Request, error: Exception) -> Response:
    """Errors from behind the router, in the one shape. The gateway logs what no one foresaw."""
    refusal = refusal_of(error)
    context_of_request(request).code = refusal.code
    headers = {name.decode(): value.decode() for name, value in refusal.headers()}
    if refusal.status == 405:
        headers["allow"] = ", ".join(sorted(_allowed(request)))
    return Response(refusal.body(), refusal.status, headers)


def _allowed(request: Request) -> set[str]:
    """The methods of a path; the framework names those of the first of its routes only."""
    routes = [*request.app.routes, *(route for part in PARTS for route in part.router.routes)]
    there = (r for r in routes if isinstance(r, Route) and r.matches(request.scope)[0] is not Match.NONE)
    return {method for route in there for method in route.methods or ()}


def _across_origins(app: ASGIApp, origins: tuple[str, ...]) -> ASGIApp:
    if not origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=["GET", "POST", "DELETE"],
        allow_headers=["authorization", "content-type", "x-sticky-key", "x-request-id"],
        expose_headers=["x-request-id", "x-nextvec-model", "x-nextvec-arm", "retry-after"],
    )


STATIC = Path(__file__).parent / "static"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
}
HEADERS = {
    "content-security-policy": "default-src 'self'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'; object-src 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


def page_routes(folder: Path = STATIC) -> list[Route]:
    """One for each file of the page, read once; `index.html` is `/`.

    Not Starlette's StaticFiles: mounted on `/` it saves 13 lines, but answers 405 in place of 404 to a POST
    to an unknown path, and reads the disk for every request.
    """
    return [_route(file) for file in sorted(folder.glob("*")) if file.suffix in TYPES]


def _route(file: Path) -> Route:
    content, kind = file.read_bytes(), TYPES[file.suffix]

    async def answer(request: Request) -> Response:
        return Response(content, media_type=kind, headers=HEADERS)

    return Route("/" if file.name == "index.html" else f"/{file.name}", answer, methods=["GET"])
