"""`nextvec diagnose data`: is there anything to learn in a store, and can figures taken on it be trusted?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nextvec.data.splits import SplitConfig, split_documents
from nextvec.errors import ConfigError, EncoderError, EvaluationError
from nextvec.evaluation.bootstrap import RESAMPLES
from nextvec.evaluation.diagnostics.duplicates import Duplicates, duplicate_verdicts, find_duplicates
from nextvec.evaluation.diagnostics.lags import LagCurve, lag_curves, order_verdicts
from nextvec.evaluation.diagnostics.reembedding import (
    Reembedding,
    recorded_encoder,
    reembed,
    reembedding_verdict,
)
from nextvec.evaluation.diagnostics.summary import (
    Lengths,
    Summary,
    length_verdict,
    lengths,
    summarise,
    vector_verdicts,
)
from nextvec.evaluation.diagnostics.sweep import sweep
from nextvec.evaluation.diagnostics.verdicts import Verdict, plain

if TYPE_CHECKING:
    from nextvec.corpus.encoders import Encoder
    from nextvec.corpus.store import Store


@dataclass(frozen=True)
class Looking:
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
            raise ConfigError(f"{self.reembed} is no share", where="--reembed", remedy="give 0 to 1")
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
        return found


def diagnose_data(
    store: Store, looking: Looking | None = None, *, encoder: Encoder | None = None
) -> DataDiagnosis:
    """Look at a store: lag curve, lengths, moments, duplicates; do texts and vectors belong together?

    Args:
        encoder: to encode the sample with; by default the one the store names, if it is on this machine.
    Raises:
        EvaluationError: a store without chunks. SplitError: an unknown source, or a split file that does not
            fit the store.
    """
    how = looking or Looking()
    split = split_documents(store, how.division, how.sources)
    documents = split.judged("all")
    if not documents:
        raise EvaluationError("holds no documents", where=store.path, remedy="ingest some")
    found = sweep(store, documents, quiet=how.quiet)
    curves = lag_curves(found, resamples=how.resamples, seed=how.seed)
    summary = summarise(store, found)
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
    store: Store, documents: Sequence[int], how: Looking, encoder: Encoder | None
) -> Reembedding | str:
    if how.reembed == 0:
        return "re-embedding was left out"
    if encoder is None:
        try:
            encoder = recorded_encoder(store)
        except EncoderError as e:
            return str(e)
    return reembed(store, documents, encoder, share=how.reembed, seed=how.seed, quiet=how.quiet)
