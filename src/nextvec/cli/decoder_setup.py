"""`nextvec decoder setup`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from nextvec.cli.common import JsonTarget, Quiet, output

if TYPE_CHECKING:
    from nextvec.decoding.vec2text.setup import PartSources


def decoder_setup(
    kind: Annotated[Literal["vec2text"], Parameter(help="The decoder: vec2text.")],
    *,
    folder: Annotated[
        Path | None,
        Parameter(
            help="Where its packages go; by default $NEXTVEC_VEC2TEXT, else share/nextvec/vec2text of the "
            "virtual environment, else of the user's data."
        ),
    ] = None,
    check: Annotated[bool, Parameter(negative=(), help="Only tell whether it runs.")] = False,
    out: Annotated[
        Path | None, Parameter(help="Also put a decoder together in this new folder, for vec2text:FOLDER.")
    ] = None,
    inversion: Annotated[
        str | None, Parameter(help="Model of the first hypothesis: folder or hub name [jxm/gtr__nq__32].")
    ] = None,
    corrector: Annotated[
        str | None, Parameter(help="Corrector: folder or hub name [jxm/gtr__nq__32__correct].")
    ] = None,
    embedder: Annotated[
        str | None,
        Parameter(help="The T5 encoder: folder or hub name [sentence-transformers/gtr-t5-base]."),
    ] = None,
    base: Annotated[
        str | None,
        Parameter(
            help="Configuration and tokenizer of the models' T5: folder or hub name [google-t5/t5-base]."
        ),
    ] = None,
    quiet: Quiet = False,
    json: JsonTarget = None,
) -> None:
    """Make the environment that vec2text runs in, and put its decoder together.

    Its packages are pinned and apart from nextvec's own; torch is shared. Run again, it changes nothing.
    """
    from nextvec.decoding.vec2text.setup import Environment, PartSources, make
    from nextvec.decoding.vec2text.setup import check as check_parts
    from nextvec.errors import ConfigError

    given = {"inversion": inversion, "corrector": corrector, "embedder": embedder, "base": base}
    named = {name: source for name, source in given.items() if source is not None}
    if check and out is not None:
        raise ConfigError("--check makes nothing", where="--out", remedy="leave one of them out")
    if named and out is None:
        raise ConfigError(
            "parts, but no decoder to make of them", where=f"--{next(iter(named))}", remedy="add --out"
        )
    if out is not None:
        check_parts(out, PartSources(**named))
    started = time.monotonic()
    if check:
        environment = Environment.find(folder)
        versions = environment.probe()
    else:
        environment, versions = make(folder, quiet=quiet)
    figures: dict[str, Any] = {
        "folder": str(environment.folder),
        "versions": versions,
        "bytes": environment.size(),
        "seconds": round(time.monotonic() - started, 1),
    }
    if out is not None:
        figures["decoder"] = _put_together(out, PartSources(**named), environment.folder)
    output(_words(figures), figures, json)


def _put_together(out: Path, sources: PartSources, environment: Path) -> dict[str, Any]:
    from nextvec.decoding.vec2text import Vec2Text
    from nextvec.decoding.vec2text.setup import prepare

    def load(folder: Path) -> None:
        with Vec2Text(folder, environment=environment) as decoder:
            decoder.start()

    made = prepare(out, sources, load)
    return {"folder": str(made.folder), "encoder": made.encoder, "dimension": made.dimension}


def _words(figures: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in figures["versions"].items())
    lines = [
        f"vec2text runs: {versions}",
        f"packages in {figures['folder']} ({figures['bytes'] / 2**20:.0f} MiB, {figures['seconds']:.0f} s)",
    ]
    if "decoder" in figures:
        made = figures["decoder"]
        lines += [
            f"decoder in {made['folder']}, for vectors of {made['encoder']['name']}, "
            f"fingerprint {made['encoder']['fingerprint'][:16]}",
            f"its vectors: nextvec ingest TEXTS --encoder {made['folder']}/embedder --out STORE",
        ]
    return "\n".join(lines)
