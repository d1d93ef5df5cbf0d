"""Do texts and vectors belong together? A sample of the texts is encoded anew and compared.

Vectors of another encoder, and texts that a filter moved against their vectors, look like any other store;
in the field they made retrieval score 0 % and decoders write gibberish.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nextvec.corpus.encoders import Encoder, EncoderConfig, load_encoder
from nextvec.data.gather import gather_rows
from nextvec.data.windows import FloatArray, IntArray
from nextvec.diagnostics.sections import Level, Verdict
from nextvec.errors import EncoderError
from nextvec.evaluation.intervals import short
from nextvec.evaluation.predictor_protocol import unit
from nextvec.progress import Progress

if TYPE_CHECKING:
    from nextvec.corpus.store import Store

LEAST = 32
AGREES = 0.99
"""bfloat16 against float32 costs less than .002; another pooling or prompt more than .01."""
LENGTH_TOLERANCE = 0.02
SEARCHED = 64
BATCH = 256


@dataclass(frozen=True)
class Mismatch:
    """A chunk whose text does not give its vector, and the row whose vector it does give, if there is one."""

    row: int
    cosine: float
    belongs_to: int | None


@dataclass(frozen=True)
class Reembedding:
    """What encoding a sample anew gave.

    Attributes:
        encoder: its name.
        checked: chunks encoded; of `chunks` with text.
        cosine: "min", "p5", "median" of fresh against stored vector.
        mismatched: chunks below 0.99; `listed` are some.
        searched, found: mismatched chunks looked for among all vectors, and found at another row.
        length_ratio: median of stored length over fresh length; None where either is of unit length by rule.
        fingerprint_differs: the encoder here is not the one the store names, by its fingerprint; None where
            the store's fingerprint says nothing of weights (an import on trust, a server).
    """

    encoder: str
    checked: int
    chunks: int
    cosine: dict[str, float]
    mismatched: int
    listed: tuple[Mismatch, ...]
    searched: int
    found: int
    length_ratio: float | None
    fingerprint_differs: bool | None


def recorded_encoder(store: Store) -> Encoder:
    """The encoder a store names, if it is on this machine; nothing is downloaded and no server is asked.

    Raises:
        EncoderError: it is not here; the message says why and what to do.
    """
    from nextvec.corpus.encoders.sentence_transformer import PACKAGED, full_name

    recorded = store.encoder
    name, kind = str(recorded.get("name") or ""), recorded.get("kind")
    remedy = "name it with --encoder (a folder, or a server's model with --endpoint)"
    if kind not in ("sentence-transformers", "imported") or not name:
        raise EncoderError(f"the store's encoder '{name}' does not run here", remedy=remedy)
    if full_name(name) != PACKAGED:
        folder = _cached(full_name(name))
        if folder is None:
            raise EncoderError(f"the store's encoder '{name}' is not on this machine", remedy=remedy)
        name = folder
    return load_encoder(
        EncoderConfig(name=name, max_tokens=recorded.get("max_tokens"), prompt=recorded.get("prompt"))
    )


def _cached(name: str) -> str | None:
    """The folder of a hub model that was fetched before."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return str(snapshot_download(name, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, OSError):
        return None


def reembed(
    store: Store,
    documents: Sequence[int],
    encoder: Encoder,
    *,
    share: float = 0.01,
    seed: int = 0,
    quiet: bool = True,
) -> Reembedding | str:
    """Encode a random `share` of these documents' chunks anew, at least 32, and compare.

    Args:
        documents: indices into `store.documents`.
    Returns: the comparison, or in words why there is none (no texts).
    Raises: EncoderError.
    """
    rows = store.rows_of(documents)
    drawn = np.random.default_rng(seed).permutation(len(rows))[: max(LEAST, math.ceil(share * len(rows)))]
    sample = np.sort(rows[drawn])
    texts = store.texts(sample)
    written = [i for i, text in enumerate(texts) if text.strip()]
    if not written:
        return "the store holds no texts"
    sample, texts = sample[written], [texts[i] for i in written]
    if encoder.dimension != store.dimension:
        nothing = dict.fromkeys(("min", "p5", "median"), float("nan"))
        return Reembedding(encoder.name, 0, len(rows), nothing, 0, (), 0, 0, None, True)
    fresh = _encode(encoder, texts, quiet=quiet)
    stored = gather_rows(store.vectors, sample)
    directions = unit(fresh)
    cosines = np.einsum("nd,nd->n", directions, unit(stored), dtype=np.float64)
    wrong = np.flatnonzero(cosines < AGREES)
    searched = wrong[:SEARCHED]
    home = _nearest(store, directions[searched]) if len(searched) else np.zeros(0, dtype=np.int64)
    listed = tuple(
        Mismatch(int(sample[i]), float(cosines[i]), int(row) if row >= 0 else None)
        for i, row in zip(searched, home, strict=True)
    )
    raw = not store.normalised and not encoder.unit
    ratios = np.linalg.norm(stored, axis=1) / np.linalg.norm(fresh, axis=1)
    low, p5, median = np.quantile(cosines, [0.0, 0.05, 0.5])
    own, theirs = encoder.fingerprint.get("fingerprint"), store.encoder.get("fingerprint")
    return Reembedding(
        encoder=encoder.name,
        checked=len(sample),
        chunks=len(rows),
        cosine={"min": float(low), "p5": float(p5), "median": float(median)},
        mismatched=len(wrong),
        listed=listed[:10],
        searched=len(searched),
        found=int((home >= 0).sum()),
        length_ratio=float(np.median(ratios)) if raw else None,
        fingerprint_differs=None if store.encoder.get("kind") == "imported" else bool(own != theirs),
    )


def _encode(encoder: Encoder, texts: Sequence[str], *, quiet: bool) -> FloatArray:
    parts = []
    with Progress("re-embedding", len(texts), "chunks", quiet=quiet) as progress:
        for start in range(0, len(texts), BATCH):
            parts.append(encoder.encode(texts[start : start + BATCH], progress.advance))
    return np.concatenate(parts)


def _nearest(store: Store, directions: FloatArray) -> IntArray:
    """[n] the row of the store whose vector each direction is (cosine at least 0.99), or -1."""
    best = np.full(len(directions), AGREES, dtype=np.float32)
    rows = np.full(len(directions), -1, dtype=np.int64)
    for start, block in store.vectors.blocks():
        similar = unit(block) @ directions.T
        top = similar.argmax(axis=0)
        value = similar[top, np.arange(len(directions))]
        better = value > best
        best[better], rows[better] = value[better], start + top[better]
    return rows


def reembedding_verdict(found: Reembedding | str) -> Verdict:
    """What the comparison says; a string is the reason why there was none."""
    if isinstance(found, str):
        return Verdict("texts and vectors", "note", f"texts and vectors not checked: {found}")
    if found.checked == 0:
        text = f"encoder mismatch: '{found.encoder}' gives vectors of another dimension than the store's"
        return Verdict("encoder mismatch", "red", text)
    if found.mismatched:
        return _mismatch_verdict(found)
    lowest = short(found.cosine["min"], 4)
    what = f"{found.checked} chunks encoded anew with {found.encoder}: lowest cosine {lowest}"
    if found.length_ratio is not None and abs(found.length_ratio - 1) > LENGTH_TOLERANCE:
        text = (
            f"normalisation mismatch: {what}, but stored vectors are {found.length_ratio:.3g} times as long"
        )
        return Verdict("normalisation mismatch", "red", text)
    level: Level = "warning" if found.fingerprint_differs else "ok"
    other = "; the store's fingerprint is another's, though" if found.fingerprint_differs else ""
    return Verdict("texts and vectors", level, f"{what}: texts and vectors belong together{other}")


def _mismatch_verdict(found: Reembedding) -> Verdict:
    worst = found.listed[0]
    what = f"{found.mismatched} of {found.checked} chunks are not '{found.encoder}' of their text"
    if found.found > found.searched / 2:
        example = next(m for m in found.listed if m.belongs_to is not None)
        text = (
            f"texts misaligned: {what}, and {found.found} of {found.searched} give the vector of another row "
            f"(the text of row {example.row} that of row {example.belongs_to})"
        )
        return Verdict("texts misaligned", "red", text)
    if found.mismatched > found.checked / 2:
        near = found.cosine["median"] > 0.5
        cause = "another pooling, prompt or token limit" if near else "another encoder"
        text = f"encoder mismatch: {what} (median cosine {short(found.cosine['median'])}): {cause}"
        return Verdict("encoder mismatch", "red", text)
    text = f"texts altered: {what} (row {worst.row}: cosine {short(worst.cosine)}), nor of any other row's"
    return Verdict("texts altered", "red", text)
