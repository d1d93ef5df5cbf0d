"""`nextvec diagnose data`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group

from nextvec.cli import common
from nextvec.cli.common import flag, names, output
from nextvec.cli.text_flags import configure_encoder
from nextvec.errors import ConfigError
from nextvec.text import columns, counted

if TYPE_CHECKING:
    from nextvec.corpus.encoders import Encoder
    from nextvec.diagnostics.data import DataDiagnosis, Summary
    from nextvec.diagnostics.lags import LagCurve
    from nextvec.evaluation.intervals import Estimate

ENCODING = Group("Re-embedding")


def diagnose_data(
    store: common.StorePath,
    *,
    sources: common.Sources = None,
    split_file: Annotated[Path | None, flag("JSON of train, validation, test ids.")] = None,
    context: Annotated[int, flag("Chunks that a window reads.")] = 5,
    horizon: Annotated[int, flag("How many chunks ahead its target is.")] = 1,
    reembed: Annotated[
        float, flag("Share of chunks encoded anew, at least 32; 0 for none.", group=ENCODING)
    ] = 0.01,
    encoder: Annotated[
        str | None, flag("The encoder (default: the store's, if it is here).", group=ENCODING)
    ] = None,
    endpoint: Annotated[str | None, flag("URL of the server that runs it.", group=ENCODING)] = None,
    encoder_option: Annotated[
        tuple[str, ...], flag("KEY=VALUE, as for `nextvec ingest`.", group=ENCODING)
    ] = (),
    seed: Annotated[int, flag("Of the resampling of documents and of the sample.")] = 0,
    strict: common.Strict = False,
    json: common.JsonTarget = None,
    quiet: common.Quiet = False,
) -> None:
    """Look at a store: is the next chunk nearer than chance, do texts and vectors belong together, what is
    twice there, are documents long enough?

    Prints figures, then a verdict on each in words. The exit code is 0 whatever is found, or with --strict 1
    when a verdict is RED.
    """
    from nextvec.corpus.store import Store
    from nextvec.data.splits import SplitConfig
    from nextvec.diagnostics.data import DataDiagnosisConfig, diagnose_data

    division = SplitConfig(file=None if split_file is None else str(split_file))
    how: dict[str, Any] = {"context": context, "horizon": horizon, "reembed": reembed}
    looking = DataDiagnosisConfig(names(sources), division, seed=seed, quiet=quiet, **how)
    found = diagnose_data(Store.open(store), looking, encoder=_encoder(encoder, endpoint, encoder_option))
    output(describe(found), found.to_json(), json)
    common.finish(found.verdicts, strict=strict)


def _encoder(name: str | None, endpoint: str | None, options: tuple[str, ...]) -> Encoder | None:
    from nextvec.corpus.encoders import load_encoder

    if name is None:
        if endpoint or options:
            raise ConfigError("no encoder is named", where="--encoder", remedy="give the model's name")
        return None
    return load_encoder(configure_encoder(name, endpoint, options))


def describe(found: DataDiagnosis) -> str:
    whole = found.curves[0]
    lengths = ", ".join(f"{name} {value:g}" for name, value in found.lengths.quantiles.items())
    blocks = [
        f"{found.store}: {counted(whole.documents, 'document')}, {counted(whole.chunks, 'chunk')} of "
        f"{counted(len(found.sources), 'source')}, {found.encoder} vectors",
        _lags(whole),
        *_by_source(found.curves),
        f"Chunks a document: {lengths}.",
        _vectors(found.vectors),
        _duplicates(found),
        _sample(found),
        "Verdicts",
    ]
    return "\n\n".join(blocks) + "\n" + "\n".join(common.verdict_lines(found.verdicts))


def _interval(found: Estimate, sign: str = "") -> tuple[str, str]:
    """A figure and its interval, in two cells."""
    low, high = found.low, found.high
    return f"{found.value:{sign}.4f}", "" if low is None or high is None else f"[{low:.4f}, {high:.4f}]"


def _lags(curve: LagCurve) -> str:
    rows = [
        [
            f"{lag.k}",
            f"{lag.pairs:,}",
            *_interval(lag.cosine),
            f"{lag.shuffled:.4f}",
            *_interval(lag.gain, "+"),
        ]
        for lag in curve.lags
    ]
    note = (
        "shuffled: the same documents with their chunks in random order (mean of all orders). Chunks of "
        f"different documents: {curve.apart:.4f}.\nIntervals: 95 %, over documents."
    )
    head = ["chunks apart", "pairs", "cosine", "", "shuffled", "difference", ""]
    return f"{columns(head, rows)}\n{note}"


def _by_source(curves: tuple[LagCurve, ...]) -> list[str]:
    """Coherence of every source, and their lag curves."""
    tables = [_coherence(curves)]
    if len(curves) > 1:
        deepest = max(len(curve.lags) for curve in curves)
        rows = []
        for curve in curves[1:]:
            cells = [f"{lag.cosine.value:.3f} {lag.gain.value:+.3f}" for lag in curve.lags]
            rows.append([str(curve.source), *cells, *[""] * (deepest - len(cells))])
        head = ["chunks apart", *(str(k) for k in range(1, deepest + 1))]
        tables.append(f"{columns(head, rows)}\ncosine, and its difference from shuffled chunks")
    return tables


def _coherence(curves: tuple[LagCurve, ...]) -> str:
    rows = []
    for curve in curves:
        cells = [curve.source or "all", f"{curve.documents:,}", f"{curve.chunks:,}"]
        if curve.lags:
            first = curve.lags[0]
            cells += [*_interval(first.cosine), f"{first.shuffled:.4f}", f"{curve.apart:.4f}"]
            cells += _interval(first.gain, "+")
        rows.append(cells + [""] * (9 - len(cells)))
    head = ["source", "documents", "chunks", "adjacent", "", "shuffled", "other documents", "difference", ""]
    return columns(head, rows)


def _vectors(found: Summary) -> str:
    norms = found.norms
    lines = [
        f"Vectors: {found.dimension} dimensions, lengths {norms['mean']:.4f} +- {norms['std']:.4f} "
        f"({norms['min']:.4f} to {norms['max']:.4f})."
    ]
    rows = [
        [
            name,
            *(f"{of[k]:.4f}" for of in (spread.mean, spread.std) for k in ("min", "median", "max")),
            *(f"{spread.std_above:.4f}", f"{len(spread.still)}", f"{spread.mean_norm:.4f}"),
        ]
        for name, spread in (("as stored", found.raw), ("unit length", found.unit))
        if name == "as stored" or not found.normalised
    ]
    rest = ["median", "max"]
    head = ["", "mean min", *rest, "std min", *rest, "std > .01", "still", "|mean vector|"]
    return "\n".join([*lines, columns(head, rows)])


def _duplicates(found: DataDiagnosis) -> str:
    twice = found.duplicates
    lines = [
        f"Duplicates: {twice.exact} documents exactly, {twice.near} nearly (at least "
        f"{100 * twice.threshold:g} % of 5-word sequences, estimated); {twice.repeated:,} chunks, "
        f"{twice.in_document:,} of them in their own document."
    ]
    lines += [
        f"  {t.document} like {t.like} ({'exactly' if t.exact else f'{t.similarity:.2f}'})"
        for t in twice.within[:5]
    ]
    lines += [f"  {count} times: {text}" for text, count in twice.most_repeated[:3]]
    lines.append(f"Across splits ({found.division}):")
    lines += [
        f"  {entry.split}: {entry.twins} of {entry.documents} documents and {entry.shared} of "
        f"{entry.chunks:,} chunks stand in train"
        for entry in twice.across
    ]
    lines += [f"    {c.document} chunk {c.position + 1} ({c.split}): {c.text}" for c in twice.shared[:5]]
    return "\n".join(lines)


def _sample(found: DataDiagnosis) -> str:
    sample = found.reembedding
    if isinstance(sample, str):
        return f"Re-embedding: not checked: {sample}."
    cosines = ", ".join(f"{name} {value:.4f}" for name, value in sample.cosine.items())
    length = "" if sample.length_ratio is None else f"; stored / fresh length {sample.length_ratio:.4f}"
    return (
        f"Re-embedding: {sample.checked} chunks with {sample.encoder}; cosine to the stored vector: "
        f"{cosines}{length}."
    )
