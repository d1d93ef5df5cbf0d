"""Text as tokens and back, without loss: bytes, or pairs of them merged as often as they meet.

Both kinds are the `tokenizers` library's byte-level BPE (Sennrich et al., Neural Machine Translation of Rare
Words with Subword Units, 2016; over bytes as in Radford et al., Language Models are Unsupervised Multitask
Learners, 2019); kind "bytes" is the one without a merge.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from nextvec.disk import write_text
from nextvec.errors import DecoderError

Kind = Literal["bpe", "bytes"]
MAX_BYTES = 2**26
BYTES = 256
REMEDY = "restore the file, or train the decoder again"


class Tokens:
    """A tokenizer. Tokens are 0..size-1; the end of a text is none of them (to the network it is `size`)."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.size: int = tokenizer.get_vocab_size()

    @classmethod
    def learned(cls, kind: Kind, vocabulary: int, texts: Iterable[str]) -> Tokens:
        """Of kind "bytes", or of kind "bpe" with at most `vocabulary` tokens, learned from the texts."""
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        vocab = {symbol: i for i, symbol in enumerate(alphabet)}
        tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        if kind == "bpe":
            trainer = trainers.BpeTrainer(
                vocab_size=vocabulary, min_frequency=2, initial_alphabet=alphabet, show_progress=False
            )
            tokenizer.train_from_iterator(texts, trainer)
        return cls(tokenizer)

    @classmethod
    def load(cls, path: Path, sha256: str) -> Tokens:
        """Read what `save` wrote. Raises DecoderError naming the file where it is not that."""
        try:
            if path.stat().st_size > MAX_BYTES:
                raise DecoderError(f"larger than {MAX_BYTES >> 20} MiB", where=path, remedy=REMEDY)
            content = path.read_bytes()
        except OSError as e:
            raise DecoderError(f"cannot be read ({e.strerror})", where=path, remedy=REMEDY) from None
        if hashlib.sha256(content).hexdigest() != sha256:
            raise DecoderError("is not the tokenizer the decoder was trained with", where=path, remedy=REMEDY)
        return cls(Tokenizer.from_str(content.decode("utf-8")))

    def save(self, path: Path) -> None:
        """Write tokenizer.json, atomically."""
        write_text(path, self.tokenizer.to_str())

    @property
    def sha256(self) -> str:
        """Of what `save` writes."""
        return hashlib.sha256(self.tokenizer.to_str().encode("utf-8")).hexdigest()

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of each text."""
        return [found.ids for found in self.tokenizer.encode_batch(list(texts))]

    def decode(self, tokens: Sequence[Sequence[int]]) -> list[str]:
        """The text of each sequence: of `encode`'s the very text; bytes that are no UTF-8 become U+FFFD."""
        return self.tokenizer.decode_batch([list(t) for t in tokens], skip_special_tokens=False)

    def blank(self) -> NDArray[np.bool_]:
        """[size] which tokens are white space."""
        return np.array([not text.strip() for text in self.decode([[i] for i in range(self.size)])])
