"""What is served, and how its arms fare."""

from __future__ import annotations

from base64 import b64encode
from pathlib import PurePath
from typing import Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from nextvec.errors import RunError
from nextvec.serving.errors import Refusal
from nextvec.serving.request_context import served
from nextvec.serving.schemas import errors
from nextvec.serving.served_models import ServedModel
from nextvec.serving.work import run_blocking

router = APIRouter(prefix="/v1", tags=["models"])


class ModelCard(BaseModel):
    """A served model."""

    id: str
    object: Literal["model"] = "model"
    created: int = Field(description="when the server loaded it, seconds since 1970")
    owned_by: Literal["nextvec"] = "nextvec"
    architecture: str | None
    dimension: int = Field(description="D, numbers of a vector")
    encoder: str | None = Field(description="fingerprint of the encoder whose vectors it takes")
    encoder_name: str | None = Field(description="that encoder's name; null where it has none")
    context: int = Field(description="how many of the last vectors it reads")
    horizons: list[int] = Field(description="how many chunks ahead it predicts")
    engine: str
    precision: str
    parameters: int | None
    capabilities: list[str]

    @classmethod
    def of(cls, model: ServedModel) -> ModelCard:
        predictor = model.predictor
        network = getattr(predictor, "model", None)
        return cls(
            id=model.name,
            created=model.created,
            architecture=getattr(predictor, "architecture", None) or getattr(network, "architecture", None),
            dimension=model.dimension,
            encoder=predictor.encoder,
            encoder_name=predictor.described.get("name"),
            context=model.context,
            horizons=list(model.horizons),
            engine=predictor.engine.name,
            precision=getattr(predictor, "precision", "fp32"),
            parameters=predictor.metadata.get("parameters"),
            capabilities=model.capabilities(),
        )


class ModelList(BaseModel):
    """All of them."""

    object: Literal["list"] = "list"
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

    object: Literal["outcome"] = "outcome"
    model: str
    arm: str


@router.get("/models", summary="All models.", responses=errors(401))
async def models(request: Request) -> ModelList:
    """Names, sizes, encoders and abilities."""
    there = served(request)
    default = None if there.split else there.default
    return ModelList(default=default, split=there.split, data=[ModelCard.of(model) for model in there])


@router.get("/models/{id}", summary="One model.", responses=errors(401, 404, 422))
async def model(request: Request, id: str) -> ModelCard:
    """Its card."""
    return ModelCard.of(served(request).named(id))


@router.post(
    "/outcomes", summary="Report what became of an answer.", responses=errors(400, 401, 404, 408, 413, 422)
)
async def outcomes(request: Request, outcome: OutcomeRequest) -> OutcomeResponse:
    """Scores are summed by arm of the split, for `/metrics`, and written to the log."""
    state: Any = request.app.state
    name, arm = state.answered.take(outcome.request_id)
    state.metrics.scored(name, arm, outcome.score)
    state.requests.write("outcome", id=outcome.request_id, model=name, arm=arm, score=outcome.score)
    return OutcomeResponse(model=name, arm=arm)


# What a model was trained on, so that an evaluation elsewhere can leave it out of the evaluation set.

SENT = ("context", "min_context", "horizons", "task", "sources", "normalised")


class KeysOutput(BaseModel):
    """Base64 of little-endian 64-bit keys, ascending: hashes, from which no text can be read."""

    chunks: str
    documents: str
    ids: str


class TrainingOutput(BaseModel):
    """How a model was trained, and on what."""

    object: Literal["training"] = "training"
    model: str
    training: dict[str, Any] = Field(
        description="context, horizons, task, sources, split; of a split file only its name"
    )
    trained_on: KeysOutput


TRAINING_ERRORS = errors(401, 404, 409, 422, 504)


@router.get("/models/{id}/training", summary="What a model was trained on.", responses=TRAINING_ERRORS)
async def training(request: Request, id: str) -> TrainingOutput:
    """For `nextvec evaluate URL`, which leaves out what stands in training. Keys are hashes of
    texts and document ids: whoever has a text can tell whether it is among them."""
    return await run_blocking(request, training_of, served(request).named(id))


def training_of(model: ServedModel) -> TrainingOutput:
    """The answer. Raises Refusal 409: the run does not list it."""
    predictor = model.predictor
    try:
        keys = predictor.trained_on
    except RunError:
        why = f"{model.name} does not list what it was trained on"
        remedy = "serve the run that it was made from"
        raise Refusal(409, why, code="no_training_list", remedy=remedy) from None
    sent = {name: predictor.training[name] for name in SENT if name in predictor.training}
    split = dict(predictor.training.get("split") or {})
    if split.get("file"):
        split["file"] = PurePath(split["file"]).name
    coded = {
        name: b64encode(getattr(keys, name).astype("<u8").tobytes()).decode("ascii")
        for name in KeysOutput.model_fields
    }
    described = {"sources": [], "task": "next", **sent, "split": split}
    return TrainingOutput(model=model.name, training=described, trained_on=KeysOutput(**coded))
