"""Sessions: vectors or paragraphs one after another, a prediction after each, nothing read twice."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema

from nextvec.data.windows import FloatArray
from nextvec.serving.bodies import embeddings, npy_bytes, read_json, read_npy, vector_of
from nextvec.serving.errors import Refusal, invalid
from nextvec.serving.request_context import assigned, client_of, context_of_request
from nextvec.serving.routes.predict import finite
from nextvec.serving.schemas import JSON, NPY, OUTPUT, PREDICTED, WORKING, errors
from nextvec.serving.sessions import Sessions, Stream
from nextvec.serving.settings import Settings
from nextvec.serving.texts import (
    ChunkOutput,
    Encoded,
    Numbers,
    PassageOutput,
    Passages,
    RequestFields,
    Text,
    check_chunks,
    checked_text,
    context_of,
    passage_outputs,
    texts_of,
    vector_output,
    wanted,
)
from nextvec.serving.work import run_blocking
from nextvec.vectors import RawVectors, unit

router = APIRouter(prefix="/v1/sessions", tags=["sessions"])

PASSAGES = 5
VECTOR = {"$ref": "#/components/schemas/Vector"}


class OpenSession(RequestFields):
    """What the session is of."""

    horizon: Annotated[
        int | None, Field(ge=1, description="chunks ahead; by default the model's nearest")
    ] = None
    query: Annotated[
        Any,
        WithJsonSchema({"anyOf": [VECTOR, {"type": "string"}, {"type": "null"}]}),
        Field(description="a vector to write towards, for models with the capability query"),
    ] = None


class SessionOutput(BaseModel):
    """A session."""

    object: Literal["session"] = "session"
    id: str = Field(description="whoever knows it may go on with the session")
    model: str
    horizon: int
    position: int = Field(description="vectors read")
    streaming: Literal["constant", "cache", "buffer", "window"] = Field(
        description="what the state is: constant in size, a cache that grows, a buffer of bounded length, or "
        "the last vectors, which are read anew at every push"
    )
    state_bytes: int
    expires_in: float = Field(description="seconds until it is forgotten, if no request uses it")


class PushRequest(BaseModel):
    """Vectors [T, D] that come next in the session."""

    model_config = ConfigDict(extra="forbid", strict=True)

    input: Any
    output_type: Literal["decoder", "cosine"] = "decoder"
    encoding_format: Encoded = "float"


class PushTextRequest(BaseModel):
    """A text that comes next in the session."""

    model_config = ConfigDict(extra="forbid", strict=True)

    text: Text
    passages: Passages = None
    encoding_format: Encoded = "float"


class ChunkPrediction(ChunkOutput):
    """A chunk, and what was expected after it."""

    embedding: Numbers


class PushTextResponse(BaseModel):
    """What was read."""

    object: Literal["session.text"] = "session.text"
    id: str
    model: str
    position: int
    chunks: list[ChunkPrediction]
    passages: list[PassageOutput] = Field(description="near what is expected after the last chunk")


BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            JSON: {
                "schema": {
                    "type": "object",
                    "required": ["input"],
                    "additionalProperties": False,
                    "properties": {
                        "input": {"$ref": "#/components/schemas/Vectors"},
                        "output_type": OUTPUT,
                        "encoding_format": {"type": "string", "enum": ["float", "base64"]},
                    },
                }
            },
            NPY: {"schema": {"type": "string", "format": "binary", "description": "an .npy file of [T, D]"}},
        },
    },
    "parameters": [
        {
            "name": "output_type",
            "in": "query",
            "required": False,
            "description": "beside an npy body; in JSON it is a field",
            "schema": OUTPUT,
        }
    ],
}


def _sessions(request: Request) -> Sessions:
    found: Sessions = request.app.state.sessions
    return found


@router.post("", summary="Open a session.", responses=errors(*WORKING))
async def open_session(request: Request, fields: OpenSession) -> SessionOutput:
    """It keeps the model's state, so that every vector that was pushed counts and none is read twice."""
    model = assigned(request, fields.model, fields.user)
    at_horizon = model.at_horizon(fields.horizon)
    query = None
    if fields.query is not None:
        if not model.conditional:
            raise invalid(
                f"{model.name} was not trained to take a query", "invalid_field", "query", "leave it out"
            )
        query = vector_of(fields.query, model.dimension, "query")
    session = await run_blocking(request, at_horizon.stream, query)
    horizon = at_horizon.horizons[at_horizon.head]
    return _told(request, _sessions(request).open(model, session, horizon, client_of(request)))


@router.get("/{id}", summary="How far a session has read.", responses=errors(401, 404, 422))
async def describe_session(request: Request, id: str) -> SessionOutput:
    """Asking keeps it from being forgotten."""
    return _told(request, _found(request, id))


@router.delete("/{id}", status_code=204, summary="Delete a session.", responses=errors(401, 404, 422))
async def delete_session(request: Request, id: str) -> Response:
    """A push that is under way is finished."""
    _sessions(request).close(id)
    return Response(status_code=204)


@router.post(
    "/{id}/vectors",
    summary="Push vectors.",
    response_class=Response,
    openapi_extra=BODY,
    responses={200: PREDICTED, **errors(*WORKING, 409)},
)
async def push_vectors(request: Request, id: str) -> Response:
    """Each is read in turn; answered is what is expected after each. Pushes of one session are taken one at a
    time: 409 while another is under way. After a time-out ask how far the session has read."""
    fields, npy = _push(request)
    stream = _found(request, id, push=True)
    vectors = context_of(stream.model, fields.input, request.app.state.settings).values
    context_of_request(request).vectors = len(vectors)
    raw = await run_blocking(request, _read, stream, vectors)
    values = unit(raw) if fields.output_type == "cosine" else raw
    if npy:
        return Response(npy_bytes(values), media_type=NPY)
    usage = {"vectors": len(vectors)}
    told = embeddings(
        values, stream.model.name, fields.encoding_format, output_type=fields.output_type, usage=usage
    )
    return Response(told, media_type=JSON)


@router.post("/{id}/text", summary="Push a text.", responses=errors(*WORKING, 409))
async def push_text(request: Request, id: str, fields: PushTextRequest) -> PushTextResponse:
    """Its chunks are read in turn, as pushed vectors are."""
    stream = _found(request, id, push=True)
    return await run_blocking(request, _read_text, stream, fields, request.app.state.settings)


def _push(request: Request) -> tuple[PushRequest, bool]:
    """What is pushed, and whether the answer is npy. Raises Refusal, RequestValidationError."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    accept = request.headers.get("accept", "").lower()
    body = context_of_request(request).body
    if kind == NPY:
        given: dict[str, Any] = {**request.query_params, "input": read_npy(body)}
    elif kind == JSON:
        given = read_json(body)
    else:
        raise Refusal(
            415, "the content type is not taken", code="unsupported_type", remedy=f"send {JSON} or {NPY}"
        )
    try:
        fields = PushRequest.model_validate(given)
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_input=False, include_url=False)) from None
    return fields, NPY in accept or (kind == NPY and JSON not in accept)


def _found(request: Request, identity: str, *, push: bool = False) -> Stream:
    """The session, told in the answer's headers and the log. Raises Refusal 404, 429."""
    sessions = _sessions(request)
    stream = sessions.grow(identity) if push else sessions.find(identity)
    context_of_request(request).model = stream.model.name
    return stream


def _told(request: Request, stream: Stream) -> SessionOutput:
    session = stream.session
    return SessionOutput(
        id=stream.id,
        model=stream.model.name,
        horizon=stream.horizon,
        position=session.position,
        streaming=session.streaming,
        state_bytes=session.state_bytes,
        expires_in=round(_sessions(request).left(stream), 3),
    )


def _read(stream: Stream, vectors: FloatArray) -> FloatArray:
    """In a thread: the raw predictions [T, D] after each of the vectors [T, D]."""
    with stream.turn(len(vectors)) as session:
        return finite(session.read(vectors))


def _read_text(stream: Stream, fields: PushTextRequest, settings: Settings) -> PushTextResponse:
    """In a thread: the same of a text's chunks."""
    model = stream.model
    pipeline = texts_of(model)
    n = wanted(pipeline, fields.passages, PASSAGES)
    chunks = pipeline.reader.chunk(checked_text(fields.text, settings))
    check_chunks(len(chunks))
    texts = [chunk.text for chunk in chunks]
    with stream.turn(len(texts)) as session:
        raw = finite(session.read(pipeline.reader.encode(texts).values))
        position = session.position
    told = [
        ChunkPrediction(
            start=chunk.start,
            end=chunk.end,
            text=chunk.text,
            read=True,
            embedding=vector_output(row, fields.encoding_format),
        )
        for chunk, row in zip(chunks, raw, strict=True)
    ]
    passages = []
    if n > 0 and pipeline.library is not None:
        last: RawVectors = model.predictor.vectors(raw[-1:])
        [near] = pipeline.library.nearest(last.unit(), n, [pipeline.library.rows_of(texts)])
        passages = passage_outputs(tuple(near), pipeline)
    return PushTextResponse(id=stream.id, model=model.name, position=position, chunks=told, passages=passages)
