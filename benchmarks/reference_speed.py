"""Forward and backward seconds of each architecture beside the implementation it is proven against.

    python benchmarks/reference_speed.py                   # everything that is installed, L = 512
    python benchmarks/reference_speed.py --models rwkv,mamba2 --rounds 5
    python benchmarks/reference_speed.py --small           # a try: L = 128, two rounds

Both have the sizes of the preset, a Linear(D, H) before and a Linear(H, D) behind, and no dropout; both run
in float32 on one thread of this process, in turns. Times are that thread's own (CPU seconds), the fastest
round of each. A reference that loops over positions costs nearly the same for a larger --batch, so that the
ratio shrinks with it; one that loops over documents too (rwkv7-hf) does not. Weights are fresh: that both
compute the same is what tests/parity shows. The references, and what they need that nextvec does not:

    pip install --no-deps rwkv7-hf==0.9.0 torchscale==0.3.0 performer-pytorch==1.1.4 local-attention==1.9.0 \\
        axial-positional-embedding==0.3.12 && pip install transformers einops
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from nextvec.disk import write_json
from nextvec.models import registry
from nextvec.models.base import ModelConfig
from nextvec.models.ops.parameters import count_parameters

WARM_UP = 32
GOAL = 3.0
Config = Any  # an architecture's own: its fields are what an adapter reads
Row = dict[str, Any]


class Around(nn.Module):
    """Linear(D, H), a body [B, T, H] -> [B, T, H], Linear(H, D)."""

    def __init__(self, config: Config, body: nn.Module, run: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.embed = nn.Linear(config.d_embed, config.hidden)
        self.body, self.run = body, run
        self.head = nn.Linear(config.hidden, config.d_embed)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, T, D] -> [B, T, D]."""
        out: Tensor = self.head(self.run(self.embed(x)))
        return out


class Lstm(nn.Module):
    """torch.nn.LSTM and a head."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.lstm = nn.LSTM(config.d_embed, config.hidden, config.layers, batch_first=True)
        self.head = nn.Linear(config.hidden, config.d_embed)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, T, D] -> [B, T, D]."""
        out: Tensor = self.head(self.lstm(x)[0])
        return out


class Gru(nn.Module):
    """torch.nn.GRU in residual blocks."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        H = config.hidden
        self.grus = nn.ModuleList(nn.GRU(H, H, batch_first=True) for _ in range(config.layers))
        self.norms = nn.ModuleList(nn.LayerNorm(H) for _ in range(config.layers))

    def forward(self, x: Tensor) -> Tensor:
        """x [B, T, H] -> [B, T, H]."""
        for gru, norm in zip(self.grus, self.norms, strict=True):
            x = norm(x + gru(x)[0])
        return x


class RetNet(nn.Module):
    """torchscale's retention between torch's norms, and a SwiGLU."""

    def __init__(self, config: Config) -> None:
        from torchscale.component.multiscale_retention import MultiScaleRetention

        super().__init__()
        H, self.heads = config.hidden, config.heads
        options = SimpleNamespace(multiway=False, layernorm_eps=1e-6)
        self.norms = nn.ModuleList(nn.RMSNorm(H) for _ in range(2 * config.layers))
        self.retentions = nn.ModuleList(
            MultiScaleRetention(options, H, config.values, config.heads) for _ in range(config.layers)
        )
        self.inner = nn.ModuleList(nn.Linear(H, 2 * config.ffn, bias=False) for _ in range(config.layers))
        self.outer = nn.ModuleList(nn.Linear(config.ffn, H, bias=False) for _ in range(config.layers))
        self.key = H // config.heads

    def positions(self, T: int) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """What its RetNetRelPos gives: rotations, and decays over the square root of their row's sum."""
        angle = (1.0 / (10000 ** torch.linspace(0, 1, self.key // 2))).repeat_interleave(2)
        place = torch.arange(T, dtype=torch.float32)
        rotation = torch.sin(place[:, None] * angle), torch.cos(place[:, None] * angle)
        decay = torch.log(1 - 2.0 ** (-5 - torch.arange(self.heads, dtype=torch.float32)))
        age = place[:, None] - place
        mask = torch.exp(age * decay[:, None, None]).masked_fill(age < 0, 0.0)
        return rotation, mask / mask.sum(-1, keepdim=True).sqrt()

    def forward(self, x: Tensor) -> Tensor:
        """x [B, T, H] -> [B, T, H]."""
        positions = self.positions(x.shape[1])
        for i, retention in enumerate(self.retentions):
            x = x + retention(self.norms[2 * i](x), positions)
            gate, value = self.inner[i](self.norms[2 * i + 1](x)).chunk(2, -1)
            x = x + self.outer[i](nn.functional.silu(gate) * value)
        return x


def hugging_face(config: Config, body: nn.Module) -> nn.Module:
    """A transformers body, called with `inputs_embeds`."""
    return Around(config, body, lambda x: body(inputs_embeds=x, use_cache=False).last_hidden_state)


def torch_lstm(config: Config) -> nn.Module:
    return Lstm(config)


def torch_gru(config: Config) -> nn.Module:
    body = Gru(config)
    return Around(config, body, body)


def torch_transformer(config: Config) -> nn.Module:
    layer = nn.TransformerDecoderLayer(config.hidden, config.heads, config.ffn, 0.0, batch_first=True)
    body = nn.TransformerDecoder(layer, config.layers)

    def run(x: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        causal = {"tgt_mask": mask, "memory_mask": mask, "tgt_is_causal": True, "memory_is_causal": True}
        out: Tensor = body(x, x, **causal)
        return out

    return Around(config, body, run)


def transformers_gpt2(config: Config) -> nn.Module:
    from transformers import GPT2Config, GPT2Model

    dropouts = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    sizes = {"n_embd": config.hidden, "n_layer": config.layers, "n_head": config.heads, "n_inner": config.ffn}
    return hugging_face(
        config, GPT2Model(GPT2Config(vocab_size=2, n_positions=config.positions, **sizes, **dropouts))
    )


def transformers_mamba2(config: Config) -> nn.Module:
    from transformers import Mamba2Config, Mamba2Model

    made = Mamba2Config(
        vocab_size=2,
        hidden_size=config.hidden,
        num_hidden_layers=config.layers,
        expand=config.expand,
        head_dim=config.head_dim,
        num_heads=config.expand * config.hidden // config.head_dim,
        state_size=config.state,
        conv_kernel=config.taps,
        n_groups=1,
    )
    return hugging_face(config, Mamba2Model(made))


class Nothing(nn.Module):
    """In the place of a layer that ours has not: it adds zero."""

    def forward(self, x: Tensor) -> Tensor:
        """x [B, T, H] -> zeros [B, T, H]."""
        return torch.zeros_like(x)


def transformers_bamba(config: Config) -> nn.Module:
    from transformers import BambaConfig, BambaModel

    attention = [i for i in range(config.layers) if (i + 1) % config.attention_every == 0]
    made = BambaConfig(
        vocab_size=2,
        hidden_size=config.hidden,
        intermediate_size=config.ffn,
        num_hidden_layers=config.layers,
        attn_layer_indices=attention,
        num_attention_heads=config.heads,
        num_key_value_heads=config.heads,
        mamba_expand=config.expand,
        mamba_n_heads=config.expand * config.hidden // config.head_dim,
        mamba_d_state=config.state,
        mamba_d_conv=config.taps,
        mamba_n_groups=1,
    )
    body = BambaModel(made)
    for i, layer in enumerate(body.layers):
        if i not in attention:
            layer.feed_forward = Nothing()
    return hugging_face(config, body)


def transformers_rwkv(config: Config) -> nn.Module:
    from transformers import RwkvConfig, RwkvModel

    made = RwkvConfig(
        vocab_size=2,
        hidden_size=config.hidden,
        num_hidden_layers=config.layers,
        intermediate_size=config.ffn,
        rescale_every=0,
    )
    return hugging_face(config, RwkvModel(made))


def rwkv7_hf(config: Config) -> nn.Module:
    from rwkv7_hf import RWKV7Config, RWKV7Model

    ranks = {
        f"{name}_low_rank_dim": max(32, round(factor * config.hidden**0.5 / 32) * 32)
        for name, factor in (("decay", 2.5), ("a", 2.5), ("v", 1.7), ("gate", 5.0))
    }
    made = RWKV7Config(
        vocab_size=2,
        hidden_size=config.hidden,
        num_hidden_layers=config.layers,
        num_heads=config.heads,
        intermediate_size=config.ffn,
        **ranks,
    )
    return hugging_face(config, RWKV7Model(made))


def performer_pytorch(config: Config) -> nn.Module:
    from performer_pytorch import Performer

    with contextlib.redirect_stdout(io.StringIO()):  # it says once a layer that it has no CUDA kernel
        body = Performer(
            dim=config.hidden,
            depth=config.layers,
            heads=config.heads,
            dim_head=config.head_dim,
            nb_features=config.features,
            feature_redraw_interval=config.redraw,
            ff_mult=config.ffn // config.hidden,
            causal=True,
        )
    return Around(config, body, body)


def torchscale_retnet(config: Config) -> nn.Module:
    body = RetNet(config)
    return Around(config, body, body)


@dataclass(frozen=True)
class Reference:
    """name: of the implementation; build: makes it of one of our configurations."""

    name: str
    architecture: str
    build: Callable[[Config], nn.Module]
    preset: str = "small"


REFERENCES = (
    Reference("torch.nn.LSTM", "lstm", torch_lstm),
    Reference("torch.nn.GRU", "gru", torch_gru),
    Reference("torch.nn.TransformerDecoder", "transformer", torch_transformer),
    Reference("transformers GPT2", "distilgpt2", transformers_gpt2),
    Reference("performer-pytorch", "performer", performer_pytorch),
    Reference("torchscale RetNet", "retnet", torchscale_retnet),
    Reference("transformers Mamba2", "mamba2", transformers_mamba2),
    Reference("transformers Bamba", "hybrid", transformers_bamba),
    Reference("rwkv7-hf", "rwkv", rwkv7_hf),
    Reference("transformers RWKV", "rwkv", transformers_rwkv, preset="small-v4"),
)


def seconds_of(model: nn.Module, x: Tensor) -> float:
    """CPU seconds of one forward and backward pass."""
    model.zero_grad(set_to_none=True)
    start = time.process_time()
    out = model(x)
    (out if isinstance(out, Tensor) else out.raw).square().mean().backward()
    return time.process_time() - start


def plain(architecture: str, preset: str, dimension: int) -> dict[str, Any]:
    """Options that leave the body alone: a linear head and no dropout, where there is any."""
    known = {f.name for f in fields(registry.get(architecture).Config)}
    options: dict[str, Any] = {"head": "linear", "residual": "none", "dropout": 0.0}
    return {key: value for key, value in options.items() if key in known}


def compare(reference: Reference, options: argparse.Namespace) -> Row:
    """One line of the table."""
    changes = plain(reference.architecture, reference.preset, options.dimension)
    config: ModelConfig = registry.resolve(
        reference.architecture, reference.preset, options.dimension, **changes
    )
    ours = registry.build(reference.architecture, reference.preset, options.dimension, **changes).train()
    theirs = reference.build(config).train()
    for model in (ours, theirs):
        seconds_of(model, torch.randn(1, WARM_UP, options.dimension))
    mine: list[float] = []
    other: list[float] = []
    for _ in range(options.rounds):
        x = torch.randn(options.batch, options.length, options.dimension)
        mine.append(seconds_of(ours, x))
        other.append(seconds_of(theirs, x))
        if sum(other) > options.seconds:
            break
    return {
        "model": reference.architecture,
        "preset": reference.preset,
        "reference": reference.name,
        "parameters": [count_parameters(ours), count_parameters(theirs)],
        "seconds": mine,
        "reference_seconds": other,
        "ratio": min(other) / min(mine),
    }


def show(row: Row) -> str:
    """One line of the table."""
    ours, theirs = row["parameters"]
    return (
        f"{row['model']:<12} {row['preset']:<9} {row['reference']:<27} {ours:>10,} {theirs:>10,} "
        f"{min(row['seconds']):>9.3f} {min(row['reference_seconds']):>11.3f} {row['ratio']:>6.1f}x"
        f"{' *' if row['ratio'] >= GOAL else ''}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default="all", help="names of ours, with commas between them")
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=60.0, help="no further round of a slower reference")
    parser.add_argument("--small", action="store_true", help="a try: --length 128 --rounds 2")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    if options.small:
        options.length, options.rounds = 128, 2
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warnings.filterwarnings("ignore")  # the references' own, about CUDA and deprecations
    logging.disable(logging.WARNING)
    wanted = registry.names() if options.models == "all" else options.models.split(",")
    print(f"forward and backward, batch {options.batch}, L = {options.length}, D = {options.dimension}")
    print(
        f"{'model':<12} {'preset':<9} {'reference':<27} {'parameters':>10} {'of theirs':>10} "
        f"{'nextvec s':>9} {'reference s':>11}  ratio"
    )
    rows, absent = [], []
    for reference in REFERENCES:
        if reference.architecture not in wanted:
            continue
        try:
            rows.append(compare(reference, options))
        except ImportError as e:
            absent.append(f"{reference.name}: not installed ({e.name})")
            continue
        print(show(rows[-1]), flush=True)
    print(f"* at least {GOAL:.0f} times as fast as the reference")
    for reason in absent:
        print(reason)
    if options.json:
        facts = {key: getattr(options, key) for key in ("dimension", "length", "batch")}
        write_json(options.json, {**facts, "torch": torch.__version__, "rows": rows, "absent": absent})
    if not rows:
        sys.exit("no reference of these models is installed")


if __name__ == "__main__":
    main()
