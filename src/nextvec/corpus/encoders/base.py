"""What every encoder gives: raw vectors, and a fingerprint that says which vectors may be mixed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

from nextvec.corpus.layout import FloatArray
from nextvec.errors import EncoderError, NextvecError
from nextvec.hardware import native_bfloat16

_PICKLED = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")
_WANTED = ["*.json", "*.txt", "*.model", "*.safetensors"]
_UNWANTED = ["onnx/*", "openvino/*", "*.onnx", "*.h5", *_PICKLED]


def fetch(name: str, error: type[NextvecError], *, what: str, remedy: str) -> Path:
    """The folder of a hub model, downloaded once: configurations, tokenizer files and safetensors.

    Raises:
        error: saying that `what` cannot be fetched, why, and `remedy`.
    """
    import httpx
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(name, allow_patterns=_WANTED, ignore_patterns=_UNWANTED))
    except (OSError, HFValidationError, httpx.HTTPError) as e:  # the hub's other errors are OSErrors
        reason = str(e).splitlines()[0] if str(e) else type(e).__name__
        raise error(f"{what} '{name}' cannot be fetched from the hub ({reason})", remedy=remedy) from None


def refuse_pickles(folder: Path, weights: Sequence[Path], error: type[NextvecError]) -> None:
    """Raise `error` where a folder holds pickled weights that no safetensors file among `weights` stands
    beside."""
    pickled = sorted(f for pattern in _PICKLED for f in folder.rglob(pattern))
    alone = [f for f in pickled if not any(w.parent == f.parent for w in weights)]
    if alone:
        remedy = "convert them to safetensors"
        raise error("holds pickled weights, which are never read", where=alone[0], remedy=remedy)


UNKNOWN_ENCODER = "unknown encoder"
"""What a store says of vectors that came without a name."""
UNKNOWN_CHUNKER = "imported"
WORTH_SAYING = 0.05
"""Share of unknown tokens from which a text is in a language that the encoder was not made for."""
MOST_UNKNOWN = 0.2
"""Share above which an ingest is refused, unless it is told otherwise."""
PRECISIONS = ("auto", "float32", "bfloat16")


_LOCAL_ONLY = ("device", "precision", "max_tokens")
_SERVER_ONLY = (
    "kind", "key_variable", "timeout", "retries", "base64_response", "role", "query_role", "same_as",
)  # fmt: skip


@dataclass(frozen=True)
class EncoderConfig:
    """Which encoder, and how it runs. With an `endpoint` it is a server's, else it runs here.

    Attributes:
        name: all-MiniLM-L6-v2 (packaged), a folder or a hub name; with `endpoint` the server's model name,
            sent to OpenAI-compatible servers.
        endpoint: `https://host/v1/embeddings`, `https://host/v1`, `https://host`, or TEI's
            `http://host/embed`. Where that is not there (404), it is tried with, or without, /v1 once, which
            is logged.
        kind: "openai" or "tei"; by default from the address ("/embed" is TEI).
        key_variable: environment variable that holds the API key; none is sent without it.
        device: auto, cpu, cuda or mps; precision: auto (bfloat16 where the processor computes in it), float32
            or bfloat16; max_tokens: cut texts earlier than the model's own limit. Not for servers.
        batch_size: texts run, or sent, together.
        prompt: put before every text (a passage's); query_prompt: before a query in its place. Of a model
            that runs here by default its own prompts, if it has any: the default one, and "query".
        timeout: seconds for connecting and for each answer.
        retries: further tries after 429, 5xx, a time-out or a broken connection.
        dimensions: vectors cut to so many numbers, where the encoder was trained for that; of servers,
            OpenAI-compatible ones can be asked.
        base64_response: ask OpenAI-compatible servers for base64 (smaller); either form is understood.
        role, query_role: what a text, or a query, is to the server: `input_type` of OpenAI-compatible servers
            that tell passages from queries, `prompt_name` of TEI.
        same_as: an encoder that is here and that the server is shown to be (`ProvedEncoder`).
    """

    name: str = "all-MiniLM-L6-v2"
    endpoint: str | None = None
    kind: str | None = None
    key_variable: str | None = None
    device: str = "auto"
    precision: str = "auto"
    batch_size: int = 32
    max_tokens: int | None = None
    prompt: str | None = None
    query_prompt: str | None = None
    timeout: float = 60.0
    retries: int = 5
    dimensions: int | None = None
    base64_response: bool = False
    role: str | None = None
    query_role: str | None = None
    same_as: str | None = None

    def __post_init__(self) -> None:
        idle = _LOCAL_ONLY if self.endpoint is not None else _SERVER_ONLY
        for field in fields(self):
            if field.name in idle and getattr(self, field.name) != field.default:
                kind = "a server's encoder" if self.endpoint is not None else "an encoder that runs here"
                raise EncoderError(f"'{field.name}' means nothing to {kind}", remedy="leave it out")


def choose_device(device: str) -> str:
    """ "auto" -> cuda, mps or cpu, whichever is there first. Raises EncoderError for one that is not."""
    import torch

    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        return next(name for name in ("cuda", "mps", "cpu") if there[name])
    if not there.get(device.partition(":")[0], False):
        raise EncoderError(f"device '{device}' is not there", remedy="choose auto, cpu, cuda or mps")
    return device


def choose_precision(precision: str, device: str) -> str:
    """ "auto" -> "bfloat16" where the processor has it, else "float32".

    The choice is part of the encoder's `path`, which every shard and every ingest's report tells.

    Raises:
        EncoderError: an unknown precision.
    """
    if precision not in PRECISIONS:
        remedy = f"choose one of: {', '.join(PRECISIONS)}"
        raise EncoderError(f"unknown precision '{precision}'", remedy=remedy)
    if precision != "auto":
        return precision
    return "bfloat16" if native_bfloat16(device) else "float32"


Advance = Callable[[int], object]
"""Called with the number of texts just encoded, for a progress bar."""


class Encoder(Protocol):
    """Texts -> raw vectors.

    Attributes:
        name: for people.
        dimension: D.
        max_tokens: texts are cut after so many tokens; None where that is not known here.
        normalises: the published encoder ends with an L2 normalisation (which `encode` leaves out).
        unit: what `encode` returns is of unit length already, because raw vectors cannot be had.
        path: how vectors are computed, e.g. "cpu bfloat16". Same texts in the same order on the same
            path: same bytes.
        fingerprint: JSON-ready description; its "fingerprint" is equal for encoders whose vectors may be
            mixed, whatever the path.
    """

    name: str
    dimension: int
    max_tokens: int | None
    normalises: bool
    unit: bool
    path: str
    fingerprint: dict[str, Any]

    def encode(self, texts: Sequence[str], advance: Advance | None = None) -> FloatArray:
        """Raw vectors float32 [n, D], in the order of the texts. Raises EncoderError."""

    def count_tokens(self, texts: Sequence[str]) -> list[tuple[int, int]] | None:
        """Tokens of each text before any cutting, and how many of them the encoder does not know; None where
        only the server knows."""


def unknown_share(encoder: Encoder, texts: Sequence[str]) -> float | None:
    """Share of the texts' tokens that the encoder does not know; None where only a server could tell."""
    counts = encoder.count_tokens(texts)
    if counts is None:
        return None
    return sum(unknown for _, unknown in counts) / max(1, sum(tokens for tokens, _ in counts))


def encode_queries(encoder: Encoder, texts: Sequence[str]) -> FloatArray:
    """Raw vectors [n, D] of texts that passages are searched by: with the encoder's prompt, or role, of a
    query where it has one, else as any text's. Raises EncoderError."""
    own = getattr(encoder, "encode_queries", None)
    found: FloatArray = encoder.encode(texts) if own is None else own(texts)
    return found


def lengths_to_cut(encoder: Encoder) -> Collection[int]:
    """The lengths that the encoder's vectors may be cut to (Kusupati et al., 2022, "Matryoshka Representation
    Learning"), as its configuration declares them; empty where it declares none."""
    found: Collection[int] = getattr(encoder, "lengths_to_cut", ())
    return found


def digest(parts: Mapping[str, Any]) -> str:
    """The fingerprint string over what makes two encoders' vectors the same."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=True).encode()).hexdigest()
