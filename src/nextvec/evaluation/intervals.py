"""Means and differences with 95 % intervals, by resampling documents: windows of one document are not
independent, documents nearly are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nextvec.data.windows import IntArray
from nextvec.errors import EvaluationError
from nextvec.text import counted

RESAMPLES = 1000
LEVEL = 0.95
WORTH_NAMING = 0.001
"""Smaller differences of cosine are printed but get no verdict: with enough windows anything is clear."""
NEGLIGIBLE = 0.005
STANDING = {True: "better than", False: "worse than", None: "not distinguishable from"}
"""How one predictor stands to another, everywhere in these words: a difference is named only where there is
an interval and it leaves out 0."""
FEW_DOCUMENTS = 10
"""An interval over fewer documents than these is of little worth."""
_CHUNK = 2**22
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A mean, or a difference of means, with its 95 % interval over documents (none for a single one)."""

    value: float
    low: float | None
    high: float | None

    @property
    def excludes_zero(self) -> bool:
        """Whether there is an interval, and it leaves out 0."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out 0 and the value is worth naming."""
        return self.excludes_zero and abs(self.value) >= WORTH_NAMING

    @property
    def above(self) -> bool:
        return self.clear and self.value > 0

    @property
    def below(self) -> bool:
        return self.clear and self.value < 0

    def better(self, direction: str | None = "higher") -> bool | None:
        """Of a difference, whether the first of the two is better; None where they are not distinguishable.

        `direction` is "higher" or "lower", whichever of the figure is better.
        """
        return (self.value > 0) == (direction == "higher") if self.excludes_zero else None

    @property
    def least(self) -> float:
        """The lower end of the interval; the value where there is none."""
        return self.value if self.low is None else self.low

    @property
    def most(self) -> float:
        """The upper end; the value where there is no interval."""
        return self.value if self.high is None else self.high

    @property
    def negligible(self) -> bool:
        """Whether the whole interval is so near 0 that there is no difference, rather than an unknown one."""
        known = self.low is not None and self.high is not None
        return known and max(abs(self.low or 0.0), abs(self.high or 0.0)) < NEGLIGIBLE

    def __neg__(self) -> Estimate:
        """The difference the other way round."""
        low, high = (None if end is None else -end for end in (self.high, self.low))
        return Estimate(-self.value, low, high)

    def __str__(self) -> str:
        """`.012 [.009, .015]`."""
        return self.show()

    def show(self, digits: int = 3, *, sign: bool = False) -> str:
        """The same with so many digits; `sign` puts a + before what is positive."""
        value = ("+" if sign and self.value > 0 else "") + _figure(self.value, digits)
        if self.low is None or self.high is None:
            return value
        return f"{value} [{_figure(self.low, digits)}, {_figure(self.high, digits)}]"

    def signed(self) -> str:
        """`+0.0120 [+0.0090, +0.0150]`, as tables print it."""
        interval = "" if self.low is None else f" [{self.low:+.4f}, {self.high:+.4f}]"
        return f"{self.value:+.4f}{interval}"

    def to_json(self, key: str = "difference") -> dict[str, float | None]:
        """The value under `key`, "low" and "high"."""
        return {key: self.value, "low": self.low, "high": self.high}


def short(value: float | None, digits: int = 3) -> str:
    """A figure mostly between -1 and 1, without the leading zero: -.31; "-" for what is not known."""
    if value is None or not math.isfinite(value):
        return "-"
    text = f"{value:.{digits}f}"
    return text.replace("0.", ".", 1) if abs(float(text)) < 1 else text


def caution(documents: int, windows: int, enough: int = FEW_DOCUMENTS) -> str | None:
    """That an interval over so few documents is of little worth; None where they are `enough`."""
    if documents >= enough:
        return None
    many = f"{counted(documents, 'document')} ({counted(windows, 'window')})"
    return f"{many}, over which no interval says much"


def _figure(value: float, digits: int) -> str:
    """Without the sign of a zero that is one only after rounding."""
    return short(round(value, digits) + 0.0, digits)


def estimate(documents: IntArray, values: NDArray[Any], other: NDArray[Any] | None = None) -> Estimate:
    """Mean of `values` [N], less that of `other`, with its paired interval over `documents` [N]."""
    below = np.zeros(len(values)) if other is None else other
    try:
        return DocumentBootstrap(documents).interval(values, below)
    except EvaluationError:  # of a single document nothing can be said about others
        return Estimate(float(np.mean(values.astype(np.float64) - below)), None, None)


class DocumentBootstrap:
    """Resamples of the documents, drawn once and used for every pair of predictors.

    Args:
        documents: [N] the document of each window.
        resamples: how many times the documents are drawn with replacement.
        seed: same seed, same draws.
    Raises:
        EvaluationError: fewer than two documents: nothing can be said about other documents then.
    """

    def __init__(self, documents: IntArray, resamples: int = RESAMPLES, seed: int = 0) -> None:
        _, self._document = np.unique(documents, return_inverse=True)
        self._windows = np.bincount(self._document).astype(np.float64)
        if len(self._windows) < 2:
            message = "an interval over documents needs at least two"
            raise EvaluationError(message, remedy="evaluate more documents")
        self.resamples, self.seed = resamples, seed

    def interval(self, values: NDArray[Any], other: NDArray[Any]) -> Estimate:
        """Mean of `values` less mean of `other`, both [N]."""
        difference = values.astype(np.float64) - other.astype(np.float64)
        return percentiles(difference.mean(), self._drawn(self._sums(difference), self._windows))

    def ratio(
        self, part: NDArray[Any], whole: NDArray[Any], other_part: NDArray[Any], other_whole: NDArray[Any]
    ) -> Estimate:
        """Sum of `part` over sum of `whole`, less the same of the other, all [N]."""
        a, b, c, d = (self._sums(values) for values in (part, whole, other_part, other_whole))
        return percentiles(a.sum() / b.sum() - c.sum() / d.sum(), self._drawn(a, b) - self._drawn(c, d))

    def _sums(self, values: NDArray[Any]) -> Values:
        return np.bincount(self._document, weights=values.astype(np.float64)).astype(np.float64)

    def _drawn(self, sums: Values, weights: Values) -> Values:
        return resampled(sums[:, None], weights[:, None], self.resamples, self.seed)[:, 0]


def percentiles(value: float, drawn: Values, documents: int = 2) -> Estimate:
    """A value with the interval of what was drawn (percentile method; nan is left out); none for fewer than
    two documents."""
    if documents < 2:
        return Estimate(float(value), None, None)
    low, high = np.nanquantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(value), float(low), float(high))


def resampled(sums: Values, weights: Values, resamples: int, seed: int) -> Values:
    """[resamples, C] sums / weights, both [documents, C], over documents drawn with replacement; nan where
    the weights are 0."""
    n, rng = len(sums), np.random.default_rng(seed)
    means = np.empty((resamples, sums.shape[1]))
    size = max(1, _CHUNK // (n * sums.shape[1]))
    for start in range(0, resamples, size):
        drawn = rng.integers(0, n, size=(min(size, resamples - start), n))
        total, weight = sums[drawn].sum(axis=1), weights[drawn].sum(axis=1)
        means[start : start + len(drawn)] = np.divide(
            total, weight, out=np.full_like(total, np.nan), where=weight > 0
        )
    return means
