"""What vec2text needs on disk: a folder of packages to run with, and a decoder's folder to load.

vec2text 0.0.13 does not run with transformers 5. So it runs in a process of its own (`worker.py`), whose
packages stand in a folder of their own; torch and a few helpers are borrowed from the environment that
nextvec runs in. A folder is whole or not there: it is filled under another name, tried, and renamed.

A decoder is put together from the published parts:

    decoder.json          kind, the encoder whose raw vectors it takes, their dimension
    inversion/            vec2text's first hypothesis: config.json, *.safetensors
    corrector/            vec2text's corrector: the same
    base/                 configuration and tokenizer of the T5 that both were made from; no weights
    embedder/             the encoder as a sentence-transformers folder: T5 and mean pooling, nothing after

Texts are to be encoded with `embedder/`. The published GTR of sentence-transformers goes on with a dense
layer and a normalisation, vec2text's GTR does not: to the corrector the former's vectors are noise, and
their fingerprints differ."""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nextvec.corpus.encoders.base import fetch, refuse_pickles
from nextvec.decoding.base import MANIFEST
from nextvec.disk import fsync_folder, new_folder, read_json, refuse_taken, sha256_file, write_json
from nextvec.errors import DecoderError
from nextvec.json_process import JsonProcess, Problem
from nextvec.progress import Progress

log = logging.getLogger("nextvec.decoding")

VARIABLE = "NEXTVEC_VEC2TEXT"
RECORD = "environment.json"
PACKAGES = "packages"
REQUIREMENTS = Path(__file__).with_name("requirements.txt")
WORKER = Path(__file__).with_name("worker.py")
SETUP = "make it: nextvec decoder setup vec2text"
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
INSTALL_TIMEOUT = 1800.0
CHECK = "see whether it runs at all: nextvec decoder setup vec2text --check"
REMEDIES: dict[Problem, str] = {
    "late": "raise the time-out, or lower steps and beam",
    "ended": CHECK,
    "invalid": CHECK,
    "refused": "check the decoder's folder",
}

_LENDERS = ("torch", "numpy", "safetensors", "regex")


def default_folder() -> Path:
    """$NEXTVEC_VEC2TEXT; else inside the virtual environment that runs; else among the user's data."""
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named)
    if sys.prefix != sys.base_prefix:
        return Path(sys.prefix) / "share" / "nextvec" / "vec2text"
    data = os.environ.get("XDG_DATA_HOME")
    return (Path(data) if data else Path.home() / ".local" / "share") / "nextvec" / "vec2text"


def sites() -> list[str]:
    """The folders that torch and the helpers are borrowed from."""
    specs = [importlib.util.find_spec(name) for name in _LENDERS]
    return sorted({str(Path(spec.origin).parent.parent) for spec in specs if spec and spec.origin})


def vec2text_process(command: Sequence[str], timeout: float) -> JsonProcess:
    """A process of vec2text, not yet started; what goes wrong in it is a DecoderError."""

    def error(problem: Problem, message: str) -> DecoderError:
        return DecoderError(message, remedy=REMEDIES[problem])

    quiet = {"TRANSFORMERS_VERBOSITY": "error"}
    return JsonProcess(command, name="vec2text", error=error, timeout=timeout, environment=quiet)


@dataclass(frozen=True)
class Environment:
    folder: Path

    @classmethod
    def find(cls, folder: Path | None = None) -> Environment:
        """The environment in a folder, by default in `default_folder()`; it is not run to see.

        Raises:
            DecoderError: none there, or one for other pins or another Python.
        """
        folder = default_folder() if folder is None else folder
        if not (folder / RECORD).is_file():
            raise DecoderError("the environment of vec2text is not there", where=folder, remedy=SETUP)
        record = read_json(folder / RECORD, DecoderError, remedy=SETUP)
        if not isinstance(record, dict) or record.get("requirements_sha256") != sha256_file(REQUIREMENTS):
            raise DecoderError("an environment of vec2text with other pins", where=folder, remedy=SETUP)
        if record.get("python") != PYTHON:
            message = f"an environment of vec2text for Python {record.get('python')}, not {PYTHON}"
            raise DecoderError(message, where=folder, remedy=SETUP)
        return cls(folder)

    def worker(self, *arguments: str, timeout: float) -> JsonProcess:
        """The process, not yet started. See `worker.py` for the arguments."""
        packages = str(self.folder.resolve() / PACKAGES)
        isolated = [sys.executable, "-I", "-S", str(WORKER)]
        return vec2text_process([*isolated, packages, *sites(), *arguments], timeout)

    def probe(self, timeout: float = 300.0) -> dict[str, str]:
        """Import everything in a process of its own; returns versions by package. Raises DecoderError."""
        with self.worker(timeout=timeout) as worker:
            versions: dict[str, str] = worker.start()["versions"]
        return versions

    def size(self) -> int:
        return sum(f.stat().st_size for f in self.folder.rglob("*") if f.is_file())


def make(folder: Path | None = None, *, quiet: bool = False) -> tuple[Environment, dict[str, str]]:
    """Fill the folder unless it is whole already; one of other pins, or that does not run, is made again.

    Returns:
        the environment, and versions by package.
    Raises:
        DecoderError: packages that cannot be installed or do not run, or a folder that holds something else.
    """
    folder = default_folder() if folder is None else folder
    whole = _whole(folder)
    if whole is not None:
        return whole
    if not (folder / RECORD).exists():
        refuse_taken(folder, DecoderError, "name a folder that is new or empty", "holds something else")
    if not quiet:
        log.info("installing vec2text and its pins (70 MB) into %s; torch is shared", folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch,
        Progress("vec2text's environment", 3, "steps", quiet=quiet) as progress,
    ):
        made = Environment(Path(scratch) / "made")
        _install(made.folder / PACKAGES)
        progress.advance(note="installed")
        versions = made.probe()
        progress.advance(note="tried")
        record = {"requirements_sha256": sha256_file(REQUIREMENTS), "python": PYTHON}
        write_json(made.folder / RECORD, record, sealed=True)
        if folder.exists():
            folder.rename(Path(scratch) / "old")
        made.folder.rename(folder)
        fsync_folder(folder.parent)
        progress.advance(note="in place")
    return Environment(folder), versions


def _whole(folder: Path) -> tuple[Environment, dict[str, str]] | None:
    """The environment there and its versions, if it runs."""
    try:
        found = Environment.find(folder)
        return found, found.probe()
    except DecoderError:
        return None


def _install(target: Path) -> None:
    """The pins, as wheels and without what they would draw in. Raises DecoderError with pip's last word."""
    if importlib.util.find_spec("pip") is None:
        message = "pip, which installs vec2text, is not in this environment"
        raise DecoderError(message, remedy="python -m ensurepip")
    options = ["--no-deps", "--no-compile", "--only-binary", ":all:", "--quiet", "--no-input"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(target)]
    command += ["--disable-pip-version-check", "--requirement", str(REQUIREMENTS)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT, check=False)  # noqa: S603
    except subprocess.TimeoutExpired:
        message = f"pip did not end within {INSTALL_TIMEOUT:.0f} s"
        raise DecoderError(message, remedy="check the connection, and try again") from None
    if done.returncode:
        reason = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [
            "no reason given"
        ]
        remedy = "check the connection to the package index, and try again"
        raise DecoderError(f"pip could not install vec2text's packages ({reason[-1]})", remedy=remedy)


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
            message = "does not hold which encoder's vectors it takes"
            raise DecoderError(message, where=folder / MANIFEST, remedy=PREPARE)
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
        trial: called with the finished folder before it takes its name; what it raises is raised.
    Raises:
        DecoderError: a part that is missing, pickled, not available, or made for another encoder.
        EncoderError: the encoder cannot be loaded.
    """
    check(out, sources)
    parts = {name: _part(getattr(sources, name)) for name in PARTS}
    _check_parts(parts)
    with new_folder(out) as made:
        for name, part in parts.items():
            (made / name).mkdir()
            for file in [*([] if name == "base" else weight_files(part)), *_texts(part)]:
                shutil.copyfile(file, made / name / file.name)
        _as_encoder(made / "embedder")
        _check_encoder(made)
        held = {"format": 1, "kind": KIND, **_describe(made / "embedder", sources)}
        write_json(made / MANIFEST, held, sealed=True)
        DecoderFolder.open(made)
        trial(made)
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
            message = f"made for the encoder '{embedder}', not '{TAKEN}'"
            remedy = f"give a model of vec2text for {TAKEN}"
            raise DecoderError(message, where=folder / "config.json", remedy=remedy)


def _part(source: str) -> Path:
    if Path(source).is_dir():
        return Path(source)
    return fetch(source, DecoderError, what="part of vec2text", remedy="check the name, or give a folder")


def _config(folder: Path) -> dict[str, Any]:
    found = read_json(folder / "config.json", DecoderError, remedy=PREPARE)
    return found if isinstance(found, dict) else {}


def _texts(folder: Path) -> Iterator[Path]:
    return (f for pattern in _TEXT for f in sorted(folder.glob(pattern)) if not f.name.endswith("index.json"))


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
                        message = f"the inversion model was trained on an encoder with another {part}"
                        remedy = f"give the encoder that it was trained on: {PartSources.embedder}"
                        raise DecoderError(message, where=file, remedy=remedy)


def _describe(embedder: Path, sources: PartSources) -> dict[str, Any]:
    from nextvec.corpus.encoders import EncoderConfig, load_encoder

    encoder = load_encoder(EncoderConfig(str(embedder), device="cpu", precision="float32"))
    named = {**encoder.fingerprint, "name": f"{sources.embedder} (mean pooling, no dense layer)"}
    return {"encoder": named, "dimension": encoder.dimension, "sources": vars(sources)}
