"""What every index owes: the rows of a store whose vectors are nearest to a query by cosine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np

from nextvec.corpus.vectors import FloatArray, IntArray
from nextvec.errors import RetrievalError
from nextvec.vectors import UnitVectors, require_unit


@dataclass(frozen=True, eq=False)
class Found:
    """What was found for Q queries, the best first.

    Attributes:
        scores: float32 [Q, k]; an index's are cosines.
        rows: int64 [Q, k] rows of the store, distinct within a query.
    """

    scores: FloatArray
    rows: IntArray

    def first(self, k: int) -> Self:
        """The best k of each query."""
        return type(self)(self.scores[:, :k], self.rows[:, :k])

    def ordered(self, order: IntArray, scores: FloatArray | None = None) -> Self:
        """The same rows in another order [Q, V] of places; `scores` [Q, V] (by place) take the old ones'."""
        given = self.scores if scores is None else scores
        taken = np.take_along_axis(given, order, axis=1).astype(np.float32, copy=False)
        return type(self)(taken, np.take_along_axis(self.rows, order, axis=1))

    def scored(self, scores: FloatArray) -> Self:
        """The same rows by new scores [Q, V]; equal ones stay in their order."""
        return self.ordered(np.argsort(-scores, axis=1, kind="stable"), scores)


class Index(Protocol):
    """Rows of one store, searched by cosine.

    Attributes:
        name: for people and tables.
        encoder: fingerprint of the encoder whose vectors it holds.
        dimension: D.
        size: how many rows it holds.
        exact: whether the nearest rows are always found.
    """

    @property
    def name(self) -> str: ...
    @property
    def encoder(self) -> str: ...
    @property
    def dimension(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def exact(self) -> bool: ...

    def search(self, queries: UnitVectors, k: int, without: Sequence[IntArray] | None = None) -> Found:
        """The k rows nearest to each of the queries [Q, D], the best first; of equal ones the lower row.

        Args:
            without: for each query rows that are not to be found; rows that are not held do not matter.
        Raises:
            VectorError: anything but UnitVectors. EncoderMismatchError: of another encoder.
            RetrievalError: another shape, or k rows cannot be had.
        """
        ...


def check_search(
    index: Index, queries: UnitVectors, k: int, without: Sequence[IntArray] | None
) -> FloatArray:
    """The queries' values [Q, D], after the checks that every index makes. Raises as `Index.search`."""
    values = require_unit(queries).of(index.encoder).values
    if values.ndim != 2 or values.shape[1] != index.dimension:
        raise RetrievalError(
            f"index '{index.name}': queries of shape {list(values.shape)}",
            remedy=f"give [Q, {index.dimension}]",
        )
    if without is not None and len(without) != len(values):
        raise RetrievalError(
            f"rows to leave out for {len(without)} queries, {len(values)} queries",
            remedy="give one array a query",
        )
    check_count(index, k, 0)
    return values


def check_count(index: Index, k: int, left_out: int) -> None:
    """Raises RetrievalError: k rows cannot be had, where a query may not find `left_out` of those held."""
    left = index.size - left_out
    if not 1 <= k <= left:
        raise RetrievalError(
            f"{k} rows wanted of {index.size}" + (f", {left_out} of them left out" if left_out else ""),
            where=f"index '{index.name}'",
            remedy=f"ask for 1 to {left}" if left > 0 else "search a larger store",
        )
