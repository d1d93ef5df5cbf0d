"""Bodies as the description of the routes (`/openapi.json`) has them, and what all requests in JSON share.
The vectors of a body are `Any` here: `bodies.py` reads them without making objects of their numbers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema
from pydantic.json_schema import DefsRef, GenerateJsonSchema

VECTOR, VECTORS = ({"$ref": f"#/components/schemas/{name}"} for name in ("Vector", "Vectors"))
ENCODED = {
    "type": "string",
    "format": "float32-base64",
    "contentEncoding": "base64",
    "description": "little-endian float32, vector after vector",
}
JSON, NPY = "application/json", "application/x-npy"

Vectors = Annotated[Any, WithJsonSchema({"allOf": [VECTORS]})]
Encoded = Annotated[
    Literal["float", "base64"], Field(description="of vectors: numbers, or little-endian float32")
]
OutputType = Literal["decoder", "cosine"]


class RequestFields(BaseModel):
    """A request; a field that is not known is refused."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    model: Annotated[str | None, Field(description="by default the server chooses")] = None
    user: Annotated[str | None, Field(description="sticks to one variant of a split")] = None


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None = Field(description="the field at fault")
    code: str
    remedy: str | None = Field(description="what to do about it")


class ErrorAnswer(BaseModel):
    """Every answer that is none."""

    error: ErrorDetail


class Health(BaseModel):
    """A health check."""

    status: str = Field(examples=["ready"])


class Embedding(BaseModel):
    """A vector, and which of those in the request it belongs to."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | Annotated[str, WithJsonSchema(ENCODED)]


class Usage(BaseModel):
    """What was read."""

    vectors: int = Field(description="that were sent, or made of texts")
    prompt_tokens: int | None = Field(
        None, description="of texts; null where only the encoder's own server could tell"
    )
    total_tokens: int | None = None


class Embeddings(BaseModel):
    """Vectors, as OpenAI's embeddings come. Written by `bodies.embeddings`."""

    object: Literal["list"]
    model: str
    created: int = Field(0, description="seconds since 1970")
    output_type: Literal["decoder", "cosine", "query"] = Field(
        "decoder", description="raw, at unit length, or the direction to rank candidates by"
    )
    data: list[Embedding] = Field(min_length=1)
    usage: Usage


STATUSES = {
    400: "It cannot be read: no JSON, no npy.",
    401: "No valid API key.",
    404: "No such model.",
    408: "The body came too slowly.",
    409: "Not now, or not on this server.",
    413: "The body is too large.",
    415: "A content type that is not taken.",
    422: "It can be read and not be meant: a wrong dimension, NaN, rows of different lengths.",
    429: "Too many requests are under way; Retry-After says when to try again.",
    500: "The server failed.",
    503: "Models are loading, or the server ends.",
    504: "No answer in time.",
}
WORKING = (400, 401, 404, 408, 413, 415, 422, 429, 503, 504)
"""What every route that works on a body may answer."""


Responses = dict[int | str, dict[str, Any]]


def errors(*statuses: int) -> Responses:
    """`responses=` of a route, for these statuses."""
    retry = {"headers": {"Retry-After": {"schema": {"type": "integer"}, "description": "seconds"}}}
    return {
        status: {"model": ErrorAnswer, "description": STATUSES[status]}
        | (retry if status in (429, 503) else {})
        for status in statuses
    }


def components(dimension: int | None) -> dict[str, Any]:
    """The schemas that the routes on vectors refer to, of vectors of any length where the models differ in
    it."""
    bound = {"minItems": 1} if dimension is None else {"minItems": dimension, "maxItems": dimension}
    number = {"type": "number", "minimum": -1e30, "maximum": 1e30}
    return {"Vector": {"type": "array", "items": number, **bound}, "Vectors": CONTEXTS}


def _many(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "minItems": 1, "items": items}


CONTEXTS: dict[str, Any] = {
    "description": "A context [T, D] or a list of them, of any lengths: lists of numbers, or base64 of each.",
    "anyOf": [_many(VECTOR), _many(_many(VECTOR)), ENCODED, _many(ENCODED)],
}


def body_of(
    fields: type[RequestFields] | type[BaseModel], *in_address: str, also: dict[str, str] | None = None
) -> dict[str, Any]:
    """`openapi_extra=` of a route that takes vectors: in JSON these fields, or npy.

    Args:
        in_address: the fields that stand beside an npy body.
        also: another name of a field, as {name: other}; a body has one of the two.
    """
    # Not `fields.model_json_schema()`, which knows no schemas but its own: ours refer to `components`.
    core: Any = fields.__pydantic_core_schema__
    _, known = GenerateJsonSchema().generate_definitions([("body", "validation", core)])
    whole = known[DefsRef(fields.__name__)]
    bodies = [whole]
    for name, other in (also or {}).items():
        named = {other if key == name else key: value for key, value in whole["properties"].items()}
        bodies.append({**whole, "required": [other], "properties": named})
    binary = {"type": "string", "format": "binary", "description": "an .npy file of floating point numbers"}
    beside = {"in": "query", "required": False, "description": "beside an npy body; in JSON it is a field"}
    return {
        "requestBody": {
            "required": True,
            "content": {JSON: {"schema": {"anyOf": bodies}}, NPY: {"schema": binary}},
        },
        "parameters": [
            {"name": name, **beside, "schema": _schema(whole["properties"][name])} for name in in_address
        ],
    }


def _schema(schema: dict[str, Any]) -> dict[str, Any]:
    """Of a field that may be null: an address has no null."""
    return next((kind for kind in schema.get("anyOf", ()) if kind["type"] != "null"), schema)


PREDICTED: dict[str, Any] = {
    "description": "The predictions, one a context.",
    "model": Embeddings,
    "content": {NPY: {"schema": {"type": "string", "format": "binary"}}},
}
