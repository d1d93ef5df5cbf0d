"""Texts as vectors, by the encoder of a served model, under our name and as OpenAI clients ask for them; and
vectors as texts, by the server's decoder or as the nearest passages of its store."""

from __future__ import annotations

import time
from functools import lru_cache
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from nextvec.corpus.encoders.base import Encoder, lengths_to_cut
from nextvec.corpus.reading import TextReader
from nextvec.data.windows import FloatArray
from nextvec.decoding.base import Decoded, Decoder
from nextvec.serving import schemas
from nextvec.serving.bodies import embeddings, windows_of
from nextvec.serving.errors import Refusal, invalid
from nextvec.serving.request_context import assigned, served
from nextvec.serving.served_models import ServedModel
from nextvec.serving.settings import Settings
from nextvec.serving.text_fields import (
    PassageOutput,
    checked_text,
    library_of,
    on_model,
    passage_output,
    texts_of,
)
from nextvec.serving.token_input import TokenVocabulary
from nextvec.serving.work import run_blocking
from nextvec.vectors import unit

router = APIRouter(prefix="/v1", tags=["texts"])

MAX_INPUTS = 2048
"""Of one request, as OpenAI takes them."""
MAX_NAMED = 12
FORMS = "send a text, a list of texts, a token array or a list of token arrays"
ERRORS = schemas.errors(*schemas.WORKING, 409)
ANSWERS = {200: {"description": "A vector a text.", "model": schemas.Embeddings}, **ERRORS}
TEXT = {"type": "string", "minLength": 1, "pattern": r"\S"}
TOKENS = {
    "type": "array",
    "minItems": 1,
    "items": {"type": "integer", "minimum": 0},
    "description": "ids of the server's token vocabulary",
}
MANY = {"type": "array", "minItems": 1, "maxItems": MAX_INPUTS}
INPUT = {"anyOf": [TEXT, {**MANY, "items": TEXT}, TOKENS, {**MANY, "items": TOKENS}]}


class _Fields(schemas.RequestFields):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"input": ["The mill stood by the river.", "Then the river froze."]}]}
    )

    input: Annotated[Any, WithJsonSchema(INPUT)]
    encoding_format: schemas.Encoded = "float"


class EncodeRequest(_Fields):
    """Texts, each of which becomes one vector."""

    output_type: schemas.OutputType = Field(
        "decoder", description="raw, as models read it, or at unit length"
    )


class EmbeddingsRequest(_Fields):
    """The same as OpenAI's clients send it."""

    output_type: schemas.OutputType | None = Field(
        None,
        description="raw, as models read it, or at unit length; by default what the published encoder "
        "gives: unit length where it ends with a normalisation",
    )
    input_type: Literal["passage", "query"] = Field(
        "passage", description="whether passages are searched by it"
    )
    dimensions: int | None = Field(
        None, ge=1, description="cut to so many numbers, for encoders that were trained to be cut"
    )


AnyRequest = EncodeRequest | EmbeddingsRequest


@router.post("/encode", summary="Encode texts.", response_class=Response, responses=ANSWERS)
async def encode(request: Request, fields: EncodeRequest) -> Response:
    """One vector a text, which is not cut: of one too long for the encoder the beginning counts."""
    model = assigned(request, fields.model, fields.user)
    return await _answer(request, model, fields, model.name)


@router.post(
    "/embeddings",
    summary="The same as OpenAI's clients expect it.",
    response_class=Response,
    responses=ANSWERS,
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
    return Response(found, media_type=schemas.JSON)


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
        message = f"{len(value)} texts, {MAX_INPUTS} are taken"
        raise invalid(message, "too_many_texts", "input", "send fewer a request")
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
        remedy = "leave it out: an empty text has no vector"
        raise invalid(f"{where} is an empty text", "empty", where, remedy) from None


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


# Vectors as texts.

MAX_VECTORS, MAX_TEXTS = 64, 20
UNIT = 1e-3  # so near to 1 is the length of a vector that was normalised
APART = 0.02  # raw vectors that are nearer to 1 may as well be normalised ones
PROBE = "The ship left the harbour before dawn."


class DecodeRequest(schemas.RequestFields):
    """Vectors, each of which becomes texts."""

    input: schemas.Vectors = Field(description="vectors [N, D], or base64 of one or of each")
    n: Annotated[int, Field(ge=1, le=MAX_TEXTS, description="texts a vector")] = 1


class TextOutput(BaseModel):
    """A text for a vector."""

    text: str
    score: float = Field(description="higher is better, on the decoder's own scale")
    how: Literal["retrieved", "generated"]
    passage: PassageOutput | None = Field(description="where it stands, if it was retrieved")


class TextsOutput(BaseModel):
    """The texts of one vector, the best first."""

    object: Literal["texts"] = "texts"
    index: int
    texts: list[TextOutput]


class DecodeResponse(BaseModel):
    """All of them."""

    object: Literal["list"] = "list"
    model: str
    decoder: str
    data: list[TextsOutput]


@router.post("/decode", summary="Make texts of vectors.", responses=ERRORS)
async def decode(request: Request, fields: DecodeRequest) -> DecodeResponse:
    """By the server's decoder; without one, the nearest passages of its store. A decoder takes raw vectors,
    as /v1/predict gives them; unit ones are refused where raw ones have another length."""
    return await on_model(request, fields, decoded)


def decoded(model: ServedModel, fields: DecodeRequest, settings: Settings) -> DecodeResponse:
    """The answer. Raises Refusal, DecoderError."""
    pipeline = texts_of(model)
    windows = windows_of(fields.input, model.dimension, settings)
    values = np.concatenate(list(windows))
    if len(values) > MAX_VECTORS:
        message = f"{len(values)} vectors, {MAX_VECTORS} are taken"
        raise invalid(message, "too_many_vectors", "input", "send fewer a request")
    raw, decoder = model.predictor.vectors(values), pipeline.decoder
    if decoder is None:
        library = library_of(pipeline)
        near = library.nearest(raw.unit(), fields.n, [np.zeros(0, dtype=np.int64)] * len(values))
        texts = [[_text_output(p.decoded, passage_output(p, library)) for p in some] for some in near]
    else:
        _check_raw(decoder, pipeline.reader, values)
        texts = [[_text_output(made) for made in some] for some in decoder.decode(raw, fields.n)]
    data = [TextsOutput(index=i, texts=some) for i, some in enumerate(texts)]
    return DecodeResponse(model=model.name, decoder="nearest" if decoder is None else decoder.name, data=data)


def _text_output(made: Decoded, passage: PassageOutput | None = None) -> TextOutput:
    return TextOutput(text=made.text, score=made.score, how=made.how, passage=passage)


def _check_raw(decoder: Decoder, reader: TextReader, values: FloatArray) -> None:
    """Raises Refusal 422: unit vectors for a decoder that needs the length of raw ones."""
    if decoder.normalised is not False or abs(_usual_length(reader) - 1) < APART:
        return
    off = np.abs(np.linalg.norm(values, axis=1) - 1)
    if (off < UNIT).any():
        message = f"vector {int(np.argmin(off))} is of unit length: the decoder takes raw ones"
        raise invalid(message, "not_raw", "input", "request the output_type decoder from /v1/predict")


@lru_cache(maxsize=8)
def _usual_length(reader: TextReader) -> float:
    return float(np.linalg.norm(reader.encode([PROBE]).values))
