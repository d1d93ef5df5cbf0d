"""The predictors that every model is measured against."""

from __future__ import annotations

from nextvec.errors import EvaluationError
from nextvec.evaluation.baselines.linear import (
    AveragesWithResiduals,
    ExponentialAverages,
    ListwiseAverages,
    PositionWeights,
    Ridge,
    RidgeOnAverages,
    WeightsWithQuery,
)
from nextvec.evaluation.baselines.simple import (
    Baseline,
    CopyLast,
    LastAndMean,
    LinearAverage,
    MeanVector,
    NeighbourSuccessor,
    Random,
)

__all__ = [
    "BASELINES",
    "QUERY_BASELINES",
    "AveragesWithResiduals",
    "Baseline",
    "CopyLast",
    "ExponentialAverages",
    "LastAndMean",
    "LinearAverage",
    "ListwiseAverages",
    "MeanVector",
    "NeighbourSuccessor",
    "PositionWeights",
    "Random",
    "Ridge",
    "RidgeOnAverages",
    "WeightsWithQuery",
    "named",
]

_PLAIN = (Random, MeanVector, CopyLast, LinearAverage, LastAndMean)
_FITTED = (PositionWeights, Ridge, ExponentialAverages, RidgeOnAverages, ListwiseAverages)
# in the order of the table
BASELINES: dict[str, type[Baseline]] = {
    cls.name: cls for cls in (*_PLAIN, *_FITTED, AveragesWithResiduals, NeighbourSuccessor)
}


def named(name: str) -> type[Baseline]:
    """Raises EvaluationError: there is none of that name."""
    if name not in BASELINES:
        raise EvaluationError(f"there is no baseline '{name}'", remedy=f"choose of: {', '.join(BASELINES)}")
    return BASELINES[name]


# evaluated after those, where predictors are told what to write towards
QUERY_BASELINES: dict[str, type[Baseline]] = {WeightsWithQuery.name: WeightsWithQuery}
