"""Lengths of documents, lengths of vectors, and moments of every dimension."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nextvec.evaluation.diagnostics.sweep import Moments, Sweep
from nextvec.evaluation.diagnostics.verdicts import Verdict, short

if TYPE_CHECKING:
    from nextvec.corpus.store import Store

STD_FLOOR = 0.01
"""The brief's threshold for a per-dimension std. Unit vectors have about 1/sqrt(D), so that some dimensions
of real encoders lie below it: it is reported, never enforced."""
STILL = 0.1
"""A dimension hardly varies when its std is below this share of the median dimension's."""
UNIT_TOLERANCE = 1e-2
CONSTANT = 0.95
QUANTILES = {"min": 0.0, "p5": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95, "max": 1.0}


@dataclass(frozen=True)
class Lengths:
    """Chunks of the documents.

    Attributes:
        quantiles: "min", "p5", "p25", "median", "p75", "p95", "max".
        short: documents too short for one window; windows: what the others give.
    """

    documents: int
    quantiles: dict[str, float]
    context: int
    horizon: int
    short: int
    windows: int


@dataclass(frozen=True)
class Spread:
    """Moments of D dimensions in a few figures.

    Attributes:
        mean, std: "min", "median", "max" over the dimensions.
        std_above: share of dimensions with a std above 0.01.
        still: dimensions whose std is below a tenth of the median one.
        mean_norm: length of the mean vector; for unit vectors the root of the mean cosine of any two.
    """

    mean: dict[str, float]
    std: dict[str, float]
    std_above: float
    still: tuple[int, ...]
    mean_norm: float


@dataclass(frozen=True)
class Summary:
    """Vectors of the store: their lengths and moments, as stored and (`unit`) at unit length."""

    dimension: int
    normalised: bool
    norms: dict[str, float]
    raw: Spread
    unit: Spread


def lengths(counts: Sequence[int] | NDArray[np.int64], context: int, horizon: int) -> Lengths:
    """Quantiles of the documents' numbers of chunks, and the windows these give."""
    count = np.asarray(counts, dtype=np.int64)
    windows = np.maximum(count - context - horizon + 1, 0)
    return Lengths(
        len(count), _quantiles(count), context, horizon, int((windows == 0).sum()), int(windows.sum())
    )


def summarise(store: Store, found: Sweep) -> Summary:
    """Norms and moments of one pass over the vectors."""
    norms = {**_quantiles(found.norms), "mean": float(found.norms.mean()), "std": float(found.norms.std())}
    return Summary(store.dimension, store.normalised, norms, _spread(found.raw), _spread(found.unit))


def _quantiles(values: NDArray[np.int64] | NDArray[np.float64]) -> dict[str, float]:
    return dict(zip(QUANTILES, np.quantile(values, list(QUANTILES.values())).tolist(), strict=True))


def _spread(moments: Moments) -> Spread:
    def three(values: NDArray[np.float64]) -> dict[str, float]:
        return {"min": float(values.min()), "median": float(np.median(values)), "max": float(values.max())}

    std = moments.std
    return Spread(
        mean=three(moments.mean),
        std=three(std),
        std_above=float((std > STD_FLOOR).mean()),
        still=tuple(np.flatnonzero(std < STILL * np.median(std)).tolist()),
        mean_norm=float(np.linalg.norm(moments.mean)),
    )


def length_verdict(found: Lengths) -> Verdict:
    """Whether the documents are long enough for windows."""
    needed = f"a context of {found.context} and a horizon of {found.horizon}"
    if found.windows == 0:
        return Verdict("document lengths", "red", f"no document is long enough for {needed}: no window")
    text = (
        f"{found.windows:,} windows; {found.short} of {found.documents} documents are too short for {needed}"
    )
    return Verdict("document lengths", "warning" if found.short > found.documents / 2 else "ok", text)


def vector_verdicts(found: Summary) -> list[Verdict]:
    """What norms and moments say."""
    norms, units = found.norms, found.unit
    verdicts = []
    unit = max(abs(norms["min"] - 1), abs(norms["max"] - 1)) < UNIT_TOLERANCE
    spread = f"lengths from {norms['min']:.4g} to {norms['max']:.4g}"
    if found.normalised and not unit:
        text = f"the store says its vectors are of unit length, but they have {spread}"
        verdicts.append(Verdict("normalisation", "red", text))
    elif unit and not found.normalised:
        text = "the store says its vectors are raw, but all are of unit length: was the encoder's own output?"
        verdicts.append(Verdict("normalisation", "note", text))
    if units.mean_norm**2 > CONSTANT:
        text = (
            f"any two vectors have a mean cosine of {short(units.mean_norm**2)}: the data itself is collapsed"
        )
        verdicts.append(Verdict("variety", "red", text))
    if units.still:
        many = f"{len(units.still)} of {found.dimension}"
        text = f"{many} dimensions hardly vary (std below a tenth of the median dimension's)"
        verdicts.append(Verdict("still dimensions", "note", text))
    if not verdicts:
        verdicts.append(Verdict("vectors", "ok", f"{spread}, every dimension varies"))
    return verdicts
