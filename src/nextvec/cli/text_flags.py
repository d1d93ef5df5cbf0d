"""Flags of the verbs that read a text: the text itself, its encoder, the decoder of what is predicted."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Group, Parameter, validators

from nextvec.cli.common import flag
from nextvec.errors import ConfigError, DocumentError, StoreError

if TYPE_CHECKING:
    from nextvec.corpus.encoders import EncoderConfig
    from nextvec.corpus.reading import Space, TextReader
    from nextvec.corpus.store import Store
    from nextvec.decoding.pipeline import Pipeline
    from nextvec.inference.base import TrainedPredictor
    from nextvec.vectors import RawVectors

log = logging.getLogger("nextvec.cli")
TEXT, ENCODING, DECODING, VECTOR = Group("Text"), Group("Encoder"), Group("Decoder"), Group("Vectors")
NEAREST = "nearest"
STANDARD_INPUT = Path("-")

EncoderOption = Annotated[
    tuple[str, ...],
    flag(
        "KEY=VALUE: batch_size, prompt, query_prompt, dimensions; device, precision, max_tokens; for "
        "servers kind, key_variable, timeout, retries, base64_response, role, query_role, same_as.",
        group=ENCODING,
    ),
]
TokenizerFile = Annotated[
    Path | None, flag("tokenizer.json of chunks cut by tokens (default: the encoder's).", group=ENCODING)
]
Endpoint = Annotated[str | None, flag("URL of an OpenAI-compatible or TEI server.", group=ENCODING)]

Query = Annotated[str | None, flag("A text to write towards; for runs trained with queries.", group=TEXT)]
PRETRAINED = Path("pretrained")
Run = Annotated[Path, flag("A run folder, an export, or an ensemble (default: the model of the package).")]
PassageCount = Annotated[
    int | None,
    Parameter(
        group=DECODING,
        help="So many real passages a prediction (default: 5, of a rollout 1); 0: none, and no store.",
        validator=validators.Number(gte=0),
    ),
]


def _check_file(_: object, file: Path | None) -> None:
    """An option is not taken for a file."""
    if file is not None and file != STANDARD_INPUT and str(file).startswith("-"):
        raise ValueError(f"{file} is not a file to read")


TextFile = Annotated[
    Path | None,
    Parameter(
        group=TEXT,
        help="A file of one text that ingest reads (.txt, .md, .html, .rst, .pdf ...); - is standard input.",
        allow_leading_hyphen=True,
        validator=_check_file,
    ),
]


@Parameter(name="*", group=TEXT)
@dataclass(frozen=True)
class TextFlags:
    text: Annotated[str | None, flag("The text itself.")] = None
    file: TextFile = None


@Parameter(name="*", group=ENCODING)
@dataclass(frozen=True)
class EncoderFlags:
    """What makes vectors of the text. By default the encoder that the run or the store names, run here."""

    encoder: Annotated[
        str | None, flag("A folder, a hub name or a server's model (default: what the run was trained on).")
    ] = None
    endpoint: Endpoint = None
    encoder_option: EncoderOption = ()
    tokenizer: TokenizerFile = None


@Parameter(name="*", group=DECODING)
@dataclass(frozen=True)
class DecoderFlags:
    """What makes a text of a predicted vector, and where real passages come from."""

    decoder: Annotated[
        str, flag("nearest (real passages only), the folder of a trained decoder, or vec2text:FOLDER.")
    ] = NEAREST
    store: Annotated[
        Path | None, flag("Where the nearest passages are looked for (default: the store trained on).")
    ] = None


@Parameter(name="*", group=VECTOR)
@dataclass(frozen=True)
class VectorFlags:
    vector: Annotated[Path | None, flag("Write them to this .npy, a row a prediction.")] = None
    output_type: Annotated[
        Literal["decoder", "cosine"] | None,
        flag("Of --vector: decoder is raw, as the encoder would give it (default), cosine unit length."),
    ] = None

    def check(self) -> None:
        """Before the work, not after it. Raises ConfigError."""
        if self.vector is None and self.output_type is not None:
            message, remedy = "describes how vectors are written", "add --vector FILE.npy"
            raise ConfigError(message, where="--output-type", remedy=remedy)
        if self.vector is not None and (self.vector.suffix != ".npy" or self.vector.is_dir()):
            raise ConfigError(f"{self.vector} is not an .npy file", where="--vector", remedy="give FILE.npy")

    def write(self, raw: RawVectors) -> None:
        """[N, D] float32, if they are wanted."""
        if self.vector is None:
            return
        import numpy as np

        from nextvec.disk import atomic_write

        values = (raw.unit() if self.output_type == "cosine" else raw).values
        atomic_write(self.vector, lambda file: np.save(file, values, allow_pickle=False))


def read_text(flags: TextFlags | None, run: Path) -> tuple[str, str]:
    """The text, normalised as `nextvec ingest` does, and where it comes from, for errors.

    Raises:
        ConfigError: no text named, or two.
        DocumentError: a file that is not there, too long, not UTF-8, of several documents, or without text.
    """
    flags = flags or TextFlags()
    if (flags.text is None) == (flags.file is None):
        many, remedy = "no text" if flags.text is None else "two texts", "give one of --text and --file"
        if flags.text is None and run.is_file():
            many, remedy = f"{run} is a file, not a run, and no text", f"give --file {run}"
        raise ConfigError(f"{many} given", where="--text", remedy=remedy)
    if flags.text is not None:
        return _checked(flags.text, "--text"), "--text"
    assert flags.file is not None
    if flags.file == STANDARD_INPUT:
        from nextvec.corpus.readers.base import MAX_DOCUMENT_BYTES, decode, too_long

        data, where = sys.stdin.buffer.read(MAX_DOCUMENT_BYTES + 1), "standard input"
        if len(data) > MAX_DOCUMENT_BYTES:
            raise too_long(where)
        return _checked(decode(data, "utf-8", where), where), where
    return _file(flags.file), str(flags.file)


def _file(path: Path) -> str:
    from nextvec.corpus.documents import ReaderOptions, read_source

    if path.is_dir():
        raise DocumentError("is a folder", where=path, remedy="name one file of it")
    documents = list(read_source(path, options=ReaderOptions(limit=2)))
    if len(documents) != 1:
        many = "several documents" if documents else "no document"
        raise DocumentError(f"holds {many}", where=path, remedy="give a file of one text")
    return documents[0].text


def _checked(text: str, where: str) -> str:
    from nextvec.corpus.documents import normalise_text

    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        message = f"character {error.start + 1} is not UTF-8"
        raise DocumentError(message, where=where, remedy="give it as a UTF-8 file") from None
    normal = normalise_text(text)
    if not normal:
        raise DocumentError("no text in it", where=where, remedy="give a sentence at least")
    return normal


def configure_encoder(
    name: str, endpoint: str | None, options: tuple[str, ...], known: Mapping[str, Any] | None = None
) -> EncoderConfig:
    """The encoder of `--encoder`, `--endpoint` and `--encoder-option`; `known` is what options go over.

    Raises ConfigError, EncoderError.
    """
    from nextvec.config import from_dict, parse_assignments
    from nextvec.corpus.encoders import EncoderConfig

    given = {"name": name, "endpoint": endpoint, **(known or {}), **parse_assignments(options)}
    return from_dict(EncoderConfig, given, where="--encoder-option")


def open_text_reader(space: Space, flags: EncoderFlags | None = None) -> TextReader:
    """The reader of texts for a space, with the encoder that it names or the one of the flags.

    Raises:
        ConfigError: an unknown encoder option.
        EncoderError: an encoder that cannot be found or reached.
        EncoderMismatchError: an encoder of another space.
    """
    from nextvec.corpus.reading import LOCAL, TextReader

    flags = flags or EncoderFlags()
    described = space.encoder
    named = flags.encoder is not None or flags.endpoint is not None
    if not named and (not flags.encoder_option or described.get("kind") != LOCAL):
        return TextReader(space, tokenizer=flags.tokenizer)
    own = ("max_tokens", "prompt", "dimensions")
    known = {} if named else {key: described.get(key) or None for key in own}
    name = flags.encoder or str(described.get("name"))
    config = configure_encoder(name, flags.endpoint, flags.encoder_option, known)
    return TextReader(space, config, tokenizer=flags.tokenizer)


@contextmanager
def open_pipeline(
    predictor: TrainedPredictor,
    encoder: EncoderFlags | None = None,
    decoder: DecoderFlags | None = None,
    *,
    passages: bool = True,
) -> Iterator[Pipeline]:
    """A run with its encoder, the decoder of the flags and, for `passages`, a store of real ones.

    Raises:
        EncoderError, DecoderError, StoreError: what is named is not available or is of another encoder.
    """
    from nextvec.decoding.load import open_decoder
    from nextvec.decoding.nearest import Library
    from nextvec.decoding.pipeline import Pipeline

    decoder = decoder or DecoderFlags()
    library = Library(_store_of(predictor, decoder.store)) if passages else None
    reader = open_text_reader(predictor.space, encoder)
    if decoder.decoder == NEAREST:
        yield Pipeline(predictor, reader, library=library)
        return
    with open_decoder(decoder.decoder, reader=reader) as opened:
        yield Pipeline(predictor, reader, opened, library)


def passage_count(
    predictor: TrainedPredictor, decoder: DecoderFlags | None, requested: int | None, default: int
) -> int:
    """How many passages are looked for: none where none were requested and there is no store to look in,
    which is logged."""
    if requested is not None:
        return requested
    if (decoder is None or decoder.store is None) and not predictor.training["store"]:
        log.info("no store is named, so no passages are looked for; give --store STORE")
        return 0
    return default


def _store_of(predictor: TrainedPredictor, named: Path | None) -> Store:
    from nextvec.corpus.store import Store

    noted = predictor.training["store"]
    path = Path(noted) if named is None else named
    if named is None and not (noted and path.is_dir()):
        message = f"the store that {predictor.name} was trained on is not there"
        remedy = "name one: --store STORE; or request no passages: --nearest 0"
        raise StoreError(message, where=noted or predictor.name, remedy=remedy)
    return Store.open(path)
