"""A vec2text decoder on disk, and how one is put together from the published parts.

    decoder.json          kind, the encoder whose raw vectors it takes, their dimension
    inversion/            vec2text's first hypothesis: config.json, *.safetensors
    corrector/            vec2text's corrector: the same
    base/                 configuration and tokenizer of the T5 that both were made from; no weights
    embedder/             the encoder as a sentence-transformers folder: T5 and mean pooling, nothing after it

`embedder/` is what texts are to be encoded with. The published GTR of sentence-transformers goes on with a
dense layer and a normalisation, vec2text's GTR does not: to the corrector the former's vectors are noise, and
their fingerprints differ."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nextvec.corpus.hub import fetch, refuse_pickles
from nextvec.decoding.load import MANIFEST
from nextvec.disk import fsync_folder, read_json, sha256_file, write_json
from nextvec.errors import DecoderError

KIND = "vec2text"
MODELS = ("inversion", "corrector")
PARTS = (*MODELS, "embedder", "base")
TAKEN = "gtr_base"
"""vec2text's name for GTR-base, mean-pooled. `gtr_base_st` is sentence-transformers' own."""
PREPARE = "make one: nextvec decoder setup vec2text --out FOLDER"
TOLERANCE = 0.01

_TEXT = ("*.json", "*.txt", "*.model")
_POOLING = "1_Pooling"


@dataclass(frozen=True)
class PartSources:
    """Where the parts come from: folders or hub names. By default those published with vec2text for GTR-base
    (Morris et al., 2023), trained on passages of 32 tokens of Wikipedia (Natural Questions)."""

    inversion: str = "jxm/gtr__nq__32"
    corrector: str = "jxm/gtr__nq__32__correct"
    embedder: str = "sentence-transformers/gtr-t5-base"
    base: str = "google-t5/t5-base"


@dataclass(frozen=True)
class DecoderFolder:
    """A decoder that is all there.

    Attributes:
        folder: of the layout above.
        encoder: description of the encoder, with "fingerprint".
        dimension: D.
    """

    folder: Path
    encoder: dict[str, Any]
    dimension: int

    @classmethod
    def open(cls, folder: Path) -> DecoderFolder:
        """Check everything that can be checked without loading a model.

        Raises:
            DecoderError: no decoder, one of another kind, a part without weights or with pickled ones, or an
                encoder that is not the one described.
        """
        found = read_json(folder / MANIFEST, DecoderError, remedy=PREPARE)
        if not isinstance(found, dict) or found.get("kind") != KIND:
            raise DecoderError(f"describes no {KIND} decoder", where=folder / MANIFEST, remedy=PREPARE)
        encoder, dimension = found.get("encoder"), found.get("dimension")
        if not isinstance(encoder, dict) or "fingerprint" not in encoder or not isinstance(dimension, int):
            raise DecoderError(
                "does not say which encoder's vectors it takes", where=folder / MANIFEST, remedy=PREPARE
            )
        for name in PARTS:
            _config(folder / name)
            if name != "base":
                weight_files(folder / name)
        weights = _encoder_weights(folder)
        if sha256_file(weights) != encoder.get("weights_sha256"):
            raise DecoderError(f"not the weights that {MANIFEST} describes", where=weights, remedy=PREPARE)
        return cls(folder, encoder, dimension)


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of one part. Raises DecoderError where there are none, or pickled ones."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        refuse_pickles(folder, files, DecoderError)
        raise DecoderError("holds no weights (*.safetensors)", where=folder, remedy=PREPARE)
    return files


def _encoder_weights(folder: Path) -> Path:
    """The one file of the encoder's weights. Raises DecoderError if there is none, or several."""
    files = weight_files(folder / "embedder")
    if len(files) > 1:
        raise DecoderError("holds weights in several files", where=folder / "embedder", remedy="join them")
    return files[0]


def prepare(out: Path, sources: PartSources, trial: Callable[[Path], object]) -> DecoderFolder:
    """Put a decoder together in a new folder; nothing is left there if that fails.

    Args:
        out: the new folder.
        sources: the parts.
        trial: called with the finished folder before it takes its name; what it raises is raised.
    Raises:
        DecoderError: a part that is missing, pickled, not to be had, or made for another encoder.
        EncoderError: the encoder cannot be loaded.
    """
    check(out, sources)
    parts = {name: _part(getattr(sources, name)) for name in PARTS}
    _check_parts(parts)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as scratch:
        made = Path(scratch) / out.name
        for name, part in parts.items():
            weights = [] if name == "base" else weight_files(part)
            _copy([*weights, *_texts(part)], made / name)
        _as_encoder(made / "embedder")
        _check_encoder(made)
        write_json(made / MANIFEST, {"format": 1, "kind": KIND, **_describe(made / "embedder", sources)})
        DecoderFolder.open(made)
        trial(made)
        made.rename(out)
        fsync_folder(out.parent)
    return DecoderFolder.open(out)


def check(out: Path, sources: PartSources) -> None:
    """What can be said before anything is fetched. Raises DecoderError."""
    if out.exists():
        raise DecoderError("is there already", where=out, remedy="name a new folder")
    given = {name: Path(getattr(sources, name)) for name in PARTS}
    _check_parts({name: folder for name, folder in given.items() if folder.is_dir()})


def _check_parts(parts: dict[str, Path]) -> None:
    for name, folder in parts.items():
        config = _config(folder)
        if name != "base":
            weight_files(folder)
        embedder = config.get("embedder_model_api") or config.get("embedder_model_name")
        if name in MODELS and embedder != TAKEN:
            raise DecoderError(
                f"made for the encoder '{embedder}', not '{TAKEN}'",
                where=folder / "config.json",
                remedy=f"give a model of vec2text for {TAKEN}",
            )


def _part(source: str) -> Path:
    if Path(source).is_dir():
        return Path(source)
    return fetch(source, DecoderError, what="part of vec2text", remedy="check the name, or give a folder")


def _config(folder: Path) -> dict[str, Any]:
    found = read_json(folder / "config.json", DecoderError, remedy=PREPARE)
    return found if isinstance(found, dict) else {}


def _texts(folder: Path) -> Iterator[Path]:
    """Configurations and tokenizer files."""
    return (f for pattern in _TEXT for f in sorted(folder.glob(pattern)) if not f.name.endswith("index.json"))


def _copy(files: list[Path], folder: Path) -> None:
    folder.mkdir(parents=True)
    for file in files:
        shutil.copyfile(file, folder / file.name)


def _as_encoder(folder: Path) -> None:
    """Mean pooling behind the transformer, and nothing else, as sentence-transformers writes it down."""
    kinds = {"": "Transformer", _POOLING: "Pooling"}
    write_json(
        folder / "modules.json",
        [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (path, kind) in enumerate(kinds.items())
        ],
    )
    pooling = {"word_embedding_dimension": _config(folder).get("d_model"), "pooling_mode_mean_tokens": True}
    write_json(folder / _POOLING / "config.json", pooling)


def _check_encoder(folder: Path) -> None:
    """The encoder that the inversion model was trained on, where it holds a copy, is the one given."""
    from safetensors import safe_open

    with safe_open(_encoder_weights(folder), "pt") as given:
        names = {k.removeprefix("encoder."): k for k in given.keys() if k.startswith("encoder.")}  # noqa: SIM118
        for file in weight_files(folder / "inversion"):
            with safe_open(file, "pt") as held:
                for key in held.keys():  # noqa: SIM118
                    part = key.removeprefix("embedder.")
                    if part == key or part not in names:
                        continue
                    a, b = held.get_tensor(key).double(), given.get_tensor(names[part]).double()
                    if a.shape != b.shape or float((a - b).norm()) > TOLERANCE * float(b.norm()):
                        raise DecoderError(
                            f"the inversion model was trained on an encoder with another {part}",
                            where=file,
                            remedy=f"give the encoder that it was trained on: {PartSources.embedder}",
                        )


def _describe(embedder: Path, sources: PartSources) -> dict[str, Any]:
    from nextvec.corpus.encoders.sentence_transformer import SentenceTransformerEncoder

    encoder = SentenceTransformerEncoder(str(embedder), device="cpu", precision="float32")
    named = {**encoder.fingerprint, "name": f"{sources.embedder} (mean pooling, no dense layer)"}
    return {"encoder": named, "dimension": encoder.dimension, "sources": vars(sources)}
