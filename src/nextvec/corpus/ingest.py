"""Documents -> chunks -> vectors -> store, a shard at a time.

Everything is read, cut and checked before the first vector is computed, so that bad input leaves the
store as it was. Shards are cut at document boundaries that depend on the input alone and each is encoded
on its own, so an ingest that was killed and run again writes the same bytes as one that was not."""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, Literal, TypeVar

from nextvec.corpus.arrow_tables import NewDocument
from nextvec.corpus.chunking import Chunker, shifts
from nextvec.corpus.documents import ReaderOptions, ReadReport, read_source
from nextvec.corpus.encoders import Encoder, EncoderConfig, load_encoder
from nextvec.corpus.encoders.base import MOST_UNKNOWN, choose_device
from nextvec.corpus.layout import MANIFEST, FloatArray, read_manifest
from nextvec.corpus.survey import LISTED, RecurringPassage, Survey, check_language, unspool
from nextvec.corpus.writer import StoreWriter, check_place
from nextvec.errors import EncoderError, MissingDependencyError, NextvecError, StoreError
from nextvec.progress import Progress

log = logging.getLogger("nextvec.corpus")

SHARD_CHUNKS = 8192
T = TypeVar("T")


@dataclass(frozen=True)
class IngestReport:
    """What an ingest did.

    Attributes:
        documents, views, chunks, shards: added by this run; views are not among the documents, their chunks
            are among the chunks. replaced: of the documents those that took the place of an older text.
        skipped: reason -> documents left out.
        truncated: chunks longer than the encoder reads; unknown: share of the tokens that it does not know;
            None where only the server knows.
        seconds: of the whole run; `encoding_seconds` of the encoder alone.
        path: how the vectors were computed, e.g. "cpu bfloat16".
        unread: files that could not be read, each with the reason.
        recurring: paragraphs that stand in three or more different documents; `boilerplate` lists the most
            frequent of them.
    """

    store: str
    documents: int
    views: int
    chunks: int
    shards: int
    replaced: int
    skipped: dict[str, int]
    truncated: int | None
    unknown: float | None
    seconds: float
    encoding_seconds: float
    path: str
    unread: tuple[str, ...]
    recurring: int
    boilerplate: tuple[RecurringPassage, ...]

    @property
    def chunks_per_second(self) -> float:
        """Chunks encoded a second; 0 when there was nothing to encode."""
        return self.chunks / self.encoding_seconds if self.chunks and self.encoding_seconds else 0.0


def ingest(
    sources: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    encoder: Encoder | EncoderConfig,
    chunker: Chunker,
    options: ReaderOptions | None = None,
    dtype: str = "float16",
    shard_chunks: int = SHARD_CHUNKS,
    phases: int = 1,
    drop_boilerplate: bool | None = None,
    most_unknown: float = MOST_UNKNOWN,
    replace_changed: bool = False,
    engine: Literal["local", "ray"] = "local",
    quiet: bool = False,
) -> IngestReport:
    """Read documents, cut and encode them, and write or extend the store `out`.

    May be killed at any time and run again: what is in the store is skipped, the rest is added. Existing
    shards are never rewritten.

    Args:
        encoder: of a configuration whose precision is "auto" an existing store goes on in the precision of
            its last shard.
        chunker: must be the existing store's.
        shard_chunks: a shard is closed by the document that brings it to so many chunks.
        phases: every document is cut so many times, its boundaries moved by a further 1 / phases of a chunk
            each time; all but the first are stored as its views, of documents that are there already too.
        drop_boilerplate: leave out paragraphs that recur across documents; None does so for HTML only.
        most_unknown: share of the tokens that the encoder may not know, in a sample.
        replace_changed: a document that comes with another text takes the place of the old one, whose rows
            are there until `nextvec compact`.
        engine: this process encodes, or the workers of a Ray cluster, who are told the `encoder` as a
            configuration. The store is the same, as long as both compute with as many threads.
    Raises:
        DocumentError: sources that cannot be read, or hold no document.
        StoreError: another text of a document (unless `replace_changed`); a damaged store, another chunker.
        EncoderError, VectorError: as `load_encoder`, `StoreWriter`; a language that the encoder lacks.
        ConfigError: phases of a chunker that has none.
    """
    if shard_chunks < 1:
        raise StoreError("shards of no chunks", remedy="give shard_chunks of 1 or more")
    started = time.monotonic()
    path, wanted, report = Path(out), shifts(chunker, phases), ReadReport()
    documents = read_source(sources, options=options, report=report)
    check_place(path)
    made, cluster = _loaded(encoder, path, engine)
    with _writer(path, made, chunker, dtype) as writer, _spool(path) as unread, _spool(path) as spool:
        before, known, views = len(writer.info["shards"]), dict(writer.known), dict(writer.views)
        survey = Survey(chunker, wanted, drop_boilerplate, known, views, spool, report, replace_changed)
        survey.read(documents, unread, quiet=quiet)
        check_language(made, chunker, survey.sample, most_unknown)
        encoding = _Encoding(made, replace_changed=replace_changed, cluster=cluster)
        if survey.chunks:
            log.info("encoding on %s", made.path)
        with Progress("encode", survey.chunks, "chunks", quiet=quiet) as progress:
            encoding.run(shards(unspool(spool), shard_chunks, lambda d: len(d.texts)), writer, progress)
        added = len(writer.info["shards"]) - before
    return _report(path, survey, encoding, added, time.monotonic() - started)


def _loaded(
    encoder: Encoder | EncoderConfig, store: Path, engine: str
) -> tuple[Encoder, EncoderConfig | None]:
    """The encoder, and what the workers of a cluster are told, if there is one."""
    if isinstance(encoder, EncoderConfig):
        config = continued(encoder, store)
        made = load_encoder(config)
        return made, settled(config, made) if engine == "ray" else None
    if engine == "ray":
        remedy = "give its configuration"
        raise EncoderError("an encoder in memory cannot be sent to a cluster", remedy=remedy)
    return encoder, None


def _writer(path: Path, encoder: Encoder, chunker: Chunker, dtype: str) -> StoreWriter:
    return StoreWriter(
        path,
        encoder=encoder.fingerprint,
        dimension=encoder.dimension,
        chunker=chunker.describe(),
        dtype=dtype,
        normalised=encoder.unit,
        encoder_normalises=encoder.normalises,
    )


def _report(path: Path, survey: Survey, encoding: _Encoding, added: int, seconds: float) -> IngestReport:
    recurring = survey.boilerplate.met()
    return IngestReport(
        store=str(path),
        documents=survey.documents,
        views=survey.views,
        chunks=survey.chunks,
        shards=added,
        replaced=survey.replaced,
        skipped=dict(sorted(survey.report.skipped.items())),
        truncated=encoding.truncated,
        unknown=encoding.unknown,
        seconds=seconds,
        encoding_seconds=encoding.seconds,
        path=encoding.encoder.path,
        unread=tuple(survey.report.unread),
        recurring=len(recurring),
        boilerplate=tuple(recurring[:LISTED]),
    )


def continued(config: EncoderConfig, store: Path) -> EncoderConfig:
    """The configuration with "auto" precision replaced by that of the store's last shard, if it has one.

    Measured speed may choose differently in two runs; one store should go on as it began.
    """
    if config.endpoint is not None or config.precision != "auto" or not (store / MANIFEST).is_file():
        return config
    written = read_manifest(store)["shards"]
    device, _, precision = written[-1]["path"].rpartition(" ") if written else ("", "", "")
    if device != choose_device(config.device) or precision not in ("float32", "bfloat16"):
        return config
    return replace(config, precision=precision)


def shards(items: Iterable[T], limit: int, size: Callable[[T], int]) -> Iterator[list[T]]:
    """Group documents into shards: one is closed by the document that brings it to `limit` chunks."""
    batch: list[T] = []
    filled = 0
    for item in items:
        batch.append(item)
        filled += size(item)
        if filled >= limit:
            yield batch
            batch, filled = [], 0
    if batch:
        yield batch


def _spool(out: Path) -> IO[str]:
    """A nameless temporary text file on the disk the store will be on; gone when closed or killed."""
    folder = next(p for p in (out, *out.absolute().parents) if p.is_dir())
    try:
        return tempfile.TemporaryFile("w+", encoding="ascii", dir=folder)
    except OSError as e:
        message = f"cannot be written to ({e.strerror})"
        raise StoreError(message, where=folder, remedy="give another --out") from None


class _Encoding:
    """Encodes and writes shards, keeping count."""

    def __init__(self, encoder: Encoder, *, replace_changed: bool, cluster: EncoderConfig | None) -> None:
        self.encoder, self.replace_changed, self.cluster = encoder, replace_changed, cluster
        self.seconds = 0.0
        self.truncated: int | None = None if encoder.max_tokens is None else 0
        self._tokens = self._unknown = 0

    @property
    def unknown(self) -> float | None:
        """Share of the tokens that the encoder does not know; None where it does not say, or none was met."""
        return self._unknown / self._tokens if self._tokens else None

    def run(self, batches: Iterable[list[NewDocument]], writer: StoreWriter, progress: Progress) -> None:
        """Encode each batch of documents as one shard and write it."""
        started = time.monotonic()
        make = self._here(batches, progress)
        if self.cluster is not None:
            make = encoded(batches, self.cluster, progress)
        for documents, vectors in make:
            self._count(_texts(documents))
            self.seconds += time.monotonic() - started
            writer.add_shard(documents, vectors, path=self.encoder.path, replace=self.replace_changed)
            started = time.monotonic()
        if self.truncated:
            log.warning(
                "%d chunks are longer than the %s tokens that the encoder reads: their ends are not in their "
                "vectors; smaller chunks: --chunk-option words=30 max_words=50",
                self.truncated,
                self.encoder.max_tokens,
            )

    def _here(
        self, batches: Iterable[list[NewDocument]], progress: Progress
    ) -> Iterator[tuple[list[NewDocument], FloatArray]]:
        for documents in batches:
            yield documents, self.encoder.encode(_texts(documents), progress.advance)

    def _count(self, texts: Sequence[str]) -> None:
        counts = self.encoder.count_tokens(texts)
        if counts is not None:
            self._tokens += sum(tokens for tokens, _ in counts)
            self._unknown += sum(unknown for _, unknown in counts)
            if (most := self.encoder.max_tokens) is not None:
                self.truncated = (self.truncated or 0) + sum(n > most for n, _ in counts)


def _texts(documents: Iterable[NewDocument]) -> list[str]:
    return [text for document in documents for text in document.texts]


# Encoding by the workers of a Ray cluster: one task a shard. Of a worker that dies Ray gives the shard to
# another. The shards come back in order and are written here: the same store as without a cluster.

AHEAD = 2
"""Shards that wait for each processor of the cluster: so many are in memory here."""
RETRIES = 3
"""Times that a shard whose worker died is given to another."""


def settled(config: EncoderConfig, encoder: Encoder) -> EncoderConfig:
    """The configuration with what was chosen here by measurement, so that every worker computes alike."""
    if config.endpoint is not None:
        return config
    device, _, precision = encoder.path.rpartition(" ")
    return replace(config, precision=precision, device=device)


def encoded(
    batches: Iterable[list[NewDocument]], config: EncoderConfig, progress: Progress
) -> Iterator[tuple[list[NewDocument], FloatArray]]:
    """Each batch with the vectors of its chunks [n, D], in the order of the batches.

    Args:
        config: as `settled` gives it. Ray's cluster is that of RAY_ADDRESS, or one of this machine for the
            time being; its workers need nextvec and the encoder.
    Raises:
        MissingDependencyError: Ray is not installed.
        EncoderError: what the encoder raised on a worker, or workers that die again and again.
    """
    ray = _ray()
    began = not ray.is_initialized()
    if began:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no verb may call home
        ray.init(log_to_driver=False, logging_level="warning")
    try:
        gpus = int(config.endpoint is None and config.device.startswith("cuda"))
        task = ray.remote(encode_shard).options(max_retries=RETRIES, num_gpus=gpus)
        most = AHEAD * max(int(ray.cluster_resources().get("GPU" if gpus else "CPU", 1)), 1)
        waiting: deque[tuple[list[NewDocument], Any]] = deque()
        for documents in batches:
            waiting.append((documents, task.remote(config, _texts(documents))))
            if len(waiting) >= most:
                yield _next(waiting, progress)
        while waiting:
            yield _next(waiting, progress)
    finally:
        if began:
            ray.shutdown()


def _next(waiting: deque[tuple[list[NewDocument], Any]], progress: Progress) -> tuple[Any, FloatArray]:
    ray = _ray()
    documents, promised = waiting.popleft()
    try:
        vectors, error = ray.get(promised)
    except ray.exceptions.RayError as e:
        message = f"a shard could not be encoded: {str(e).partition(chr(10))[0]}"
        remedy = "look at Ray's logs; the same command continues where this stopped"
        raise EncoderError(message, where="--engine ray", remedy=remedy) from None
    if error is not None:
        raise EncoderError(error[0], where=error[1], remedy=error[2])
    progress.advance(len(vectors))
    return documents, vectors


def encode_shard(
    config: EncoderConfig, texts: Sequence[str]
) -> tuple[FloatArray | None, tuple[str, str | None, str | None] | None]:
    """On a worker: the vectors, or what went wrong (message, where, remedy)."""
    try:
        return _encoder(config).encode(texts), None
    except NextvecError as e:
        return None, (e.message, e.where, e.remedy)


@lru_cache(maxsize=1)
def _encoder(config: EncoderConfig) -> Encoder:
    """Loaded once a worker."""
    return load_encoder(config)


def _ray() -> Any:
    try:
        import ray
        import ray.exceptions
    except ImportError:
        remedy = "pip install 'nextvec[ray]'"
        raise MissingDependencyError("a cluster needs Ray", where="--engine ray", remedy=remedy) from None
    return ray
