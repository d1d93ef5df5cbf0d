"""What is served, and how its arms fare."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from nextvec.serving.request_context import served
from nextvec.serving.schemas import errors

router = APIRouter(prefix="/v1", tags=["models"])


class ModelCard(BaseModel):
    """A served model."""

    id: str
    object: str
    owned_by: str
    architecture: str | None
    dimension: int = Field(description="D, numbers of a vector")
    encoder: str | None = Field(description="fingerprint of the encoder whose vectors it takes")
    context: int = Field(description="how many of the last vectors it reads")
    horizons: list[int] = Field(description="how many chunks ahead it predicts")
    engine: str
    precision: str
    parameters: int | None
    capabilities: list[str]


class ModelList(BaseModel):
    """All of them."""

    object: str
    default: str | None = Field(description="answers when none is named; null where a split decides")
    split: dict[str, float] = Field(description="shares of the requests that name no model")
    data: list[ModelCard]


class OutcomeRequest(BaseModel):
    """How good an answer turned out to be."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"examples": [{"request_id": "b7c0f4d2a19e4f6c8d3b5a71", "score": 1.0}]},
    )

    request_id: str = Field(min_length=1, max_length=64, description="X-Request-Id of the answer")
    score: float = Field(ge=-1e6, le=1e6, description="1 for a success, 0 for none, or any measure")


class OutcomeResponse(BaseModel):
    """What was counted."""

    object: str
    model: str
    arm: str


@router.get("/models", summary="All models.", responses=errors(401))
async def models(request: Request) -> ModelList:
    """Names, sizes, encoders and abilities."""
    there = served(request)
    return ModelList(
        object="list",
        default=None if there.split else there.default,
        split=there.split,
        data=[ModelCard(**model.card) for model in there],
    )


@router.get("/models/{id}", summary="One model.", responses=errors(401, 404, 422))
async def model(request: Request, id: str) -> ModelCard:
    """Its card."""
    return ModelCard(**served(request).named(id).card)


@router.post(
    "/outcomes", summary="Tell what became of an answer.", responses=errors(400, 401, 404, 408, 413, 422)
)
async def outcomes(request: Request, outcome: OutcomeRequest) -> OutcomeResponse:
    """Scores are summed by arm of the split, for `/metrics`, and written to the log."""
    state: Any = request.app.state
    name, arm = state.answered.take(outcome.request_id)
    state.metrics.scored(name, arm, outcome.score)
    state.requests.write("outcome", id=outcome.request_id, model=name, arm=arm, score=outcome.score)
    return OutcomeResponse(object="outcome", model=name, arm=arm)
