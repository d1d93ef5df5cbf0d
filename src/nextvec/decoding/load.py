"""Decoders by what a user calls them: "nearest", a decoder's folder, or KIND:FOLDER.

A kind is loaded when it is asked for: to look up the nearest chunk needs nothing of what a trained decoder
needs.
"""

from __future__ import annotations

from collections.abc import Sequence
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
FOLDERS = ("inverter", "vec2text")
"""Kinds of decoders that lie in folders."""


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
    options = options or DecoderOptions()
    if kind == NEAREST:
        from nextvec.decoding.nearest import Nearest

        if store is None:
            raise DecoderError("needs chunks to find", where=NEAREST, remedy="name a store")
        return Nearest(store, documents, **vars(options.nearest))
    if kind == "vec2text":
        from nextvec.decoding.vec2text import Vec2Text

        return Vec2Text(folder, **vars(options.vec2text))
    from nextvec.decoding.inverter import Inverter, Writing

    how = options.inverter
    writing = from_dict(Writing, how.writing, where="inverter", prefix="inverter.writing.")
    inverter = Inverter(folder, writing, how.device)
    return inverter if reader is None or not how.rerank else inverter.with_reader(reader)


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
        remedy = f"give {NEAREST}, a folder made by nextvec decoder train, or vec2text:FOLDER"
        raise DecoderError(f"is not a decoder (it has no {MANIFEST})", where=folder, remedy=remedy)
    manifest = read_json(folder / MANIFEST, DecoderError)
    kind = manifest.get("kind") if isinstance(manifest, dict) else None
    if kind not in FOLDERS:
        remedy = f"this version knows: {', '.join(FOLDERS)}"
        raise DecoderError(f"a decoder of kind '{kind}'", where=folder / MANIFEST, remedy=remedy)
    return str(kind)
