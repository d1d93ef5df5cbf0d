"""What strategies are made of: queries and re-rankers by name, what they are given and what they use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, Self, TypeVar

import numpy as np

from nextvec.config import Checked, number
from nextvec.corpus.layout import FloatArray, IntArray
from nextvec.corpus.store import Store
from nextvec.data.gather import VectorSource, gather_contexts, gather_queries
from nextvec.data.windows import Windows
from nextvec.retrieval.index import Found, Index
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
        queries: [B, D] what each is to be steered towards, raw; a row of zeros is nothing. None: no one is.
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

        What the evaluator leaves out of the candidates is known: everything read, and the query.
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


Need = Literal["decoder", "query", "conditional", "ranking"]


@dataclass(frozen=True)
class Options(Checked):
    """What the strategies can be told.

    Attributes:
        recent: `mean` is of so many of the last chunks, and `refined` reads so many before a candidate.
        blend: share of the prediction, or of the mean, beside the last chunk.
        text: share of the decoded text's vector beside the prediction.
        query: share of the query's vector beside the prediction, or the last chunk.
        pool: re-rankers reorder so many candidates.
        document: added to the cosine of a candidate of the document that is being read.
        recency: added to that of the very next chunk; e times less for every `reach` chunks farther.
        trade_off: of mmr, 1 relevant, 0 diverse.
        refine: share of the chunk after a candidate beside the candidate itself.
        refined: `refined` and `passage` look at the chunks after so many candidates, from the best on.
    """

    recent: int = number(5, least=1)
    blend: float = number(0.3, least=0, most=1)
    text: float = number(0.5, least=0, most=1)
    query: float = number(0.3, least=0, most=1)
    pool: int = number(200, least=1)
    document: float = 0.1
    recency: float = 0.1
    reach: float = number(8.0, above=0)
    trade_off: float = number(0.7, least=0, most=1)
    refine: float = number(0.2, least=0, most=1)
    refined: int = number(20, least=1)


class Predicts(Protocol):
    """A run, or whatever else predicts (`nextvec.inference.predictor.RunPredictor`)."""

    @property
    def context(self) -> int: ...
    @property
    def conditional(self) -> bool: ...
    @property
    def ranking(self) -> bool: ...

    def predict(
        self, contexts: FloatArray, lengths: IntArray, queries: FloatArray | None = None
    ) -> tuple[FloatArray, FloatArray]:
        """Raw and unit prediction, both [B, D]."""
        ...

    def predict_ranking(
        self, contexts: FloatArray, lengths: IntArray, queries: FloatArray | None = None
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """The same, and the query [B, D] of unit length to rank by."""
        ...


Reembed = Callable[[RawVectors], RawVectors]
"""Raw predictions [B, D] decoded to text and encoded again."""


@dataclass(frozen=True)
class RetrievalContext:
    """What strategies have at hand.

    Attributes:
        store: the one that the index is of.
        reembed: what `text` needs.
    """

    predictor: Predicts
    store: Store
    index: Index
    options: Options = Options()
    reembed: Reembed | None = None

    @property
    def width(self) -> int:
        """How many of the last chunks the strategies look at."""
        return max(self.predictor.context, self.options.recent)

    def has(self, steered: bool) -> frozenset[Need]:
        """As `available`."""
        return available(self.predictor, decoder=self.reembed is not None, steered=steered)


def available(predictor: Predicts, *, decoder: bool, steered: bool) -> frozenset[Need]:
    """What strategies may need, and is there; `steered`: there are queries to steer towards."""
    there: dict[Need, bool] = {
        "decoder": decoder,
        "query": steered,
        "conditional": predictor.conditional,
        "ranking": predictor.ranking,
    }
    return frozenset(need for need, given in there.items() if given)


Query = Callable[[RetrievalContext, Reading], FloatArray]
"""Directions [B, D] to search in, of unit length."""
Reranker = Callable[[RetrievalContext, Reading, Found], Found]
"""The same rows in another order."""
Function = TypeVar("Function", Query, Reranker)


@dataclass(frozen=True)
class Registered(Generic[Function]):
    """A registered query or re-ranker: what it needs, and what it does in a line.

    Attributes:
        control: the one that does as much without the model; None where no model is asked.
    """

    function: Function
    needs: frozenset[Need]
    control: str | None
    summary: str


QUERIES: dict[str, Registered[Query]] = {}
RERANKERS: dict[str, Registered[Reranker]] = {}


def query(name: str, *needs: Need, control: str | None = None) -> Callable[[Query], Query]:
    """Register a function as the query `name`; the first line of its docstring is its summary."""
    return _registering(QUERIES, name, needs, control)


def reranker(name: str, *needs: Need, control: str | None = None) -> Callable[[Reranker], Reranker]:
    """Register a function as the re-ranker `name`, likewise."""
    return _registering(RERANKERS, name, needs, control)


def _registering(
    table: dict[str, Registered[Function]], name: str, needs: tuple[Need, ...], control: str | None
) -> Callable[[Function], Function]:
    def register(function: Function) -> Function:
        summary = (function.__doc__ or "").partition("\n")[0]
        if name in {**QUERIES, **RERANKERS} or "+" in name or not summary:
            raise ValueError(f"strategy '{name}': taken, or holds a +, or its function has no docstring")
        table[name] = Registered(function, frozenset(needs), control, summary)
        return function

    return register
