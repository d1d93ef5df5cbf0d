"""Texts as vectors, by the encoder of a served model: under our name, and as OpenAI clients ask for them."""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import ConfigDict, Field, WithJsonSchema

from nextvec.corpus.encoders.base import Encoder, lengths_to_cut
from nextvec.serving.bodies import embeddings
from nextvec.serving.errors import Refusal, invalid
from nextvec.serving.models import ServedModel
from nextvec.serving.request_context import assigned, served
from nextvec.serving.schemas import JSON, WORKING, errors
from nextvec.serving.settings import Settings
from nextvec.serving.texts import Encoded, RequestFields, checked_text, texts_of
from nextvec.serving.tokens import TokenVocabulary
from nextvec.serving.work import run_blocking
from nextvec.vectors import unit

router = APIRouter(prefix="/v1", tags=["texts"])

MAX_INPUTS = 2048
"""Of one request, as OpenAI takes them."""
MAX_NAMED = 12
FORMS = "send a text, a list of texts, a token array or a list of token arrays"
ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A vector a text.",
        "content": {JSON: {"schema": {"$ref": "#/components/schemas/Embeddings"}}},
    }
}
TEXT = {"type": "string", "minLength": 1, "pattern": r"\S"}
TOKENS = {
    "type": "array",
    "minItems": 1,
    "items": {"type": "integer", "minimum": 0},
    "description": "ids of the server's token vocabulary",
}
MANY = {"type": "array", "minItems": 1, "maxItems": MAX_INPUTS}
INPUT = {"anyOf": [TEXT, {**MANY, "items": TEXT}, TOKENS, {**MANY, "items": TOKENS}]}


class _Fields(RequestFields):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"input": ["The mill stood by the river.", "Then the river froze."]}]}
    )

    input: Annotated[Any, WithJsonSchema(INPUT)]
    encoding_format: Encoded = "float"


class EncodeRequest(_Fields):
    """Texts, each of which becomes one vector."""

    output_type: Annotated[
        Literal["decoder", "cosine"], Field(description="raw, as models read it, or at unit length")
    ] = "decoder"


class EmbeddingsRequest(_Fields):
    """The same as OpenAI's clients send it."""

    output_type: Annotated[
        Literal["decoder", "cosine"] | None,
        Field(
            description="raw, as models read it, or at unit length; by default what the published encoder "
            "gives: unit length where it ends with a normalisation"
        ),
    ] = None
    input_type: Annotated[
        Literal["passage", "query"], Field(description="whether passages are searched by it")
    ] = "passage"
    dimensions: Annotated[
        int | None,
        Field(ge=1, description="cut to so many numbers, for encoders that were trained to be cut"),
    ] = None


AnyRequest = EncodeRequest | EmbeddingsRequest


@router.post(
    "/encode", summary="Encode texts.", response_class=Response, responses=ANSWER | errors(*WORKING, 409)
)
async def encode(request: Request, fields: EncodeRequest) -> Response:
    """One vector a text, which is not cut: of one too long for the encoder the beginning counts."""
    model = assigned(request, fields.model, fields.user)
    return await _answer(request, model, fields, model.name)


@router.post(
    "/embeddings",
    summary="The same as OpenAI's clients expect it.",
    response_class=Response,
    responses=ANSWER | errors(*WORKING, 409),
)
async def openai_embeddings(request: Request, fields: EmbeddingsRequest) -> Response:
    """One vector a text. The model may be named by its encoder, whose name the answer gives."""
    models = served(request)
    name = fields.model if fields.model is None else models.by_encoder(fields.model) or fields.model
    model = assigned(request, name, fields.user)
    return await _answer(request, model, fields, texts_of(model).reader.encoder.name)


async def _answer(request: Request, model: ServedModel, fields: AnyRequest, name: str) -> Response:
    state = request.app.state
    found = await run_blocking(request, encoded, model, fields, state.settings, state.tokens, name)
    return Response(found, media_type=JSON)


def encoded(
    model: ServedModel, fields: AnyRequest, settings: Settings, tokens: TokenVocabulary, name: str
) -> bytes:
    """The answer, in which the model has this name. Raises Refusal, EncoderError."""
    reader = texts_of(model).reader
    encoder = reader.encoder
    dimensions = fields.dimensions if isinstance(fields, EmbeddingsRequest) else None
    _check_dimensions(encoder, dimensions)
    texts = _texts(fields.input, settings, tokens, encoder)
    queries = isinstance(fields, EmbeddingsRequest) and fields.input_type == "query"
    raw = reader.encode(texts, queries=queries)
    output = fields.output_type or ("cosine" if encoder.normalises else "decoder")
    values = raw.values[:, :dimensions]
    return embeddings(
        unit(values) if output == "cosine" else values,
        name,
        fields.encoding_format,
        created=int(time.time()),
        output_type=output,
        usage=_usage(encoder, texts),
    )


def _texts(value: Any, settings: Settings, tokens: TokenVocabulary, encoder: Encoder) -> list[str]:
    """The texts of the field `input`, checked one by one. Raises Refusal naming the first that is wrong."""
    if isinstance(value, str):
        return [_text(value, "input", settings)]
    if not isinstance(value, list):
        raise invalid("input is neither a text nor a list", "wrong_type", "input", FORMS)
    if not value:
        raise invalid("input is an empty list", "empty", "input", FORMS)
    if isinstance(value[0], int):
        _check_tokens(value, "input")
        return _of_tokens([value], tokens, encoder, settings)
    if len(value) > MAX_INPUTS:
        raise invalid(
            f"{len(value)} texts, {MAX_INPUTS} are taken", "too_many_texts", "input", "send fewer a request"
        )
    if isinstance(value[0], list):
        for i, ids in enumerate(value):
            _check_tokens(ids, f"input[{i}]")
        return _of_tokens(value, tokens, encoder, settings)
    return [_text(text, f"input[{i}]", settings) for i, text in enumerate(value)]


def _text(value: Any, where: str, settings: Settings) -> str:
    if not isinstance(value, str):
        raise invalid(f"{where} is not a text", "wrong_type", where, FORMS)
    try:
        return checked_text(value, settings, where)
    except Refusal as refusal:
        if refusal.code != "empty":
            raise
        raise invalid(
            f"{where} is an empty text", "empty", where, "leave it out: an empty text has no vector"
        ) from None


def _check_tokens(ids: Any, where: str) -> None:
    if not isinstance(ids, list):
        raise invalid(f"{where} is not a token array as the first is", "wrong_type", where, FORMS)
    if not ids:
        raise invalid(f"{where} is an empty token array", "empty", where, "leave it out")
    if any(type(one) is not int or one < 0 for one in ids):
        raise invalid(f"{where} holds something not a token id", "wrong_type", where, FORMS)


def _of_tokens(
    arrays: list[list[int]], tokens: TokenVocabulary, encoder: Encoder, settings: Settings
) -> list[str]:
    texts = tokens.texts(arrays, encoder)
    return [_text(text, f"input[{i}]", settings) for i, text in enumerate(texts)]


def _check_dimensions(encoder: Encoder, wanted: int | None) -> None:
    """Raises Refusal 422: a length that the encoder was not trained to be cut to."""
    lengths = lengths_to_cut(encoder)
    if wanted is None or wanted in lengths or wanted == encoder.dimension:
        return
    there = ", ".join(map(str, sorted(lengths))) if len(lengths) <= MAX_NAMED else f"1 to {encoder.dimension}"
    raise invalid(
        f"{wanted} dimensions: the vectors of '{encoder.name}' have {encoder.dimension}"
        + (f" and may be cut to {there}" if lengths else ", and it does not declare that they may be cut"),
        "dimensions_not_available",
        "dimensions",
        "leave dimensions out",
    )


def _usage(encoder: Encoder, texts: list[str]) -> dict[str, int | None]:
    """Tokens that were read; None where only the encoder's own server could tell."""
    counts = encoder.count_tokens(texts)
    read: int | None = None
    if counts is not None:
        most = encoder.max_tokens
        read = sum(tokens if most is None else min(tokens, most) for tokens, _ in counts)
    return {"prompt_tokens": read, "total_tokens": read, "vectors": len(texts)}
