"""Text as tokens and back, without loss: bytes, or pairs of them merged as often as they meet.

Both kinds are the `tokenizers` library's byte-level BPE (Sennrich et al., Neural Machine Translation of Rare
Words with Subword Units, 2016; over bytes as in Radford et al., Language Models are Unsupervised Multitask
Learners, 2019); kind "bytes" is the one without a merge.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

from nextvec.corpus.layout import IntArray, Vectors
from nextvec.corpus.store import Store
from nextvec.data.sampling import epoch_rng
from nextvec.disk import write_text
from nextvec.errors import DecoderError

Kind = Literal["bpe", "bytes"]
MAX_BYTES = 2**26
MAX_LENGTH = 4096
"""Tokens of a text at most."""
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


# A store's chunks as batches of (vector, tokens), of texts of about one length each.
#
# Shapes: B batch, L tokens of its longest text, D embedding, N chunks.

JITTER = 8.0
"""Lengths are blurred by up to so many tokens before texts are put together by length: else the same texts
would meet in every epoch."""


@dataclass(frozen=True)
class TokenBatch:
    """vectors [B, D] raw; tokens [B, L], padded with the end; targets [B, L + 1], the token that follows each
    place, where mask [B, L + 1] is True: the end follows a text's last token, but not where it was cut."""

    vectors: Tensor
    tokens: Tensor
    targets: Tensor
    mask: Tensor

    def to(self, device: torch.device | str) -> TokenBatch:
        """The same on another device."""
        return TokenBatch(*(part.to(device) for part in (self.vectors, self.tokens, self.targets, self.mask)))


class Pairs:
    """Chunks of a store, each a vector and a text in tokens.

    Attributes:
        rows: [N] of the store.
        lengths: [N] tokens of each text, at most `length`.
    """

    def __init__(
        self, vectors: Vectors, rows: IntArray, tokens: Sequence[Sequence[int]], end: int, length: int
    ) -> None:
        self.vectors, self.rows, self.end = vectors, rows, end
        self.whole = np.array([len(t) <= length for t in tokens])
        cut = [t[:length] for t in tokens]
        self.lengths = np.array([len(t) for t in cut], np.int64)
        self._starts = np.concatenate([[0], np.cumsum(self.lengths)])
        self._flat = np.concatenate([np.zeros(0, np.int32), *(np.asarray(t, np.int32) for t in cut)])

    def __len__(self) -> int:
        return len(self.rows)

    def epoch(self, seed: int, epoch: int, size: int, prefix: int) -> list[IntArray]:
        """What the batches of an epoch are made of, indices into `rows`: each chunk once, in an order of the
        epoch's own, texts of about one length together, at most `size` positions a batch, `prefix` a text."""
        rng = epoch_rng(seed, epoch)
        order = np.argsort(self.lengths + JITTER * rng.random(len(self)), kind="stable")
        cuts = _cut(order, self.lengths + prefix, size)
        return [cuts[i] for i in rng.permutation(len(cuts))]

    def fixed(self, size: int, prefix: int) -> list[IntArray]:
        """The same batches at every call, the shortest texts first."""
        return _cut(np.argsort(self.lengths, kind="stable"), self.lengths + prefix, size)

    def batch(self, chosen: IntArray, vectors_of: IntArray | None = None) -> TokenBatch:
        """The chunks `chosen` (indices into `rows`); `vectors_of`: with the vectors of these instead."""
        longest = int(self.lengths[chosen].max())
        targets = np.full((len(chosen), longest + 1), self.end, np.int64)
        mask = np.arange(longest + 1) < (self.lengths[chosen] + self.whole[chosen])[:, None]
        for row, i in zip(targets, chosen, strict=True):
            row[: self.lengths[i]] = self._flat[self._starts[i] : self._starts[i + 1]]
        vectors = self.vectors.gather(self.rows[chosen if vectors_of is None else vectors_of])
        target_ids = torch.from_numpy(targets)
        return TokenBatch(torch.from_numpy(vectors), target_ids[:, :-1], target_ids, torch.from_numpy(mask))


def rows_with_text(store: Store, documents: Sequence[int]) -> tuple[IntArray, list[str]]:
    """Rows of these documents' chunks, ascending, and their texts; without those that are white space."""
    rows = store.rows_of(sorted(documents))
    texts = [text.strip() for text in store.texts(rows)]
    shown = [i for i, text in enumerate(texts) if text]
    return rows[shown], [texts[i] for i in shown]


def pairs_of(
    store: Store, documents: Sequence[int], tokens: Tokens, length: int, at_most: int | None = None
) -> Pairs:
    """The documents' chunks as pairs; of more than `at_most` chunks so many of them, always the same."""
    rows, texts = rows_with_text(store, documents)
    if at_most is not None and len(rows) > at_most:
        keep = np.sort(np.random.default_rng(0).choice(len(rows), at_most, replace=False))
        rows, texts = rows[keep], [texts[i] for i in keep]
    return Pairs(store.vectors, rows, tokens.encode(texts), tokens.size, length)


def _cut(order: IntArray, lengths: IntArray, size: int) -> list[IntArray]:
    """Cut `order`, of about ascending lengths, so that pieces of two or more take at most `size` padded."""
    pieces, start, longest = [], 0, 0
    for at, i in enumerate(order.tolist()):
        longest = max(longest, int(lengths[i]))
        if at > start and longest * (at - start + 1) > size:
            pieces.append(order[start:at])
            start, longest = at, int(lengths[i])
    return [*pieces, order[start:]] if start < len(order) else pieces
