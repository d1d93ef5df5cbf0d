"""The process that vec2text runs in. Nothing of nextvec is imported here, and nextvec imports none of this.

    python -I -S worker.py PACKAGES SITE... [--decoder FOLDER] [--device auto|cpu]

PACKAGES is the folder that `nextvec decoder setup vec2text` filled with vec2text and its own pins; SITE are
the folders from which torch and a few helpers are borrowed, and nothing else. Requests come as JSON lines on
standard input, answers leave as JSON lines on standard output:

    -> {"vectors": base64 of float32 [N, D], "count": N, "steps": S, "beam": W, "empty": text for none}
    <- {"texts": [N strings], "scores": [N cosines]}   or   {"error": "..."}

The first line out is {"versions": {...}}, with {"dimension": D, "device": "..."} beside it if there is a
decoder to load; without one the process ends after it. What the libraries print goes to standard error.

The correction algorithm is vec2text's own (Morris et al., 2023, "Text Embeddings Reveal (Almost) As Much As
Text"; its `load_corrector` and `invert_embeddings`). Worked around, because it needs a network or another
library version: its `__init__`, which imports training code; the metrics that its trainers fetch from the
hub when they are made; and the weights of the base model and the encoder that its models fetch from the hub
before their own are loaded over them.
"""

from __future__ import annotations

import argparse
import base64
import importlib
import importlib.metadata
import importlib.util
import json
import os
import sys
from collections.abc import Iterable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import IO, Any

TORCH = {"torch", "torchgen", "functorch", "triton", "nvidia", "cuda"}
OF_TORCH = {"sympy", "mpmath", "networkx", "jinja2", "markupsafe", "typing_extensions", "filelock", "fsspec"}
SHARED = {"numpy", "safetensors", "packaging", "yaml", "pyyaml", "regex", "tqdm", "certifi", "idna"}
BORROWED = TORCH | OF_TORCH | SHARED
TRAINING_ONLY = ("datasets", "evaluate", "nltk", "scipy", "scipy.stats", "sentence_transformers")
REPORTED = ("vec2text", "transformers", "tokenizers", "torch", "numpy")
MAX_TOKENS = 128


class Borrower(MetaPathFinder):
    """Finds the packages of BORROWED, and no others, in the folders of another environment."""

    def __init__(self, folders: Sequence[str]) -> None:
        self.folders = list(folders)

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """The place of a borrowed package; what lies inside it is found by Python itself."""
        return PathFinder.find_spec(name, self.folders) if name in BORROWED else None

    def find_distributions(self, context: Any) -> Iterable[importlib.metadata.Distribution]:
        """Versions of the borrowed packages; transformers asks for them."""
        if (context.name or "").lower() not in BORROWED:
            return ()
        return importlib.metadata.MetadataPathFinder.find_distributions(
            importlib.metadata.DistributionFinder.Context(name=context.name, path=self.folders)
        )


class TrainingOnly(ModuleType):
    """Stands for a package that vec2text imports but uses in training alone. Its every name is a class that
    can be made and does nothing."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {"__init__": lambda self, *_, **__: None})


def import_vec2text() -> ModuleType:
    """The parts of the package that decode, without its `__init__`."""
    for name in TRAINING_ONLY:
        sys.modules[name] = TrainingOnly(name)
    spec = importlib.util.find_spec("vec2text")
    if spec is None or spec.submodule_search_locations is None:
        raise ModuleNotFoundError("No module named 'vec2text'")
    package = ModuleType("vec2text")
    package.__path__ = list(spec.submodule_search_locations)
    package.__spec__ = spec
    sys.modules["vec2text"] = package
    for part in ("models", "collator", "trainers", "api"):
        setattr(package, part, importlib.import_module(f"vec2text.{part}"))
    return package


def build_offline(vec2text: ModuleType, folder: Path) -> None:
    """Let vec2text's models be built from the configurations in a decoder folder. Both would fetch weights,
    only to have their own loaded over them."""
    import transformers

    def base(*_: object, **__: object) -> Any:
        config = transformers.AutoConfig.from_pretrained(folder / "base")
        return transformers.AutoModelForSeq2SeqLM.from_config(config)

    def embedder(*_: object, **__: object) -> tuple[Any, Any]:
        config = transformers.AutoConfig.from_pretrained(folder / "embedder")
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "embedder")
        return transformers.AutoModel.from_config(config).encoder, tokenizer

    transformers.AutoModelForSeq2SeqLM.from_pretrained = base
    vec2text.models.inversion.load_embedder_and_tokenizer = embedder


def load_corrector(vec2text: ModuleType, folder: Path) -> Any:
    """vec2text's corrector from the four parts of a decoder folder."""

    def config_of(name: str) -> Any:
        config = vec2text.models.config.InversionConfig.from_pretrained(folder / name)
        config.model_name_or_path = str(folder / "base")
        return config

    build_offline(vec2text, folder)
    inversion = vec2text.models.InversionModel(config_of("inversion"))
    # The encoder is the one that the decoder's description names, whatever the checkpoint holds.
    encoder = {f"embedder.{k}": v for k, v in encoder_weights(folder / "embedder").items()}
    fill(inversion, {**weights(folder / "inversion"), **encoder}, "inversion")
    corrector = vec2text.models.CorrectorEncoderModel(config_of("corrector"))
    fill(corrector, weights(folder / "corrector"), "corrector")
    return vec2text.api.load_corrector(inversion, corrector)


def weights(folder: Path) -> dict[str, Any]:
    """All tensors of a folder's safetensors files."""
    from safetensors.torch import load_file

    return {k: v for file in sorted(folder.glob("*.safetensors")) for k, v in load_file(file).items()}


def encoder_weights(folder: Path) -> dict[str, Any]:
    """A T5 encoder's tensors, named as its stack names them."""
    found = weights(folder)
    stack = {k.removeprefix("encoder."): v for k, v in found.items() if k.startswith("encoder.")}
    if "embed_tokens.weight" not in stack and "shared.weight" in found:
        stack["embed_tokens.weight"] = found["shared.weight"]
    return stack


def fill(model: Any, tensors: dict[str, Any], name: str) -> None:
    """Load tensors into a model; each of its own must be among them, or be tied to one that is."""
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    held = model.state_dict()
    loaded = {held[k].data_ptr() for k in tensors if k in held}
    missing = [k for k in missing if held[k].data_ptr() not in loaded]
    if missing or unexpected:
        wrong = f"without {missing[0]}" if missing else f"with {unexpected[0]}, which the model lacks"
        raise ValueError(f"{name}: weights {wrong}")
    model.eval()


def decode(vec2text: ModuleType, corrector: Any, vectors: Any, request: dict[str, Any]) -> Any:
    """Texts for vectors [N, D], and the cosine [N] of each text's own vector with the one given."""
    import torch

    # Without steps the first hypothesis is the answer, and vec2text takes no beam.
    search = {"num_steps": request["steps"], "sequence_beam_width": request["beam"]}
    with torch.inference_mode():
        given = vectors.to(corrector.args.device)
        texts = vec2text.api.invert_embeddings(given, corrector, **(search if request["steps"] else {}))
        texts = [text if text.strip() else request["empty"] for text in texts]
        tokens = corrector.embedder_tokenizer(
            texts, return_tensors="pt", max_length=MAX_TOKENS, truncation=True, padding=True
        ).to(given.device)
        again = corrector.call_embedding_model(
            input_ids=tokens.input_ids, attention_mask=tokens.attention_mask
        )
        return texts, torch.cosine_similarity(again, given, dim=1)


def answer(vec2text: ModuleType, corrector: Any, line: str) -> dict[str, Any]:
    """The reply to one request."""
    import numpy as np
    import torch

    try:
        request = json.loads(line)
        values = np.frombuffer(base64.b64decode(request["vectors"]), np.float32)
        vectors = torch.tensor(values.reshape(request["count"], -1))
        texts, scores = decode(vec2text, corrector, vectors, request)
    except Exception as error:  # noqa: BLE001 - whatever it is, the caller gets it
        return {"error": described(error)}
    return {"texts": texts, "scores": scores.tolist()}


def described(error: BaseException) -> str:
    """An error in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]


def serve(arguments: argparse.Namespace, out: IO[str]) -> None:
    """Load, say so, then answer until standard input ends."""

    def say(message: dict[str, Any]) -> None:
        out.write(json.dumps(message) + "\n")
        out.flush()

    try:
        vec2text = import_vec2text()
        hello: dict[str, Any] = {"versions": {name: importlib.metadata.version(name) for name in REPORTED}}
        if arguments.decoder is None:
            say(hello)
            return
        corrector = load_corrector(vec2text, arguments.decoder)
    except Exception as error:  # noqa: BLE001 - as above
        say({"error": described(error)})
        return
    dimension = corrector.inversion_trainer.model.embedder_dim
    say({**hello, "dimension": dimension, "device": str(corrector.args.device)})
    for line in sys.stdin:
        say(answer(vec2text, corrector, line))


def main() -> None:
    """Set the paths, keep standard output for answers, serve."""
    parser = argparse.ArgumentParser()
    parser.add_argument("packages", type=str)
    parser.add_argument("sites", nargs="+")
    parser.add_argument("--decoder", type=Path)
    parser.add_argument("--device", choices=("auto", "cpu"), default="auto")
    arguments = parser.parse_args()
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    if arguments.device == "cpu":
        os.environ.update(ACCELERATE_USE_CPU="true")
    sys.path.insert(0, arguments.packages)
    sys.meta_path.append(Borrower(arguments.sites))
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    serve(arguments, out)


if __name__ == "__main__":
    main()
