"""What the routes on texts share: fields of requests and answers, and checks of what they need."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, Self, TypeVar

import torch
from fastapi import Request
from pydantic import BaseModel, Field, WithJsonSchema

from nextvec.client.wire import packed
from nextvec.corpus.chunking import Chunk
from nextvec.corpus.documents import normalise_text
from nextvec.corpus.reading import TextReader
from nextvec.data.windows import FloatArray
from nextvec.decoding.base import Passage
from nextvec.decoding.nearest import Library
from nextvec.decoding.pipeline import Pipeline, TextContext
from nextvec.inference.engines import tensors
from nextvec.inference.predictor import ModelPredictor
from nextvec.serving.bodies import windows_of
from nextvec.serving.errors import Refusal, invalid
from nextvec.serving.request_context import assigned
from nextvec.serving.schemas import VECTORS, RequestFields
from nextvec.serving.served_models import ServedModel
from nextvec.serving.settings import Settings
from nextvec.serving.work import run_blocking
from nextvec.vectors import RawVectors

F = TypeVar("F", bound=RequestFields)
R = TypeVar("R")
MAX_PASSAGES, MAX_CHUNKS = 100, 1024

Text = Annotated[str, Field(min_length=1, pattern=r"\S", description="paragraphs, in the order of reading")]
Query = Annotated[
    str | None,
    Field(pattern=r"\S", description="a text to write towards, for models with the capability query"),
]
Passages = Annotated[
    int | None, Field(ge=0, le=MAX_PASSAGES, description="real passages wanted; needs a store")
]
Numbers = list[float] | str
"""A vector in an answer: numbers, or base64."""


class SourceRequest(RequestFields):
    """A request that reads a text, or vectors in its place."""

    text: Annotated[str | None, Field(min_length=1, pattern=r"\S")] = None
    input: Annotated[Any, WithJsonSchema({"anyOf": [VECTORS, {"type": "null"}]})] = None
    query: Query = None


class ChunkOutput(BaseModel):
    """A chunk of the text. Offsets count characters of the text after its line ends were made one kind."""

    start: int
    end: int
    text: str
    read: bool = Field(description="whether the model read it; it reads the last ones of a long text")

    @classmethod
    def of(cls, chunk: Chunk, **more: Any) -> Self:
        return cls(start=chunk.start, end=chunk.end, text=chunk.text, **more)


class PassageOutput(BaseModel):
    """A chunk of the store."""

    text: str
    score: float = Field(description="higher is better; the cosine, unless candidates were reordered")
    cosine: float | None = Field(description="to what was searched for; null where candidates were reordered")
    title: str | None
    source: str | None
    doc_id: str
    position: int = Field(description="of the chunk in its document, from 0")
    probability: float | None = Field(description="that it follows, where the model estimates it")


class DecodedOutput(BaseModel):
    """What a decoder made of a vector."""

    text: str
    score: float
    how: Literal["retrieved", "generated"]
    probability: float | None = None


async def on_model(request: Request, fields: F, work: Callable[[ServedModel, F, Settings], R]) -> R:
    """What `work` makes, in a thread, of a request to the model that it names. Raises what `work` raises."""
    model = assigned(request, fields.model, fields.user)
    return await run_blocking(request, work, model, fields, request.app.state.settings)


def texts_of(model: ServedModel) -> Pipeline:
    """Texts in and out of a model. Raises Refusal 409: the server cannot read texts for it."""
    if model.pipeline is None:
        remedy = "send vectors, or start the server where the model's encoder is"
        raise Refusal(409, f"the server has no encoder for {model.name}", code="no_encoder", remedy=remedy)
    return model.pipeline


def library_of(pipeline: Pipeline) -> Library:
    """The passages of the server's store. Raises Refusal 409: it has none."""
    if pipeline.library is None:
        remedy = "start the server with --store STORE"
        raise Refusal(409, "no store was given", code="no_store", remedy=remedy)
    return pipeline.library


def wanted(pipeline: Pipeline, passages: int | None, default: int) -> int:
    """How many passages to give: by default as many as usual where there is a store. Raises Refusal 409."""
    if passages is None:
        return 0 if pipeline.library is None else default
    if passages > 0:
        library_of(pipeline)
    return passages


def checked_text(text: str, settings: Settings, param: str = "text") -> str:
    """The text as `nextvec ingest` would read it. Raises Refusal 422: too long, or white space."""
    if len(text) > settings.max_text:
        message = f"{len(text)} characters, {settings.max_text} are taken"
        raise invalid(message, "text_too_long", param, "send its last part: models read the last chunks")
    found = normalise_text(text)
    if not found:
        raise invalid("there is no text in it", "empty", param, "send a sentence")
    return found


def chunks_of(reader: TextReader, text: str) -> list[Chunk]:
    """A text cut as the model's training texts were. Raises Refusal 422: more than one request may have."""
    found = reader.chunk(text)
    if len(found) > MAX_CHUNKS:
        message = f"{len(found)} chunks, {MAX_CHUNKS} are taken"
        raise invalid(message, "too_many_chunks", "text", "send it in parts")
    return found


def context_of(model: ServedModel, given: Any, settings: Settings) -> RawVectors:
    """One context [T, D] of a JSON field or an array. Raises Refusal 422."""
    windows = windows_of(given, model.dimension, settings)
    if len(windows) != 1:
        raise invalid(f"{len(windows)} contexts, one is taken", "wrong_shape", "input", "send [T, D]")
    return model.predictor.vectors(windows[0])


def read_source(model: ServedModel, fields: SourceRequest, settings: Settings) -> TextContext:
    """What is read: the text, or the vectors. Raises Refusal 422: neither, or both."""
    pipeline = texts_of(model)
    if (fields.text is None) == (fields.input is None):
        what = "neither text nor input" if fields.text is None else "both text and input"
        raise invalid(what, "invalid_field", "text", "send one of the two")
    if fields.text is None:
        return pipeline.take(context_of(model, fields.input, settings), fields.query)
    return pipeline.look(checked_text(fields.text, settings), fields.query)


def chunk_outputs(read: TextContext) -> list[ChunkOutput]:
    """All chunks of the text; the last ones are read."""
    unread = len(read.chunks) - len(read.vectors.values)
    return [ChunkOutput.of(chunk, read=i >= unread) for i, chunk in enumerate(read.chunks)]


def passage_output(passage: Passage, library: Library, *, reordered: bool = False) -> PassageOutput:
    """A passage of the library, with its source."""
    assert passage.document is not None
    assert passage.position is not None
    return PassageOutput(
        text=passage.decoded.text,
        score=passage.decoded.score,
        cosine=None if reordered else passage.decoded.score,
        title=passage.title,
        source=library.store.find(passage.document).source,
        doc_id=passage.document,
        position=passage.position,
        probability=passage.probability,
    )


def passage_outputs(passages: tuple[Passage, ...], pipeline: Pipeline) -> list[PassageOutput]:
    """Each of them; there are none without a library."""
    if pipeline.library is None:
        return []
    return [passage_output(passage, pipeline.library) for passage in passages]


def decoded_output(passage: Passage | None) -> DecodedOutput | None:
    if passage is None:
        return None
    decoded = passage.decoded
    return DecodedOutput(
        text=decoded.text, score=decoded.score, how=decoded.how, probability=passage.probability
    )


def vector_output(values: FloatArray, encoding: str) -> Numbers:
    """A vector [D] in an answer."""
    numbers: list[float] = values.tolist()
    return packed(values) if encoding == "base64" else numbers


@torch.inference_mode()
def attention_of(predictor: Any, read: TextContext) -> list[float] | None:
    """How much the model takes from each of the T vectors read, [T], 1 in sum; None where it gives none."""
    if not isinstance(predictor, ModelPredictor):
        return None
    model = predictor.model
    if not model.gives_attention:
        return None
    requested = tensors(model, *read.window, read.queries)
    found: list[float] = model(*requested, return_attention=True).extras["attention"][0, -1].float().tolist()
    return found
