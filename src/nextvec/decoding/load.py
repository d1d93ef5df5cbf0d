"""Decoders by what a user calls them: "nearest", a decoder's folder, or KIND:FOLDER.

A kind is loaded when it is asked for: to look up the nearest chunk needs nothing of what a trained decoder
needs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from nextvec.config import from_dict
from nextvec.corpus.reading import TextReader
from nextvec.corpus.store import Store
from nextvec.decoding.base import MANIFEST, Decoder
from nextvec.disk import read_json
from nextvec.errors import DecoderError

NEAREST = "nearest"


@dataclass(frozen=True)
class NearestOptions:
    trade_off: float | None = None


@dataclass(frozen=True)
class InverterOptions:
    """How an inverter writes.

    Attributes:
        writing: fields of `nextvec.decoding.inverter.Writing`.
        rerank: of several texts the one is taken whose vector comes closest, where there is a reader.
    """

    writing: dict[str, Any] = field(default_factory=dict)
    rerank: bool = True
    device: str = "cpu"


@dataclass(frozen=True)
class Vec2TextOptions:
    steps: int = 20
    beam: int = 1
    device: Literal["auto", "cpu"] = "auto"
    timeout: float = 600.0


@dataclass(frozen=True)
class DecoderOptions:
    nearest: NearestOptions = NearestOptions()
    inverter: InverterOptions = field(default_factory=InverterOptions)
    vec2text: Vec2TextOptions = Vec2TextOptions()


@dataclass(frozen=True)
class DecoderRequest:
    """A decoder as it is asked for; see `open_decoder`."""

    folder: Path
    store: Store | None
    documents: Sequence[int] | None
    reader: TextReader | None
    options: DecoderOptions


def open_decoder(
    spec: str,
    *,
    store: Store | None = None,
    documents: Sequence[int] | None = None,
    reader: TextReader | None = None,
    options: DecoderOptions | None = None,
) -> Decoder:
    """A decoder; use it as a context manager, or close it.

    Args:
        spec: "nearest"; a folder with `decoder.json`; "inverter:FOLDER" or "vec2text:FOLDER".
        store: whose chunks "nearest" finds.
        documents: indices into `store.documents` that it finds chunks of; None is all.
        reader: encodes candidate texts again, for decoders that choose among several.
    Raises:
        DecoderError: no such kind, no decoder there, or a damaged one.
        ConfigError: options that cannot be meant.
        EncoderMismatchError: the reader is of another encoder than the decoder was made for.
    """
    kind, folder = _parse(spec)
    return KINDS[kind](DecoderRequest(folder, store, documents, reader, options or DecoderOptions()))


def check_decoders(specs: Sequence[str]) -> None:
    """Say what is wrong with the names of decoders before anything is loaded. Raises DecoderError."""
    for i, spec in enumerate(specs):
        _parse(spec)
        if spec in specs[:i]:
            raise DecoderError("named twice", where=spec, remedy="name it once")


def _parse(spec: str) -> tuple[str, Path]:
    """Kind and folder of a spec; "nearest" has none."""
    if spec == NEAREST:
        return NEAREST, Path()
    kind, colon, rest = spec.partition(":")
    if colon and kind in FOLDERS:
        if not rest:
            raise DecoderError("no folder named", where=spec, remedy=f"write {kind}:FOLDER")
        return kind, Path(rest)
    return _kind_of(Path(spec)), Path(spec)


def _kind_of(folder: Path) -> str:
    if not (folder / MANIFEST).is_file():
        raise DecoderError(
            f"is not a decoder (it has no {MANIFEST})",
            where=folder,
            remedy=f"give {NEAREST}, a folder made by nextvec decoder train, or vec2text:FOLDER",
        )
    said = read_json(folder / MANIFEST, DecoderError)
    kind = said.get("kind") if isinstance(said, dict) else None
    if kind not in FOLDERS:
        raise DecoderError(
            f"a decoder of kind '{kind}'",
            where=folder / MANIFEST,
            remedy=f"this version knows: {', '.join(FOLDERS)}",
        )
    return str(kind)


def _nearest(wanted: DecoderRequest) -> Decoder:
    from nextvec.decoding.nearest import Nearest

    if wanted.store is None:
        raise DecoderError("needs chunks to find", where=NEAREST, remedy="name a store")
    return Nearest(wanted.store, wanted.documents, **vars(wanted.options.nearest))


def _inverter(wanted: DecoderRequest) -> Decoder:
    from nextvec.decoding.inverter import Writing, load_inverter

    options = wanted.options.inverter
    writing = from_dict(Writing, options.writing, where="inverter", prefix="inverter.writing.")
    inverter = load_inverter(wanted.folder, writing, options.device)
    if wanted.reader is None or not options.rerank:
        return inverter
    return inverter.with_reader(wanted.reader)


def _vec2text(wanted: DecoderRequest) -> Decoder:
    from nextvec.decoding.vec2text import Vec2Text

    return Vec2Text(wanted.folder, **vars(wanted.options.vec2text))


FOLDERS: dict[str, Callable[[DecoderRequest], Decoder]] = {"inverter": _inverter, "vec2text": _vec2text}
KINDS: dict[str, Callable[[DecoderRequest], Decoder]] = {NEAREST: _nearest, **FOLDERS}
"""Kind -> how it is opened."""
