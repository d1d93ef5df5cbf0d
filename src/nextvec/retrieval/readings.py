"""What has been read: the material of every strategy, whether the text is in the store or new."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from nextvec.corpus.vectors import FloatArray, IntArray
from nextvec.data.windows import VectorSource, Windows, gather_contexts, gather_queries
from nextvec.retrieval.index import Index
from nextvec.vectors import RawVectors

SAME = 0.999
"""A chunk of the store with such a cosine to one that was read is that chunk."""
COPIES = 5
"""So many chunks of the store are looked at for being one that was read."""


@dataclass(frozen=True, eq=False)
class Reading:
    """B texts, as far as they have been read.

    Attributes:
        contexts: [B, T, D] raw vectors of their last chunks, padded with zeros on the right.
        lengths: [B] how many of them are real, 1 at least.
        place: [B] row of the store where each reader stands: the last chunk read, or the one nearest to it
            where the text is not in the store.
        read: for each text the rows that it knows already and is not to be shown.
        queries: [B, D] what each is to be steered towards, raw; a row of zeros is nothing. None: nobody is.
    """

    contexts: FloatArray
    lengths: IntArray
    place: IntArray
    read: tuple[IntArray, ...]
    queries: FloatArray | None = None

    def __len__(self) -> int:
        return len(self.lengths)

    @classmethod
    def of_windows(cls, vectors: VectorSource, windows: Windows, width: int) -> Self:
        """Of windows of a store of task next; at most the last `width` chunks of each are kept.

        What the judge leaves out of the candidates is known: everything read, and the query.
        """
        contexts, lengths = gather_contexts(vectors, windows, width)
        spans = zip(*(rows.tolist() for rows in windows.read_range), strict=True)
        read = [np.arange(first, last + 1, dtype=np.int64) for first, last in spans]
        if windows.query is not None:
            read = [np.append(rows, query) for rows, query in zip(read, windows.query, strict=True)]
        return cls(contexts, lengths, windows.last, tuple(read), gather_queries(vectors, windows))

    @classmethod
    def of_text(cls, vectors: RawVectors, index: Index, query: RawVectors | None = None) -> Self:
        """Of one text, its chunks' vectors [T, D]; `query` [1, D] is what it is to be steered towards.

        Raises EncoderMismatchError, RetrievalError: vectors of another encoder than the index's, or no chunk.
        """
        near = index.search(vectors.unit(), min(COPIES, index.size))
        return cls(
            contexts=vectors.values[None],
            lengths=np.array([len(vectors.values)], dtype=np.int64),
            place=near.rows[-1:, 0],
            read=(np.unique(near.rows[near.scores > SAME]),),
            queries=None if query is None else query.of(index.encoder).values,
        )

    @property
    def last(self) -> FloatArray:
        """[B, D] the last vector read."""
        return self.contexts[np.arange(len(self)), self.lengths - 1]

    def recent(self, most: int) -> tuple[FloatArray, IntArray]:
        """Contexts [B, T, D] and lengths [B] of at most the last `most` chunks, padded on the right."""
        lengths = np.minimum(self.lengths, most)
        width = np.arange(int(lengths.max()))
        place = np.minimum((self.lengths - lengths)[:, None] + width, self.contexts.shape[1] - 1)
        contexts = np.take_along_axis(self.contexts, place[..., None], axis=1)
        contexts[width >= lengths[:, None]] = 0.0
        return contexts, lengths
