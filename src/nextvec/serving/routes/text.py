"""What follows a text."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from nextvec.decoding.pipeline import Pipeline, TextContext
from nextvec.experiments.surprise import chosen, next_predictor, surprises_of_text
from nextvec.retrieval.context import Reading, Reembed, RetrievalContext
from nextvec.retrieval.strategies import Strategy
from nextvec.serving.models import ServedModel
from nextvec.serving.request_context import assigned
from nextvec.serving.schemas import WORKING, errors
from nextvec.serving.settings import Settings
from nextvec.serving.texts import (
    MAX_PASSAGES,
    ChunkOutput,
    DecodedOutput,
    PassageOutput,
    Query,
    RequestFields,
    SourceRequest,
    Text,
    attention_of,
    check_chunks,
    checked_text,
    chunk_outputs,
    decoded_output,
    library_of,
    passage_output,
    passage_outputs,
    read_source,
    texts_of,
    wanted,
)
from nextvec.serving.texts import Passages as PassageCount
from nextvec.serving.work import run_blocking
from nextvec.vectors import RawVectors

router = APIRouter(prefix="/v1", tags=["texts"])

PASSAGES = 5


class PredictTextRequest(RequestFields):
    """A text that is read."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "text": "The mill stood by the river. Its wheel turned.\n\nThen the river froze.",
                    "passages": 3,
                    "attention": True,
                }
            ]
        }
    )

    text: Text
    horizon: Annotated[
        int | None, Field(ge=1, description="chunks ahead; by default the model's nearest")
    ] = None
    passages: PassageCount = None
    query: Query = None
    attention: Annotated[bool, Field(description="how much each chunk counted, for models that have it")] = (
        False
    )


class ConfidenceOutput(BaseModel):
    """How sure the model is."""

    kind: Literal["continuation", "agreement"] = Field(
        description="continuation: calibrated probability that the first text given follows. agreement: mean "
        "cosine between samples, not a probability"
    )
    value: float


class PredictTextResponse(BaseModel):
    """What comes next, as far as the model knows."""

    object: Literal["prediction"] = "prediction"
    model: str
    horizon: int = Field(description="so many chunks after the last one")
    read: int = Field(description="chunks that the model read, the last ones of the text")
    chunks: list[ChunkOutput]
    decoded: DecodedOutput | None = Field(description="by the server's decoder; null where it has none")
    passages: list[PassageOutput] = Field(
        description="of the store, the nearest first, without what was read"
    )
    confidence: ConfidenceOutput | None = Field(
        description="null where the model was not trained to state any"
    )
    attention: list[float] | None = Field(description="a weight a chunk read, 1 in sum")
    notes: list[str] = Field(description="notes on this answer")


@router.post(
    "/predict/text",
    summary="Read a text and predict what comes next.",
    responses=errors(*WORKING, 409),
)
async def predict_text(request: Request, fields: PredictTextRequest) -> PredictTextResponse:
    """The text is cut and encoded as the model's training texts were. Told are real passages near the
    predicted vector (with a store), the decoder's text for it (with a decoder) and how sure the model is."""
    model = assigned(request, fields.model, fields.user)
    return await run_blocking(request, predicted, model, fields, request.app.state.settings)


def predicted(model: ServedModel, fields: PredictTextRequest, settings: Settings) -> PredictTextResponse:
    """The answer. Raises Refusal, and what the pipeline raises."""
    pipeline, at_horizon = texts_of(model), model.at_horizon(fields.horizon)
    horizon = at_horizon.horizons[at_horizon.head]
    n = wanted(pipeline, fields.passages, PASSAGES)
    read = pipeline.look(checked_text(fields.text, settings), fields.query)
    found = pipeline.after(read, horizon, n)
    attention = attention_of(at_horizon, read) if fields.attention else None
    short = pipeline.shortage(read)
    notes = [] if short is None else [short]
    if fields.attention and attention is None:
        notes.append(f"{model.name} has no attention to show")
    sure = found.confidence
    return PredictTextResponse(
        model=model.name,
        horizon=horizon,
        read=found.read,
        chunks=chunk_outputs(read),
        decoded=decoded_output(found.decoded),
        passages=passage_outputs(found.nearest, pipeline),
        confidence=None if sure is None else ConfidenceOutput(kind=sure.kind, value=sure.value),
        attention=attention,
        notes=notes,
    )


# Passages of the store that come next.


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
async def retrieve(request: Request, fields: RetrieveRequest) -> RetrieveResponse:
    """Passages of the server's store, the best first, without those that were read."""
    model = assigned(request, fields.model, fields.user)
    return await run_blocking(request, retrieved, model, fields, request.app.state.settings)


def retrieved(model: ServedModel, fields: RetrieveRequest, settings: Settings) -> RetrieveResponse:
    """The answer. Raises Refusal, RetrievalError."""
    pipeline = texts_of(model)
    library = library_of(pipeline)
    steered, named = fields.query is not None, fields.strategy
    strategy = Strategy.named(named) if named else Strategy.default(pipeline.predictor, steered)
    read = read_source(model, fields, settings)
    reading = Reading.of_text(read.vectors, library.index, _query(read))
    context = RetrievalContext(pipeline.predictor, library.store, library.index, reembed=_reembed(pipeline))
    found = strategy.find(context, reading, fields.n)
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


# How unexpected each chunk of a text is.

PEAKS = 5


class SurpriseRequest(RequestFields):
    """A text of two chunks at least."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"text": "The mill stood by the river. Its wheel turned. Bread is made of flour."}]
        }
    )

    text: Text
    finder: Annotated[
        Literal["surprise", "surprise-depth", "surprise-ahead", "cosine-drop", "cosine-gap"] | None,
        Field(
            description="what topic boundaries are read off, as of `nextvec surprise`; by default what was "
            "fitted for the model"
        ),
    ] = None
    threshold: Annotated[
        float | None, Field(ge=-100, le=100, description="deviations above the curve's mean of a boundary")
    ] = None


class ChunkSurprise(BaseModel):
    """A chunk."""

    start: int
    end: int
    text: str
    surprise: float | None = Field(description="1 - cosine of what was expected and this; null of the first")
    opens_segment: bool


class SurpriseResponse(BaseModel):
    """The text, chunk by chunk."""

    object: Literal["surprise"] = "surprise"
    model: str
    finder: str
    mean: float
    chunks: list[ChunkSurprise]
    boundaries: list[int] = Field(description="chunks that open a segment, without the first; from 0")
    peaks: list[int] = Field(description="the most surprising chunks, the highest first")


@router.post("/surprise", summary="Measure how unexpected each chunk is.", responses=errors(*WORKING, 409))
async def surprise(request: Request, fields: SurpriseRequest) -> SurpriseResponse:
    """And where topics change."""
    model = assigned(request, fields.model, fields.user)
    return await run_blocking(request, surprised, model, fields, request.app.state.settings)


def surprised(model: ServedModel, fields: SurpriseRequest, settings: Settings) -> SurpriseResponse:
    """The answer. Raises Refusal; DocumentError: one chunk; RunError: the model predicts other than next."""
    reader, text = texts_of(model).reader, checked_text(fields.text, settings)
    chunks = reader.chunk(text)
    check_chunks(len(chunks))
    predictor = next_predictor(model.predictor)
    finder, rule = chosen(predictor, fields.finder, fields.threshold)
    found = surprises_of_text(predictor, reader, text, "text", finder, rule)
    values = [None, *found.surprise.tolist()]
    opens = [True, *found.cuts.tolist()]
    told = [
        ChunkSurprise(start=chunk.start, end=chunk.end, text=chunk.text, surprise=value, opens_segment=opened)
        for chunk, value, opened in zip(chunks, values, opens, strict=True)
    ]
    return SurpriseResponse(
        model=model.name,
        finder=found.finder,
        mean=float(found.surprise.mean()),
        chunks=told,
        boundaries=[first for first, _ in found.segments()[1:]],
        peaks=found.peaks(PEAKS).tolist(),
    )
