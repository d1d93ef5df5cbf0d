"""Bodies as the description of the routes (`/openapi.json`) has them. On the hot path nothing is parsed with
these: `bodies.py` reads vectors without making objects of their numbers."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

VECTOR = {"$ref": "#/components/schemas/Vector"}
ENCODED = {
    "type": "string",
    "format": "float32-base64",
    "contentEncoding": "base64",
    "description": "little-endian float32, vector after vector",
}
JSON, NPY = "application/json", "application/x-npy"


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


def vector_schema(dimension: int | None) -> dict[str, Any]:
    """One vector of the served models; of any length where they differ in it."""
    bound = {"minItems": 1} if dimension is None else {"minItems": dimension, "maxItems": dimension}
    return {"type": "array", "items": {"type": "number", "minimum": -1e30, "maximum": 1e30}, **bound}


def components(dimension: int | None) -> dict[str, Any]:
    """The schemas that the routes on vectors refer to."""
    return {"Vector": vector_schema(dimension), "Vectors": CONTEXTS, "Embeddings": EMBEDDINGS}


def _many(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "minItems": 1, "items": items}


CONTEXTS: dict[str, Any] = {
    "description": "A context [T, D] or a list of them, of any lengths: lists of numbers, or base64 of each.",
    "anyOf": [_many(VECTOR), _many(_many(VECTOR)), ENCODED, _many(ENCODED)],
}
TOKENS_READ = {
    "type": ["integer", "null"],
    "description": "of texts: tokens that were read; null where only the encoder's own server could tell",
}
EMBEDDINGS: dict[str, Any] = {
    "type": "object",
    "required": ["object", "model", "data", "usage"],
    "properties": {
        "object": {"const": "list"},
        "model": {"type": "string"},
        "created": {"type": "integer", "description": "seconds since 1970"},
        "output_type": {
            "enum": ["decoder", "cosine", "query"],
            "description": "raw, at unit length, or the direction to rank candidates by",
        },
        "data": _many(
            {
                "type": "object",
                "required": ["object", "index", "embedding"],
                "properties": {
                    "object": {"const": "embedding"},
                    "index": {"type": "integer"},
                    "embedding": {"anyOf": [{"type": "array", "items": {"type": "number"}}, ENCODED]},
                },
            }
        ),
        "usage": {
            "type": "object",
            "required": ["vectors"],
            "properties": {
                "vectors": {"type": "integer", "description": "that were sent, or made of texts"},
                "prompt_tokens": TOKENS_READ,
                "total_tokens": TOKENS_READ,
            },
        },
    },
}

MODEL = {"type": ["string", "null"], "description": "by default the server chooses"}
OUTPUT = {"type": "string", "enum": ["decoder", "cosine"], "default": "decoder"}
OUTPUT_OR_QUERY = {**OUTPUT, "enum": ["decoder", "cosine", "query"]}
HORIZON = {
    "type": ["integer", "null"],
    "description": "chunks ahead, one of the model's; by default its nearest",
}
USER = {"type": ["string", "null"], "description": "sticks to one variant of a split"}
ASKED: dict[str, Any] = {
    "type": "object",
    "required": ["input"],
    "additionalProperties": False,
    "properties": {
        "input": {"$ref": "#/components/schemas/Vectors"},
        "model": MODEL,
        "output_type": OUTPUT_OR_QUERY,
        "horizon": HORIZON,
        "encoding_format": {"type": "string", "enum": ["float", "base64"], "default": "float"},
        "query": {
            "anyOf": [VECTOR, ENCODED, {"type": "null"}],
            "description": "a vector to write towards, for models with the capability query",
        },
        "user": USER,
    },
}
_NAMED: dict[str, Any] = {**ASKED["properties"], "context_vectors": ASKED["properties"]["input"]}
_NAMED.pop("input")
ASKED_AS_IN_THE_BRIEF = {**ASKED, "required": ["context_vectors"], "properties": _NAMED}
"""The same with the product brief's name of `input`."""
BINARY = {"type": "string", "format": "binary", "description": "an .npy file of floating point numbers"}
STICKY_HEADER = {
    "name": "X-Sticky-Key",
    "in": "header",
    "required": False,
    "description": "sticks to one variant of a split",
    "schema": {"type": "string", "pattern": "^[!-~]{1,200}$"},
}


def _in_query(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    where = "beside an npy body; in JSON it is a field"
    return {"name": name, "in": "query", "required": False, "description": where, "schema": schema}


QUERY_FIELDS = (
    ("model", {"type": "string"}),
    ("output_type", OUTPUT_OR_QUERY),
    ("horizon", {"type": "integer"}),
    ("user", {"type": "string"}),
)
PREDICT: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {JSON: {"schema": {"anyOf": [ASKED, ASKED_AS_IN_THE_BRIEF]}}, NPY: {"schema": BINARY}},
    },
    "parameters": [STICKY_HEADER, *(_in_query(*field) for field in QUERY_FIELDS)],
}
PREDICTED: dict[str, Any] = {
    "description": "The predictions, one a context.",
    "content": {JSON: {"schema": {"$ref": "#/components/schemas/Embeddings"}}, NPY: {"schema": BINARY}},
}
