"""What follows a text, or vectors in its place."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from nextvec.decoding.base import RolloutPassage
from nextvec.decoding.pipeline import Pipeline
from nextvec.experiments.surprise import chosen, next_predictor, surprises_of_text
from nextvec.inference.rollout import Guard, RolloutSettings, SnapToCorpus
from nextvec.retrieval.context import Reading, RetrievalContext
from nextvec.retrieval.strategies import Strategy
from nextvec.serving import text_fields
from nextvec.serving.errors import invalid
from nextvec.serving.schemas import WORKING, Encoded, RequestFields, errors
from nextvec.serving.served_models import ServedModel
from nextvec.serving.settings import Settings
from nextvec.vectors import RawVectors

router = APIRouter(prefix="/v1", tags=["texts"])

PASSAGES = 5
ANSWERS = errors(*WORKING, 409)


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

    text: text_fields.Text
    horizon: int | None = Field(None, ge=1, description="chunks ahead; by default the model's nearest")
    passages: text_fields.Passages = None
    query: text_fields.Query = None
    attention: bool = Field(False, description="how much each chunk counted, for models that have it")


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
    chunks: list[text_fields.ChunkOutput]
    decoded: text_fields.DecodedOutput | None = Field(
        description="by the server's decoder; null where it has none"
    )
    passages: list[text_fields.PassageOutput] = Field(
        description="of the store, the nearest first, without what was read"
    )
    confidence: ConfidenceOutput | None = Field(
        description="null where the model was not trained to state any"
    )
    attention: list[float] | None = Field(description="a weight a chunk read, 1 in sum")
    notes: list[str] = Field(description="notes on this answer")


@router.post("/predict/text", summary="Read a text and predict what comes next.", responses=ANSWERS)
async def predict_text(request: Request, fields: PredictTextRequest) -> PredictTextResponse:
    """The text is cut and encoded as the model's training texts were. Told are real passages near the
    predicted vector (with a store), the decoder's text for it (with a decoder) and how sure the model is."""
    return await text_fields.on_model(request, fields, predicted)


def predicted(model: ServedModel, fields: PredictTextRequest, settings: Settings) -> PredictTextResponse:
    """The answer. Raises Refusal, and what the pipeline raises."""
    pipeline, at_horizon = text_fields.texts_of(model), model.at_horizon(fields.horizon)
    horizon = at_horizon.horizons[at_horizon.head]
    n = text_fields.wanted(pipeline, fields.passages, PASSAGES)
    read = pipeline.look(text_fields.checked_text(fields.text, settings), fields.query)
    found = pipeline.after(read, horizon, n)
    attention = text_fields.attention_of(at_horizon, read) if fields.attention else None
    short = pipeline.shortage(read)
    notes = [] if short is None else [short]
    if fields.attention and attention is None:
        notes.append(f"{model.name} has no attention to show")
    sure = found.confidence
    return PredictTextResponse(
        model=model.name,
        horizon=horizon,
        read=found.read,
        chunks=text_fields.chunk_outputs(read),
        decoded=text_fields.decoded_output(found.decoded),
        passages=text_fields.passage_outputs(found.nearest, pipeline),
        confidence=None if sure is None else ConfidenceOutput(kind=sure.kind, value=sure.value),
        attention=attention,
        notes=notes,
    )


# Passages of the store that come next.


class RetrieveRequest(text_fields.SourceRequest):
    """A text, or vectors, that something follows."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"text": "The mill stood by the river. Then it froze.", "n": 3}]}
    )

    n: Annotated[int, Field(ge=1, le=text_fields.MAX_PASSAGES)] = 10
    strategy: str | None = Field(
        None,
        max_length=200,
        description="as of `nextvec retrieve`, such as last, predicted, blend+recency; by default the "
        "server's for this model, or ranked+passage where it has that, else last-mean+passage; with a query "
        "query",
    )


class RetrieveResponse(BaseModel):
    """What was found."""

    object: Literal["retrieval"] = "retrieval"
    model: str
    strategy: str
    read: int
    passages: list[text_fields.PassageOutput]


@router.post("/retrieve", summary="Find the passages that come next.", responses=ANSWERS)
async def retrieve(request: Request, fields: RetrieveRequest) -> RetrieveResponse:
    """Passages of the server's store, the best first, without those that were read."""
    return await text_fields.on_model(request, fields, retrieved)


def retrieved(model: ServedModel, fields: RetrieveRequest, settings: Settings) -> RetrieveResponse:
    """The answer. Raises Refusal, RetrievalError."""
    pipeline = text_fields.texts_of(model)
    library = text_fields.library_of(pipeline)
    steered, named = fields.query is not None, fields.strategy
    own = None if steered else model.strategy
    strategy = Strategy.named(named) if named else own or Strategy.default(pipeline.predictor, steered)
    read = text_fields.read_source(model, fields, settings)
    queries, (decoder, reader) = read.queries, (pipeline.decoder, pipeline.reader)
    query = None if queries is None else RawVectors(queries, read.vectors.encoder, read.vectors.normalised)
    reading = Reading.of_text(read.vectors, library.index, query)
    # Predictions as texts and back, for the strategy that needs it.
    reembed = None if decoder is None else lambda raw: reader.encode(decoder.text(raw))
    context = RetrievalContext(pipeline.predictor, library.store, library.index, reembed=reembed)
    found = strategy.find(context, reading, fields.n)
    pairs = zip(found.rows[0].tolist(), found.scores[0].tolist(), strict=True)
    reordered = "+" in strategy.name
    passages = [
        text_fields.passage_output(library.passage(row, score), library, reordered=reordered)
        for row, score in pairs
    ]
    return RetrieveResponse(model=model.name, strategy=strategy.name, read=read.reading[0], passages=passages)


# How unexpected each chunk of a text is.

PEAKS = 5


class SurpriseRequest(RequestFields):
    """A text of two chunks at least."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"text": "The mill stood by the river. Its wheel turned. Bread is made of flour."}]
        }
    )

    text: text_fields.Text
    finder: Literal["surprise", "surprise-depth", "surprise-ahead", "cosine-drop", "cosine-gap"] | None = (
        Field(
            None,
            description="what topic boundaries are read off, as of `nextvec surprise`; by default what was "
            "fitted for the model",
        )
    )
    threshold: float | None = Field(
        None, ge=-100, le=100, description="deviations above the curve's mean of a boundary"
    )


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


@router.post("/surprise", summary="Measure how unexpected each chunk is.", responses=ANSWERS)
async def surprise(request: Request, fields: SurpriseRequest) -> SurpriseResponse:
    """And where topics change."""
    return await text_fields.on_model(request, fields, surprised)


def surprised(model: ServedModel, fields: SurpriseRequest, settings: Settings) -> SurpriseResponse:
    """The answer. Raises Refusal; DocumentError: one chunk; RunError: the model predicts other than next."""
    reader, text = text_fields.texts_of(model).reader, text_fields.checked_text(fields.text, settings)
    chunks = text_fields.chunks_of(reader, text)
    predictor = next_predictor(model.predictor)
    finder, rule = chosen(predictor, fields.finder, fields.threshold)
    found = surprises_of_text(predictor, reader, text, "text", finder, rule)
    values = [None, *found.surprise.tolist()]
    opens = [True, *found.cuts.tolist()]
    chunks_read = [
        ChunkSurprise(start=chunk.start, end=chunk.end, text=chunk.text, surprise=value, opens_segment=opened)
        for chunk, value, opened in zip(chunks, values, opens, strict=True)
    ]
    return SurpriseResponse(
        model=model.name,
        finder=found.finder,
        mean=float(found.surprise.mean()),
        chunks=chunks_read,
        boundaries=[first for first, _ in found.segments()[1:]],
        peaks=found.peaks(PEAKS).tolist(),
    )


# On and on from a text, or from vectors.

MAX_STEPS = 64


class RolloutRequest(text_fields.SourceRequest):
    """Where it begins, how far it goes, and what holds it on course (as of `nextvec rollout`)."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"text": "The mill stood by the river. Then it froze.", "steps": 2}]}
    )

    steps: Annotated[int, Field(ge=1, le=MAX_STEPS)] = 5
    passages: text_fields.Passages = None
    min_cosine: float | None = Field(
        None, ge=-1, le=1, description="stop when the cosine to the last chunk read falls below"
    )
    max_repetition: float = Field(
        0.999, ge=-1, le=1, description="stop when the cosine to the step before rises above"
    )
    rescale: bool = Field(True, description="bring predictions to the mean length of what was read")
    snap: bool = Field(False, description="pull predictions to the nearest passages; needs a store")
    snap_threshold: Annotated[float, Field(ge=-1, le=1)] = 0.6
    snap_blend: Annotated[float, Field(ge=0, le=1)] = 0.5
    seed: int | None = Field(
        None, ge=0, lt=2**32, description="draw every step; for models with the capability samples"
    )
    encoding_format: Encoded = "float"

    def rollout_settings(self, pipeline: Pipeline) -> RolloutSettings:
        """As a rollout takes it. Raises Refusal 409: snapping without a store."""
        if self.snap:
            text_fields.library_of(pipeline)
        guard = Guard(self.min_cosine, self.max_repetition, self.rescale)
        snap = SnapToCorpus(self.snap_threshold, self.snap_blend) if self.snap else None
        return RolloutSettings(guard, snap, seed=self.seed)


class StepOutput(BaseModel):
    """One step."""

    step: int = Field(description="from 1")
    embedding: text_fields.Numbers = Field(description="the prediction, raw")
    length: float = Field(description="of the prediction before it was rescaled")
    drift: float = Field(description="cosine to the last chunk that was really read")
    repetition: float | None = Field(description="cosine to the step before; null at the first")
    snapped: text_fields.PassageOutput | None = Field(description="the passage it was pulled to")
    decoded: text_fields.DecodedOutput | None
    passages: list[text_fields.PassageOutput]


class RolloutResponse(BaseModel):
    """All steps."""

    object: Literal["rollout"] = "rollout"
    model: str
    read: int
    steps: list[StepOutput]
    objection: str | None = Field(description="why it ended before the last step requested")


@router.post("/rollout", summary="Go on step by step.", responses=ANSWERS)
async def rollout(request: Request, fields: RolloutRequest) -> RolloutResponse:
    """Every step reads those before it as if they were text."""
    return await text_fields.on_model(request, fields, rolled_out)


def rolled_out(model: ServedModel, fields: RolloutRequest, settings: Settings) -> RolloutResponse:
    """The answer. Raises Refusal, and what the pipeline raises."""
    pipeline = text_fields.texts_of(model)
    if fields.seed is not None and not pipeline.predictor.generative:
        message = f"{model.name} has no distribution to draw from"
        raise invalid(message, "invalid_field", "seed", "leave it out")
    n = text_fields.wanted(pipeline, fields.passages, 1)
    how = fields.rollout_settings(pipeline)
    found = pipeline.go_on(text_fields.read_source(model, fields, settings), fields.steps, how, n)
    steps = [_output(step, pipeline, fields.encoding_format) for step in found.steps]
    return RolloutResponse(model=model.name, read=found.read, steps=steps, objection=found.objection)


def _output(rolled: RolloutPassage, pipeline: Pipeline, encoding: str) -> StepOutput:
    step, library = rolled.step, pipeline.library
    snapped = rolled.snapped
    return StepOutput(
        step=rolled.number,
        embedding=text_fields.vector_output(step.raw, encoding),
        length=step.length,
        drift=step.drift,
        repetition=step.repetition,
        snapped=None if snapped is None or library is None else text_fields.passage_output(snapped, library),
        decoded=text_fields.decoded_output(rolled.decoded),
        passages=text_fields.passage_outputs(rolled.nearest, pipeline),
    )
