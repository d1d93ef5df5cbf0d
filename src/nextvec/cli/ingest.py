"""`nextvec ingest`, `delete` and `compact`: what goes into a store, and out of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Group, Parameter

from nextvec.cli.common import JsonTarget, Quiet, StorePath, flag, output
from nextvec.cli.text_flags import ENCODING, EncoderOption, Endpoint, TokenizerFile, configure_encoder
from nextvec.errors import ConfigError, DocumentError
from nextvec.text import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nextvec.corpus.chunking import Chunker
    from nextvec.corpus.documents import ReaderOptions
    from nextvec.corpus.encoders import EncoderConfig
    from nextvec.corpus.imports import ImportReport
    from nextvec.corpus.ingest import IngestReport
    from nextvec.corpus.npz import NpzImportReport
    from nextvec.corpus.survey import RecurringPassage

READING, CUTTING = Group("Reading documents"), Group("Chunks")
READY_MADE = Group("Vectors you already have")
DEMO, DEFAULT_ENCODER = "demo", "all-MiniLM-L6-v2"
SMALL, FEWEST_TEST = 200, 5
SHOWN = 5
"""Recurring paragraphs, and files that could not be read, that are printed; the JSON lists more."""


@Parameter(name="*", group=READING)
@dataclass(frozen=True)
class ReadingFlags:
    source: Annotated[str | None, flag("Source name of all documents.")] = None
    id_column: Annotated[str | None, flag("Column of document ids.")] = None
    title_column: Annotated[str | None, flag("Column of titles.")] = None
    text_column: Annotated[str | None, flag("Column of texts.")] = None
    source_column: Annotated[str | None, flag("Column of source names.")] = None
    text_encoding: Annotated[str, flag("Character encoding of text files.")] = "utf-8"
    headings: Annotated[bool, flag("Keep headings as paragraphs.")] = False
    min_characters: Annotated[int, flag("Skip (and count) shorter ones.")] = 0
    skip_empty: Annotated[bool, flag("Skip (and count) documents without text.")] = False
    qualify_ids: Annotated[bool, flag("Ids as source/id, where files repeat ids.")] = False
    limit: Annotated[int | None, flag("Stop after so many documents.")] = None
    delimiter: Annotated[str | None, flag("Between fields of a CSV (default: told by its header).")] = None
    strict: Annotated[bool, flag("A file that cannot be read is an error (default: listed at the end).")] = (
        False
    )
    keep_boilerplate: Annotated[
        bool | None,
        Parameter(
            negative="--drop-boilerplate",
            help="Paragraphs that stand in three or more different documents (default: dropped from .html, "
            "kept elsewhere).",
        ),
    ] = None

    @property
    def drop_boilerplate(self) -> bool | None:
        """As `nextvec.corpus.ingest.ingest` takes it."""
        return None if self.keep_boilerplate is None else not self.keep_boilerplate

    def options(self, *, demo: bool) -> ReaderOptions:
        """As the readers take them; the demo's documents have a least length of their own."""
        from nextvec.corpus.documents import ReaderOptions, demo_options

        given = asdict(self)
        del given["keep_boilerplate"]
        given["encoding"] = given.pop("text_encoding")
        given["delimiter"] = {r"\t": "\t"}.get(given["delimiter"], given["delimiter"])
        if demo:
            given["min_characters"] = max(self.min_characters, demo_options().min_characters)
        return ReaderOptions(**given)


@Parameter(name="*", group=CUTTING)
@dataclass(frozen=True)
class CuttingFlags:
    chunker: Annotated[Literal["words", "sentence", "paragraph", "tokens"], flag("How to cut.")] = "words"
    chunk_option: Annotated[
        tuple[str, ...], flag("KEY=VALUE of the chunker, e.g. words=80 min_words=30.")
    ] = ()
    tokenizer: TokenizerFile = None
    phases: Annotated[
        int,
        flag(
            "Cut every document so many times, the boundaries moved by 1/N of a chunk each time. "
            "The extra views serve training only."
        ),
    ] = 1

    def make(self, encoder: EncoderConfig) -> Chunker:
        """The chunker; one that counts tokens counts the encoder's."""
        from nextvec.config import parse_assignments
        from nextvec.corpus.chunking import make_chunker, tokenizer_from_file

        given = parse_assignments(self.chunk_option)
        if self.chunker != "tokens" and self.tokenizer is not None:
            message = f"the chunker {self.chunker} counts no tokens"
            raise ConfigError(message, where="--tokenizer", remedy="add --chunker tokens")
        if self.chunker == "tokens":
            path = self.tokenizer or _tokenizer_of(encoder)
            given["tokenizer"], given["tokenizer_id"] = tokenizer_from_file(path)
        return make_chunker(self.chunker, given)


def _tokenizer_of(encoder: EncoderConfig) -> Path:
    """Raises ConfigError: a server's encoder, whose tokenizer is not here."""
    from nextvec.corpus.encoders.sentence_transformer import find_folder

    here = encoder.name if encoder.endpoint is None else encoder.same_as
    if here is None:
        message = f"chunks are cut by tokens, and the tokenizer of the server's '{encoder.name}' is not here"
        remedy = "name its tokenizer.json: --tokenizer FILE"
        raise ConfigError(message, where="--chunker tokens", remedy=remedy)
    return find_folder(here) / "tokenizer.json"


@Parameter(name="*", group=ENCODING)
@dataclass(frozen=True)
class IngestEncoderFlags:
    """What makes vectors of the chunks, or made them."""

    encoder: Annotated[
        str | None,
        flag(
            "The packaged one, a folder, a hub name, or a server's model (default: the packaged "
            "all-MiniLM-L6-v2; of vectors that you already have: unknown)."
        ),
    ] = None
    endpoint: Endpoint = None
    encoder_option: EncoderOption = ()
    most_unknown: Annotated[float, flag("Share of the tokens that the encoder may not know.")] = 0.2
    dtype: Annotated[Literal["float16", "float32"] | None, flag("On disk (float16 unless given).")] = None
    engine: Annotated[
        Literal["local", "ray"],
        flag("Who encodes: this process, or a Ray cluster (that of RAY_ADDRESS, or one on this machine)."),
    ] = "local"

    def config(self) -> EncoderConfig:
        return configure_encoder(self.encoder or DEFAULT_ENCODER, self.endpoint, self.encoder_option)


@Parameter(name="*", group=READY_MADE)
@dataclass(frozen=True)
class ReadyMadeFlags:
    """Vectors that nothing has to be encoded for."""

    vectors: Annotated[
        Path | None,
        flag(
            ".npy of shape [chunks, D]; or, without --chunks, a .parquet with a list of texts and a "
            "list of vectors in every row (LCM's)."
        ),
    ] = None
    chunks: Annotated[Path | None, flag(".parquet: doc_id, position, text, source[, title].")] = None
    encoder_sha256: Annotated[str | None, flag("Of the weights of the --encoder they come from.")] = None
    verify_encoder: Annotated[bool, flag("Prove --encoder by encoding a sample anew.")] = False

    def take(
        self, sources: tuple[str, ...], out: Path, encoding: IngestEncoderFlags, *, beside: bool, **rest: Any
    ) -> ImportReport | NpzImportReport:
        """Put them into a store: those `beside` chunks, or an .npz of windows."""
        from nextvec.corpus.encoders import load_encoder
        from nextvec.corpus.imports import import_vectors
        from nextvec.corpus.in_memory import import_lists
        from nextvec.corpus.npz import import_npz

        whose: dict[str, Any] = {"encoder_name": encoding.encoder, "encoder_sha256": self.encoder_sha256}
        rest["dtype"] = encoding.dtype
        if not beside:
            if len(sources) != 1:
                remedy = "give one file at a time"
                raise ConfigError("an .npz is ingested alone", where=sources[0], remedy=remedy)
            return import_npz(sources[0], out, **whose, **rest)
        alone = self.vectors is not None and self.vectors.suffix == ".parquet"
        if self.vectors is None or (self.chunks is None and not alone) or sources:
            remedy = "give --vectors, --chunks and no sources"
            raise ConfigError("vectors and chunks come together and alone", remedy=remedy)
        if self.verify_encoder:
            if encoding.encoder is None:
                remedy = "add --encoder NAME"
                raise ConfigError("no encoder is named", where="--verify-encoder", remedy=remedy)
            whose = {"encoder": load_encoder(encoding.config())}
        if self.chunks is None:
            return import_lists(self.vectors, out, **whose, **rest)
        return import_vectors(self.vectors, self.chunks, out, **whose, **rest)


def ingest(
    *sources: Annotated[
        str,
        flag(
            "Folders and files: .txt .md .html .rst, .jsonl .json .csv .parquet, MediaWiki .xml, with "
            "nextvec[documents] .pdf .docx .epub, each also as .gz .bz2 .zst; an .npz of windows; or the "
            "word demo."
        ),
    ],
    out: Annotated[Path, flag("The store: made, or added to.")],
    reading: ReadingFlags | None = None,
    cutting: CuttingFlags | None = None,
    encoding: IngestEncoderFlags | None = None,
    ready_made: ReadyMadeFlags | None = None,
    shard_chunks: Annotated[int | None, flag("Chunks a shard.")] = None,
    replace: Annotated[
        bool, flag("Documents whose text has changed take the place of those in the store.")
    ] = False,
    json: JsonTarget = None,
    quiet: Quiet = False,
) -> None:
    """Read documents, cut them into chunks, encode these, and keep texts and vectors in a store.

    Run it again after an interruption to continue; run it with more sources and they are added.
    With --vectors and --chunks, or an .npz of windows, nothing is encoded.
    """
    cutting, encoding = cutting or CuttingFlags(), encoding or IngestEncoderFlags()
    given = ready_made or ReadyMadeFlags()
    beside = given.vectors is not None or given.chunks is not None
    windows = any(name.endswith(".npz") for name in sources)
    more: dict[str, Any] = {"shard_chunks": shard_chunks}
    if shard_chunks is None or (windows and not beside):
        more = {}
    report: Any
    if beside or windows:
        _check_ready_made(replace, cutting, encoding)
        report = given.take(sources, out, encoding, beside=beside, quiet=quiet, **more)
    else:
        more |= {"quiet": quiet, "replace_changed": replace}
        report = _read(sources, out, reading or ReadingFlags(), cutting, encoding, **more)
    output(_describe(report) + _few(out), asdict(report), json)


def _check_ready_made(replace: bool, cutting: CuttingFlags, encoding: IngestEncoderFlags) -> None:
    """Raises ConfigError: a flag that means nothing for vectors that are there already."""
    if replace:
        remedy = "delete the old ones: nextvec delete STORE ID"
        raise ConfigError("replaces documents that are read from sources", where="--replace", remedy=remedy)
    if cutting.phases != 1:
        message = "vectors that you already have are not cut again"
        raise ConfigError(message, where="--phases", remedy="leave --phases out")
    if encoding.engine != "local":
        raise ConfigError("nothing has to be encoded", where="--engine", remedy="leave --engine out")


def _read(
    sources: tuple[str, ...],
    out: Path,
    reading: ReadingFlags,
    cutting: CuttingFlags,
    encoding: IngestEncoderFlags,
    **rest: Any,
) -> IngestReport:
    from nextvec.corpus.documents import demo_source
    from nextvec.corpus.ingest import ingest as run

    if not sources:
        raise DocumentError("no source is given", where="nextvec ingest", remedy="name a file or a folder")
    files = [str(demo_source()) if name == DEMO else name for name in sources]
    config = encoding.config()
    return run(
        files,
        out,
        encoder=config,
        chunker=cutting.make(config),
        options=reading.options(demo=DEMO in sources),
        dtype=encoding.dtype or "float16",
        phases=cutting.phases,
        drop_boilerplate=reading.drop_boilerplate,
        most_unknown=encoding.most_unknown,
        engine=encoding.engine,
        **rest,
    )


def _few(out: Path) -> str:
    """Of a small store, what the default split leaves to be evaluated, and which documents have no window."""
    from nextvec.corpus.store import Store
    from nextvec.data.splits import SplitConfig, split_documents
    from nextvec.evaluation.harness import EvaluationConfig

    store = Store.open(out)
    if len(store.documents) > SMALL:
        return ""
    split = split_documents(store, SplitConfig())
    needed = EvaluationConfig.context + EvaluationConfig.horizon
    if sum(store.documents[i].count >= needed for i in split.test) >= FEWEST_TEST:
        return ""
    counts = [d.count for d in store.documents if d.view_of is None]
    message = (
        f"\n  few documents: of {len(counts)} the default split keeps {len(split.train)} for training, "
        f"{len(split.validation)} for validation and {len(split.test)} to be tested on.\n"
        "    More of them: nextvec train --set data.split.test=0.3; each once: nextvec matrix --folds 5"
    )
    short = [count for count in counts if count < needed]
    if not short:
        return message
    least = max(min(short) - EvaluationConfig.horizon, 1)
    return message + (
        f"\n  fewer than {needed} chunks, too few for a window of the default recipe or of the evaluation: "
        f"{len(short)} of {counted(len(counts), 'document')}.\n    Shorter windows: "
        f"nextvec train --set data.min_context={least}; nextvec evaluate --judge-context {least}"
    )


def _boilerplate(recurring: int, listed: Sequence[RecurringPassage]) -> list[str]:
    """What recurs, and which flag would have done otherwise."""
    if not recurring:
        return []
    flags = ""
    if any(p.left_out for p in listed):
        flags = " --keep-boilerplate keeps them."
    elif any(p.left_out < p.documents for p in listed):
        flags = " --drop-boilerplate leaves them out."
    recur = counted(recurring, "paragraph recurs", "paragraphs recur")
    lines = [f"  {recur} in three or more different documents.{flags}"]
    return lines + [
        f"    in {counted(p.documents, 'document')}, left out of {p.left_out:,}: {p.text}"
        for p in listed[:SHOWN]
    ]


def _describe(report: Any) -> str:
    views = f" and {counted(report.views, 'view')} of documents" if getattr(report, "views", 0) else ""
    documents, chunks = counted(report.documents, "document"), counted(report.chunks, "chunk")
    lines = [f"{documents}{views}, {chunks} added to {report.store}"]
    if getattr(report, "replaced", 0):
        removed = f"which `nextvec compact {report.store}` removes"
        lines.append(f"  {report.replaced:,} of them in the place of an older text, {removed}")
    lines += [f"  skipped: {count:,} {reason}" for reason, count in report.skipped.items()]
    unread = getattr(report, "unread", ())
    lines += [f"    {why}" for why in unread[:SHOWN]]
    if len(unread) > SHOWN:
        lines.append(f"    and {len(unread) - SHOWN:,} more: --json lists them")
    lines += _boilerplate(getattr(report, "recurring", 0), getattr(report, "boilerplate", ()))
    if getattr(report, "path", None):
        speed = f"{report.chunks_per_second:.0f} chunks/s ({report.path})"
        lines.append(f"  {speed}, {report.seconds:.0f} s in all")
    return "\n".join(lines)


def delete(
    store: StorePath, *doc_ids: Annotated[str, flag("Ids of documents; their views go with them.")]
) -> None:
    """Delete documents of a store. Nothing trains on them or finds them from then on; their texts and vectors
    are on the disk until `nextvec compact`.
    """
    from nextvec.corpus.store import Store

    if not doc_ids:
        raise ConfigError("no document is named", where="nextvec delete", remedy="give its id")
    with Store.open(store).writer() as writer:
        gone = writer.delete(doc_ids)
    print(f"{counted(gone, 'document')} deleted, views included; free the space: nextvec compact {store}")


def compact(store: StorePath) -> None:
    """Remove deleted and replaced documents from a store's files: shards that hold some are written anew."""
    from nextvec.corpus.store import Store

    with Store.open(store).writer() as writer:
        rows = writer.compact()
    print(f"{counted(rows, 'chunk')} removed from {store}")
