"""RWKV against rwkv7-hf (version 7) and transformers (version 4), same weights: outputs, gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from rwkv7_hf import RWKV7Cache, RWKV7Config, RWKV7Model
from torch import Tensor, nn
from transformers import RwkvConfig, RwkvModel

from nextvec.models import registry
from nextvec.models.architectures.rwkv import RWKV
from nextvec.models.ops.parameters import count_parameters

B, T, D, H, HEADS, FFN, LAYERS = 2, 37, 12, 32, 2, 56, 3
# Ours -> theirs. Several of theirs are rows of ours; "1-" before a name: ours is one minus theirs.
Names = dict[str, tuple[str, ...]]


def names_7() -> Names:
    names: Names = {"norm_out": ("norm",), "norm_in": ("layers.0.pre_norm",)}
    for i in range(LAYERS):
        ours, theirs = f"blocks.{i}", f"layers.{i}"
        names |= {f"{ours}.norms.0": (f"{theirs}.attn_norm",), f"{ours}.norms.1": (f"{theirs}.ffn_norm",)}
        names[f"{ours}.time.mix"] = tuple(f"{theirs}.attn.x_{letter}" for letter in "rwkvag")
        names[f"{ours}.channel.mix"] = (f"{theirs}.ffn.x_k",)
        for name in ("key", "value"):
            names[f"{ours}.channel.{name}"] = (f"{theirs}.ffn.{name}",)
        maps = {"receptance": "r_proj", "key": "k_proj", "value": "v_proj", "output": "o_proj"}
        maps |= {"removal": "k_k", "key_rate": "k_a", "bonus": "r_k"}
        maps |= {"norm_weight": "g_norm.weight", "norm_bias": "g_norm.bias"}
        for name, letter in (("decay", "w"), ("rate", "a"), ("gate", "g"), ("keep", "v")):
            if name == "keep" and i == 0:
                continue
            maps |= {f"{name}.down": f"{letter}_lora.lora.0", f"{name}.up": f"{letter}_lora.lora.2.weight"}
            if name != "gate":
                maps[f"{name}.bias"] = f"{letter}_lora.lora.2.bias"
        names |= {f"{ours}.time.{own}": (f"{theirs}.attn.{other}",) for own, other in maps.items()}
    return names


def names_4() -> Names:
    names: Names = {"norm_out": ("ln_out",), "norm_in": ("blocks.0.pre_ln",)}
    for i in range(LAYERS):
        block = f"blocks.{i}"
        names |= {f"{block}.norms.0": (f"{block}.ln1",), f"{block}.norms.1": (f"{block}.ln2",)}
        for own, other, mixed in (
            ("time", "attention", ("key", "value", "receptance")),
            ("channel", "feed_forward", ("key", "receptance")),
        ):
            names[f"{block}.{own}.mix"] = tuple(f"1-{block}.{other}.time_mix_{name}" for name in mixed)
            for name in ("key", "value", "receptance"):
                names[f"{block}.{own}.{name}"] = (f"{block}.{other}.{name}",)
        names[f"{block}.time.output"] = (f"{block}.attention.output",)
        names[f"{block}.time.decay"] = (f"{block}.attention.time_decay",)
        names[f"{block}.time.now"] = (f"{block}.attention.time_first",)
    return names


def whole(names: Names, ours: nn.Module, theirs: nn.Module) -> Names:
    """With modules' names replaced by those of their parameters; every parameter on both sides has one."""
    found: Names = {}
    own = [name for name, _ in ours.named_parameters() if not name.startswith(("embed", "head"))]
    for name in own:
        for stem, others in names.items():
            if name == stem or name.startswith(f"{stem}."):
                one = others[0] + name.removeprefix(stem)
                exact = one.removeprefix("1-") in dict(theirs.named_parameters())
                found[name] = (one,) if exact and len(others) == 1 else others
    assert found.keys() == set(own)
    used = {other.removeprefix("1-") for others in found.values() for other in others}
    assert used == {n for n, _ in theirs.named_parameters() if not n.startswith("embeddings")}
    return found


def rows(others: tuple[str, ...], of: Callable[[str], Tensor], shape: torch.Size, one: float) -> Tensor:
    """Theirs in our shape; for a `1-` name, `one` minus theirs."""
    tensors = [one - of(n[2:]) if n.startswith("1-") else of(n) for n in others]
    return torch.stack([t.reshape(-1) for t in tensors]).view(shape)


def seven(x: Tensor) -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
    config = RWKV7Config(
        vocab_size=2, hidden_size=H, num_hidden_layers=LAYERS, num_heads=HEADS, intermediate_size=FFN,
        decay_low_rank_dim=32, gate_low_rank_dim=32, a_low_rank_dim=32, v_low_rank_dim=32,
    )  # fmt: skip
    theirs = RWKV7Model(config).double()
    # Given in float64: by itself it keeps its state in float32.
    zeros = torch.zeros(B, HEADS, H // HEADS, H // HEADS, dtype=torch.float64)
    shifts = [torch.zeros(B, H, dtype=torch.float64)] * LAYERS

    def run(embed: nn.Module) -> Tensor:
        cache = RWKV7Cache([zeros] * LAYERS, list(shifts), list(shifts))
        hidden: Tensor = theirs(inputs_embeds=embed(x), past_key_values=cache).last_hidden_state
        return hidden

    return theirs, run


def four(x: Tensor) -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
    config = RwkvConfig(
        vocab_size=2, hidden_size=H, num_hidden_layers=LAYERS, intermediate_size=FFN, rescale_every=0
    )
    theirs = RwkvModel(config).double()

    def run(embed: nn.Module) -> Tensor:
        hidden: Tensor = theirs(inputs_embeds=embed(x), use_cache=False).last_hidden_state
        return hidden

    return theirs, run


@pytest.mark.parametrize("version", [7, 4])
def test_as_the_reference(version: int) -> None:
    torch.manual_seed(version)
    sizes = {"hidden": H, "layers": LAYERS, "heads": HEADS if version == 7 else 1, "ffn": FFN}
    model = registry.build("rwkv", "brief", D, version=version, **sizes).double()
    assert isinstance(model, RWKV)
    x, wanted = (torch.randn(B, T, D, dtype=torch.float64) for _ in range(2))
    theirs, run = (seven if version == 7 else four)(x)
    for parameter in (*theirs.parameters(), *model.parameters()):
        nn.init.normal_(parameter, 0.1, 0.4)
    names = whole(names_7() if version == 7 else names_4(), model, theirs)
    with torch.no_grad():
        for name, others in names.items():
            own = model.get_parameter(name)
            own.copy_(rows(others, theirs.get_parameter, own.shape, 1.0))

    raw = model(x).raw
    (raw * wanted).sum().backward()
    ours = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()
    expected = model.head(run(model.embed))
    (expected * wanted).sum().backward()
    assert (raw - expected).abs().max() < 1e-5 * expected.abs().max()

    def their_gradient(name: str) -> Tensor:
        gradient = theirs.get_parameter(name).grad
        assert gradient is not None
        return gradient

    for name, gradient in ours.items():
        assert gradient is not None
        if name in names:
            same = rows(names[name], their_gradient, gradient.shape, 0.0)
        else:
            same = model.get_parameter(name).grad  # of the embedding and the head, which both share
        assert same is not None
        assert same.abs().max() > 0, name
        assert (gradient - same).abs().max() < 1e-5 * same.abs().max(), name


def test_fresh_decays_are_the_authors() -> None:
    """w0 = -6 + 6 (n / (C - 1))^(1 + r^0.3) + 0.5 + 2.5 zigzag, and the output starts at zero."""
    C, N, layers = 128, 64, 4
    model = registry.build("rwkv", "small", D, hidden=C, heads=C // N, layers=layers)
    assert isinstance(model, RWKV)
    for layer, block in enumerate(model.blocks):
        for n in range(C):
            zigzag = ((n % N) - (N - 1) / 2) / ((N - 1) / 2)
            w0 = -6 + 6 * (n / (C - 1)) ** (1 + (layer / (layers - 1)) ** 0.3) + 0.5
            assert abs(block.time.decay.bias[n].item() - (w0 + 2.5 * zigzag * abs(zigzag))) < 1e-5
        assert (block.time.output.weight == 0).all()
        assert (block.channel.value.weight == 0).all()


@pytest.mark.parametrize(("preset", "count"), [("brief", 167.0e6), ("v4", 170.1e6)])
def test_the_brief_sizes(preset: str, count: float) -> None:
    with torch.device("meta"):
        model = registry.build("rwkv", preset, 768)
    assert abs(count_parameters(model) / count - 1) < 0.001
