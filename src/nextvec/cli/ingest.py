"""`nextvec ingest`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Group, Parameter

from nextvec.cli.common import JsonTarget, Quiet, output
from nextvec.cli.texts import ENCODING, EncoderOption, Endpoint, configure_encoder
from nextvec.errors import ConfigError, DocumentError

if TYPE_CHECKING:
    from nextvec.corpus.chunking import Chunker
    from nextvec.corpus.encoders import EncoderConfig

READING, CUTTING = Group("Reading documents"), Group("Chunks")
READY_MADE = Group("Vectors you already have")


def ingest(
    *sources: Annotated[
        str,
        Parameter(
            help="Folders and files: .txt .md .html, .jsonl, .csv, .parquet, MediaWiki .xml[.bz2]; "
            "an .npz of windows; or the word demo."
        ),
    ],
    out: Annotated[Path, Parameter(help="The store: made, or added to.")],
    source: Annotated[str | None, Parameter(group=READING, help="Source name of all documents.")] = None,
    id_column: Annotated[str | None, Parameter(group=READING, help="Column of document ids.")] = None,
    title_column: Annotated[str | None, Parameter(group=READING, help="Column of titles.")] = None,
    text_column: Annotated[str | None, Parameter(group=READING, help="Column of texts.")] = None,
    source_column: Annotated[str | None, Parameter(group=READING, help="Column of source names.")] = None,
    text_encoding: Annotated[
        str, Parameter(group=READING, help="Character encoding of text files.")
    ] = "utf-8",
    headings: Annotated[
        bool, Parameter(group=READING, negative=(), help="Keep headings as paragraphs.")
    ] = False,
    min_characters: Annotated[int, Parameter(group=READING, help="Skip (and count) shorter ones.")] = 0,
    skip_empty: Annotated[
        bool, Parameter(group=READING, negative=(), help="Skip (and count) documents without text.")
    ] = False,
    qualify_ids: Annotated[
        bool, Parameter(group=READING, negative=(), help="Ids as source/id, where files repeat ids.")
    ] = False,
    limit: Annotated[int | None, Parameter(group=READING, help="Stop after so many documents.")] = None,
    chunker: Annotated[
        Literal["words", "sentence", "paragraph", "tokens"], Parameter(group=CUTTING, help="How to cut.")
    ] = "words",
    chunk_option: Annotated[
        tuple[str, ...],
        Parameter(group=CUTTING, negative=(), help="KEY=VALUE of the chunker, e.g. words=80 min_words=30."),
    ] = (),
    phases: Annotated[
        int,
        Parameter(
            group=CUTTING,
            help="Cut every document so many times, the boundaries moved by 1/N of a chunk each time. "
            "The extra views serve training only.",
        ),
    ] = 1,
    encoder: Annotated[
        str, Parameter(group=ENCODING, help="The packaged one, a folder, a hub name, or a server's model.")
    ] = "all-MiniLM-L6-v2",
    endpoint: Endpoint = None,
    encoder_option: EncoderOption = (),
    dtype: Annotated[
        Literal["float16", "float32"] | None,
        Parameter(group=ENCODING, help="On disk (float16 unless given)."),
    ] = None,
    vectors: Annotated[Path | None, Parameter(group=READY_MADE, help=".npy of shape [chunks, D].")] = None,
    chunks: Annotated[
        Path | None, Parameter(group=READY_MADE, help=".parquet: doc_id, position, text, source[, title].")
    ] = None,
    encoder_sha256: Annotated[
        str | None, Parameter(group=READY_MADE, help="Of the weights of the --encoder they come from.")
    ] = None,
    verify_encoder: Annotated[
        bool, Parameter(group=READY_MADE, negative=(), help="Prove --encoder by encoding a sample anew.")
    ] = False,
    shard_chunks: Annotated[int | None, Parameter(help="Chunks a shard.")] = None,
    json: JsonTarget = None,
    quiet: Quiet = False,
) -> None:
    """Read documents, cut them into chunks, encode these, and keep texts and vectors in a store.

    Run it again after an interruption and it goes on; run it with more sources and they are added.
    With --vectors and --chunks, or an .npz of windows, nothing is encoded.
    """
    from dataclasses import asdict

    shards: dict[str, Any] = {} if shard_chunks is None else {"shard_chunks": shard_chunks}
    files = [_demo(name) if name == "demo" else name for name in sources]
    ready_made = vectors is not None or chunks is not None or any(name.endswith(".npz") for name in files)
    if ready_made and phases != 1:
        raise ConfigError(
            "vectors that you already have are not cut anew", where="--phases", remedy="leave --phases out"
        )
    if vectors is not None or chunks is not None:
        if vectors is None or chunks is None or sources:
            raise ConfigError(
                "vectors and chunks come together and alone", remedy="give --vectors, --chunks and no sources"
            )
        report: Any = _import(
            vectors, chunks, out, configure_encoder(encoder, endpoint, encoder_option), encoder_sha256,
            verify=verify_encoder, dtype=dtype, quiet=quiet, **shards,
        )  # fmt: skip
    elif any(name.endswith(".npz") for name in files):
        report = _import_npz(files, out, encoder, encoder_sha256, dtype, quiet=quiet)
    else:
        from nextvec.corpus.demo import demo_options
        from nextvec.corpus.documents import ReaderOptions
        from nextvec.corpus.ingest import ingest as run

        if not files:
            raise DocumentError(
                "no source is given", where="nextvec ingest", remedy="name a file or a folder"
            )
        config = configure_encoder(encoder, endpoint, encoder_option)
        at_least = max(min_characters, demo_options().min_characters) if "demo" in sources else min_characters
        options = ReaderOptions(
            source, id_column, title_column, text_column, source_column, text_encoding, headings, at_least,
            skip_empty, qualify_ids, limit,
        )  # fmt: skip
        report = run(
            files, out, encoder=config, chunker=_chunker(chunker, chunk_option, config), options=options,
            dtype=dtype or "float16", phases=phases, quiet=quiet, **shards,
        )  # fmt: skip
    output(_describe(report), asdict(report), json)


def _demo(_: str) -> str:
    from nextvec.corpus.demo import demo_source

    return str(demo_source())


def _chunker(kind: str, options: tuple[str, ...], encoder: EncoderConfig) -> Chunker:
    from nextvec.config import parse_assignments
    from nextvec.corpus.chunking import make_chunker, tokenizer_from_file

    given = parse_assignments(options)
    if kind == "tokens":
        from nextvec.corpus.encoders.sentence_transformer import find_folder

        path = given.pop("tokenizer_file", None) or find_folder(encoder.name) / "tokenizer.json"
        given["tokenizer"], given["tokenizer_id"] = tokenizer_from_file(path)
    return make_chunker(kind, given)


def _import(
    vectors: Path,
    chunks: Path,
    out: Path,
    config: EncoderConfig,
    sha256: str | None,
    *,
    verify: bool,
    **rest: Any,
) -> Any:
    from nextvec.corpus.encoders import load_encoder
    from nextvec.corpus.imports import import_vectors

    if verify:
        return import_vectors(vectors, chunks, out, encoder=load_encoder(config), **rest)
    return import_vectors(vectors, chunks, out, encoder_name=config.name, encoder_sha256=sha256, **rest)


def _import_npz(
    files: list[str], out: Path, encoder: str, sha256: str | None, dtype: str | None, *, quiet: bool
) -> Any:
    from nextvec.corpus.npz import import_npz

    if len(files) != 1:
        raise ConfigError("an .npz is ingested alone", where=files[0], remedy="give one file at a time")
    return import_npz(files[0], out, encoder_name=encoder, encoder_sha256=sha256, dtype=dtype, quiet=quiet)


def _describe(report: Any) -> str:
    views = f" and {report.views:,} views of documents" if getattr(report, "views", 0) else ""
    lines = [f"{report.documents:,} documents{views}, {report.chunks:,} chunks added to {report.store}"]
    lines += [f"  skipped: {count:,} {reason}" for reason, count in report.skipped.items()]
    if getattr(report, "path", None):
        lines.append(
            f"  {report.chunks_per_second:.0f} chunks/s ({report.path}), {report.seconds:.0f} s in all"
        )
    return "\n".join(lines)
