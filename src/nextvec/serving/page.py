"""The playground: a few static files, read once. It loads nothing from anywhere else."""

from __future__ import annotations

from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

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
    """One for each file of the page; `index.html` is `/`."""
    return [_route(file) for file in sorted(folder.glob("*")) if file.suffix in TYPES]


def _route(file: Path) -> Route:
    content, kind = file.read_bytes(), TYPES[file.suffix]

    async def answer(request: Request) -> Response:
        return Response(content, media_type=kind, headers=HEADERS)

    return Route("/" if file.name == "index.html" else f"/{file.name}", answer, methods=["GET"])
