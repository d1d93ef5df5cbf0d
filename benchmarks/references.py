"""The implementations that nextvec's architectures are timed against, made of one of its configurations.

Those of packages are called as they come. Linformer's is the attention that it stands for; S4's and Hyena's
are their papers' algorithms in plain torch, since we found no package of them: S4's kernel by Cauchy
products at the roots of unity (Gu, Goel and Ré, 2022, algorithm 1), which is slow and wants much memory
without a kernel of its own; Hyena's filters by a sine network and a convolution by FFT (Poli et al., 2023,
section 3).
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

Config = Any  # an architecture's own: its fields are what an adapter reads


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


class PreNorm(nn.Module):
    """x + mixer(norm(x)), then a feed-forward half with GELU: what stands around S4 and Hyena."""

    def __init__(self, config: Config, mixers: list[nn.Module]) -> None:
        super().__init__()
        H = config.hidden
        self.mixers = nn.ModuleList(mixers)
        self.norms = nn.ModuleList(nn.LayerNorm(H) for _ in range(2 * len(mixers)))
        self.forwards = nn.ModuleList(
            nn.Sequential(nn.Linear(H, config.ffn), nn.GELU(), nn.Linear(config.ffn, H)) for _ in mixers
        )

    def forward(self, x: Tensor) -> Tensor:
        """x [B, T, H] -> [B, T, H]."""
        for i, (mixer, half) in enumerate(zip(self.mixers, self.forwards, strict=True)):
            x = x + mixer(self.norms[2 * i](x))
            x = x + half(self.norms[2 * i + 1](x))
        return x


def fft_convolution(u: Tensor, k: Tensor) -> Tensor:
    """u [B, H, T] and k [H, T] -> [B, H, T], in float32: there is no transform in bfloat16."""
    size = 2 * u.shape[-1]
    product = torch.fft.rfft(u.float(), n=size) * torch.fft.rfft(k.float(), n=size)
    out: Tensor = torch.fft.irfft(product, n=size)[..., : u.shape[-1]]
    return out


class PlainS4(nn.Module):
    """The state space, GELU, and a gated linear unit."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        H, N = config.hidden, config.state // 2
        self.log_dt = nn.Parameter(torch.empty(H).uniform_(math.log(1e-3), math.log(0.1)))
        self.log_decay = nn.Parameter(torch.full((H, N), math.log(0.5)))
        self.frequency = nn.Parameter(math.pi * torch.arange(float(N)).repeat(H, 1))
        self.p, self.b, self.c = (nn.Parameter(torch.randn(H, N, 2) * 0.5) for _ in range(3))
        self.skip = nn.Parameter(torch.randn(H))
        self.glu = nn.Linear(H, 2 * H)

    def kernel(self, length: int) -> Tensor:
        """[H, length]; c is what the paper learns, C (1 - A^length)."""
        dt = self.log_dt.exp()[:, None]
        a = torch.complex(-self.log_decay.exp(), self.frequency) * dt
        p, b, c = (torch.view_as_complex(x) for x in (self.p, self.b, self.c))
        root = torch.polar(torch.ones(()), -2 * math.pi / length * torch.arange(length // 2 + 1))
        at = 2 * (1 - root) / (1 + root)
        weights = torch.stack((c * b, c * p, p.conj() * b, p.conj() * p))[..., None]
        products = weights / (at - a[..., None]) + weights.conj() / (at - a.conj()[..., None])
        cb, cp, pb, pp = (products.sum(-2) * dt).unbind()
        response: Tensor = torch.fft.irfft((cb - cp * pb / (1 + pp)) * 2 / (1 + root), n=length)
        return response

    def forward(self, x: Tensor) -> Tensor:
        """x [B, T, H] -> [B, T, H]."""
        u = x.transpose(1, 2)
        with torch.autocast("cpu", enabled=False):
            y = fft_convolution(u, self.kernel(x.shape[1])) + self.skip[:, None] * u
        return nn.functional.glu(self.glu(nn.functional.gelu(y.transpose(1, 2))))


class PlainHyena(nn.Module):
    """Order 2: projections, a short convolution, two gates around a long one."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        H = config.hidden
        self.project, self.out = nn.Linear(H, 3 * H), nn.Linear(H, H)
        self.short = nn.Conv1d(3 * H, 3 * H, 3, padding=2, groups=3 * H)
        self.inner = nn.ModuleList(nn.Linear(a, 64) for a in (33, 64, 64))
        self.last, self.skip = nn.Linear(64, H, bias=False), nn.Parameter(torch.randn(H))
        self.longest = config.max_length

    def filters(self, length: int) -> Tensor:
        """[H, length]."""
        time = torch.arange(length) / self.longest
        angle = 2 * math.pi * time[:, None] * torch.linspace(1e-4, 15, 16)
        y = torch.cat((time[:, None], angle.cos(), -angle.sin()), -1)
        for layer in self.inner:
            y = torch.sin(14.0 * layer(y))
        rates = torch.linspace(abs(math.log(0.01)) / 1.5, abs(math.log(0.01)) / 0.3, len(self.skip))
        drawn: Tensor = self.last(y).T * torch.exp(-rates[:, None] * time)
        return drawn

    def forward(self, x: Tensor) -> Tensor:
        """x [B, T, H] -> [B, T, H]."""
        T = x.shape[1]
        first, second, v = self.short(self.project(x).transpose(1, 2))[..., :T].chunk(3, 1)
        v = v * first
        with torch.autocast("cpu", enabled=False):
            v = fft_convolution(v, self.filters(T)) + self.skip[:, None] * v
        out: Tensor = self.out((v * second).transpose(1, 2))
        return out


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


def plain_s4(config: Config) -> nn.Module:
    body = PreNorm(config, [PlainS4(config) for _ in range(config.layers)])
    return Around(config, body, body)


def plain_hyena(config: Config) -> nn.Module:
    body = PreNorm(config, [PlainHyena(config) for _ in range(config.layers)])
    return Around(config, body, body)


def torch_encoder(config: Config) -> nn.Module:
    layer = nn.TransformerEncoderLayer(
        config.hidden, config.heads, config.ffn, 0.0, "gelu", batch_first=True, norm_first=True
    )
    body = nn.TransformerEncoder(layer, config.layers, enable_nested_tensor=False)

    def run(x: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        out: Tensor = body(x, mask, is_causal=True)
        return out

    return Around(config, body, run)


@dataclass(frozen=True)
class Reference:
    """name: of the implementation; build: makes it of one of our configurations; aim: how many times as fast
    ours is to be."""

    name: str
    architecture: str
    build: Callable[[Config], nn.Module]
    aim: float
    preset: str = "small"


REFERENCES = (
    Reference("torch.nn.LSTM", "lstm", torch_lstm, 2.0),
    Reference("torch.nn.GRU", "gru", torch_gru, 2.0),
    Reference("torch.nn.TransformerDecoder", "transformer", torch_transformer, 1.0),
    Reference("transformers GPT2", "distilgpt2", transformers_gpt2, 1.0),
    Reference("torch.nn.TransformerEncoder", "linformer", torch_encoder, 1.0),
    Reference("performer-pytorch", "performer", performer_pytorch, 1.0),
    Reference("torchscale RetNet", "retnet", torchscale_retnet, 3.0),
    Reference("transformers Mamba2", "mamba2", transformers_mamba2, 3.0),
    Reference("transformers Bamba", "hybrid", transformers_bamba, 3.0),
    Reference("S4 in plain torch", "s4", plain_s4, 3.0),
    Reference("Hyena in plain torch", "hyena", plain_hyena, 3.0),
    Reference("rwkv7-hf", "rwkv", rwkv7_hf, 3.0),
    Reference("transformers RWKV", "rwkv", transformers_rwkv, 3.0, preset="small-v4"),
)
