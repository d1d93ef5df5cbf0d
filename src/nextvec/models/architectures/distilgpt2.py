"""DistilGPT-2: GPT-2's pre-norm body on vectors, with a Linear in place of its vocabulary.

Paper: Radford et al., Language Models are Unsupervised Multitask Learners (GPT-2), 2019; Sanh et al.,
DistilBERT, 2019, for the distilled six layers. Source: transformers.GPT2Model.
Deviations: none in the body (learned positions, LayerNorm before each half and at the end, tanh GELU, dropout
in GPT-2's three places, its initial weights). Of the 82M parameters the brief names 38.6M are the vocabulary,
which vectors have no use for: `brief` reaches the count with a wider feed-forward, `faithful` is the body
itself. Learned positions have an end: reading more than `positions` vectors is an error. A body can be taken
from a GPT-2 checkpoint (`transfer`); the input layer and the head are always learned anew.
Parity: transformers.GPT2Model with the same weights, copied both ways (tests/parity/test_distilgpt2.py).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from nextvec.config import number
from nextvec.disk import read_json
from nextvec.errors import ModelError
from nextvec.models.base import ModelConfig, NextVectorModel
from nextvec.models.ops.attention import cache_append, cache_used, causal_attention
from nextvec.models.ops.layers import dropout
from nextvec.models.registry import architecture
from nextvec.models.residual import State
from nextvec.models.stack import Block, Place, Stack

STD = 0.02  # of GPT-2's initial weights


@dataclass(frozen=True, kw_only=True)
class DistilGPT2Config(ModelConfig):
    """hidden: H; layers; heads: of H / heads each; ffn: inner width; positions: vectors that can be read at
    most; dropout: on the embedded input, on attention weights and on what each half adds.
    """

    hidden: int
    layers: int
    heads: int
    ffn: int
    positions: int
    dropout: float = number(least=0, below=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden % self.heads:
            raise ValueError(f"hidden = {self.hidden} does not divide into {self.heads} heads")


class GPT2Block(Block):
    """LayerNorm, attention, added; LayerNorm, feed-forward, added. Named as in GPT-2."""

    entries = ("keys_values",)

    def __init__(self, config: DistilGPT2Config) -> None:
        super().__init__()
        self.heads, self.head_dim = config.heads, config.hidden // config.heads
        self.dropout = config.dropout
        self.ln_1 = nn.LayerNorm(config.hidden)
        self.attn_in = nn.Linear(config.hidden, 3 * config.hidden)
        self.attn_out = nn.Linear(config.hidden, config.hidden)
        self.ln_2 = nn.LayerNorm(config.hidden)
        self.mlp_in = nn.Linear(config.hidden, config.ffn)
        self.mlp_out = nn.Linear(config.ffn, config.hidden)
        for linear in (self.attn_in, self.mlp_in, self.attn_out, self.mlp_out):
            # Section 2.3: what is added to the stream starts smaller the more there is to add.
            adds = linear in (self.attn_out, self.mlp_out)
            nn.init.normal_(linear.weight, std=STD / (2 * config.layers) ** 0.5 if adds else STD)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor, place: Place, state: State | None) -> tuple[Tensor, State]:
        """Keys and values are cached as [2, B, h, capacity, d]."""
        q, k, v = self.attn_in(self.ln_1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        after: State = {}
        if state is not None:
            cache = cache_append(state["keys_values"], torch.stack((k, v)), place.start)
            k, v = cache_used(cache, place.start + x.shape[1])
            after["keys_values"] = cache
        mixed = causal_attention(q, k, v, self.dropout if self.training else 0.0)
        x = x + dropout(self.attn_out(mixed.transpose(1, 2).flatten(2)), self.dropout, self.training)
        inner = F.gelu(self.mlp_in(self.ln_2(x)), approximate="tanh")
        return x + dropout(self.mlp_out(inner), self.dropout, self.training), after

    def initial(self, batch: int, device: torch.device, dtype: torch.dtype) -> State:
        shape = (2, batch, self.heads, 0, self.head_dim)
        return {"keys_values": torch.empty(shape, device=device, dtype=dtype)}


@architecture("distilgpt2")
class DistilGPT2(Stack):
    """The state is each layer's cached keys and values."""

    Config = DistilGPT2Config
    streaming = "cache"
    caches = ("keys_values",)
    paper = "Radford et al., Language Models are Unsupervised Multitask Learners (GPT-2), 2019"
    complexity = "O(T^2)"
    best_for = "starting from a pretrained language model's layers"

    def __init__(self, config: DistilGPT2Config) -> None:
        blocks = (GPT2Block(config) for _ in range(config.layers))
        super().__init__(config, config.hidden, blocks, nn.LayerNorm(config.hidden), config.dropout)
        self.wpe = nn.Embedding(config.positions, config.hidden)
        nn.init.normal_(self.embed.weight, std=STD)
        nn.init.zeros_(self.embed.bias)
        nn.init.normal_(self.wpe.weight, std=STD)

    def enter(self, x: Tensor, start: int) -> Tensor:
        end, most = start + x.shape[1], self.wpe.num_embeddings
        place = start + torch.arange(x.shape[1], device=x.device)
        if not torch.compiler.is_exporting() and end > most:  # a graph ends in a look-up out of bounds
            raise ModelError(
                f"distilgpt2: {end} vectors to read, and it has learned positions for {most}",
                remedy=f"read at most {most}, or train it with model.options.positions = {end}",
            )
        embedded = self.embed(x) + self.wpe(place)
        return dropout(embedded, self.embed_dropout, self.training)


log = logging.getLogger("nextvec.models")

CONFIG, WEIGHTS = "config.json", "model.safetensors"
# Our module's name in a block -> GPT-2's. GPT-2 keeps its four matrices transposed ("Conv1D").
MODULES = {
    "ln_1": "ln_1",
    "attn_in": "attn.c_attn",
    "attn_out": "attn.c_proj",
    "ln_2": "ln_2",
    "mlp_in": "mlp.c_fc",
    "mlp_out": "mlp.c_proj",
}
SIZES = {"n_embd": "hidden", "n_layer": "layers", "n_head": "heads"}
# What changes the function computed without changing a shape; the value is GPT-2's default, and ours.
BEHAVIOUR = {
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}


def transfer(model: NextVectorModel, folder: str | Path) -> None:
    """Overwrite the body of `model`, in place, with the checkpoint in `folder`: of GPT-2, DistilGPT-2 or any
    of that kind, as transformers' `save_pretrained` writes it. Only safetensors are read, never pickle.

    The positions are taken as far as the model has some. The input layer starts with weights that bring
    vectors of components about 1 to the size of the checkpoint's own token embeddings; the head is left.

    Args:
        folder: config.json and model.safetensors of a GPT-2 model, with or without its language head.
    Raises:
        ModelError: the model is no distilgpt2, or the checkpoint is of another kind or size, damaged, or
            there only as pickle. The model is then unchanged.
    """
    folder = Path(folder)
    if not isinstance(model, DistilGPT2):
        raise ModelError(
            f"{model.architecture} cannot start from a checkpoint",
            where=folder,
            remedy="leave the checkpoint out, or choose distilgpt2",
        )
    _check_config(model, folder)
    wanted = {name: value.shape for name, value in to_gpt2(model).items()}
    tensors = _read(folder / WEIGHTS, wanted, model)
    own = model.state_dict()
    with torch.no_grad():
        for name, theirs, transposed in _names(model):
            value = tensors[theirs]
            own[name].copy_((value.T if transposed else value)[: len(own[name])])
        size = float(tensors["wte.weight"].float().square().mean().sqrt())
        model.embed.weight.normal_(std=size / model.d_embed**0.5)
        model.embed.bias.zero_()
    log.info("%s: took %d layers and %d positions", folder, len(model.blocks), model.wpe.num_embeddings)


def to_gpt2(model: DistilGPT2) -> dict[str, Tensor]:
    """The model's body as transformers.GPT2Model names and lays it out (without the vocabulary)."""
    own = model.state_dict()
    return {theirs: own[name].T if turned else own[name] for name, theirs, turned in _names(model)}


def _names(model: DistilGPT2) -> list[tuple[str, str, bool]]:
    """Our tensor's name, GPT-2's, and whether theirs is transposed."""
    found = [("wpe.weight", "wpe.weight", False)]
    modules = {f"blocks.{i}.{a}": f"h.{i}.{b}" for i in range(len(model.blocks)) for a, b in MODULES.items()}
    for ours, theirs in {**modules, "norm": "ln_f"}.items():
        matrix = ours.endswith(("_in", "_out"))
        found += [
            (f"{ours}.weight", f"{theirs}.weight", matrix),
            (f"{ours}.bias", f"{theirs}.bias", False),
        ]
    return found


def _check_config(model: DistilGPT2, folder: Path) -> None:
    where = folder / CONFIG
    remedy = "give a folder that transformers' save_pretrained wrote a GPT-2 to"
    config: Any = read_json(where, ModelError, remedy=remedy)
    if not isinstance(config, dict) or config.get("model_type") != "gpt2":
        raise ModelError("is not the configuration of a GPT-2", where=where, remedy=remedy)
    ours = vars(model.config)
    theirs = {**config, "n_inner": config.get("n_inner") or 4 * ours["hidden"]}
    for key, name in {**SIZES, "n_inner": "ffn"}.items():
        if theirs.get(key) != ours[name]:
            raise ModelError(
                f"{key} is {theirs.get(key)} where the model's {name} is {ours[name]}",
                where=where,
                remedy=f"set model.options.{name} = {theirs.get(key)}",
            )
    for key, value in BEHAVIOUR.items():
        if config.get(key, value) != value:
            raise ModelError(
                f"{key} is {config[key]}, not {value}", where=where, remedy="take another checkpoint"
            )


def _read(path: Path, wanted: dict[str, torch.Size], model: DistilGPT2) -> dict[str, Tensor]:
    """The tensors of `wanted` and wte, shapes checked; a checkpoint may have more positions."""
    if not path.is_file():
        pickled = any(path.parent.glob("*.bin"))
        remedy = "load it with transformers and save it again" if pickled else "check the path"
        found = "there are only pickled weights, which are never read" if pickled else "not found"
        raise ModelError(found, where=path, remedy=remedy)
    try:
        with safe_open(path, "pt") as f:
            names = set(f.keys())
            prefix = "transformer." if "transformer.wpe.weight" in names else ""
            missing = {*wanted, "wte.weight"} - {n.removeprefix(prefix) for n in names}
            if missing:
                raise ModelError(f"tensor '{min(missing)}' is missing", where=path, remedy="restore the file")
            tensors = {name: f.get_tensor(prefix + name) for name in (*wanted, "wte.weight")}
    except (SafetensorError, OSError) as e:
        raise ModelError(
            f"is not a complete safetensors file ({e})", where=path, remedy="restore it"
        ) from None
    for name, shape in wanted.items():
        have, short = tensors[name].shape, name == "wpe.weight" and len(tensors[name]) < shape[0]
        if short:
            raise ModelError(
                f"has {have[0]} positions, the model {shape[0]}",
                where=path,
                remedy=f"set model.options.positions = {have[0]}",
            )
        if have[1:] != shape[1:] or (name != "wpe.weight" and have[0] != shape[0]):
            raise ModelError(f"tensor '{name}' is {list(have)}, not {list(shape)}", where=path)
        if not tensors[name].isfinite().all():
            raise ModelError(f"tensor '{name}' has NaN or infinity", where=path, remedy="restore the file")
    return tensors
