"""DistilGPT-2 against transformers.GPT2Model: outputs, every gradient, weights both ways, checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeVar

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, GPT2Model

from nextvec.errors import ModelError
from nextvec.models import registry
from nextvec.models.architectures.distilgpt2 import DistilGPT2, to_gpt2, transfer
from nextvec.models.base import NextVectorModel
from nextvec.models.ops.parameters import count_parameters

Module = TypeVar("Module", bound=nn.Module)
D, T, VOCABULARY = 10, 17, 23
SIZES = {"hidden": 24, "layers": 3, "heads": 4, "ffn": 40, "positions": 20, "dropout": 0.0}


def ours(**overrides: object) -> DistilGPT2:
    model = registry.build("distilgpt2", "brief", D, **{**SIZES, **overrides})
    assert isinstance(model, DistilGPT2)
    return randomise(model)


def theirs(kind: type[GPT2Model] | type[GPT2LMHeadModel] = GPT2Model, **overrides: object) -> nn.Module:
    sizes = {"n_embd": 24, "n_layer": 3, "n_head": 4, "n_inner": 40, "n_positions": 20}
    config = GPT2Config(vocab_size=VOCABULARY, **{**sizes, **overrides})
    return randomise(kind(config)).eval()


def randomise(module: Module) -> Module:
    torch.manual_seed(sum(p.numel() for p in module.parameters()))
    for parameter in module.parameters():
        nn.init.normal_(parameter, 0.1, 0.3)
    return module


def compare(model: DistilGPT2, reference: nn.Module) -> None:
    """Outputs and all gradients of the two bodies, which hold the same weights."""
    x, wanted = torch.randn(2, 3, T, D, dtype=torch.float64)
    raw = model(x).raw
    (raw * wanted).sum().backward()
    own = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    hidden = reference(inputs_embeds=model.embed(x)).last_hidden_state
    expected = model.head(hidden)
    torch.testing.assert_close(raw, expected, rtol=1e-9, atol=1e-9)
    (expected * wanted).sum().backward()
    for name in ("embed.weight", "embed.bias", "head.weight", "head.bias"):
        torch.testing.assert_close(own[name], model.get_parameter(name).grad, rtol=1e-8, atol=1e-8)
    with torch.no_grad():  # as weights, so that `to_gpt2` names them as GPT-2 does
        for name, gradient in own.items():
            model.get_parameter(name).copy_(gradient)
    gradients = to_gpt2(model)
    compared = {name for name, _ in reference.named_parameters()} - {"wte.weight"}
    assert gradients.keys() == compared
    for name in compared:
        other = reference.get_parameter(name).grad
        assert other is not None, name
        assert other.abs().max() > 0, name
        torch.testing.assert_close(gradients[name], other, rtol=1e-8, atol=1e-8, msg=name)


def test_as_gpt2_with_our_weights() -> None:
    model, reference = ours().double(), theirs().double()
    left = reference.load_state_dict(to_gpt2(model), strict=False)
    assert left.missing_keys == ["wte.weight"]
    assert left.unexpected_keys == []
    compare(model, reference)


@pytest.mark.parametrize("kind", [GPT2Model, GPT2LMHeadModel])
def test_as_gpt2_with_the_weights_of_its_checkpoint(
    kind: type[GPT2Model] | type[GPT2LMHeadModel], tmp_path: Path
) -> None:
    reference, model = theirs(kind), ours()
    reference.save_pretrained(tmp_path)
    before = {name: p.clone() for name, p in model.named_parameters()}
    transfer(model, tmp_path)
    same = {name for name, p in model.named_parameters() if torch.equal(p, before[name])}
    assert same == {"head.weight", "head.bias"}
    body = reference.transformer if isinstance(reference, GPT2LMHeadModel) else reference
    assert isinstance(body, GPT2Model)
    compare(model.double(), body.double())


def test_a_transferred_model_sees_vectors_as_large_as_the_token_embeddings(tmp_path: Path) -> None:
    reference = theirs()
    reference.save_pretrained(tmp_path)
    model = ours()
    transfer(model, tmp_path)
    embedded = model.embed(torch.randn(2000, D)).square().mean().sqrt()
    tokens = reference.get_parameter("wte.weight").square().mean().sqrt()
    assert abs(embedded / tokens - 1) < 0.2


def test_fewer_positions_are_taken_from_the_front(tmp_path: Path) -> None:
    reference, model = theirs(), ours(positions=7)
    reference.save_pretrained(tmp_path)
    transfer(model, tmp_path)
    assert torch.equal(model.wpe.weight, reference.get_parameter("wpe.weight")[:7])


def test_fresh_weights_are_distributed_as_gpt2s() -> None:
    torch.manual_seed(0)
    sizes = {"hidden": 64, "layers": 3, "heads": 4, "ffn": 256, "positions": 100}
    model = registry.build("distilgpt2", "brief", D, **sizes)
    assert isinstance(model, DistilGPT2)
    config = GPT2Config(vocab_size=5, n_embd=64, n_layer=3, n_head=4, n_positions=100)
    reference = GPT2Model(config)
    for name, tensor in to_gpt2(model).items():
        other = reference.get_parameter(name)
        assert abs(tensor.mean() - other.mean()) < 1e-3, name
        assert abs(tensor.std() - other.std()) < 1e-3, name


def change(folder: Path, name: str, value: object) -> None:
    """Set a key of config.json, or put a tensor (None: take it out) into the weights."""
    if isinstance(value, Tensor) or value is None:
        tensors = {**load_file(folder / "model.safetensors"), name: value}
        kept = {key: tensor for key, tensor in tensors.items() if tensor is not None}
        save_file(kept, folder / "model.safetensors", {"format": "pt"})
    else:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, name: value}))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model_type", "bert", "not the configuration of a GPT-2"),
        ("n_layer", 4, "model.options.layers = 4"),
        ("n_head", 3, "model.options.heads = 3"),
        ("n_embd", 48, "model.options.hidden = 48"),
        ("n_inner", 41, "model.options.ffn = 41"),
        ("activation_function", "relu", "activation_function is relu"),
        ("layer_norm_epsilon", 1e-6, "layer_norm_epsilon is 1e-06"),
        ("scale_attn_by_inverse_layer_idx", True, "scale_attn_by_inverse_layer_idx is True"),
        ("h.1.mlp.c_fc.bias", None, "'h.1.mlp.c_fc.bias' is missing"),
        ("wte.weight", None, "'wte.weight' is missing"),
        ("ln_f.bias", torch.zeros(23), r"'ln_f.bias' is \[23\]"),
        ("wpe.weight", torch.zeros(19, 24), "model.options.positions = 19"),
        ("ln_f.bias", torch.full((24,), torch.nan), "NaN"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(
    key: str, value: object, message: str, tmp_path: Path
) -> None:
    theirs().save_pretrained(tmp_path)
    change(tmp_path, key, value)
    model = ours()
    before = {name: p.clone() for name, p in model.named_parameters()}
    with pytest.raises(ModelError, match=message):
        transfer(model, tmp_path)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_pickle_is_never_read_and_a_damaged_file_is_named(tmp_path: Path) -> None:
    theirs().save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ModelError, match=r"model\.safetensors: is not a complete"):
        transfer(ours(), tmp_path)
    weights.rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="pickled weights, which are never read"):
        transfer(ours(), tmp_path)
    (tmp_path / "pytorch_model.bin").unlink()
    with pytest.raises(ModelError, match=r"model\.safetensors: not found"):
        transfer(ours(), tmp_path)


def test_other_architectures_have_nothing_to_transfer_to(tmp_path: Path) -> None:
    model: NextVectorModel = registry.build("lstm", "small", D)
    with pytest.raises(ModelError, match="lstm cannot start from a checkpoint"):
        transfer(model, tmp_path)


def test_reading_past_the_last_position_is_refused() -> None:
    model, x = ours(), torch.randn(1, 21, D)
    assert model(x[:, :20]).raw.shape == (1, 20, D)
    with pytest.raises(ModelError, match="21 vectors to read, and it has learned positions for 20"):
        model(x)
    state = model.init_state(1)
    with torch.inference_mode():
        for t in range(20):
            _, state = model.step(x[:, t], state)
        with pytest.raises(ModelError, match=r"model\.options\.positions = 21"):
            model.step(x[:, 20], state)


def test_sizes_of_the_brief() -> None:
    with torch.device("meta"):
        counts = {p: count_parameters(registry.build("distilgpt2", p)) for p in ("brief", "faithful")}
        body = count_parameters(GPT2Model(GPT2Config(n_layer=6, vocab_size=1)))
    assert abs(counts["brief"] / 82e6 - 1) < 0.03
    assert counts["faithful"] == body - 768 + 2 * (768 * 768 + 768)  # no vocabulary, but an input and a head
