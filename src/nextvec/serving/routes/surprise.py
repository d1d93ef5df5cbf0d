"""How unexpected each chunk of a text is."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from nextvec.evaluation.boundaries import CURVES
from nextvec.experiments.surprise import next_predictor, surprises_of_text
from nextvec.serving.models import ServedModel
from nextvec.serving.schemas import WORKING, errors
from nextvec.serving.settings import Settings
from nextvec.serving.texts import RequestFields, Text, check_chunks, checked_text, texts_of
from nextvec.serving.variants import assigned
from nextvec.serving.work import run_blocking

router = APIRouter(prefix="/v1", tags=["texts"])

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
        Literal["surprise", "surprise-depth", "surprise-ahead", "cosine-drop", "cosine-gap"],
        Field(description="what topic boundaries are read off, as of `nextvec surprise`"),
    ] = "surprise-ahead"
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


@router.post("/surprise", summary="Tell how unexpected each chunk is.", responses=errors(*WORKING, 409))
async def surprise(request: Request, ask: SurpriseRequest) -> SurpriseResponse:
    """And where topics change."""
    model = assigned(request, ask.model, ask.user)
    return await run_blocking(request, surprised, model, ask, request.app.state.settings)


def surprised(model: ServedModel, ask: SurpriseRequest, settings: Settings) -> SurpriseResponse:
    """The answer. Raises Refusal; DocumentError: one chunk; RunError: the model predicts other than next."""
    reader, text = texts_of(model).reader, checked_text(ask.text, settings)
    chunks = reader.chunk(text)
    check_chunks(len(chunks))
    rule = None if ask.threshold is None else replace(CURVES[ask.finder].usual, threshold=ask.threshold)
    found = surprises_of_text(next_predictor(model.predictor), reader, text, "text", ask.finder, rule)
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
