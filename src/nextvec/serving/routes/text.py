"""What follows a text."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from nextvec.serving.models import ServedModel
from nextvec.serving.schemas import WORKING, errors
from nextvec.serving.settings import Settings
from nextvec.serving.texts import (
    ChunkOutput,
    DecodedOutput,
    PassageOutput,
    Query,
    RequestFields,
    Text,
    attention_of,
    checked_text,
    chunk_outputs,
    decoded_output,
    passage_outputs,
    texts_of,
    wanted,
)
from nextvec.serving.texts import Passages as PassageCount
from nextvec.serving.variants import assigned
from nextvec.serving.work import run_blocking

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
    attention: Annotated[bool, Field(description="how much each chunk counted, for models that can tell")] = (
        False
    )


class ConfidenceOutput(BaseModel):
    """How sure the model is."""

    kind: Literal["continuation", "agreement"] = Field(
        description="continuation: calibrated probability that the first text told follows. agreement: mean "
        "cosine between samples, no probability"
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
    notes: list[str] = Field(description="what to know of this answer, in words")


@router.post(
    "/predict/text",
    summary="Read a text and tell what comes next.",
    responses=errors(*WORKING, 409),
)
async def predict_text(request: Request, ask: PredictTextRequest) -> PredictTextResponse:
    """The text is cut and encoded as the model's training texts were. Told are real passages near the
    predicted vector (with a store), the decoder's text for it (with a decoder) and how sure the model is."""
    model = assigned(request, ask.model, ask.user)
    return await run_blocking(request, predicted, model, ask, request.app.state.settings)


def predicted(model: ServedModel, ask: PredictTextRequest, settings: Settings) -> PredictTextResponse:
    """The answer. Raises Refusal, and what the pipeline raises."""
    pipeline, at_horizon = texts_of(model), model.at_horizon(ask.horizon)
    horizon = at_horizon.horizons[at_horizon.head]
    n = wanted(pipeline, ask.passages, PASSAGES)
    read = pipeline.look(checked_text(ask.text, settings), ask.query)
    found = pipeline.after(read, horizon, n)
    attention = attention_of(at_horizon, read) if ask.attention else None
    short = pipeline.shortage(read)
    notes = [] if short is None else [short]
    if ask.attention and attention is None:
        notes.append(f"{model.name} has no attention to tell of")
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
