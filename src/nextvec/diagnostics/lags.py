"""The lag curve: how close chunks k apart are, against two nulls, with intervals over documents.

The field measured its data by the mean of cos(next) - cos(previous) over sliding windows, which telescopes
to about 0 on any data. A null that keeps everything but the order cannot do that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nextvec.data.gather import gather_rows
from nextvec.data.windows import FloatArray, IntArray
from nextvec.diagnostics.sections import Verdict
from nextvec.evaluation.intervals import RESAMPLES, Estimate, Values, percentiles, resampled, short
from nextvec.evaluation.predictor_protocol import unit
from nextvec.progress import Progress

if TYPE_CHECKING:
    from nextvec.corpus.store import Store

# One pass over the vectors of a store: every sum that the diagnosis of data needs, in float64.

LAGS = 8
REPEATED = 0.999
"""Adjacent chunks with a larger cosine count as one chunk twice."""
BLOCK_ROWS = 8192


@dataclass(frozen=True)
class MeanAndStd:
    """Mean [D] and standard deviation [D] of vectors."""

    mean: Values
    std: Values


@dataclass(frozen=True)
class StoreSums:
    """What one pass over n documents gave; arrays are in their order, cosines are of raw vectors' directions.

    Attributes:
        source: [n] index of each document's source in `sources`.
        count: [n] chunks of each.
        similar: [n, 8] sum of the cosines of chunks k = 1..8 apart.
        within: [n] mean cosine of two different chunks of the document, in any order; 0 for one chunk.
        repeated: [n] pairs of adjacent chunks that are (nearly) the same vector.
        apart: mean cosine of two chunks of different documents of the same source, one a source; nan where a
            source has one document.
        apart_all: the same over all documents, whatever their sources.
        norms: [chunks] lengths of the vectors.
        raw, unit: moments of the vectors as stored and at unit length.
    """

    sources: tuple[str, ...]
    source: IntArray
    count: IntArray
    similar: Values
    within: Values
    repeated: IntArray
    apart: Values
    apart_all: float
    norms: Values
    raw: MeanAndStd
    unit: MeanAndStd

    @property
    def pairs(self) -> IntArray:
        """[n, 8] pairs of chunks k apart in each document."""
        return np.asarray(np.maximum(self.count[:, None] - np.arange(1, LAGS + 1), 0), dtype=np.int64)


def sum_store(store: Store, documents: Sequence[int], *, quiet: bool = True) -> StoreSums:
    """Read every vector of these documents (indices into `store.documents`) once, in blocks."""
    chosen = [store.documents[i] for i in documents]
    sources = tuple(sorted({d.source for d in chosen}))
    sums = _Sums(
        np.array([sources.index(d.source) for d in chosen], dtype=np.int64),
        np.array([d.count for d in chosen], dtype=np.int64),
        len(sources),
        store.dimension,
    )
    rows = store.rows_of(documents)
    owner = np.repeat(np.arange(len(chosen), dtype=np.int64), sums.count)
    with Progress("reading vectors", len(rows), "chunks", quiet=quiet) as progress:
        for start in range(0, len(rows), BLOCK_ROWS):
            piece = slice(start, start + BLOCK_ROWS)
            sums.add(gather_rows(store.vectors, rows[piece]), owner[piece])
            progress.advance(len(owner[piece]))
    return sums.result(sources)


class _Sums:
    """Collects blocks of consecutive rows; `owner` numbers the documents, ascending."""

    def __init__(self, source: IntArray, count: IntArray, sources: int, dimension: int) -> None:
        n = len(count)
        self.source, self.count = source, count
        self.similar = np.zeros((n, LAGS))
        self.repeated = np.zeros(n, dtype=np.int64)
        self.square = np.zeros(n)  # |sum of a document's unit vectors|^2
        self.total = np.zeros((sources, dimension))
        self.moments = np.zeros((2, 2, dimension))  # raw and unit; sums and sums of squares
        self.norms: list[Values] = []
        nothing = np.zeros(0, dtype=np.int64)
        self.tail: tuple[FloatArray, IntArray] = (np.zeros((0, dimension), dtype=np.float32), nothing)
        self.open = (-1, np.zeros(dimension))  # the document that the next block may go on with

    def add(self, vectors: FloatArray, owner: IntArray) -> None:
        units = unit(vectors)
        wide = vectors.astype(np.float64)
        self.norms.append(np.sqrt(np.einsum("nd,nd->n", wide, wide)))
        wide_units = units.astype(np.float64)
        for moments, values in zip(self.moments, (wide, wide_units), strict=True):
            moments += (values.sum(axis=0), np.square(values).sum(axis=0))
        self._lags(units, owner)
        self._documents(wide_units, owner)

    def _lags(self, units: FloatArray, owner: IntArray) -> None:
        """Pairs whose later chunk lies in this block; the earlier one may lie at the end of the last."""
        old = len(self.tail[1])
        units, owner = np.concatenate([self.tail[0], units]), np.concatenate([self.tail[1], owner])
        for k in range(1, LAGS + 1):
            later = np.arange(max(old, k), len(owner))
            later = later[owner[later] == owner[later - k]]
            cosines = np.einsum("nd,nd->n", units[later], units[later - k], dtype=np.float64)
            np.add.at(self.similar[:, k - 1], owner[later], cosines)
            if k == 1:
                np.add.at(self.repeated, owner[later[cosines > REPEATED]], 1)
        self.tail = (units[-LAGS:], owner[-LAGS:])

    def _documents(self, units: Values, owner: IntArray) -> None:
        starts = np.concatenate([[0], np.flatnonzero(np.diff(owner)) + 1])
        for document, part in zip(owner[starts].tolist(), np.add.reduceat(units, starts), strict=True):
            if document != self.open[0]:
                self._close()
                self.open = (document, np.zeros_like(part))
            self.open[1][:] += part

    def _close(self) -> None:
        document, total = self.open
        if document >= 0:
            self.square[document] = total @ total
            self.total[self.source[document]] += total

    def result(self, sources: tuple[str, ...]) -> StoreSums:
        self._close()
        self.open = (-1, self.open[1])
        n = self.count.astype(np.float64)
        within = np.divide(self.square - n, n * (n - 1), out=np.zeros_like(n), where=n > 1)
        apart = [self._apart(self.total[s], self.source == s) for s in range(len(sources))]
        raw, units = (_moments(sums, n.sum()) for sums in self.moments)
        return StoreSums(
            sources=sources,
            source=self.source,
            count=self.count,
            similar=self.similar,
            within=within,
            repeated=self.repeated,
            apart=np.array(apart),
            apart_all=self._apart(self.total.sum(axis=0), np.ones(len(n), dtype=bool)),
            norms=np.concatenate(self.norms),
            raw=raw,
            unit=units,
        )

    def _apart(self, total: Values, which: NDArray[np.bool_]) -> float:
        """Mean cosine over all pairs of chunks of different documents: all pairs less those within one."""
        n = self.count[which].astype(np.float64)
        pairs = n.sum() ** 2 - np.square(n).sum()
        return float((total @ total - self.square[which].sum()) / pairs) if pairs else float("nan")


def _moments(sums: Values, count: float) -> MeanAndStd:
    mean = sums[0] / count
    return MeanAndStd(mean, np.sqrt(np.maximum(sums[1] / count - np.square(mean), 0)))


FEW_REPEATED = 0.01


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
        return bool(self.lags) and self.lags[0].gain.least > 0

    @property
    def reach(self) -> int:
        """The largest k up to which every lag is closer than shuffled chunks."""
        return sum(1 for _ in takewhile(lambda lag: lag.gain.least > 0, self.lags))


def lag_curves(found: StoreSums, *, resamples: int = RESAMPLES, seed: int = 0) -> tuple[LagCurve, ...]:
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
    found: StoreSums, source: str | None, which: np.ndarray, apart: float, resamples: int, seed: int
) -> LagCurve:
    pairs = found.pairs[which].astype(np.float64)
    similar, shuffled = found.similar[which], pairs * found.within[which, None]
    known = pairs.sum(axis=0) > 0
    drawn = resampled(np.hstack([similar, similar - shuffled]), np.hstack([pairs, pairs]), resamples, seed)
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
                cosine=percentiles(cosine, drawn[:, i], several),
                shuffled=float(null),
                gain=percentiles(cosine - null, drawn[:, LAGS + i], several),
            )
        )
    fall = None
    if len(lags) > 1:
        mean = lags[0].cosine.value - lags[1].cosine.value
        fall = percentiles(mean, drawn[:, 0] - drawn[:, 1], lags[1].documents)
    return LagCurve(
        source=source,
        documents=len(which),
        chunks=int(found.count[which].sum()),
        apart=apart,
        lags=tuple(lags),
        fall=fall,
        repeated=float(found.repeated[which].sum() / max(pairs[:, 0].sum(), 1)),
    )


def order_verdicts(curves: tuple[LagCurve, ...]) -> list[Verdict]:
    whole, *parts = curves
    if not whole.lags:
        return [Verdict("order", "red", "no document has two chunks: there is no next chunk to predict")]
    first = whole.lags[0]
    text = (
        f"incoherent data: next chunks (cosine {first.cosine}) are not closer than the same document's "
        f"chunks in random order (difference {first.gain}): by cosine, order carries no signal; were the "
        "chunks shuffled, filtered or sorted?"
    )
    if whole.ordered:
        far = f" up to {whole.reach} chunks away" if whole.reach > 1 else ""
        text = f"next chunks are closer than shuffled ones by {first.gain}: order carries signal{far}"
    verdicts = [Verdict("order", "ok" if whole.ordered else "red", text)]
    verdicts += [_source_verdict(part) for part in parts if not part.ordered]
    verdicts += [verdict for curve in curves for verdict in _shape_verdicts(curve)]
    if not first.cosine.value > whole.apart:
        text = (
            f"chunks of a document (adjacent {short(first.cosine.value)}) are no closer than chunks of "
            f"different documents ({short(whole.apart)}): are the document boundaries right?"
        )
        verdicts.append(Verdict("documents", "warning", text))
    return verdicts


def _source_verdict(curve: LagCurve) -> Verdict:
    text = "no document has two chunks"
    if curve.lags:
        message = f"({curve.lags[0].gain}, {curve.documents} documents)"
        text = f"next chunks are not clearly closer than shuffled ones {message}"
    return Verdict("order of a source", "warning", f"source {curve.source}: {text}")


def _shape_verdicts(curve: LagCurve) -> Iterator[Verdict]:
    where = "" if curve.source is None else f"source {curve.source}: "
    if curve.fall is not None and curve.fall.most < 0:
        text = (
            f"{where}chunks two apart are closer than adjacent ones (by {short(-curve.fall.value)}): "
            "are two texts interleaved?"
        )
        yield Verdict("interleaved", "warning", text)
    if curve.repeated > FEW_REPEATED:
        text = (
            f"{where}{100 * curve.repeated:.1f} % of adjacent chunks are the same vector: "
            "overlapping chunks, or documents padded by repetition?"
        )
        yield Verdict("repeated chunks", "warning", text)
