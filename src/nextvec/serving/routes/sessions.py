"""Sessions: vectors or paragraphs one after another, a prediction after each, nothing read twice."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from nextvec.data.windows import FloatArray
from nextvec.serving import schemas, text_fields
from nextvec.serving.request_context import assigned, client_of, context_of_request
from nextvec.serving.routes.predict import answer, finite, query_of, received
from nextvec.serving.sessions import Sessions, Stream
from nextvec.serving.settings import Settings
from nextvec.serving.work import run_blocking
from nextvec.vectors import RawVectors, unit

router = APIRouter(prefix="/v1/sessions", tags=["sessions"])

PASSAGES = 5
IN_ADDRESS = ("output_type", "encoding_format")


class OpenSession(schemas.RequestFields):
    """What the session is of."""

    horizon: int | None = Field(None, ge=1, description="chunks ahead; by default the model's nearest")
    query: Annotated[
        Any,
        WithJsonSchema({"anyOf": [schemas.VECTOR, {"type": "string"}, {"type": "null"}]}),
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

    input: schemas.Vectors
    output_type: schemas.OutputType = "decoder"
    encoding_format: schemas.Encoded = "float"


class PushTextRequest(BaseModel):
    """A text that comes next in the session."""

    model_config = ConfigDict(extra="forbid", strict=True)

    text: text_fields.Text
    passages: text_fields.Passages = None
    encoding_format: schemas.Encoded = "float"


class ChunkPrediction(text_fields.ChunkOutput):
    """A chunk, and what was expected after it."""

    embedding: text_fields.Numbers


class PushTextResponse(BaseModel):
    """What was read."""

    object: Literal["session.text"] = "session.text"
    id: str
    model: str
    position: int
    chunks: list[ChunkPrediction]
    passages: list[text_fields.PassageOutput] = Field(
        description="near what is expected after the last chunk"
    )


def _sessions(request: Request) -> Sessions:
    found: Sessions = request.app.state.sessions
    return found


@router.post("", summary="Open a session.", responses=schemas.errors(*schemas.WORKING))
async def open_session(request: Request, fields: OpenSession) -> SessionOutput:
    """It keeps the model's state, so that every vector that was pushed counts and none is read twice."""
    model = assigned(request, fields.model, fields.user)
    at_horizon = model.at_horizon(fields.horizon)
    session = await run_blocking(request, at_horizon.stream, query_of(model, fields.query))
    horizon = at_horizon.horizons[at_horizon.head]
    return _output(request, _sessions(request).open(model, session, horizon, client_of(request)))


@router.get("/{id}", summary="How far a session has read.", responses=schemas.errors(401, 404, 422))
async def describe_session(request: Request, id: str) -> SessionOutput:
    """Asking keeps it from being forgotten."""
    return _output(request, _found(request, id))


@router.delete("/{id}", status_code=204, summary="Delete a session.", responses=schemas.errors(401, 404, 422))
async def delete_session(request: Request, id: str) -> Response:
    """A push that is under way is finished."""
    _sessions(request).close(id)
    return Response(status_code=204)


@router.post(
    "/{id}/vectors",
    summary="Push vectors.",
    response_class=Response,
    openapi_extra=schemas.body_of(PushRequest, *IN_ADDRESS),
    responses={200: schemas.PREDICTED, **schemas.errors(*schemas.WORKING, 409)},
)
async def push_vectors(request: Request, id: str) -> Response:
    """Each is read in turn; answered is what is expected after each. Pushes of one session are taken one at a
    time: 409 while another is under way. After a time-out ask how far the session has read."""
    fields, npy = received(request, PushRequest, IN_ADDRESS)
    stream = _found(request, id, push=True)
    vectors = text_fields.context_of(stream.model, fields.input, request.app.state.settings).values
    context_of_request(request).vectors = len(vectors)
    raw = await run_blocking(request, _read, stream, vectors)
    values = unit(raw) if fields.output_type == "cosine" else raw
    return answer(values, stream.model.name, fields, len(vectors), npy=npy)


@router.post("/{id}/text", summary="Push a text.", responses=schemas.errors(*schemas.WORKING, 409))
async def push_text(request: Request, id: str, fields: PushTextRequest) -> PushTextResponse:
    """Its chunks are read in turn, as pushed vectors are."""
    stream = _found(request, id, push=True)
    return await run_blocking(request, _read_text, stream, fields, request.app.state.settings)


def _found(request: Request, identity: str, *, push: bool = False) -> Stream:
    """The session, told in the answer's headers and the log. Raises Refusal 404, 429."""
    sessions = _sessions(request)
    stream = sessions.grow(identity) if push else sessions.find(identity)
    context_of_request(request).model = stream.model.name
    return stream


def _output(request: Request, stream: Stream) -> SessionOutput:
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
    pipeline = text_fields.texts_of(model)
    n = text_fields.wanted(pipeline, fields.passages, PASSAGES)
    chunks = text_fields.chunks_of(pipeline.reader, text_fields.checked_text(fields.text, settings))
    message = [chunk.text for chunk in chunks]
    with stream.turn(len(message)) as session:
        raw = finite(session.read(pipeline.reader.encode(message).values))
        position = session.position
    chunks_read = [
        ChunkPrediction.of(chunk, read=True, embedding=text_fields.vector_output(row, fields.encoding_format))
        for chunk, row in zip(chunks, raw, strict=True)
    ]
    passages = []
    if n > 0 and pipeline.library is not None:
        last: RawVectors = model.predictor.vectors(raw[-1:])
        [near] = pipeline.library.nearest(last.unit(), n, [pipeline.library.rows_of(message)])
        passages = text_fields.passage_outputs(tuple(near), pipeline)
    return PushTextResponse(
        id=stream.id, model=model.name, position=position, chunks=chunks_read, passages=passages
    )
