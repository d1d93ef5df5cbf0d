"""Texts as vectors, by the encoder of a served model."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import ConfigDict, Field

from nextvec.serving.bodies import embeddings
from nextvec.serving.errors import Refusal
from nextvec.serving.models import ServedModel
from nextvec.serving.schemas import JSON, WORKING, errors
from nextvec.serving.settings import Settings
from nextvec.serving.texts import MAX_CHUNKS, Encoded, RequestFields, Text, checked_text, texts_of
from nextvec.serving.variants import assigned
from nextvec.serving.work import run_blocking

router = APIRouter(prefix="/v1", tags=["texts"])

ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A vector a text.",
        "content": {JSON: {"schema": {"$ref": "#/components/schemas/Embeddings"}}},
    }
}


class EncodeRequest(RequestFields):
    """Texts, each of which becomes one vector."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"input": ["The mill stood by the river.", "Then the river froze."]}]}
    )

    input: Text | Annotated[list[Text], Field(min_length=1, max_length=MAX_CHUNKS)]
    output_type: Annotated[
        Literal["decoder", "cosine"], Field(description="raw, as models read it, or at unit length")
    ] = "decoder"
    encoding_format: Encoded = "float"


@router.post(
    "/encode",
    summary="Encode texts.",
    response_class=Response,
    responses=ANSWER | errors(*WORKING, 409),
)
@router.post(
    "/embeddings",
    summary="The same, under the name that OpenAI clients know.",
    response_class=Response,
    responses=ANSWER | errors(*WORKING, 409),
)
async def encode(request: Request, ask: EncodeRequest) -> Response:
    """One vector a text, which is not cut: of one too long for the encoder the beginning counts."""
    model = assigned(request, ask.model, ask.user)
    answer = await run_blocking(request, encoded, model, ask, request.app.state.settings)
    return Response(answer, media_type=JSON)


def encoded(model: ServedModel, ask: EncodeRequest, settings: Settings) -> bytes:
    """The answer. Raises Refusal, EncoderError."""
    reader = texts_of(model).reader
    texts = [ask.input] if isinstance(ask.input, str) else ask.input
    if sum(map(len, texts)) > settings.max_text:
        raise Refusal(
            422,
            f"more than {settings.max_text} characters in all",
            code="text_too_long",
            param="input",
            remedy="send fewer texts a request",
        )
    raw = reader.encode([checked_text(text, settings, "input") for text in texts])
    values = (raw.unit() if ask.output_type == "cosine" else raw).values
    return embeddings(
        values, model.name, ask.encoding_format, output_type=ask.output_type, usage={"vectors": len(values)}
    )
