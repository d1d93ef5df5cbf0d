"""`nextvec diagnose data`: is there anything to learn in a store, and can figures taken on it be trusted?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nextvec.data.splits import SplitConfig, split_documents
from nextvec.diagnostics.collapse import STD_FLOOR
from nextvec.diagnostics.duplicates import Duplicates, duplicate_verdicts, find_duplicates
from nextvec.diagnostics.lags import LagCurve, MeanAndStd, lag_curves, order_verdicts, sum_store
from nextvec.diagnostics.reembedding import Reembedding, recorded_encoder, reembed, reembedding_verdict
from nextvec.diagnostics.sections import Level, Verdict, plain
from nextvec.errors import ConfigError, EncoderError, EvaluationError
from nextvec.evaluation.intervals import RESAMPLES, short

if TYPE_CHECKING:
    from nextvec.corpus.encoders import Encoder
    from nextvec.corpus.store import Store

# Lengths of documents, lengths of vectors, and moments of every dimension.

STILL = 0.1
"""A dimension hardly varies when its std is below this share of the median dimension's."""
UNIT_TOLERANCE = 1e-2
CONSTANT = 0.95
LENGTH_QUANTILES = {"min": 0.0, "p5": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95, "max": 1.0}


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


def _quantiles(values: NDArray[np.int64] | NDArray[np.float64]) -> dict[str, float]:
    return {name: float(np.quantile(values, q)) for name, q in LENGTH_QUANTILES.items()}


def _spread(moments: MeanAndStd) -> Spread:
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
    needed = f"a context of {found.context} and a horizon of {found.horizon}"
    if found.windows == 0:
        return Verdict("document lengths", "red", f"no document is long enough for {needed}: no window")
    text = f"{found.short} of {found.documents} documents are too short for {needed}"
    level: Level = "warning" if found.short > found.documents / 2 else "ok"
    return Verdict("document lengths", level, f"{found.windows:,} windows; {text}")


def vector_verdicts(found: Summary) -> list[Verdict]:
    norms, units = found.norms, found.unit
    verdicts = []
    unit = max(abs(norms["min"] - 1), abs(norms["max"] - 1)) < UNIT_TOLERANCE
    spread = f"lengths from {norms['min']:.4g} to {norms['max']:.4g}"
    if found.normalised and not unit:
        text = f"the store declares its vectors to be of unit length, but they have {spread}"
        verdicts.append(Verdict("normalisation", "red", text))
    elif unit and not found.normalised:
        text = "the store declares its vectors to be raw, but all have unit length: was the encoder's output?"
        verdicts.append(Verdict("normalisation", "note", text))
    if units.mean_norm**2 > CONSTANT:
        mean = short(units.mean_norm**2)
        text = f"any two vectors have a mean cosine of {mean}: the data itself is collapsed"
        verdicts.append(Verdict("variety", "red", text))
    if units.still:
        many = f"{len(units.still)} of {found.dimension}"
        text = f"{many} dimensions hardly vary (std below a tenth of the median dimension's)"
        verdicts.append(Verdict("still dimensions", "note", text))
    if not verdicts:
        verdicts.append(Verdict("vectors", "ok", f"{spread}, every dimension varies"))
    return verdicts


@dataclass(frozen=True)
class DataDiagnosisConfig:
    """How a store is looked at.

    Attributes:
        sources: only these; all when empty.
        division: how documents are divided, for duplicates across splits.
        context, horizon: of the windows that documents should be long enough for.
        reembed: share of chunks that are encoded anew (at least 32); 0 leaves that check out.
        seed: of the bootstrap over documents and of the sample.
    """

    sources: tuple[str, ...] = ()
    division: SplitConfig = field(default_factory=SplitConfig)
    context: int = 5
    horizon: int = 1
    reembed: float = 0.01
    resamples: int = RESAMPLES
    seed: int = 0
    quiet: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.reembed <= 1:
            raise ConfigError(f"{self.reembed} is not a share", where="--reembed", remedy="give 0 to 1")
        if self.context < 1 or self.horizon < 1:
            raise ConfigError("must be at least 1", where="--context, --horizon")


@dataclass(frozen=True)
class DataDiagnosis:
    """Everything found, and what it means. `curves` begins with that of all sources together;
    `reembedding` is the reason in words where nothing was encoded anew."""

    store: str
    encoder: str
    sources: tuple[str, ...]
    division: str
    curves: tuple[LagCurve, ...]
    lengths: Lengths
    vectors: Summary
    duplicates: Duplicates
    reembedding: Reembedding | str
    verdicts: tuple[Verdict, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON-ready, under the attributes' names."""
        found: dict[str, Any] = plain(self)
        for curve, made in zip(found["curves"], self.curves, strict=True):
            curve["fall"] = None if made.fall is None else made.fall.to_json("mean")
            for lag, one in zip(curve["lags"], made.lags, strict=True):
                lag |= {"cosine": one.cosine.to_json("mean"), "gain": one.gain.to_json("mean")}
        return found


def diagnose_data(
    store: Store, looking: DataDiagnosisConfig | None = None, *, encoder: Encoder | None = None
) -> DataDiagnosis:
    """Look at a store: lag curve, lengths, moments, duplicates; do texts and vectors belong together?

    Args:
        encoder: to encode the sample with; by default the one the store names, if it is on this machine.
    Raises:
        EvaluationError: a store without chunks. SplitError: an unknown source, or a split file that does not
            fit the store.
    """
    how = looking or DataDiagnosisConfig()
    split = split_documents(store, how.division, how.sources)
    documents = split.evaluated("all")
    if not documents:
        raise EvaluationError("holds no documents", where=store.path, remedy="ingest some")
    found = sum_store(store, documents, quiet=how.quiet)
    curves = lag_curves(found, resamples=how.resamples, seed=how.seed)
    norms = {**_quantiles(found.norms), "mean": float(found.norms.mean()), "std": float(found.norms.std())}
    summary = Summary(store.dimension, store.normalised, norms, _spread(found.raw), _spread(found.unit))
    windows = lengths(found.count, how.context, how.horizon)
    duplicates = find_duplicates(store, documents, split, how.division.near_duplicate)
    texts = _reembedded(store, documents, how, encoder)
    verdicts = (
        *order_verdicts(curves),
        length_verdict(windows),
        *vector_verdicts(summary),
        *duplicate_verdicts(duplicates),
        reembedding_verdict(texts),
    )
    return DataDiagnosis(
        store=str(store.path),
        encoder=str(store.encoder.get("name", "")),
        sources=found.sources,
        division=how.division.file or "by the hash of the document id",
        curves=curves,
        lengths=windows,
        vectors=summary,
        duplicates=duplicates,
        reembedding=texts,
        verdicts=verdicts,
    )


def _reembedded(
    store: Store, documents: Sequence[int], how: DataDiagnosisConfig, encoder: Encoder | None
) -> Reembedding | str:
    if how.reembed == 0:
        return "re-embedding was left out"
    if encoder is None:
        try:
            encoder = recorded_encoder(store)
        except EncoderError as e:
            return str(e)
    return reembed(store, documents, encoder, share=how.reembed, seed=how.seed, quiet=how.quiet)
