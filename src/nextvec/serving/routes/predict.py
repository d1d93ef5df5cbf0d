"""Vectors in, predicted vectors out: the hot path."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, Literal, Protocol, TypeVar
from urllib.parse import parse_qsl

import numpy as np
from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field, ValidationError, WithJsonSchema

from nextvec.data.windows import FloatArray
from nextvec.serving import schemas
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
from nextvec.serving.request_context import assigned, context_of_request
from nextvec.serving.schemas import JSON, NPY
from nextvec.serving.served_models import ServedModel
from nextvec.serving.settings import Settings
from nextvec.serving.work import patiently
from nextvec.vectors import unit

router = APIRouter(prefix="/v1", tags=["vectors"])

F = TypeVar("F", bound=BaseModel)
IN_ADDRESS = ("model", "output_type", "horizon", "user")
ALSO_INPUT = "context_vectors"
"""What the product brief calls `input`."""
STICKY_HEADER = {
    "name": "X-Sticky-Key",
    "in": "header",
    "required": False,
    "description": "sticks to one variant of a split",
    "schema": {"type": "string", "pattern": "^[!-~]{1,200}$"},
}
QUERY = {"anyOf": [schemas.VECTOR, schemas.ENCODED, {"type": "null"}]}


class PredictRequest(schemas.RequestFields):
    """A request on vectors; its vectors are checked once the model is known."""

    input: schemas.Vectors
    output_type: Literal["decoder", "cosine", "query"] = "decoder"
    horizon: int | None = Field(None, description="chunks ahead, one of the model's; by default its nearest")
    encoding_format: schemas.Encoded = "float"
    query: Annotated[Any, WithJsonSchema(QUERY)] = Field(
        None, description="a vector to write towards, for models with the capability query"
    )


BODY = schemas.body_of(PredictRequest, *IN_ADDRESS, also={"input": ALSO_INPUT})
BODY["parameters"].append(STICKY_HEADER)


@router.post(
    "/predict",
    summary="Predict the vector that comes next.",
    response_class=Response,
    openapi_extra=BODY,
    responses={200: schemas.PREDICTED, **schemas.errors(*schemas.WORKING)},
)
async def predict(request: Request) -> Response:
    """Of every context the vector that comes next: raw, as the encoder would give it (`output_type` decoder),
    or at unit length (cosine), or the direction to rank candidates by (query). As npy where npy is sent or
    accepted, else as JSON."""
    fields, npy = received(request, PredictRequest, IN_ADDRESS, ALSO_INPUT)
    model, context = assigned(request, fields.model, fields.user), context_of_request(request)
    windows = windows_of(fields.input, model.dimension, request.app.state.settings)
    context.vectors = sum(map(len, windows))
    values = await _predicted(request, model, windows, fields)
    return answer(values, model.name, fields, context.vectors, npy=npy)


async def _predicted(
    request: Request, model: ServedModel, windows: ContextArrays, fields: PredictRequest
) -> FloatArray:
    """[N, D]."""
    settings: Settings = request.app.state.settings
    query = query_of(model, fields.query)
    work = model.predict(windows, fields.horizon, query, ranking=fields.output_type == "query")
    raw = finite(await patiently(request, work, settings.work_timeout))
    return unit(raw) if fields.output_type == "cosine" else raw


def query_of(model: ServedModel, given: Any) -> FloatArray | None:
    """[D] what the model is to write towards. Raises Refusal 422: it takes none, or it is no vector."""
    if given is None:
        return None
    if not model.conditional:
        message = f"{model.name} was not trained to take a query"
        raise invalid(message, "invalid_field", "query", "leave it out")
    return vector_of(given, model.dimension, "query")


def finite(raw: FloatArray) -> FloatArray:
    """The predictions. Raises Refusal 422: vectors so large that the model's sums overflow."""
    if not np.isfinite(raw).all():
        message = "the model has no finite answer to these vectors"
        raise invalid(message, "not_finite", "input", "send vectors as the model's encoder gives them")
    return raw


class AnswerFields(Protocol):
    """How vectors are answered."""

    @property
    def output_type(self) -> str: ...
    @property
    def encoding_format(self) -> str: ...


def answer(values: FloatArray, model: str, fields: AnswerFields, sent: int, *, npy: bool) -> Response:
    """Vectors [N, D] as an answer, for so many that were sent."""
    if npy:
        return Response(npy_bytes(values), media_type=NPY)
    more = {"output_type": fields.output_type, "usage": {"vectors": sent}}
    return Response(embeddings(values, model, fields.encoding_format, **more), media_type=JSON)


def received(
    request: Request, kind: type[F], in_address: Collection[str], also_input: str = "input"
) -> tuple[F, bool]:
    """What was sent, and whether npy is to be answered.

    Args:
        in_address: fields that stand in the address where npy is sent.
        also_input: another name of the field `input` in JSON.
    Raises:
        Refusal: 400, what cannot be read; 415; 422, a field that does not stand there.
        RequestValidationError: any other field at fault.
    """
    sent, accept = (request.headers.get(name, "").lower() for name in ("content-type", "accept"))
    sent, body = sent.partition(";")[0].strip(), context_of_request(request).body
    query: bytes = request.scope["query_string"]
    if sent == NPY:
        given = _of_address(query, in_address) | {"input": read_npy(body)}
    elif sent == JSON:
        given = _of_json(body, query, also_input)
    else:
        remedy = f"send {JSON} or {NPY}"
        raise Refusal(415, "the content type is not taken", code="unsupported_type", remedy=remedy)
    try:
        return kind.model_validate(given), NPY in accept or (sent == NPY and JSON not in accept)
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_input=False, include_url=False)) from None


def _of_json(body: bytes, query: bytes, also_input: str) -> dict[str, Any]:
    if query:
        name = query.partition(b"=")[0].decode("latin-1")[:100]
        raise _wrong(name, "beside JSON it stands in the body, not in the address")
    given = read_json(body)
    if also_input in given and also_input != "input":
        if "input" in given:
            raise _wrong(also_input, "it is another name of input, which is there too")
        given["input"] = given.pop(also_input)
    return given


def _of_address(query: bytes, names: Collection[str]) -> dict[str, Any]:
    """The fields beside an npy body."""
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, max_num_fields=16)
    except ValueError:
        raise Refusal(400, "the query string cannot be read", code="invalid_query") from None
    given: dict[str, Any] = dict(pairs)
    for name in sorted(given.keys() - set(names)):
        raise _wrong(name[:100], f"it is none of {', '.join(names)}")
    if (horizon := given.get("horizon", "")).isascii() and horizon.isdigit() and len(horizon) < 10:
        given["horizon"] = int(horizon)
    return given


def _wrong(param: str, message: str) -> Refusal:
    return invalid(f"{param}: {message}", "invalid_field", param, "see /openapi.json for the fields")
