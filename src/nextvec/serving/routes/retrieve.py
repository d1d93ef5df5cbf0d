"""Passages of the store that come next."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from nextvec.decoding.pipeline import Pipeline, TextContext
from nextvec.retrieval.context import Reading, Reembed, RetrievalContext
from nextvec.retrieval.strategies import Strategy
from nextvec.serving.models import ServedModel
from nextvec.serving.schemas import WORKING, errors
from nextvec.serving.settings import Settings
from nextvec.serving.texts import (
    MAX_PASSAGES,
    PassageOutput,
    SourceRequest,
    library_of,
    passage_output,
    read_source,
    texts_of,
)
from nextvec.serving.variants import assigned
from nextvec.serving.work import run_blocking
from nextvec.vectors import RawVectors

router = APIRouter(prefix="/v1", tags=["texts"])

PREDICTED, STEERED = "predicted", "query"


class RetrieveRequest(SourceRequest):
    """A text, or vectors, that something follows."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"text": "The mill stood by the river. Then it froze.", "n": 3}]}
    )

    n: Annotated[int, Field(ge=1, le=MAX_PASSAGES)] = 10
    strategy: Annotated[
        str | None,
        Field(
            max_length=200,
            description="as of `nextvec retrieve`, such as last, predicted, blend+recency; by default "
            "predicted, with a query query",
        ),
    ] = None


class RetrieveResponse(BaseModel):
    """What was found."""

    object: Literal["retrieval"] = "retrieval"
    model: str
    strategy: str
    read: int
    passages: list[PassageOutput]


@router.post("/retrieve", summary="Find the passages that come next.", responses=errors(*WORKING, 409))
async def retrieve(request: Request, ask: RetrieveRequest) -> RetrieveResponse:
    """Passages of the server's store, the best first, without those that were read."""
    model = assigned(request, ask.model, ask.user)
    return await run_blocking(request, retrieved, model, ask, request.app.state.settings)


def retrieved(model: ServedModel, ask: RetrieveRequest, settings: Settings) -> RetrieveResponse:
    """The answer. Raises Refusal, RetrievalError."""
    pipeline = texts_of(model)
    library = library_of(pipeline)
    strategy = Strategy.named(ask.strategy or (PREDICTED if ask.query is None else STEERED))
    read = read_source(model, ask, settings)
    reading = Reading.of_text(read.vectors, library.index, _query(read))
    context = RetrievalContext(pipeline.predictor, library.store, library.index, reembed=_reembed(pipeline))
    found = strategy.find(context, reading, ask.n)
    pairs = zip(found.rows[0].tolist(), found.scores[0].tolist(), strict=True)
    reordered = "+" in strategy.name
    passages = [
        passage_output(library.passage(row, score), library, reordered=reordered) for row, score in pairs
    ]
    return RetrieveResponse(model=model.name, strategy=strategy.name, read=read.said[0], passages=passages)


def _query(read: TextContext) -> RawVectors | None:
    if read.queries is None:
        return None
    return RawVectors(read.queries, read.vectors.encoder, read.vectors.normalised)


def _reembed(pipeline: Pipeline) -> Reembed | None:
    """Predictions as texts and back, for the strategy that needs it."""
    decoder, reader = pipeline.decoder, pipeline.reader
    if decoder is None:
        return None
    return lambda raw: reader.encode(decoder.text(raw))
