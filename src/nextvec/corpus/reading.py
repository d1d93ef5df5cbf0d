"""New text, cut and encoded just as a store's was, so that a model of that store can read it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nextvec.corpus.chunking import Chunk, Chunker, make_chunker, tokenizer_from_file
from nextvec.corpus.encoders import Advance, Encoder, EncoderConfig, load_encoder
from nextvec.corpus.encoders.base import (
    UNKNOWN_CHUNKER,
    UNKNOWN_ENCODER,
    WORTH_SAYING,
    encode_queries,
    unknown_share,
)
from nextvec.corpus.store import Store
from nextvec.errors import DocumentError, EncoderError, EncoderMismatchError
from nextvec.vectors import RawVectors, unit

log = logging.getLogger("nextvec.corpus")

LOCAL = "sentence-transformers"


@dataclass(frozen=True)
class Space:
    """Whose vectors, cut how: what two texts must share for their vectors to be comparable.

    Attributes:
        encoder: its description, with "name", "kind" and "fingerprint" (`Store.encoder`).
        chunker: its description, with "kind"; {"kind": "imported"} where chunks came with the vectors.
        normalised: vectors are brought to unit length, as an imported store may hold them.
    """

    encoder: Mapping[str, Any]
    chunker: Mapping[str, Any]
    normalised: bool

    @classmethod
    def of(cls, store: Store) -> Space:
        """The space of a store."""
        return cls(store.encoder, store.info["chunker"], store.normalised)

    @property
    def fingerprint(self) -> str:
        """The encoder's; `RawVectors` and `UnitVectors` carry it."""
        return str(self.encoder["fingerprint"])


class TextReader:
    """Text in, chunks and their vectors out, in one space.

    Args:
        space: of the store, the run or the decoder that the text is for.
        encoder: another than the space names, or how to run it; its fingerprint must be the space's.
        chunker: another than the space's; needed for nothing but imported chunks, which are cut into about
            50 words by default.
        tokenizer: the tokenizer.json of a space that was cut by one; by default the encoder's.
    Raises:
        EncoderMismatchError: the encoder's vectors are not of this space.
        EncoderError: an encoder that is known by name only, cannot be found, or lives on a server that was
            not named.
    """

    def __init__(
        self,
        space: Space,
        encoder: Encoder | EncoderConfig | None = None,
        chunker: Chunker | None = None,
        tokenizer: Path | None = None,
    ) -> None:
        self.space = space
        self.encoder = _load(space, encoder)
        self.chunker = chunker or _chunker(space, self.encoder, tokenizer)

    @property
    def fingerprint(self) -> str:
        """The encoder's."""
        return self.space.fingerprint

    def chunk(self, text: str, where: str | None = None) -> list[Chunk]:
        """The text's chunks, one at least. Raises DocumentError, naming `where`, for one of white space."""
        chunks = self.chunker.chunk(text.rstrip())
        if not chunks:
            raise DocumentError("no text in it", where=where or "text", remedy="give a sentence at least")
        return chunks

    def encode(
        self, texts: Sequence[str], advance: Advance | None = None, *, queries: bool = False
    ) -> RawVectors:
        """Vectors [n, D] of the texts, as the store holds them: unit length where the store's are.

        Args:
            queries: they are what passages are searched by; some encoders tell the two apart.
        Raises:
            EncoderError; VectorError for an answer that is not finite.
        """
        vectors = encode_queries(self.encoder, texts) if queries else self.encoder.encode(texts, advance)
        normalised = self.space.normalised
        return RawVectors(unit(vectors) if normalised else vectors, self.fingerprint, normalised)

    def read(self, text: str, where: str | None = None) -> tuple[list[Chunk], RawVectors]:
        """Chunks of a text and their vectors [n, D]. Raises DocumentError, EncoderError."""
        chunks = self.chunk(text, where)
        share = unknown_share(self.encoder, [chunk.text for chunk in chunks])
        if share is not None and share > WORTH_SAYING:
            log.warning(
                "%s: %.0f %% of its tokens are unknown to the encoder '%s': its vectors say little of it",
                where or "text", 100 * share, self.encoder.name,
            )  # fmt: skip
        return chunks, self.encode([chunk.text for chunk in chunks])


def _load(space: Space, given: Encoder | EncoderConfig | None) -> Encoder:
    name, kind = str(space.encoder.get("name")), space.encoder.get("kind")
    if given is None:
        if name == UNKNOWN_ENCODER:
            message = "the vectors are of an unknown encoder: no text can be turned into more of them"
            remedy = "ingest them again with --encoder NAME --verify-encoder, and train again"
            raise EncoderError(message, remedy=remedy)
        if kind == UNKNOWN_CHUNKER:
            message = f"vectors imported on trust as those of '{name}': nothing proves which encoder goes on"
            remedy = "import them with --verify-encoder, or ingest the texts, and train again"
            raise EncoderError(message, remedy=remedy)
        if kind != LOCAL:
            raise EncoderError(f"encoder '{name}' is a server's", remedy="name it: --endpoint URL")
        given = EncoderConfig(
            name,
            max_tokens=space.encoder.get("max_tokens"),
            prompt=space.encoder.get("prompt") or None,
            dimensions=space.encoder.get("dimensions"),
        )
    encoder = load_encoder(given) if isinstance(given, EncoderConfig) else given
    if encoder.fingerprint["fingerprint"] != space.fingerprint:
        raise EncoderMismatchError(
            f"the vectors of '{encoder.name}' are not those of '{name}' that are needed here: "
            "their fingerprints differ",
            remedy=f"use the encoder '{name}', or train on a store of '{encoder.name}'; a server of the same "
            "weights is taken with --encoder-option same_as=NAME",
        )
    if encoder.unit and not space.normalised:
        message = f"'{encoder.name}' gives vectors of unit length, and raw ones are needed here"
        remedy = "ask a server of raw vectors (TEI: --encoder-option kind=tei), or leave --endpoint out"
        raise EncoderMismatchError(message, remedy=remedy)
    return encoder


def _chunker(space: Space, encoder: Encoder, tokenizer: Path | None) -> Chunker:
    options = dict(space.chunker)
    kind = options.pop("kind")
    if kind == UNKNOWN_CHUNKER:
        return make_chunker()
    if kind == "tokens":
        file = tokenizer or getattr(encoder, "tokenizer_file", None)
        if file is None:
            message = f"the store was cut by a tokenizer, and that of '{encoder.name}' is not here"
            raise EncoderError(message, remedy="name its tokenizer.json: --tokenizer FILE")
        wanted = options.pop("tokenizer_id")
        options["tokenizer"], found = tokenizer_from_file(file)
        if found != wanted:
            message = "the store was cut by another tokenizer"
            remedy = "name the tokenizer.json that it was cut by: --tokenizer FILE"
            raise EncoderMismatchError(message, where=file, remedy=remedy)
        options["tokenizer_id"] = found
    return make_chunker(kind, options)
