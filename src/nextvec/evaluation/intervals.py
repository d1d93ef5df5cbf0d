"""Paired bootstrap over documents: windows of one document are not independent, documents nearly are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nextvec.data.windows import IntArray
from nextvec.errors import EvaluationError

RESAMPLES = 1000
LEVEL = 0.95
_CHUNK = 2**22


@dataclass(frozen=True)
class Interval:
    """A difference of means with its interval; `clear` when the interval leaves out 0."""

    difference: float
    low: float
    high: float

    @property
    def clear(self) -> bool:
        return self.low > 0 or self.high < 0


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
            raise EvaluationError(
                "an interval over documents needs at least two", remedy="evaluate more documents"
            )
        self.resamples, self.seed = resamples, seed

    def interval(self, values: NDArray[np.generic], other: NDArray[np.generic]) -> Interval:
        """Mean of `values` less mean of `other`, both [N], with its 95 % interval (percentile method)."""
        difference = values.astype(np.float64) - other.astype(np.float64)
        means = self._resampled(self._sums(difference), self._windows)
        low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return Interval(float(difference.mean()), float(low), float(high))

    def ratio(
        self,
        part: NDArray[np.generic],
        whole: NDArray[np.generic],
        other_part: NDArray[np.generic],
        other_whole: NDArray[np.generic],
    ) -> Interval:
        """Sum of `part` over sum of `whole`, less the same of the other, all [N], with its 95 % interval."""
        one, other = (
            (self._sums(above), self._sums(below))
            for above, below in ((part, whole), (other_part, other_whole))
        )
        drawn = self._resampled(*one) - self._resampled(*other)
        low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        difference = one[0].sum() / one[1].sum() - other[0].sum() / other[1].sum()
        return Interval(float(difference), float(low), float(high))

    def _sums(self, values: NDArray[np.generic]) -> NDArray[np.float64]:
        """Of each document."""
        return np.bincount(self._document, weights=values.astype(np.float64)).astype(np.float64)

    def _resampled(self, sums: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
        rng = np.random.default_rng(self.seed)
        n = len(sums)
        means = np.empty(self.resamples)
        size = max(1, _CHUNK // n)
        for start in range(0, self.resamples, size):
            stop = min(start + size, self.resamples)
            drawn = rng.integers(0, n, size=(stop - start, n))
            means[start:stop] = sums[drawn].sum(axis=1) / weights[drawn].sum(axis=1)
        return means
