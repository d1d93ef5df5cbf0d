"""Several predictors as one: weights that are never negative, fitted on validation windows only.

The raw output mixes raw outputs, the unit output mixes unit outputs, and each mixture has weights of its own:
the length of what a model trained on cosine puts out means nothing, its direction does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from nextvec.data.windows import (
    FloatArray,
    IntArray,
    VectorSource,
    Windows,
    gather_contexts,
    gather_queries,
    gather_rows,
)
from nextvec.errors import EvaluationError
from nextvec.evaluation.predictor import Predictor, ask, unit

Weights = NDArray[np.float64]
BLOCK = 512


@dataclass(frozen=True)
class Mixture:
    """Weights of M members: `raw` [M] of their raw outputs, `unit` [M] of their unit outputs."""

    raw: Weights
    unit: Weights


class Ensemble:
    """A predictor made of others.

    Args:
        members: at least two; each is given as many of the most recent vectors as it uses.
        mixture: from `fit_mixture`.
    """

    kind: ClassVar[Literal["model"]] = "model"

    def __init__(self, name: str, members: Sequence[Predictor], mixture: Mixture) -> None:
        self.name, self.members, self.mixture = name, tuple(members), mixture
        self.context = max(member.context for member in self.members)
        self.conditional = any(getattr(member, "conditional", False) for member in self.members)
        self.facts: dict[str, Any] = {
            "members": [member.name for member in self.members],
            "weights": [round(float(w), 4) for w in mixture.unit],
            "parameters": sum(int(getattr(m, "facts", {}).get("parameters", 0)) for m in self.members),
        }

    def predict(
        self, contexts: FloatArray, lengths: IntArray, queries: FloatArray | None = None
    ) -> tuple[FloatArray, FloatArray]:
        """Raw and unit prediction, both [B, D]; the members that are conditional are told the queries."""
        raw, units = answers(self.members, contexts, lengths, queries)
        mixed = np.einsum("m,mbd->bd", self.mixture.raw, raw)
        return mixed.astype(np.float32), unit(
            np.einsum("m,mbd->bd", self.mixture.unit, units).astype(np.float32)
        )


def fit_mixture(members: Sequence[Predictor], vectors: VectorSource, windows: Windows) -> Mixture:
    """The non-negative weights with the least squared error on these windows (Lawson and Hanson's NNLS).

    For unit vectors that is close to the weighting with the highest mean cosine. Normal equations are summed
    in float64.

    Args:
        windows: of validation documents: on training ones the member that overfits most would get all.
    Raises:
        EvaluationError: fewer than two members, or none of them points anywhere near the targets.
    """
    if len(members) < 2:
        raise EvaluationError("an ensemble needs two members at least", remedy="name more runs or baselines")
    M = len(members)
    grams, moments = np.zeros((2, M, M)), np.zeros((2, M))
    width = max(member.context for member in members)
    for block in windows.blocks(BLOCK):
        contexts, lengths = gather_contexts(vectors, block, min(width, int(block.read.max())))
        target = gather_rows(vectors, block.target)
        both = answers(members, contexts, lengths, gather_queries(vectors, block))
        for i, (said, wanted) in enumerate(zip(both, (target, unit(target)), strict=True)):
            flat = said.reshape(M, -1).astype(np.float64)
            grams[i] += flat @ flat.T
            moments[i] += flat @ wanted.ravel().astype(np.float64)
    raw, units = (_solve(gram, moment) for gram, moment in zip(grams, moments, strict=True))
    return Mixture(raw, units / units.sum())


def answers(
    members: Sequence[Predictor],
    contexts: FloatArray,
    lengths: IntArray,
    queries: FloatArray | None = None,
) -> tuple[FloatArray, FloatArray]:
    """Raw and unit predictions [M, B, D] of each member from the last vectors that it uses."""
    said = [ask(member, *latest(contexts, lengths, member.context), queries) for member in members]
    return np.stack([raw for raw, _ in said]), np.stack([units for _, units in said])


def latest(contexts: FloatArray, lengths: IntArray, width: int) -> tuple[FloatArray, IntArray]:
    """The last `width` vectors of each context, padded on the right, and how many they are."""
    if contexts.shape[1] <= width:
        return contexts, lengths
    kept = np.minimum(lengths, width)
    place = (lengths - kept)[:, None] + np.arange(width)
    taken = np.take_along_axis(contexts, np.minimum(place, contexts.shape[1] - 1)[:, :, None], axis=1)
    taken[np.arange(width) >= kept[:, None]] = 0.0
    return taken, kept


def _solve(gram: NDArray[np.float64], moment: NDArray[np.float64]) -> Weights:
    # |Y - X w|^2 = |L'w - L^-1 moment|^2 + const with gram = L L': a least squares problem of M rows.
    scale = np.sqrt(np.maximum(np.diag(gram), np.finfo(np.float64).tiny))
    normal = gram / np.outer(scale, scale) + 1e-9 * np.eye(len(gram))
    factor = np.linalg.cholesky(normal)
    weights, _ = nnls(factor.T, np.linalg.solve(factor, moment / scale))
    if not weights.any():
        raise EvaluationError(
            "no member points anywhere near the targets", remedy="leave these members out, or train them"
        )
    found: Weights = weights / scale
    return found
