"""Baselines of a few learned scalars (the mathematics is `nextvec.data.least_squares`)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from nextvec.data.gather import VectorSource, gather_contexts, gather_queries, gather_rows
from nextvec.data.least_squares import (
    BACK,
    BLOCK_BYTES,
    DECAYS,
    RANKING_BACK,
    WeightSums,
    Wide,
    aligned,
    averaged_blocks,
    exponential_averages,
    fit_listwise,
    fit_ridge,
    fit_ridge_on_averages,
    ranking_features,
    training_blocks,
)
from nextvec.data.windows import FloatArray, IntArray, Windows
from nextvec.evaluation.baselines.simple import Baseline
from nextvec.evaluation.predictor_protocol import unit

RESIDUALS = 8192  # kept of the training windows, evenly spaced


class WeightedSum(Baseline):
    """A sum of K vectors made from the context, with K weights by least squares."""

    needs_training = True
    kept: ClassVar[tuple[str, ...] | None] = ("weights",)

    def __init__(self, context: int, seed: int = 0) -> None:
        super().__init__(context, seed)
        self.weights: Wide

    @abstractmethod
    def features(self, contexts: FloatArray, lengths: IntArray) -> FloatArray:
        """The vectors to be weighted, [B, K, D]."""

    def fit(self, vectors: VectorSource, train: Windows, validation: Windows | None) -> None:
        self.weights = self.sums(vectors, train).solve()
        self.metadata = {"parameters": len(self.weights), "weights": _rounded(self.weights)}

    def sums(self, vectors: VectorSource, train: Windows) -> WeightSums:
        return WeightSums.over(vectors, train, self.context, self.features)

    def guess(self, contexts: FloatArray, lengths: IntArray) -> FloatArray:
        weights = self.weights.astype(np.float32)
        return np.asarray(np.einsum("bkd,k->bd", self.features(contexts, lengths), weights))


class PositionWeights(WeightedSum):
    """One weight for each place in the context."""

    name = "position weights"

    def features(self, contexts: FloatArray, lengths: IntArray) -> FloatArray:
        return aligned(contexts, lengths, self.context)


class WeightsWithQuery(PositionWeights):
    """Position weights with the query as one more vector; without a query the position weights alone.

    Fitted on the training windows that have a query and on all of them.
    """

    name = "weights with query"
    conditional = True
    kept = ("weights", "weights_with_query")

    def __init__(self, context: int, seed: int = 0) -> None:
        super().__init__(context, seed)
        self.weights_with_query: Wide

    def fit(self, vectors: VectorSource, train: Windows, validation: Windows | None) -> None:
        super().fit(vectors, train, validation)
        queried = train if train.query is None else train.select(train.query >= 0)
        if train.query is None or len(queried) == 0:
            self.weights_with_query = np.append(self.weights, 0.0)
        else:
            self.weights_with_query = WeightSums.summed(self._pieces(vectors, queried)).solve()
        self.metadata["parameters"] += len(self.weights_with_query)
        self.metadata["weights"] = _rounded(self.weights_with_query)

    def predict(
        self, contexts: FloatArray, lengths: IntArray, queries: FloatArray | None = None
    ) -> tuple[FloatArray, FloatArray]:
        """Raw and unit prediction, both [B, D]; `queries` [B, D] with rows of zeros for none."""
        raw = self.guess(contexts, lengths)
        if queries is not None:
            features = with_query(self.features(contexts, lengths), queries)
            steered = np.einsum("bkd,k->bd", features, self.weights_with_query.astype(np.float32))
            raw = np.where((queries != 0).any(axis=1, keepdims=True), steered, raw)
        return raw, unit(raw)

    def _pieces(self, vectors: VectorSource, windows: Windows) -> Iterator[tuple[FloatArray, FloatArray]]:
        """The vectors to be weighted and the targets of windows that all have a query."""
        for block in windows.blocks(max(1, BLOCK_BYTES // (4 * self.context * vectors.shape[1]))):
            contexts, lengths = gather_contexts(vectors, block, self.context)
            queries = gather_queries(vectors, block)
            assert queries is not None
            yield with_query(self.features(contexts, lengths), queries), gather_rows(vectors, block.target)


def with_query(features: FloatArray, queries: FloatArray) -> FloatArray:
    """[B, K, D] and [B, D] -> [B, K + 1, D]."""
    return np.concatenate([features, queries[:, None]], axis=1)


class ExponentialAverages(WeightedSum):
    """Weights on five averages of what was read, up to 64 chunks back, from the last chunk to the plain mean.

    For long contexts the strongest simple predictor we know.
    """

    name = "exponential averages"

    def __init__(self, context: int, seed: int = 0) -> None:
        super().__init__(BACK, seed)

    def features(self, contexts: FloatArray, lengths: IntArray) -> FloatArray:
        return exponential_averages(contexts, lengths)

    def sums(self, vectors: VectorSource, train: Windows) -> WeightSums:
        return WeightSums.summed(averaged_blocks(vectors, train, DECAYS, BACK))


# Ridge regression on the flattened context.


class Ridge(Baseline):
    """A full linear map from the context, shrunk towards the position weights (`least_squares.fit_ridge`).

    Its row says how much it was shrunk, and how many positions it uses.
    """

    name = "ridge"
    needs_training = True
    kept = ("weights",)

    def __init__(self, context: int, seed: int = 0) -> None:
        super().__init__(context, seed)
        self.weights: FloatArray

    def fit(self, vectors: VectorSource, train: Windows, validation: Windows | None) -> None:
        found = fit_ridge(vectors, train, validation, self.context)
        self.context = found.width
        self.weights = found.matrix.astype(np.float32)
        self.metadata = {
            "parameters": int(self.weights.size),
            "lambda": found.penalty,
            "positions": found.width,
        }

    def guess(self, contexts: FloatArray, lengths: IntArray) -> FloatArray:
        flat = aligned(contexts, lengths, self.context).reshape(len(lengths), -1)
        return np.asarray(flat @ self.weights, dtype=np.float32)


class RidgeOnAverages(Baseline):
    """A full linear map from five exponential averages, shrunk towards their scalar weights
    (`data.least_squares.fit_ridge_on_averages`)."""

    name = "ridge on averages"
    needs_training = True
    kept: ClassVar[tuple[str, ...] | None] = ("weights", "decays")

    def __init__(self, context: int, seed: int = 0) -> None:
        super().__init__(BACK, seed)
        self.weights: FloatArray
        self.decays: Wide

    def fit(self, vectors: VectorSource, train: Windows, validation: Windows | None) -> None:
        found = fit_ridge_on_averages(vectors, train, validation)
        self.weights = found.matrix.astype(np.float32)
        self.decays = np.array(found.decays)
        self.metadata = {
            "parameters": int(self.weights.size),
            "lambda": found.penalty,
            "weights": _rounded(found.weights),
        }

    def guess(self, contexts: FloatArray, lengths: IntArray) -> FloatArray:
        averages = exponential_averages(contexts, lengths, self.decays.tolist())
        return np.asarray(averages.reshape(len(lengths), -1) @ self.weights, dtype=np.float32)


class ListwiseAverages(Baseline):
    """Ten weights fitted to rank the true next chunk first (`fit_listwise`): the strongest
    simple ranker we know. Its cosine is low, for it points away from what every chunk has in common.

    The raw prediction is that direction, as long as the training vectors are on average.
    """

    name = "listwise averages"
    needs_training = True
    kept = ("weights", "mean", "length")

    def __init__(self, context: int, seed: int = 0) -> None:
        super().__init__(RANKING_BACK, seed)
        self.weights: FloatArray
        self.mean: FloatArray
        self.length: Wide

    def fit(self, vectors: VectorSource, train: Windows, validation: Windows | None) -> None:
        found = fit_listwise(vectors, train, self.seed)
        self.weights, self.mean = found.weights.astype(np.float32), found.mean
        lengths = [np.linalg.norm(gather_rows(vectors, b.target), axis=1) for b in train.blocks(8192)]
        self.length = np.array(float(np.concatenate(lengths).mean(dtype=np.float64)))
        self.metadata = {"parameters": len(self.weights), "weights": _rounded(found.weights)}

    def guess(self, contexts: FloatArray, lengths: IntArray) -> FloatArray:
        features = ranking_features(contexts, lengths, self.mean)
        query = unit(np.einsum("bkd,k->bd", features, self.weights))
        return np.asarray(query * np.float32(self.length), dtype=np.float32)


class AveragesWithResiduals(RidgeOnAverages):
    """Ridge on averages as the point; samples add what it missed on training windows: the simplest
    distribution that a generative model has to beat."""

    name = "averages + residuals"
    generative = True
    kept = ("weights", "decays", "residuals")

    def __init__(self, context: int, seed: int = 0) -> None:
        super().__init__(context, seed)
        self.residuals: FloatArray

    def fit(self, vectors: VectorSource, train: Windows, validation: Windows | None) -> None:
        super().fit(vectors, train, validation)
        some = train.select(np.unique(np.linspace(0, len(train) - 1, RESIDUALS).round().astype(np.int64)))
        missed = [
            targets - self.guess(c, n) for c, n, targets in training_blocks(vectors, some, self.context)
        ]
        self.residuals = np.random.default_rng(self.seed).permutation(np.concatenate(missed))
        self.metadata["residuals"] = len(self.residuals)

    def sample(self, contexts: FloatArray, lengths: IntArray, n: int, seed: int) -> FloatArray:
        """[n, B, D] the point plus n different residuals (over again where there are fewer) each."""
        rng = np.random.default_rng([self.seed, seed])
        drawn = rng.integers(len(self.residuals), size=(len(lengths), 1)) + np.arange(n)
        # a shuffled list, read from a random place on: no two samples of a window share a residual
        residuals = self.residuals[drawn % len(self.residuals)]
        return np.asarray(self.guess(contexts, lengths) + residuals.transpose(1, 0, 2), dtype=np.float32)


def _rounded(weights: Wide) -> list[float]:
    return [round(float(weight), 4) for weight in weights]
