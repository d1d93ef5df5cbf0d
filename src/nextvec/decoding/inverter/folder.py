"""An inverter as a folder: decoder.json, model.safetensors, tokenizer.json and golden.safetensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nextvec.config import from_dict, to_dict
from nextvec.corpus.reading import Space
from nextvec.decoding.base import MANIFEST
from nextvec.decoding.inverter.network import Network, NetworkConfig
from nextvec.decoding.inverter.tokenizer import MAX_LENGTH, Tokens
from nextvec.disk import read_json
from nextvec.errors import ConfigError, DecoderError
from nextvec.models.saving import (
    GOLDEN,
    MAX_GOLDEN_BYTES,
    WEIGHTS,
    check_golden,
    check_tensors,
    exact,
    read_tensors,
    source_version,
    write_saved,
)
from nextvec.version import __version__

KIND = "inverter"
FORMAT = 1
TOKENIZER = "tokenizer.json"
MAX_WEIGHT_BYTES = 2**32
MAX_DIMENSION = 2**16
GOLDEN_BATCH, GOLDEN_LENGTH = 2, 8
REMEDY = "give a folder that nextvec decoder train made"


@dataclass(frozen=True)
class Saved:
    """What a folder holds.

    Attributes:
        network: in eval mode on the CPU, in float32.
        space: whose vectors it was trained on, and how their texts were cut.
        length: tokens at most of the texts it was trained on.
        info: decoder.json.
    """

    network: Network
    tokens: Tokens
    space: Space
    length: int
    info: dict[str, Any]


def save_inverter(
    folder: Path, network: Network, tokens: Tokens, space: Space, length: int, extra: Mapping[str, Any]
) -> None:
    """Write the inverter; `extra` are further entries of decoder.json. Torch's random state is not touched.

    Raises:
        DecoderError: the network answers NaN or infinity.
    """
    weights = {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}
    twin = _assemble(network.config, weights, network.mean.numel(), tokens.size, folder / WEIGHTS)
    inputs = _golden_input(twin)
    answer = _answer(twin, inputs)
    if not answer["answer"].isfinite().all():
        remedy = "save an earlier state of it"
        raise DecoderError("the network's answers are not finite", where=folder, remedy=remedy)
    info = {
        **extra,
        "kind": KIND,
        "format": FORMAT,
        "network": to_dict(network.config),
        "dimension": network.mean.numel(),
        "vocabulary": tokens.size,
        "length": length,
        "space": vars(space),
        "tokenizer_sha256": tokens.sha256,
        "code_version": code_version(),
        "nextvec_version": __version__,
    }
    tokens.save(folder / TOKENIZER)
    write_saved(folder, MANIFEST, info, weights, {**inputs, **answer})


def load_saved(folder: str | Path) -> Saved:
    """Read what `save_inverter` wrote.

    Raises:
        DecoderError: a file that is missing, damaged or another's, or an answer that differs from the golden
            one by more than 1e-5 (of its largest value, if that is above 1); the message names the file.
    """
    folder = Path(folder)
    where = folder / MANIFEST
    info = read_json(where, DecoderError, remedy=REMEDY)
    match info:
        case {"kind": "inverter", "format": 1, "code_version": str(saved_code), "tokenizer_sha256": str(sha)}:
            pass
        case _:
            raise DecoderError(f"is not an {KIND} of format {FORMAT}", where=where, remedy=REMEDY)
    try:
        config = from_dict(NetworkConfig, info["network"], where=where)
        sizes = {name: int(info[name]) for name in ("dimension", "vocabulary", "length")}
        held = info["space"]
        space = Space(held["encoder"], held["chunker"], bool(held["normalised"]))
        str(space.fingerprint)
    except ConfigError as e:
        raise DecoderError(e.message, where=e.where, remedy=e.remedy or REMEDY) from None
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        raise DecoderError(f"lacks what an {KIND} has ({e!r})", where=where, remedy=REMEDY) from None
    tokens = Tokens.load(folder / TOKENIZER, sha)
    if not (1 <= sizes["dimension"] <= MAX_DIMENSION and 1 <= sizes["length"] <= MAX_LENGTH):
        raise DecoderError("has sizes that cannot be meant", where=where, remedy=REMEDY)
    if tokens.size != sizes["vocabulary"]:
        raise DecoderError(f"names {sizes['vocabulary']} tokens of {tokens.size}", where=where, remedy=REMEDY)
    weights = read_tensors(folder / WEIGHTS, DecoderError, max_bytes=MAX_WEIGHT_BYTES)
    network = _assemble(config, weights, sizes["dimension"], tokens.size, folder / WEIGHTS)
    _check_golden(network, folder, saved_code)
    return Saved(network, tokens, space, sizes["length"], info)


def code_version() -> str:
    """Short sha256 of the source files that the network's answer depends on."""
    return source_version(Network.__module__, ("nextvec.models", "nextvec.decoding.inverter"))


def _assemble(
    config: NetworkConfig, weights: dict[str, Tensor], dimension: int, vocabulary: int, where: Path
) -> Network:
    """Build without initialising (the meta device draws no random numbers), take the weights as they are."""
    with torch.device("meta"):
        network = Network(config, dimension, vocabulary)
    check_tensors(weights, network.state_dict(), where, f"an {KIND}", DecoderError)
    network.load_state_dict(weights, assign=True)
    return network.float().eval()


def _golden_input(network: Network) -> dict[str, Tensor]:
    """Vectors [2, D] that spread as those trained on, and tokens [2, 8]; the same at every call."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(GOLDEN_BATCH, network.mean.numel(), generator=generator)
    tokens = torch.randint(network.end, (GOLDEN_BATCH, GOLDEN_LENGTH), generator=generator)
    return {"vectors": network.mean + network.std * noise, "tokens": tokens}


def _answer(network: Network, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Log-probabilities [2, V] of the token after those of `_golden_input`."""
    with exact():
        hidden, _ = network(network.standardised(inputs["vectors"]), inputs["tokens"])
        return {"answer": network.log_probabilities(hidden[:, -1]).clone()}


def _check_golden(network: Network, folder: Path, saved_code: str) -> None:
    where = folder / GOLDEN
    golden = read_tensors(where, DecoderError, max_bytes=MAX_GOLDEN_BYTES)
    wanted = {**_golden_input(network), "answer": torch.empty(GOLDEN_BATCH, network.end + 1)}
    check_tensors(golden, wanted, where, "a golden file", DecoderError)
    tokens = golden["tokens"]
    if tokens.dtype != torch.int64 or not ((tokens >= 0) & (tokens < network.end)).all():
        raise DecoderError("is not a golden file", where=where, remedy="restore the file")
    check_golden(
        _answer(network, golden),
        golden,
        folder / WEIGHTS,
        saved_code=saved_code,
        code=code_version(),
        error=DecoderError,
    )
