"""Vectors as texts: the server's decoder, or the nearest passages of its store."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Literal

import numpy as np
from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from nextvec.corpus.reading import TextReader
from nextvec.data.windows import FloatArray, IntArray
from nextvec.decoding.base import Decoder
from nextvec.serving.bodies import windows_of
from nextvec.serving.errors import invalid
from nextvec.serving.models import ServedModel
from nextvec.serving.request_context import assigned
from nextvec.serving.schemas import WORKING, errors
from nextvec.serving.settings import Settings
from nextvec.serving.texts import (
    PassageOutput,
    RequestFields,
    Vectors,
    library_of,
    passage_output,
    texts_of,
)
from nextvec.serving.work import run_blocking

router = APIRouter(prefix="/v1", tags=["texts"])

MAX_VECTORS, MAX_TEXTS = 64, 20
UNIT = 1e-3  # so near to 1 is the length of a vector that was normalised
APART = 0.02  # raw vectors that are nearer to 1 may as well be normalised ones
PROBE = "The ship left the harbour before dawn."


class DecodeRequest(RequestFields):
    """Vectors, each of which becomes texts."""

    input: Vectors = Field(description="vectors [N, D], or base64 of one or of each")
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


@router.post("/decode", summary="Make texts of vectors.", responses=errors(*WORKING, 409))
async def decode(request: Request, fields: DecodeRequest) -> DecodeResponse:
    """By the server's decoder; without one, the nearest passages of its store. A decoder takes raw vectors,
    as /v1/predict gives them; unit ones are refused where raw ones have another length."""
    model = assigned(request, fields.model, fields.user)
    return await run_blocking(request, decoded, model, fields, request.app.state.settings)


def decoded(model: ServedModel, fields: DecodeRequest, settings: Settings) -> DecodeResponse:
    """The answer. Raises Refusal, DecoderError."""
    pipeline = texts_of(model)
    windows = windows_of(fields.input, model.dimension, settings)
    values = np.concatenate(list(windows))
    if len(values) > MAX_VECTORS:
        raise invalid(
            f"{len(values)} vectors, {MAX_VECTORS} are taken",
            "too_many_vectors",
            "input",
            "send fewer a request",
        )
    if pipeline.decoder is None:
        return _retrieved(model, values, fields.n)
    _check_raw(pipeline.decoder, pipeline.reader, values)
    found = pipeline.decoder.decode(model.predictor.vectors(values), fields.n)
    data = [
        TextsOutput(
            index=i,
            texts=[TextOutput(text=d.text, score=d.score, how=d.how, passage=None) for d in some],
        )
        for i, some in enumerate(found)
    ]
    return DecodeResponse(model=model.name, decoder=pipeline.decoder.name, data=data)


def _retrieved(model: ServedModel, values: FloatArray, n: int) -> DecodeResponse:
    library = library_of(texts_of(model))
    nothing: IntArray = np.zeros(0, dtype=np.int64)
    found = library.nearest(model.predictor.vectors(values).unit(), n, [nothing] * len(values))
    data = [
        TextsOutput(
            index=i,
            texts=[
                TextOutput(
                    text=passage.decoded.text,
                    score=passage.decoded.score,
                    how="retrieved",
                    passage=passage_output(passage, library),
                )
                for passage in some
            ],
        )
        for i, some in enumerate(found)
    ]
    return DecodeResponse(model=model.name, decoder="nearest", data=data)


def _check_raw(decoder: Decoder, reader: TextReader, values: FloatArray) -> None:
    """Raises Refusal 422: unit vectors for a decoder that needs the length of raw ones."""
    if decoder.normalised is not False or abs(_usual_length(reader) - 1) < APART:
        return
    off = np.abs(np.linalg.norm(values, axis=1) - 1)
    if (off < UNIT).any():
        raise invalid(
            f"vector {int(np.argmin(off))} is of unit length: the decoder takes raw ones",
            "not_raw",
            "input",
            "request the output_type decoder from /v1/predict",
        )


@lru_cache(maxsize=8)
def _usual_length(reader: TextReader) -> float:
    return float(np.linalg.norm(reader.encode([PROBE]).values))
