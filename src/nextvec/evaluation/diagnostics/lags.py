"""The lag curve: how close chunks k apart are, against two nulls, with intervals over documents.

The field judged its data by the mean of cos(next) - cos(previous) over sliding windows, which telescopes to
about 0 on any data. A null that keeps everything but the order cannot do that.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nextvec.evaluation.bootstrap import LEVEL, RESAMPLES
from nextvec.evaluation.diagnostics.sweep import LAGS, Sweep, Values
from nextvec.evaluation.diagnostics.verdicts import Verdict, short

FEW_REPEATED = 0.01


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval over documents; no interval for fewer than two documents."""

    mean: float
    low: float | None
    high: float | None

    @property
    def above_zero(self) -> bool:
        """Whether the whole interval (or the mean alone, where there is none) lies above 0."""
        return (self.mean if self.low is None else self.low) > 0

    @property
    def below_zero(self) -> bool:
        """The same, below 0."""
        return (self.mean if self.high is None else self.high) < 0

    def __str__(self) -> str:
        interval = "" if self.low is None else f" [{short(self.low)}, {short(self.high)}]"
        return short(self.mean) + interval


@dataclass(frozen=True)
class Lag:
    """Chunks k apart in the same document.

    Attributes:
        pairs: how many there are; documents: in how many documents.
        cosine: their mean cosine.
        shuffled: what it would be with the chunks of every document in random order: the mean over **all**
            orders, which is exact, not one draw.
        gain: cosine less shuffled, paired by document.
    """

    k: int
    pairs: int
    documents: int
    cosine: Estimate
    shuffled: float
    gain: Estimate


@dataclass(frozen=True)
class LagCurve:
    """The curve of one source, or of everything (`source` None).

    Attributes:
        apart: the other null: mean cosine of two chunks of different documents (of the same source, where
            the curve is of one). Chunks closer than this share a document's topic, whatever their order.
        lags: k = 1 .. 8, as far as there are documents so long.
        fall: cosine at lag 1 less cosine at lag 2; None without a second lag.
        repeated: share of adjacent chunks that are nearly the same vector.
    """

    source: str | None
    documents: int
    chunks: int
    apart: float
    lags: tuple[Lag, ...]
    fall: Estimate | None
    repeated: float

    @property
    def ordered(self) -> bool:
        """Whether adjacent chunks are closer than shuffled ones."""
        return bool(self.lags) and self.lags[0].gain.above_zero

    @property
    def reach(self) -> int:
        """The largest k up to which every lag is closer than shuffled chunks."""
        reach = 0
        for lag in self.lags:
            if not lag.gain.above_zero:
                break
            reach = lag.k
        return reach


def lag_curves(found: Sweep, *, resamples: int = RESAMPLES, seed: int = 0) -> tuple[LagCurve, ...]:
    """The curve of everything, then one a source where there are several.

    Args:
        resamples: draws of the documents with replacement, the same for every figure of a curve.
    """
    curves = [_curve(found, None, np.arange(len(found.count)), found.apart_all, resamples, seed)]
    if len(found.sources) > 1:
        for s, source in enumerate(found.sources):
            which = np.flatnonzero(found.source == s)
            curves.append(_curve(found, source, which, float(found.apart[s]), resamples, seed))
    return tuple(curves)


def _curve(
    found: Sweep, source: str | None, which: np.ndarray, apart: float, resamples: int, seed: int
) -> LagCurve:
    pairs = found.pairs[which].astype(np.float64)
    similar, shuffled = found.similar[which], pairs * found.within[which, None]
    known = pairs.sum(axis=0) > 0
    drawn = _resampled(np.hstack([similar, similar - shuffled]), np.hstack([pairs, pairs]), resamples, seed)
    lags = []
    for k in range(1, int(known.sum()) + 1):
        i, total = k - 1, pairs[:, k - 1].sum()
        cosine, null = similar[:, i].sum() / total, shuffled[:, i].sum() / total
        several = int((pairs[:, i] > 0).sum())
        lags.append(
            Lag(
                k=k,
                pairs=int(total),
                documents=several,
                cosine=_estimate(cosine, drawn[:, i], several),
                shuffled=float(null),
                gain=_estimate(cosine - null, drawn[:, LAGS + i], several),
            )
        )
    fall = None
    if len(lags) > 1:
        mean = lags[0].cosine.mean - lags[1].cosine.mean
        fall = _estimate(mean, drawn[:, 0] - drawn[:, 1], lags[1].documents)
    return LagCurve(
        source=source,
        documents=len(which),
        chunks=int(found.count[which].sum()),
        apart=apart,
        lags=tuple(lags),
        fall=fall,
        repeated=float(found.repeated[which].sum() / max(pairs[:, 0].sum(), 1)),
    )


def _resampled(sums: Values, counts: Values, resamples: int, seed: int) -> Values:
    """[resamples, C] means sum / count over documents drawn with replacement; nan without any pair."""
    n, rng = len(sums), np.random.default_rng(seed)
    both = np.hstack([sums, counts])
    drawn = np.empty((resamples, both.shape[1]))
    for i in range(resamples):
        drawn[i] = np.bincount(rng.integers(0, n, n), minlength=n).astype(np.float64) @ both
    total, weight = np.hsplit(drawn, 2)
    return np.divide(total, weight, out=np.full_like(total, np.nan), where=weight > 0)


def _estimate(mean: float, drawn: Values, documents: int) -> Estimate:
    if documents < 2:
        return Estimate(float(mean), None, None)
    low, high = np.nanquantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(mean), float(low), float(high))


def order_verdicts(curves: tuple[LagCurve, ...]) -> list[Verdict]:
    """What the curves say of the order of chunks."""
    whole, *parts = curves
    if not whole.lags:
        return [Verdict("order", "red", "no document has two chunks: there is no next chunk to predict")]
    first = whole.lags[0]
    verdicts = []
    if whole.ordered:
        far = f" up to {whole.reach} chunks away" if whole.reach > 1 else ""
        text = f"next chunks are closer than shuffled ones by {first.gain}: order carries signal{far}"
        verdicts.append(Verdict("order", "ok", text))
    else:
        text = (
            f"incoherent data: next chunks (cosine {first.cosine}) are not closer than the same document's "
            f"chunks in random order (difference {first.gain}): by cosine, order carries no signal; were the "
            "chunks shuffled, filtered or sorted?"
        )
        verdicts.append(Verdict("order", "red", text))
    verdicts += [_source_verdict(part) for part in parts if not part.ordered]
    for curve in curves:
        verdicts += _shape_verdicts(curve)
    if not first.cosine.mean > whole.apart:
        text = (
            f"chunks of a document (adjacent {short(first.cosine.mean)}) are no closer than chunks of "
            f"different documents ({short(whole.apart)}): are documents cut where the data says?"
        )
        verdicts.append(Verdict("documents", "warning", text))
    return verdicts


def _source_verdict(curve: LagCurve) -> Verdict:
    if not curve.lags:
        text = f"source {curve.source}: no document has two chunks"
    else:
        text = (
            f"source {curve.source}: next chunks are not clearly closer than shuffled ones "
            f"({curve.lags[0].gain}, {curve.documents} documents)"
        )
    return Verdict("order of a source", "warning", text)


def _shape_verdicts(curve: LagCurve) -> list[Verdict]:
    where = "" if curve.source is None else f"source {curve.source}: "
    verdicts = []
    if curve.fall is not None and curve.fall.below_zero:
        text = (
            f"{where}chunks two apart are closer than adjacent ones (by {short(-curve.fall.mean)}): "
            "are two texts interleaved?"
        )
        verdicts.append(Verdict("interleaved", "warning", text))
    if curve.repeated > FEW_REPEATED:
        text = (
            f"{where}{100 * curve.repeated:.1f} % of adjacent chunks are the same vector: "
            "overlapping chunks, or documents padded by repetition?"
        )
        verdicts.append(Verdict("repeated chunks", "warning", text))
    return verdicts
