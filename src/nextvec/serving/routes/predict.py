"""Vectors in, predicted vectors out: the hot path."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
from fastapi import APIRouter, Request, Response

from nextvec.data.windows import FloatArray
from nextvec.serving.bodies import (
    ContextArrays,
    embeddings,
    npy_bytes,
    read_json,
    read_npy,
    vector_of,
    windows_of,
)
from nextvec.serving.errors import Refusal, invalid
from nextvec.serving.models import ServedModel
from nextvec.serving.request_context import assigned, context_of_request
from nextvec.serving.schemas import JSON, NPY, PREDICT, PREDICTED, WORKING, errors
from nextvec.serving.settings import Settings
from nextvec.serving.work import patiently
from nextvec.vectors import unit

router = APIRouter(prefix="/v1", tags=["vectors"])

IN_QUERY = ("model", "output_type", "horizon", "user")
ALSO_INPUT = "context_vectors"
"""What the product brief calls `input`."""


@dataclass(slots=True)
class PredictRequest:
    """A request on vectors; its vectors are checked once the model is known."""

    input: Any
    model: str | None = None
    output_type: str = "decoder"
    horizon: int | None = None
    encoding_format: str = "float"
    query: Any = None
    user: str | None = None

    def check(self) -> PredictRequest:
        """Itself. Raises Refusal 422 naming the field at fault."""
        for name, kind, said in (
            ("model", str, "a text"),
            ("user", str, "a text"),
            ("horizon", int, "a whole number"),
        ):
            value = getattr(self, name)
            if value is not None and type(value) is not kind:
                raise _wrong(name, f"it is not {said}")
        if self.output_type not in ("decoder", "cosine", "query"):
            raise _wrong("output_type", "it is none of decoder, cosine, query")
        if self.encoding_format not in ("float", "base64"):
            raise _wrong("encoding_format", "it is neither float nor base64")
        return self


@router.post(
    "/predict",
    summary="Predict the vector that comes next.",
    response_class=Response,
    openapi_extra=PREDICT,
    responses={200: PREDICTED, **errors(*WORKING)},
)
async def predict(request: Request) -> Response:
    """Of every context the vector that comes next: raw, as the encoder would give it (`output_type` decoder),
    or at unit length (cosine), or the direction to rank candidates by (query). As npy where npy is sent or
    accepted, else as JSON."""
    kind, accept = _types(request.scope["headers"])
    context = context_of_request(request)
    if kind == NPY:
        requested = _of_query(read_npy(context.body), request.scope["query_string"])
    elif kind == JSON:
        requested = _of_json(context.body, request.scope["query_string"])
    else:
        raise Refusal(
            415, "the content type is not taken", code="unsupported_type", remedy=f"send {JSON} or {NPY}"
        )
    model = assigned(request, requested.model, requested.user)
    windows = windows_of(requested.input, model.dimension, request.app.state.settings)
    context.vectors = sum(map(len, windows))
    values = await _predicted(request, model, windows, requested)
    if NPY in accept or (kind == NPY and JSON not in accept):
        return Response(npy_bytes(values), media_type=NPY)
    usage = {"vectors": context.vectors}
    told = embeddings(
        values, model.name, requested.encoding_format, output_type=requested.output_type, usage=usage
    )
    return Response(told, media_type=JSON)


async def _predicted(
    request: Request, model: ServedModel, windows: ContextArrays, requested: PredictRequest
) -> FloatArray:
    """[N, D]."""
    settings: Settings = request.app.state.settings
    query = None
    if requested.query is not None:
        if not model.conditional:
            raise _wrong("query", f"{model.name} was not trained to take one")
        query = vector_of(requested.query, model.dimension, "query")
    work = model.predict(windows, requested.horizon, query, ranking=requested.output_type == "query")
    raw = await patiently(request, work, settings.work_timeout)
    return unit(finite(raw)) if requested.output_type == "cosine" else finite(raw)


def finite(raw: FloatArray) -> FloatArray:
    """The predictions. Raises Refusal 422: vectors so large that the model's sums overflow."""
    if not np.isfinite(raw).all():
        raise invalid(
            "the model has no finite answer to these vectors",
            "not_finite",
            "input",
            "send vectors as the model's encoder gives them",
        )
    return raw


def _types(headers: list[tuple[bytes, bytes]]) -> tuple[str, str]:
    """Content type without its parameters, and what is accepted."""
    kind = accept = ""
    for name, value in headers:
        if name == b"content-type":
            kind = value.partition(b";")[0].strip().lower().decode("latin-1")
        elif name == b"accept":
            accept = value.decode("latin-1").lower()
    return kind, accept


def _of_json(body: bytes, query: bytes) -> PredictRequest:
    if query:
        name = query.partition(b"=")[0].decode("latin-1")[:100]
        raise _wrong(name, "beside JSON it stands in the body, not in the address")
    given = read_json(body)
    if ALSO_INPUT in given:
        if "input" in given:
            raise _wrong(ALSO_INPUT, "it is another name of input, which is there too")
        given["input"] = given.pop(ALSO_INPUT)
    try:
        return PredictRequest(**given).check()
    except TypeError:
        unknown = sorted(given.keys() - PredictRequest.__dataclass_fields__.keys())
        if unknown:
            raise _wrong(unknown[0][:100], "there is no such field") from None
        raise _wrong("input", "it is missing") from None


def _of_query(values: np.ndarray[Any, Any], query: bytes) -> PredictRequest:
    if not query:
        return PredictRequest(values)
    try:
        given = dict(parse_qsl(query.decode("ascii"), keep_blank_values=True, max_num_fields=16))
    except ValueError:
        raise Refusal(400, "the query string cannot be read", code="invalid_query") from None
    unknown = sorted(given.keys() - set(IN_QUERY))
    if unknown:
        raise _wrong(unknown[0][:100], f"it is none of {', '.join(IN_QUERY)}")
    horizon = given.pop("horizon", None)
    if horizon is not None and not (horizon.isascii() and horizon.isdigit() and len(horizon) < 10):
        raise _wrong("horizon", "it is not a whole number")
    return PredictRequest(values, horizon=None if horizon is None else int(horizon), **given).check()


def _wrong(param: str, message: str) -> Refusal:
    return invalid(f"{param}: {message}", "invalid_field", param, "see /openapi.json for the fields")
