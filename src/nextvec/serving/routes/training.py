"""What a model was trained on, so that a judge elsewhere can leave it out of the exam."""

from __future__ import annotations

from base64 import b64encode
from pathlib import PurePath
from typing import Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from nextvec.data.trained import Keys
from nextvec.errors import RunError
from nextvec.serving.errors import Refusal
from nextvec.serving.models import ServedModel
from nextvec.serving.request_context import served
from nextvec.serving.schemas import errors
from nextvec.serving.work import run_blocking

router = APIRouter(prefix="/v1", tags=["models"])

TOLD = ("context", "min_context", "horizons", "task", "sources", "normalised")


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


@router.get(
    "/models/{id}/training",
    summary="What a model was trained on.",
    responses=errors(401, 404, 409, 422, 504),
)
async def training(request: Request, id: str) -> TrainingOutput:
    """For `nextvec evaluate URL`, which leaves out of the exam what stands in training. Keys are hashes of
    texts and document ids: whoever has a text can tell whether it is among them."""
    return await run_blocking(request, training_of, served(request).named(id))


def training_of(model: ServedModel) -> TrainingOutput:
    """The answer. Raises Refusal 409: the run does not list it."""
    predictor = model.predictor
    try:
        keys = predictor.trained_on
    except RunError:
        raise Refusal(
            409,
            f"{model.name} does not list what it was trained on",
            code="no_training_list",
            remedy="serve the run that it was made from",
        ) from None
    said = {name: predictor.training[name] for name in TOLD if name in predictor.training}
    split = dict(predictor.training.get("split") or {})
    if split.get("file"):
        split["file"] = PurePath(split["file"]).name
    return TrainingOutput(
        model=model.name,
        training={"sources": [], "task": "next", **said, "split": split},
        trained_on=KeysOutput(
            chunks=_coded(keys.chunks), documents=_coded(keys.documents), ids=_coded(keys.ids)
        ),
    )


def _coded(keys: Keys) -> str:
    return b64encode(keys.astype("<u8").tobytes()).decode("ascii")
