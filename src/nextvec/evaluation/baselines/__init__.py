"""The predictors that every model is measured against."""

from __future__ import annotations

from nextvec.evaluation.baselines.base import Baseline
from nextvec.evaluation.baselines.linear import ExponentialAverages, PositionWeights, Ridge, WeightsWithQuery
from nextvec.evaluation.baselines.simple import (
    CopyLast,
    LinearAverage,
    MeanVector,
    NeighbourSuccessor,
    Random,
)

__all__ = [
    "BASELINES",
    "QUERY_BASELINES",
    "Baseline",
    "CopyLast",
    "ExponentialAverages",
    "LinearAverage",
    "MeanVector",
    "NeighbourSuccessor",
    "PositionWeights",
    "Random",
    "Ridge",
    "WeightsWithQuery",
]

# in the order of the table
BASELINES: dict[str, type[Baseline]] = {
    cls.name: cls
    for cls in (
        Random,
        MeanVector,
        CopyLast,
        LinearAverage,
        PositionWeights,
        Ridge,
        ExponentialAverages,
        NeighbourSuccessor,
    )
}

# evaluated after those, where predictors are told what to write towards
QUERY_BASELINES: dict[str, type[Baseline]] = {WeightsWithQuery.name: WeightsWithQuery}
