"""On and on from a text, or from vectors."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from nextvec.decoding.base import RolloutPassage
from nextvec.decoding.pipeline import Pipeline
from nextvec.inference.rollout import Guard, RolloutSettings, SnapToCorpus
from nextvec.serving.errors import invalid
from nextvec.serving.models import ServedModel
from nextvec.serving.request_context import assigned
from nextvec.serving.schemas import WORKING, errors
from nextvec.serving.settings import Settings
from nextvec.serving.texts import (
    DecodedOutput,
    Encoded,
    Numbers,
    PassageOutput,
    Passages,
    SourceRequest,
    decoded_output,
    library_of,
    passage_output,
    passage_outputs,
    read_source,
    texts_of,
    vector_output,
    wanted,
)
from nextvec.serving.work import run_blocking

router = APIRouter(prefix="/v1", tags=["texts"])

MAX_STEPS = 64


class RolloutRequest(SourceRequest):
    """Where it begins, how far it goes, and what holds it on course (as of `nextvec rollout`)."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"text": "The mill stood by the river. Then it froze.", "steps": 2}]}
    )

    steps: Annotated[int, Field(ge=1, le=MAX_STEPS)] = 5
    passages: Passages = None
    min_cosine: Annotated[
        float | None,
        Field(ge=-1, le=1, description="stop when the cosine to the last chunk read falls below"),
    ] = None
    max_repetition: Annotated[
        float, Field(ge=-1, le=1, description="stop when the cosine to the step before rises above")
    ] = 0.999
    rescale: Annotated[bool, Field(description="bring predictions to the mean length of what was read")] = (
        True
    )
    snap: Annotated[bool, Field(description="pull predictions to the nearest passages; needs a store")] = (
        False
    )
    snap_threshold: Annotated[float, Field(ge=-1, le=1)] = 0.6
    snap_blend: Annotated[float, Field(ge=0, le=1)] = 0.5
    seed: Annotated[
        int | None,
        Field(ge=0, lt=2**32, description="draw every step; for models with the capability samples"),
    ] = None
    encoding_format: Encoded = "float"

    def course(self, pipeline: Pipeline) -> RolloutSettings:
        """As a rollout takes it. Raises Refusal 409: snapping without a store."""
        if self.snap:
            library_of(pipeline)
        guard = Guard(self.min_cosine, self.max_repetition, self.rescale)
        return RolloutSettings(
            guard, SnapToCorpus(self.snap_threshold, self.snap_blend) if self.snap else None, seed=self.seed
        )


class StepOutput(BaseModel):
    """One step."""

    step: int = Field(description="from 1")
    embedding: Numbers = Field(description="the prediction, raw")
    length: float = Field(description="of the prediction before it was rescaled")
    drift: float = Field(description="cosine to the last chunk that was really read")
    repetition: float | None = Field(description="cosine to the step before; null at the first")
    snapped: PassageOutput | None = Field(description="the passage it was pulled to")
    decoded: DecodedOutput | None
    passages: list[PassageOutput]


class RolloutResponse(BaseModel):
    """All steps."""

    object: Literal["rollout"] = "rollout"
    model: str
    read: int
    steps: list[StepOutput]
    objection: str | None = Field(description="why it ended before the last step requested")


@router.post("/rollout", summary="Go on step by step.", responses=errors(*WORKING, 409))
async def rollout(request: Request, fields: RolloutRequest) -> RolloutResponse:
    """Every step reads those before it as if they were text."""
    model = assigned(request, fields.model, fields.user)
    return await run_blocking(request, rolled_out, model, fields, request.app.state.settings)


def rolled_out(model: ServedModel, fields: RolloutRequest, settings: Settings) -> RolloutResponse:
    """The answer. Raises Refusal, and what the pipeline raises."""
    pipeline = texts_of(model)
    if fields.seed is not None and not pipeline.predictor.generative:
        raise invalid(
            f"{model.name} has no distribution to draw from", "invalid_field", "seed", "leave it out"
        )
    n = wanted(pipeline, fields.passages, 1)
    course = fields.course(pipeline)
    found = pipeline.go_on(read_source(model, fields, settings), fields.steps, course, n)
    steps = [_told(step, pipeline, fields.encoding_format) for step in found.steps]
    return RolloutResponse(model=model.name, read=found.read, steps=steps, objection=found.objection)


def _told(rolled: RolloutPassage, pipeline: Pipeline, encoding: str) -> StepOutput:
    step, library = rolled.step, pipeline.library
    snapped = rolled.snapped
    return StepOutput(
        step=rolled.number,
        embedding=vector_output(step.raw, encoding),
        length=step.length,
        drift=step.drift,
        repetition=step.repetition,
        snapped=None if snapped is None or library is None else passage_output(snapped, library),
        decoded=decoded_output(rolled.decoded),
        passages=passage_outputs(rolled.nearest, pipeline),
    )
