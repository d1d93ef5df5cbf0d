"""What every part of a diagnosis has: verdicts, lines to print, JSON; and estimates with intervals."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from nextvec.data.windows import IntArray
from nextvec.errors import EvaluationError
from nextvec.evaluation.bootstrap import DocumentBootstrap
from nextvec.evaluation.diagnostics.verdicts import Verdict, plain, short

Values = NDArray[np.float64]
WORTH_NAMING = 0.001
"""Differences of cosine below this are printed but get no verdict: with enough windows anything is clear."""

NEGLIGIBLE = 0.005


class Part(ABC):
    """One section of a diagnosis; subclasses are frozen dataclasses."""

    title: ClassVar[str]

    @abstractmethod
    def verdicts(self) -> list[Verdict]:
        """What was found; nothing where nothing can be said."""

    @abstractmethod
    def lines(self) -> list[str]:
        """The figures, as lines of text."""

    def to_json(self) -> dict[str, Any]:
        """Every field, JSON-ready, with the verdicts."""
        content: dict[str, Any] = plain(self)
        return {**content, "verdicts": plain(self.verdicts())}


@dataclass(frozen=True)
class Estimate:
    """A mean, or a difference of means, with its 95 % interval over documents (none for a single one)."""

    value: float
    low: float | None
    high: float | None

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out 0 and the value is worth naming."""
        sure = self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)
        return sure and abs(self.value) >= WORTH_NAMING

    @property
    def negligible(self) -> bool:
        """Whether the whole interval is so near 0 that there is nothing, rather than nothing to be told."""
        known = self.low is not None and self.high is not None
        return known and max(abs(self.low or 0.0), abs(self.high or 0.0)) < NEGLIGIBLE

    def __str__(self) -> str:
        """`.012 [.009, .015]`."""
        return self.show()

    def show(self, digits: int = 3, *, sign: bool = False) -> str:
        """The same with so many digits; `sign` puts a + before what is positive."""
        value = ("+" if sign and self.value > 0 else "") + _figure(self.value, digits)
        if self.low is None or self.high is None:
            return value
        return f"{value} [{_figure(self.low, digits)}, {_figure(self.high, digits)}]"


def _figure(value: float, digits: int) -> str:
    """Without the sign of a zero that is one only after rounding."""
    return short(round(value, digits) + 0.0, digits)


def estimate(documents: IntArray, values: NDArray[Any], other: NDArray[Any] | None = None) -> Estimate:
    """Mean of `values` [N], less that of `other`, with its paired interval over `documents` [N]."""
    below = np.zeros(len(values)) if other is None else other
    try:
        found = DocumentBootstrap(documents).interval(values, below)
    except EvaluationError:  # of a single document nothing can be said about others
        return Estimate(float(np.mean(values.astype(np.float64) - below)), None, None)
    return Estimate(found.difference, found.low, found.high)


def sample(count: int, most: int, seed: int) -> IntArray:
    """At most `most` of `count` indices, ascending, drawn evenly at random."""
    if count <= most:
        return np.arange(count, dtype=np.int64)
    return np.sort(np.random.default_rng(seed).choice(count, most, replace=False)).astype(np.int64)


def spearman(one: NDArray[Any], other: NDArray[Any]) -> float | None:
    """Rank correlation of [N] and [N], ties at their mean rank; None where one of them does not vary."""
    a, b = _mean_ranks(one), _mean_ranks(other)
    if len(a) < 2 or a.std() == 0 or b.std() == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])


def _mean_ranks(values: NDArray[Any]) -> Values:
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts - 1) / 2)[which], dtype=np.float64)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Aligned columns: the first left, the others right."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        cells = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
        return "  ".join(cells).rstrip()

    return [line(header), line(["-" * w for w in widths]), *map(line, rows)]
