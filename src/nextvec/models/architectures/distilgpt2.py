"""DistilGPT-2: GPT-2's pre-norm body on vectors, with a Linear in place of its vocabulary.

Paper: Radford et al., Language Models are Unsupervised Multitask Learners (GPT-2), 2019; Sanh et al.,
DistilBERT, 2019, for the distilled six layers. Source: transformers.GPT2Model.
Deviations: none in the body (learned positions, LayerNorm before each half and at the end, tanh GELU, dropout
in GPT-2's three places, its initial weights). Of the 82M parameters the brief names 38.6M are the vocabulary,
which vectors have no use for: `brief` reaches the count with a wider feed-forward, `faithful` is the body
itself. Learned positions have an end: reading more than `positions` vectors is an error. A body can be taken
from a GPT-2 checkpoint (nextvec.models.transfer); the input layer and the head are always learned anew.
Parity: transformers.GPT2Model with the same weights, copied both ways (tests/parity/test_distilgpt2.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextvec.errors import ModelError
from nextvec.models.base import ModelConfig, NextVectorModel
from nextvec.models.ops.attention import cache_append, causal_attention
from nextvec.models.ops.dropout import dropout
from nextvec.models.registry import architecture
from nextvec.models.residual import State

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
    dropout: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden % self.heads:
            raise ValueError(f"hidden = {self.hidden} does not divide into {self.heads} heads")


class Block(nn.Module):
    """LayerNorm, attention, added; LayerNorm, feed-forward, added. Named as in GPT-2."""

    def __init__(self, config: DistilGPT2Config) -> None:
        super().__init__()
        self.heads, self.dropout = config.heads, config.dropout
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

    def forward(self, x: Tensor) -> Tensor:
        """x [B, T, H] -> [B, T, H]."""
        q, k, v = self._qkv(x)
        return self._add(x, q, k, v)

    def extend(self, x: Tensor, cache: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """The same for x [B, n, H] that follow `length` positions whose keys and values are in `cache`.

        Returns: the output [B, n, H] and the cache [2, B, h, capacity, d].
        """
        q, k, v = self._qkv(x)
        cache = cache_append(cache, torch.stack((k, v)), length)
        k, v = cache[..., : length + x.shape[1], :]
        return self._add(x, q, k, v), cache

    def _qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self.attn_in(self.ln_1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return q, k, v

    def _add(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        mixed = causal_attention(q, k, v, self.dropout if self.training else 0.0)
        x = x + dropout(self.attn_out(mixed.transpose(1, 2).flatten(2)), self.dropout, self.training)
        inner = F.gelu(self.mlp_in(self.ln_2(x)), approximate="tanh")
        return x + dropout(self.mlp_out(inner), self.dropout, self.training)


@architecture("distilgpt2")
class DistilGPT2(NextVectorModel):
    """The state is each layer's cached keys and values."""

    Config = DistilGPT2Config
    streaming = "cache"
    caches = ("keys_values",)
    paper = "Radford et al., Language Models are Unsupervised Multitask Learners (GPT-2), 2019"
    complexity = "O(T^2)"
    best_for = "starting from a pretrained language model's layers"

    def __init__(self, config: DistilGPT2Config) -> None:
        super().__init__(config, width=config.hidden)
        self.embed = nn.Linear(config.d_embed, config.hidden)
        self.wpe = nn.Embedding(config.positions, config.hidden)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.ln_f = nn.LayerNorm(config.hidden)
        self.heads, self.dropout = config.heads, config.dropout
        nn.init.normal_(self.embed.weight, std=STD)
        nn.init.zeros_(self.embed.bias)
        nn.init.normal_(self.wpe.weight, std=STD)

    def encode(self, x: Tensor) -> Tensor:
        hidden = self._embed(x, 0)
        for block in self.blocks:
            hidden = block(hidden)
        return self._normed(hidden)

    def encoder_state(self, batch: int, device: torch.device, dtype: torch.dtype) -> State:
        shape = (2, batch, self.heads, 0, self.embed.out_features // self.heads)
        state: State = {"position": torch.zeros((), dtype=torch.int64)}
        for i in range(len(self.blocks)):
            state[f"keys_values.{i}"] = torch.empty(shape, device=device, dtype=dtype)
        return state

    def encode_chunk(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        length = int(state["position"])
        hidden = self._embed(x, length)
        new: State = {"position": state["position"] + x.shape[1]}
        for i, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            key = f"keys_values.{i}"
            hidden, new[key] = block.extend(hidden, state[key], length)
        return self._normed(hidden), new

    def encode_step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        hidden, state = self.encode_chunk(x_t[:, None], state)
        return hidden[:, 0], state

    def _embed(self, x: Tensor, start: int) -> Tensor:
        end, most = start + x.shape[1], self.wpe.num_embeddings
        if end > most:
            raise ModelError(
                f"distilgpt2: {end} vectors to read, and it has learned positions for {most}",
                remedy=f"read at most {most}, or train it with model.options.positions = {end}",
            )
        return dropout(self.embed(x) + self.wpe.weight[start:end], self.dropout, self.training)

    def _normed(self, hidden: Tensor) -> Tensor:
        normed: Tensor = self.ln_f(hidden)
        return normed
