"""Documents -> chunks -> vectors -> store, a shard at a time.

Everything is read, cut and checked before the first vector is computed, so that bad input leaves the
store as it was. Shards are cut at document boundaries that depend on the input alone and each is encoded
on its own, so an ingest that was killed and run again writes the same bytes as one that was not."""

from __future__ import annotations

import json
import logging
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import IO, Literal, TypeVar

from nextvec.corpus.boilerplate import LISTED, Boilerplate, RecurringPassage
from nextvec.corpus.chunking import Chunk, Chunker
from nextvec.corpus.cluster import encoded, settled
from nextvec.corpus.documents import ReaderOptions, ReadReport, SourceDocument, read_source
from nextvec.corpus.encoders import Encoder, EncoderConfig, load_encoder
from nextvec.corpus.encoders.base import MOST_UNKNOWN, choose_device
from nextvec.corpus.fingerprints import minhash_text, text_sha256
from nextvec.corpus.language import check_language
from nextvec.corpus.layout import MANIFEST, FloatArray, read_manifest
from nextvec.corpus.tables import NewDocument
from nextvec.corpus.views import new_views, shifts, view_id
from nextvec.corpus.writer import StoreWriter, check_place
from nextvec.errors import DocumentError, EncoderError, StoreError
from nextvec.progress import Progress

log = logging.getLogger("nextvec.corpus")

SHARD_CHUNKS = 8192
SAMPLED = 256
"""Chunks at least of which the language is looked at, where there are so many."""
KNOWN = "in the store already"
EMPTY = "without a chunk"
KNOWN_VIEW = "views in the store already"
ALIKE = "views cut like the original or another view"
T = TypeVar("T")


@dataclass(frozen=True)
class IngestReport:
    """What an ingest did.

    Attributes:
        store: the store's folder.
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
        sources: files and folders (see `read_source`).
        out: the store's folder; made if it is missing.
        encoder: an encoder, or a configuration of one. With a configuration whose precision is "auto",
            an existing store goes on in the precision of its last shard.
        chunker: how documents are cut; must be the existing store's.
        options: how sources are read.
        dtype: "float16" or "float32" on disk.
        shard_chunks: a shard is closed by the document that brings it to so many chunks.
        phases: every document is cut so many times, each time with its boundaries moved by a further
            1 / phases of a chunk; all but the first are stored as its views (`nextvec.corpus.views`). Views
            of documents that the store holds already are added too.
        drop_boilerplate: leave out paragraphs that recur across documents (`nextvec.corpus.boilerplate`);
            None does so for HTML only.
        most_unknown: share of the tokens that the encoder may not know; a sample is looked at before the
            first vector is computed.
        replace_changed: a document of the store that comes with another text takes the place of the old one,
            whose rows are there until `nextvec compact`.
        engine: who encodes: this process, or the workers of a Ray cluster (`nextvec.corpus.cluster`), to whom
            the `encoder` is told as a configuration. The store is the same, as long as both compute with as
            many threads.
        quiet: no progress on standard error.
    Raises:
        DocumentError: sources that cannot be read, or hold no document.
        StoreError: a document of the store comes with another text (unless `replace_changed`); a damaged
            store or another chunker.
        EncoderError, VectorError: see `load_encoder` and `StoreWriter`; a language that the encoder does
            not know.
        ConfigError: phases of a chunker that has none.
    """
    if shard_chunks < 1:
        raise StoreError("shards of no chunks", remedy="give shard_chunks of 1 or more")
    started = time.monotonic()
    path = Path(out)
    wanted = shifts(chunker, phases)
    read = ReadReport()
    documents = read_source(sources, options=options, report=read)
    check_place(path)
    cluster: EncoderConfig | None = None
    if isinstance(encoder, EncoderConfig):
        config = continued(encoder, path)
        encoder = load_encoder(config)
        cluster = settled(config, encoder) if engine == "ray" else None
    elif engine == "ray":
        raise EncoderError(
            "an encoder in memory cannot be sent to a cluster", remedy="give its configuration"
        )
    with (
        _writer(path, encoder, chunker, dtype) as writer,
        open_spool(path) as unread,
        open_spool(path) as spool,
    ):
        before = len(writer.info["shards"])
        survey = _Survey(
            chunker, wanted, drop_boilerplate, dict(writer.known), dict(writer.views), spool, read
        )
        survey.replace_changed = replace_changed
        survey.read(documents, unread, quiet=quiet)
        check_language(encoder, chunker, survey.sample, most_unknown)
        encoding = _Encoding(encoder, encoder.max_tokens, replace_changed=replace_changed, cluster=cluster)
        if survey.chunks:
            log.info("encoding on %s", encoder.path)
        with Progress("encode", survey.chunks, "chunks", quiet=quiet) as progress:
            encoding.run(shards(_unspool(spool), shard_chunks, lambda d: len(d.texts)), writer, progress)
        added = len(writer.info["shards"]) - before
    return _report(path, survey, encoding, added, time.monotonic() - started)


def _report(path: Path, survey: _Survey, encoding: _Encoding, added: int, seconds: float) -> IngestReport:
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
        recurring=len(met := survey.boilerplate.met()),
        boilerplate=tuple(met[:LISTED]),
    )


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


def is_known(doc_id: str, sha256: str, known: dict[str, str], where: str | Path) -> bool:
    """Whether the store has this document. Raises StoreError when it has it with another text."""
    have = known.get(doc_id)
    if have is not None and have != sha256:
        raise StoreError(
            f"document '{doc_id}' is there with another text",
            where=where,
            remedy="put it in the old one's place with --replace, or give it another id",
        )
    return have is not None


def open_spool(out: Path) -> IO[str]:
    """A nameless temporary text file on the disk the store will be on; gone when closed or killed."""
    folder = next(p for p in (out, *out.absolute().parents) if p.is_dir())
    try:
        return tempfile.TemporaryFile("w+", encoding="ascii", dir=folder)
    except OSError as e:
        raise StoreError(
            f"cannot be written to ({e.strerror})", where=folder, remedy="give another --out"
        ) from None


@dataclass
class _Survey:
    """The first pass: reads every document, then cuts it and puts what the store lacks into the spool, one
    JSON line each.

    Attributes:
        known: doc_id -> sha256 of what the store holds or will; original_of: the views among them.
        seen: documents read; documents, views, chunks: to add.
    """

    chunker: Chunker
    phases: Sequence[Fraction]
    drop_boilerplate: bool | None
    known: dict[str, str]
    original_of: dict[str, str]
    spool: IO[str]
    report: ReadReport
    seen: int = 0
    documents: int = 0
    views: int = 0
    chunks: int = 0
    replace_changed: bool = False
    replaced: int = 0
    boilerplate: Boilerplate = field(default_factory=Boilerplate)
    sample: list[str] = field(default_factory=list)
    every: int = 1

    def read(self, documents: Iterable[SourceDocument], unread: IO[str], *, quiet: bool) -> None:
        """All of them; the spool is then at its beginning again. Raises DocumentError where there is none.

        What recurs is known when all are read: until then they wait in `unread`.
        """
        # On a terminal only: reading is short, and what follows tells how many there are.
        with Progress("read", None, "documents", quiet=quiet) as progress:
            for document in documents:
                self.seen += 1
                progress.advance()
                _check_unicode(document)
                self.boilerplate.count(document.text)
                unread.write(json.dumps(astuple(document)) + "\n")
            if self.seen == 0:
                left_out = "; ".join(f"{n} {reason}" for reason, n in sorted(self.report.skipped.items()))
                raise DocumentError(
                    "no document to ingest" + (f" (left out: {left_out})" if left_out else ""),
                    remedy="check the sources and options",
                )
        self.boilerplate.close()
        unread.seek(0)
        for line in unread:
            self._add(SourceDocument(*json.loads(line)))
        self.spool.seek(0)

    def _add(self, document: SourceDocument) -> None:
        sha256 = text_sha256(document.text)
        self._check_name(document.doc_id, None)
        if self.replace_changed and self.known.get(document.doc_id, sha256) != sha256:
            self._drop(document.doc_id)
        there = is_known(document.doc_id, sha256, self.known, f"source {document.source}")
        if there:
            self.report.skip(KNOWN)
            if not self.phases:
                return
        drop = document.page if self.drop_boilerplate is None else self.drop_boilerplate
        document = replace(document, text=self.boilerplate.without(document.text, drop=drop))
        chunks = self.chunker.chunk(document.text)
        if not chunks:
            self.report.skip(EMPTY)
            return
        if not there:
            self._put(document, sha256, document.doc_id, chunks)
            self.documents += 1
        self._add_views(document, sha256, chunks)

    def _drop(self, doc_id: str) -> None:
        """Go on as if the store had neither this document nor its views: the writer deletes them."""
        self.replaced += 1
        for name in [doc_id, *(view for view, original in self.original_of.items() if original == doc_id)]:
            self.known.pop(name)
            self.original_of.pop(name, None)

    def _add_views(self, document: SourceDocument, sha256: str, chunks: list[Chunk]) -> None:
        def stored(phase: Fraction) -> bool:
            return view_id(document.doc_id, phase) in self.original_of

        found, alike = new_views(self.chunker, document.text, chunks, self.phases, stored)
        for reason, count in ((ALIKE, alike), (KNOWN_VIEW, len(self.phases) - len(found) - alike)):
            for _ in range(count):
                self.report.skip(reason)
        for phase, cut in found:
            name = view_id(document.doc_id, phase)
            self._check_name(name, document.doc_id)
            self.original_of[name] = document.doc_id
            self._put(document, sha256, name, cut, document.doc_id)
            self.views += 1

    def _check_name(self, doc_id: str, view_of: str | None) -> None:
        """Raise StoreError where the id of a view is that of a document."""
        original = self.original_of.get(doc_id) if view_of is None else view_of
        if original is not None and (view_of is None or doc_id in self.known):
            raise StoreError(
                f"document '{doc_id}' has the id of a view of '{original}'",
                where="phases",
                remedy="give the document another id",
            )

    def _put(
        self,
        document: SourceDocument,
        sha256: str,
        doc_id: str,
        chunks: list[Chunk],
        view_of: str | None = None,
    ) -> None:
        self.known[doc_id] = sha256
        for number, chunk in enumerate(chunks, self.chunks):
            if number % self.every == 0:
                self.sample.append(chunk.text)
        if len(self.sample) > 2 * SAMPLED:  # spread over all of them, however many come
            self.sample, self.every = self.sample[::2], 2 * self.every
        self.chunks += len(chunks)
        spans = [(c.text, c.gap, c.start, c.end) for c in chunks]
        row = (doc_id, document.source, document.title, sha256, view_of, document.text, spans)
        self.spool.write(json.dumps(row) + "\n")


def _check_unicode(document: SourceDocument) -> None:
    """JSON can spell half a surrogate pair, which no file of text can hold."""
    try:
        f"{document.doc_id}{document.source}{document.title}{document.text}".encode()
    except UnicodeEncodeError as e:
        raise DocumentError(
            f"document '{document.doc_id!a}' is not Unicode text ({e.reason})",
            where=f"source {document.source}",
            remedy="clean or leave out that document",
        ) from None


def _unspool(spool: IO[str]) -> Iterator[NewDocument]:
    for line in spool:
        doc_id, source, title, sha256, view_of, text, spans = json.loads(line)
        texts, gaps, starts, ends = zip(*spans, strict=True)
        hashes = sha256, minhash_text(text)
        yield NewDocument(doc_id, source, title, *hashes, texts, gaps, starts, ends, view_of)


class _Encoding:
    """Encodes and writes shards, keeping count."""

    def __init__(
        self,
        encoder: Encoder,
        max_tokens: int | None,
        *,
        replace_changed: bool = False,
        cluster: EncoderConfig | None = None,
    ) -> None:
        self.encoder, self.max_tokens, self.replace_changed = encoder, max_tokens, replace_changed
        self.cluster = cluster
        self.seconds = 0.0
        self.truncated: int | None = None if max_tokens is None else 0
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
                self.max_tokens,
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
            if self.max_tokens is not None:
                self.truncated = (self.truncated or 0) + sum(n > self.max_tokens for n, _ in counts)


def _texts(documents: Iterable[NewDocument]) -> list[str]:
    return [text for document in documents for text in document.texts]
