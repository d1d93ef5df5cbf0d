"""Token arrays in place of texts, as OpenAI's clients may send them: ids back to the text they stand for."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import tempfile
from collections.abc import Container, Sequence
from functools import cached_property, lru_cache
from pathlib import Path

from tokenizers import Tokenizer

from nextvec.corpus.encoders.base import Encoder
from nextvec.errors import ConfigError
from nextvec.serving.errors import Refusal, invalid

OWN = "encoder"
CACHED = "9b5ad71b2ce5302211f9c61530b329a4922fc6a4"
"""The name that tiktoken gives its copy of cl100k_base."""
SHA256 = "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7"
FLAG = "--token-vocabulary"


class TokenVocabulary:
    """Whose ids token arrays hold. An array says nothing of that, so the server has to know it.

    Args:
        given: "encoder" (the ids of the encoder's own tokenizer) or a .tiktoken file. By default cl100k_base,
            which OpenAI's embedding models read and LangChain sends to any server, from the folder where
            tiktoken keeps it (TIKTOKEN_CACHE_DIR); nothing is fetched.
    Raises:
        ConfigError: no such file, or one that is not a vocabulary.
    """

    def __init__(self, given: str | None = None) -> None:
        self._own, self._file = given == OWN, None if given in (None, OWN) else Path(str(given))
        if self._file is not None:
            _ = self._pieces

    def texts(self, arrays: Sequence[Sequence[int]], encoder: Encoder) -> list[str]:
        """The text of each array. Raises Refusal: 409, no vocabulary; 422, an id that is not in it."""
        if self._own:
            return _by_tokenizer(arrays, encoder)
        pieces = self._pieces
        if pieces is None:
            remedy = (
                f"send texts (LangChain: check_embedding_ctx_length=False), or start the server with {FLAG}"
            )
            raise _unreadable("the vocabulary cl100k_base is not on this server", remedy)
        _check(arrays, pieces)
        # A client may have cut a long text within a character.
        return [b"".join(pieces[one] for one in ids).decode("utf-8", "replace") for ids in arrays]

    @cached_property
    def _pieces(self) -> dict[int, bytes] | None:
        """Bytes by id; None where there is no vocabulary."""
        if self._file is not None:
            try:
                return _parsed(self._file.read_bytes())
            except FileNotFoundError:
                raise ConfigError(f"no file {self._file}", where=FLAG, remedy="check the path") from None
            except (ValueError, IsADirectoryError):
                message, remedy = f"{self._file} is not a .tiktoken vocabulary", f"give it, or {FLAG} {OWN}"
                raise ConfigError(message, where=FLAG, remedy=remedy) from None
        # Where tiktoken keeps what it fetched.
        configured = os.environ.get("TIKTOKEN_CACHE_DIR") or os.environ.get("DATA_GYM_CACHE_DIR")
        file = (Path(configured) if configured else Path(tempfile.gettempdir()) / "data-gym-cache") / CACHED
        if file.is_file() and hashlib.sha256(data := file.read_bytes()).hexdigest() == SHA256:
            return _parsed(data)
        return None


def _parsed(data: bytes) -> dict[int, bytes]:
    """Lines of base64 and a number. Raises ValueError."""
    found = {}
    for line in data.splitlines():
        if line:
            piece, rank = line.split()
            try:
                found[int(rank)] = base64.b64decode(piece, validate=True)
            except binascii.Error as error:
                raise ValueError(str(error)) from None
    if not found:
        raise ValueError("it is empty")
    return found


def _by_tokenizer(arrays: Sequence[Sequence[int]], encoder: Encoder) -> list[str]:
    file: Path | None = getattr(encoder, "tokenizer_file", None)
    if file is None:
        raise _unreadable(f"the encoder '{encoder.name}' has no tokenizer file here", "send texts")
    tokenizer = _tokenizer(file)
    _check(arrays, range(tokenizer.get_vocab_size()))
    return [tokenizer.decode(list(ids), skip_special_tokens=True) for ids in arrays]


@lru_cache(maxsize=8)
def _tokenizer(file: Path) -> Tokenizer:
    return Tokenizer.from_file(str(file))


def _check(arrays: Sequence[Sequence[int]], known: Container[int]) -> None:
    """Raises Refusal 422: an id that is not in the vocabulary."""
    for i, ids in enumerate(arrays):
        for one in ids:
            if one not in known:
                message = f"input[{i}] holds the id {one}, which is not in the vocabulary of this server"
                remedy = "send texts, or ids of the vocabulary that the server was started with"
                raise invalid(message, "unknown_token", f"input[{i}]", remedy)


def _unreadable(why: str, remedy: str) -> Refusal:
    message = f"token arrays cannot be read: {why}"
    return Refusal(409, message, code="no_token_vocabulary", param="input", remedy=remedy)
