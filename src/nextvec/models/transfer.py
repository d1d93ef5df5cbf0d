"""Start a model from a pretrained checkpoint of another library: its layers are taken, the rest is learned.

`transfer(model, folder)` puts the body of a GPT-2 checkpoint (GPT-2, DistilGPT-2, or any of that kind), as
transformers' `save_pretrained` writes it, into a `distilgpt2`. Only safetensors are read, never pickle.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from nextvec.disk import read_json
from nextvec.errors import ModelError
from nextvec.models.architectures.distilgpt2 import DistilGPT2
from nextvec.models.base import NextVectorModel

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
    """Overwrite the body of `model`, in place, with the checkpoint in `folder`.

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
