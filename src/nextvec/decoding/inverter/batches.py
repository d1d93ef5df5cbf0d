"""A store's chunks as batches of (vector, tokens), of texts of about one length each.

Shapes: B batch, L tokens of its longest text, D embedding, N chunks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nextvec.corpus.layout import IntArray, Vectors
from nextvec.corpus.store import Store
from nextvec.data.sampling import epoch_rng
from nextvec.decoding.inverter.tokens import Tokens

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
        told = torch.from_numpy(targets)
        return TokenBatch(torch.from_numpy(vectors), told[:, :-1], told, torch.from_numpy(mask))


def rows_with_text(store: Store, documents: Sequence[int]) -> tuple[IntArray, list[str]]:
    """Rows of these documents' chunks, ascending, and their texts; without those that are white space."""
    spans = [(store.documents[i].first, store.documents[i].count) for i in documents]
    rows = np.concatenate([np.zeros(0, np.int64), *(np.arange(f, f + n) for f, n in sorted(spans))])
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
